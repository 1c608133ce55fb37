"""The page that travels with exported weights: what was trained, on what, how well, and how to use it."""

from __future__ import annotations

from typing import Any

from prelar_ray.config import RunConfig
from prelar_ray.reporting.formats import spaced
from prelar_ray.reporting.read import Run
from prelar_ray.statistics import mean_interval

__all__ = ["model_card"]

NOT_STATED = "not stated"


def model_card(run: Run | None, config: RunConfig, phase: str, update: int, parameters: int, licence: str) -> str:
    """Return the page, in Markdown.

    Args:
        run: whose checkpoint it is; None where its folder is not known.
        config: of the checkpoint.
        phase: ``pretrain`` or ``finetune``.
        update: of the checkpoint.
        parameters: how many numbers the weights are.
        licence: of the weights, in words; empty where nobody stated one.
    """
    what = "A policy, with the world model in whose imagination it learnt"
    if phase == "pretrain":
        what = "A world model that was pre-trained on videos without actions"
    learnt = f"the videos `{config.video.name}`" if phase == "pretrain" else f"`{config.env.task}`"
    size = config.env.image_size
    facts = {
        "method": f"`{config.method}`",
        "learnt from": learnt,
        "updates": spaced(update),
        "numbers": spaced(parameters),
        "frames": f"{size} x {size} pixels" if size else "none: a vector alone",
        "seed": str(config.seed),
        "licence": licence or NOT_STATED,
        **_origin(run),
    }
    parts = [f"# {config.method}, {phase}", f"{what}."]
    parts.append(_table(facts))
    if scores := _scores(run, update):
        parts += ["## Scores", scores]
    parts += ["## Use", _use(phase, config.env.task)]
    return "\n\n".join(parts) + "\n"


def _origin(run: Run | None) -> dict[str, str]:
    """Return where a run comes from, as far as its record tells."""
    if run is None:
        return {"origin": "not known: exported from a checkpoint without its run"}
    info, found = run.info, {}
    if commit := info.get("commit"):
        found["commit"] = f"`{commit}`"
    if finished := info.get("finished") or info.get("created"):
        found["date"] = str(finished)[:10]
    if isinstance(versions := info.get("versions"), dict):
        found["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    if isinstance(init := info.get("init"), dict) and init.get("content"):
        found["started from"] = f"a pre-training, content `{init['content']}`"
    if isinstance(summary := info.get("summary"), dict):
        found["summary"] = ", ".join(f"{name} {_number(value)}" for name, value in summary.items())
    return found


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _scores(run: Run | None, update: int) -> str:
    """Return the last evaluations up to an update, with 95 % intervals over episodes."""
    evaluations = [one for one in run.evaluations if one.update <= update] if run else []
    if run is None or not evaluations:
        return ""
    lines = ["| environment steps | episodes | return | success |", "| --- | --- | --- | --- |"]
    for one in evaluations[-5:]:
        success = run.success_of(one).format(2) if one.has_success else "-"
        score = mean_interval(one.returns).format(1)
        lines.append(f"| {spaced(one.env_steps)} | {len(one.returns)} | {score} | {success} |")
    note = "The last evaluations of this one run, with 95 % intervals over episodes; they say nothing of other seeds."
    return "\n".join([*lines, "", note])


def _use(phase: str, task: str) -> str:
    if phase == "pretrain":
        command = f"prelar-ray finetune --init DIR --config DIR/config.yaml env.task={task} --out runs/mine"
        code = "found = prelar_ray.latents(run, frames)  # embeddings, latent actions and states of any clip"
    else:
        command = "prelar-ray evaluate DIR --episodes 50 --film film.mp4"
        code = "agent = run.agent()  # agent.act(observation)"
    return f"""```
{command}
```

```python
import prelar_ray

run = prelar_ray.load_run("DIR")
{code}
```

`DIR` is this folder. Weights are in `model.safetensors`, which holds tensors alone. Optimisers and replay were left
out, so the run cannot be resumed from here."""


def _table(facts: dict[str, str]) -> str:
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])
