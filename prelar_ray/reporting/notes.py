"""What a reader must know before believing the numbers, derived from the runs that they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from prelar_ray.config import RunConfig
from prelar_ray.config.compare import identifies
from prelar_ray.kinds import find_kind
from prelar_ray.reporting.compare import Group
from prelar_ray.reporting.formats import spaced
from prelar_ray.reporting.protocols import UNSTATED
from prelar_ray.reporting.read import Run
from prelar_ray.reporting.scores import METRIC_NAMES, RETURN, Series
from prelar_ray.wording import counted

__all__ = ["Note", "comparison_notes", "run_notes"]

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
    about: list[str] = field(default_factory=list)
    """Names of runs or series; empty: all of them."""


def run_notes(runs: Sequence[Run]) -> list[Note]:
    """Return the reservations on single runs, the weightiest first; runs of which the same is to be said share one."""
    notes = _shared(
        (run.path.name, text)
        for say in (_changed, _tuning_length, _pretraining_length, _networks, _change, _resolution)
        for run in runs
        if (text := say(run))
    )
    seeds = len({str(run.config.get("seed")) for run in runs if run.phase == "finetune" and run.evaluations})
    if seeds == 1:
        text = (
            "One seed: intervals are over the episodes of one trained policy, not over seeds; they do not say how far "
            "another seed would land from it."
        )
        notes.append(Note(text))
    elif 1 < seeds < FEW_SEEDS:
        notes.append(
            Note(f"{seeds} seeds: intervals over fewer than {FEW_SEEDS} runs are too narrow to compare methods by.")
        )
    return notes


def comparison_notes(
    series: Series, groups: Sequence[Group], differences: Sequence[str], at: int | None, published: bool
) -> list[Note]:
    """Return the reservations on a comparison, the weightiest first.

    Args:
        series: fine-tuning runs.
        groups: what was found out on them.
        differences: those of protocols that were put together all the same.
        at: step of comparison, where the reader chose one.
        published: whether published curves are drawn.
    """
    notes = []
    if differences:
        notes.append(Note(f"Runs of different protocols are put together, as asked for: {'; '.join(differences)}."))
    notes += _lost(series, at)
    for group in groups:
        notes += [*_seeds(group), *map(Note, _tasks(group)), *map(Note, [] if at else _horizon(series, group))]
    training = _shared(_training(series))
    notes += [Note(note.text) if len(note.about) == len(series) else note for note in training]
    notes += map(Note, _episodes(series))
    if published:
        text = (
            "Dashed curves are published ones of other codes, simulator versions and in part other protocols: "
            "references, no comparison under equal conditions. They enter no number of a series on this page."
        )
        notes.append(Note(text))
    return notes


def _shared(said: Iterable[tuple[str, str]]) -> list[Note]:
    """Return a note for each text, about all of which it is said."""
    notes: dict[str, Note] = {}
    for name, text in said:
        notes.setdefault(text, Note(text)).about.append(name)
    return list(notes.values())


def _changed(run: Run) -> str:
    """Say what a resume changed of the experiment: the numbers before and after are of two."""
    said = []
    with suppress(AttributeError, KeyError, TypeError, ValueError):  # a damaged record says nothing
        for change in run.info.get("changes") or ():
            for key, (before, after) in change["settings"].items():
                if identifies(key, run.phase):
                    said.append(f"{key} was {before} up to update {spaced(int(change['update']))}, then {after}")
    return f"A resume changed the experiment, so this is not one run: {'; '.join(said)}." if said else ""


def _tuning_length(run: Run) -> str:
    remark = "Minutes on a CPU do not solve the task: the numbers show that the pipeline works, not how good it is."
    published = PUBLISHED.finetune.env_steps
    return _shorter(run.env_steps, published, "environment steps", remark) if run.phase == "finetune" else ""


def _pretraining_length(run: Run) -> str:
    remark = "Its predictions are those of a model at the beginning of its training."
    return _shorter(run.updates, PUBLISHED.pretrain.updates, "updates", remark) if run.phase == "pretrain" else ""


def _shorter(done: int, published: int, unit: str, remark: str = "") -> str:
    """Say that training is shorter than the published; nothing if it is not by much."""
    if done >= SHORT * published:
        return ""
    share = f"{100 * done / published:.2g}\N{NO-BREAK SPACE}%"
    return f"{spaced(done)} {unit} of the published {spaced(published)} ({share}). {remark}".rstrip()


def _networks(run: Run) -> str:
    return _smaller(run.config) if run.kind and run.kind.own_networks else ""


def _smaller(config: Mapping[str, Any]) -> str:
    """Say that the networks of a configuration are smaller than the published ones; nothing if they are not."""
    published = PUBLISHED.world_model.rssm.deter
    try:
        units = config["world_model"]["rssm"]["deter"]
    except (KeyError, TypeError):
        return ""
    if not isinstance(units, int) or isinstance(units, bool) or units >= published:
        return ""
    return f"Networks smaller than the published ones: {units} deterministic units instead of {published}."


def _change(run: Run) -> str:
    """Compare the last evaluation with the first."""
    if len(run.evaluations) < 2:
        return ""
    first, last = run.intervals[RETURN][0], run.intervals[RETURN][-1]
    verdict = "no improvement is shown"
    if min(first.count, last.count) < ENOUGH_EPISODES:
        verdict = f"too few episodes to compare (fewer than {ENOUGH_EPISODES})"
    elif last.low > first.high:
        verdict = "an improvement, as the intervals do not overlap"
    return (
        f"Mean return {first.format(1)} at {spaced(run.evaluations[0].env_steps)} environment steps, "
        f"{last.format(1)} at {spaced(run.evaluations[-1].env_steps)}: {verdict}."
    )


def _resolution(run: Run) -> str:
    episodes = len(run.evaluations[-1].returns) if run.evaluations else FEW_EPISODES
    if episodes >= FEW_EPISODES:
        return ""
    return (
        f"Evaluations of {counted(episodes, 'episode')} tell success rates apart in steps of {1 / episodes:.2g} only."
    )


def _lost(series: Series, at: int | None) -> Iterator[Note]:
    """Say how many runs are left out: if they failed because they did badly, the rest look too good."""
    for name, runs in series.items():
        states = Counter(run.status for run in runs if not run.is_complete)
        if states:
            how = ", ".join(f"{count} {status}" for status, count in states.items())
            lost = f"{states.total()} of {counted(len(runs), 'run')}"
            text = f"Scores leave out {lost}, which did not finish ({how})."
            if at is not None:
                text = f"{lost} did not finish ({how}); each is scored if it was evaluated at {spaced(at)} steps."
            yield Note(text, [name])


def _seeds(group: Group) -> Iterator[Note]:
    """Say where there is no interval and why, and where there are few seeds."""
    fewest = {name: [len(of) for of in by_task.values()] for name, by_task in group.scores.items()}
    single = (
        "One seed on a task: no interval is given for it, nor for what it enters, because one run does not say how far "
        "another seed would land from it."
    )
    few = f"Fewer than {FEW_SEEDS} seeds on a task: intervals are too narrow to compare methods by."
    for text, seeds in ((single, range(1, 2)), (few, range(2, FEW_SEEDS))):
        if names := [name for name, counts in fewest.items() if min(counts) in seeds]:
            yield Note(text, names)


def _tasks(group: Group) -> Iterator[str]:
    """Say which tasks are not in the aggregates, and which series have no score at all."""
    label = METRIC_NAMES[group.metric]
    if group.why_no_scores:
        yield f"No {label} is compared: {group.why_no_scores}."
        return
    if not group.compared:
        yield f"No task has a {label} of every series: nothing is put together over tasks."
    elif left_out := [task for task in group.tasks if task not in group.compared]:
        missing = {task: [name for name, by_task in group.scores.items() if task not in by_task] for task in left_out}
        why = "; ".join(f"{task} (no score of {', '.join(names)})" for task, names in missing.items())
        yield f"What is put together over tasks leaves out {why}."
    counts = {len(of) for by_task in group.scores.values() for of in by_task.values()}
    if len(counts) > 1:
        numbers = f"from {min(counts)} to {max(counts)}"
        yield f"Numbers of seeds differ, {numbers}: in an IQM tasks with more seeds weigh more."


def _horizon(series: Series, group: Group) -> Iterator[str]:
    """Say that runs were compared before their end, because others were shorter."""
    finished = (run for runs in series.values() for run in runs if run.is_complete and group.metric in run.scores)
    last = max((run.last_step for run in finished), default=0)
    if group.at is not None and last > group.at:
        yield (
            f"The {METRIC_NAMES[group.metric]} is compared at {spaced(group.at)} environment steps, the last at which "
            f"every finished run was evaluated; some continued to {spaced(last)}."
        )


def _training(series: Series) -> Iterator[tuple[str, str]]:
    """Say of series that their runs are shorter or smaller than the published ones."""
    for name, runs in series.items():
        recorded = [run for run in runs if run.info and not run.scores.empty]
        longest = max((run.last_step for run in recorded), default=0)
        texts = {_shorter(longest, PUBLISHED.finetune.env_steps, "environment steps") if longest else ""}
        kind = find_kind("finetune", runs[0].method)
        if kind and kind.own_networks:
            texts |= {_smaller(run.config) for run in recorded}
        yield from ((name, text) for text in sorted(filter(None, texts)))


def _episodes(series: Series) -> Iterator[str]:
    """Say how coarse the success rates of single runs are, and where nobody says how they were measured."""
    runs = [run for members in series.values() for run in members if not run.scores.empty]
    episodes = [int(n) for run in runs if (n := run.protocol.get("evaluation.episodes", "")).isdecimal()]
    fewest = min(episodes, default=FEW_EPISODES)
    if fewest < FEW_EPISODES:
        yield f"Evaluations of {counted(fewest, 'episode')}: a run's success rate moves in steps of {1 / fewest:.2g}."
    if unstated := dict.fromkeys(run.source for run in runs if not run.protocol):
        yield f"How these scores were measured is {UNSTATED} in {', '.join(unstated)}."
