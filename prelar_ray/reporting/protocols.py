"""How scores were measured, and that scores measured differently are not averaged by accident."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from prelar_ray.errors import UsageError
from prelar_ray.reporting.scores import RunScores, varying_labels
from prelar_ray.storage.records import NO_SUCCESS, EvaluationRecord
from prelar_ray.types import IMAGE_SIZE

__all__ = ["UNSTATED", "check_protocols", "protocol_of", "protocols_by_task"]

UNSTATED = "not stated"

SIMULATORS = {"metaworld": ("metaworld", "mujoco"), "dmc": ("dm_control", "mujoco")}
"""Per family of tasks: the packages whose versions decide what an episode looks like and is worth."""
SETTINGS = ("action_repeat", "camera", "render_quality")
"""Of the environment's configuration."""
USUAL = {"env.image_size": str(IMAGE_SIZE)}
"""Items that a protocol has only where they differ from these values."""


def protocol_of(
    task: str, evaluations: Sequence[EvaluationRecord], info: Mapping[str, object], config: Mapping[str, object]
) -> dict[str, str]:
    """Return the protocol of a run on a task, item by item, from its ``run.json`` and resolved configuration."""
    versions, env = (part if isinstance(part, dict) else {} for part in (info.get("versions"), config.get("env")))
    return {
        "success rule": _joined(of.success_rule if of.has_success else NO_SUCCESS for of in evaluations),
        "policy": _joined(of.policy for of in evaluations),
        "evaluation.episodes": _joined(len(of.returns) for of in evaluations),
        **{name: str(versions.get(name, UNSTATED)) for name in SIMULATORS.get(task.partition("/")[0], ())},
        **{f"env.{key}": str(env.get(key, UNSTATED)) for key in SETTINGS},
        **({"env.image_size": str(size)} if (size := env.get("image_size", IMAGE_SIZE)) != IMAGE_SIZE else {}),
    }


def protocols_by_task(runs: Iterable[RunScores]) -> dict[str, dict[str, str]]:
    """Return per task what its runs with scores have for each item, several values joined."""
    return {
        task: {str(item): _joined(values) for item, values in protocols.items()}
        for task, (_, protocols) in _by_task(runs).items()
    }


def check_protocols(runs: Iterable[RunScores], mix: bool) -> list[str]:
    """Return what differs among the runs of one task, one sentence per task and item; settings swept over may.

    Raises:
        UsageError: something differs, and ``mix`` is false.
    """
    runs = list(runs)
    swept = {key for keys in varying_labels(runs).values() for key in keys}
    differences = []
    for task, (members, protocols) in _by_task(runs).items():
        for item in [item for item in protocols if item not in swept]:
            values = protocols[item].tolist()
            if at := next((i for i in range(1, len(values)) if values[i] != values[i - 1]), 0):
                one, other = members[at - 1 : at + 1]
                differences.append(
                    f"{task}: {item} is {values[at - 1]} in {one.name} of {one.source}, {values[at]} in {other.name} "
                    f"of {other.source}"
                )
    if differences and not mix:
        more = f" (and {len(differences) - 1} more such differences)" if len(differences) > 1 else ""
        raise UsageError(
            f"runs of different protocols are not put together: {differences[0]}{more}; leave some out, or let them "
            "be mixed with --mix-protocols"
        )
    return differences


def _by_task(runs: Iterable[RunScores]) -> dict[str, tuple[list[RunScores], pd.DataFrame]]:
    """Return per task its runs with scores, and their protocols: a row per run, a column per item."""
    members: dict[str, list[RunScores]] = {}
    for run in runs:
        if not run.scores.empty:
            members.setdefault(run.task, []).append(run)
    return {
        task: (of, pd.DataFrame([run.protocol for run in of]).fillna(USUAL).fillna(UNSTATED))
        for task, of in members.items()
    }


def _joined(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))
