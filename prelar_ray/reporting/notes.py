"""What a reader must know before believing the numbers, derived from the runs themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prelar_ray.config import RunConfig
from prelar_ray.reporting.runs import Run
from prelar_ray.wording import counted

__all__ = ["FEW_EPISODES", "FEW_SEEDS", "Note", "notes", "shorter_training", "smaller_networks", "spaced"]

SHORT = 0.5
"""Below this share of the published training length a run is called short."""
FEW_EPISODES = 50
"""Below this number of episodes an evaluation's resolution is pointed out."""
ENOUGH_EPISODES = 10
"""Below this number of episodes bootstrap intervals are too narrow to compare two evaluations by."""
FEW_SEEDS = 5
"""Below this number of seeds no claim about a method is sound."""

PUBLISHED = RunConfig()


@dataclass
class Note:
    """One reservation."""

    text: str
    runs: list[str] = field(default_factory=list)  # names of those it is about; none: about all of them


def notes(runs: Sequence[Run]) -> list[Note]:
    """Return the reservations, the weightiest first; runs of which the same is to be said share one."""
    found: dict[str, Note] = {}
    for about in (_tuning_length, _pretraining_length, _widths, _change, _resolution):
        for run in runs:
            text = about(run)
            if text:
                found.setdefault(text, Note(text)).runs.append(run.path.name)
    seeds = {str(run.config.get("seed")) for run in runs if run.phase == "finetune" and run.evaluations}
    if len(seeds) == 1:
        text = (
            "One seed: intervals are over the episodes of one trained policy, not over seeds; they do not say how far "
            "another seed would land from it."
        )
        found[text] = Note(text)
    elif 1 < len(seeds) < FEW_SEEDS:
        text = f"{len(seeds)} seeds: intervals over fewer than {FEW_SEEDS} runs are too narrow to compare methods by."
        found[text] = Note(text)
    return list(found.values())


def _tuning_length(run: Run) -> str:
    remark = "Minutes on a CPU do not solve the task: the numbers show that the pipeline works, not how good it is."
    published = PUBLISHED.finetune.env_steps
    return _length(run.env_steps, published, "environment steps", remark) if run.phase == "finetune" else ""


def _pretraining_length(run: Run) -> str:
    remark = "Its predictions are those of a model at the beginning of its training."
    return _length(run.updates, PUBLISHED.pretrain.updates, "updates", remark) if run.phase == "pretrain" else ""


def shorter_training(env_steps: int) -> str:
    """Say that fine-tuning is shorter than the published; nothing if it is not by much."""
    return _length(env_steps, PUBLISHED.finetune.env_steps, "environment steps", "") if env_steps else ""


def _length(done: int, published: int, unit: str, remark: str) -> str:
    if done >= SHORT * published:
        return ""
    share = f"{100 * done / published:.2g}\N{NO-BREAK SPACE}%"
    return f"{spaced(done)} {unit} of the published {spaced(published)} ({share}). {remark}".rstrip()


def _widths(run: Run) -> str:
    learns = run.phase in ("pretrain", "finetune") and not run.is_baseline
    return smaller_networks(run.config) if learns else ""


def smaller_networks(config: Mapping[str, Any]) -> str:
    """Say that the networks of a configuration are smaller than the published ones; nothing if they are not."""
    published = PUBLISHED.world_model.rssm.deter
    try:
        units = int(config["world_model"]["rssm"]["deter"])
    except (KeyError, TypeError, ValueError):
        return ""
    if units >= published:
        return ""
    return f"Networks smaller than the published ones: {units} deterministic units instead of {published}."


def _change(run: Run) -> str:
    """Compare the last evaluation with the first."""
    if len(run.evaluations) < 2:
        return ""
    first, last = run.evaluations[0], run.evaluations[-1]
    verdict = "no improvement is shown"
    if min(first.returns.count, last.returns.count) < ENOUGH_EPISODES:
        verdict = f"too few episodes to compare (fewer than {ENOUGH_EPISODES})"
    elif last.returns.low > first.returns.high:
        verdict = "an improvement, as the intervals do not overlap"
    return (
        f"Mean return {first.returns.format(1)} at {spaced(first.env_steps)} environment steps, "
        f"{last.returns.format(1)} at {spaced(last.env_steps)}: {verdict}."
    )


def _resolution(run: Run) -> str:
    if not run.evaluations or run.evaluations[-1].episodes >= FEW_EPISODES:
        return ""
    episodes = run.evaluations[-1].episodes
    return (
        f"Evaluations of {counted(episodes, 'episode')} tell success rates apart in steps of {1 / episodes:.2g} only."
    )


def spaced(number: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
