"""How scores were measured, and that scores measured differently are not averaged by accident."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from prelar_ray.errors import UsageError
from prelar_ray.reporting.trials import Trial, varying_labels

__all__ = ["UNSTATED", "check_protocols", "protocol_of", "protocols_by_task"]

UNSTATED = "not stated"

SIMULATORS = {"metaworld": ("metaworld", "mujoco"), "dmc": ("dm_control", "mujoco")}
"""Per family of tasks: the packages whose versions decide what an episode looks like and is worth."""
SETTINGS = ("action_repeat", "camera", "render_quality")
"""Of the environment's configuration."""


def protocol_of(
    task: str,
    rules: Iterable[str],
    policies: Iterable[str],
    episodes: Iterable[int],
    info: Mapping[str, object],
    config: Mapping[str, object],
) -> dict[str, str]:
    """Return the protocol of a run, item by item.

    Args:
        task: environment id.
        rules: when an episode counts as a success, of each evaluation.
        policies: how the policy acted, of each evaluation.
        episodes: how many there were, of each evaluation.
        info: content of ``run.json``.
        config: resolved configuration.
    """
    protocol = {
        "success rule": _joined(rules),
        "policy": _joined(policies),
        "evaluation.episodes": _joined(episodes),
    }
    versions, env = info.get("versions"), config.get("env")
    for package in SIMULATORS.get(task.partition("/")[0], ()):
        protocol[package] = str(versions.get(package, UNSTATED)) if isinstance(versions, dict) else UNSTATED
    for key in SETTINGS:
        protocol[f"env.{key}"] = str(env.get(key, UNSTATED)) if isinstance(env, dict) else UNSTATED
    return protocol


def protocols_by_task(trials: Iterable[Trial]) -> dict[str, dict[str, str]]:
    """Return per task what its trials with scores have for each item, several values joined."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.scores:
            found.setdefault(trial.task, []).append(trial)
    return {
        task: {item: _joined(trial.protocol.get(item, UNSTATED) for trial in members) for item in _items(members)}
        for task, members in found.items()
    }


def check_protocols(trials: Sequence[Trial], mix: bool) -> list[str]:
    """Return what differs among the trials of one task, one sentence per task and item; settings swept over may.

    Raises:
        UsageError: something differs, and ``mix`` is false.
    """
    swept = {key for keys in varying_labels(trials).values() for key in keys}
    by_task: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.scores:
            by_task.setdefault(trial.task, []).append(trial)
    differences = []
    for task, members in by_task.items():
        for item in [item for item in _items(members) if item not in swept]:
            for one, other in pairwise(members):
                values = [trial.protocol.get(item, UNSTATED) for trial in (one, other)]
                if values[0] != values[1]:
                    differences.append(
                        f"{task}: {item} is {values[0]} in {one.name} of {one.source}, {values[1]} in {other.name} "
                        f"of {other.source}"
                    )
                    break
    if differences and not mix:
        more = f" (and {len(differences) - 1} more such differences)" if len(differences) > 1 else ""
        raise UsageError(
            f"runs of different protocols are not put together: {differences[0]}{more}; leave some out, or let them "
            "be mixed with --mix-protocols"
        )
    return differences


def _items(trials: Iterable[Trial]) -> list[str]:
    return list(dict.fromkeys(item for trial in trials for item in trial.protocol))


def _joined(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))
