"""A run as a trial of Ray Tune: one placement group holds the trial's own process and every role."""

from __future__ import annotations

import json
import logging
import math
import shlex
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

from ray import tune

from prelar_ray.config import RunConfig, to_yaml
from prelar_ray.distributed.ray_backend import bundles
from prelar_ray.distributed.resources import Reservation, Resources
from prelar_ray.errors import UsageError
from prelar_ray.kinds import Phase, kind_of
from prelar_ray.roles import RoleId
from prelar_ray.storage.files import atomic_file
from prelar_ray.storage.records import Manifest
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.study.placement import place

__all__ = ["Trial", "trial_settings"]

CHECKPOINT_FILE = "run_folder.json"


def trial_settings(
    config: RunConfig,
    phase: Phase,
    out: Path,
    nodes: Sequence[Resources],
    init: Path | None = None,
    concurrent: int | None = None,
) -> dict[str, Any]:
    """What :class:`Trial` takes as its configuration; JSON-able.

    Args:
        config: of the run; ``cluster`` is not read, the trial is on a cluster already. Where ``threads`` is left open,
            the trials that have a place on a node share its cores.
        phase: pretrain or finetune.
        out: run folder, on storage that every node sees.
        nodes: what each node of the cluster has in all.
        init: run or checkpoint to fine-tune from; it need not exist yet.
        concurrent: trials that run at once; None for as many as fit.

    Raises:
        ResourceError: the cluster can never hold the trial.
        UsageError, ConfigError: a baseline is asked for what it cannot do, or with settings that RLlib does not know.
    """
    kind = kind_of(config, phase)
    kind.check(config)
    if init and not kind.takes_init:
        raise UsageError(f"{phase} of method {config.method} learns from scratch, without init")
    placement = place(config, phase, nodes, concurrent)
    plan = placement.roles
    if not config.threads:
        config = config.model_copy(update={"threads": _threads(config, plan, placement.nodes)})
    return {
        "config": config.model_dump(mode="json"),
        "phase": phase,
        "out": str(out.absolute()),
        "init": str(init.absolute()) if init else None,
        "plan": [[role.kind, role.index, *astuple(need)] for role, need in plan.items()],
        "one_node": placement.one_node,
    }


def _threads(config: RunConfig, plan: Mapping[RoleId, Resources], nodes: Sequence[Resources]) -> int:
    """Of each learner rank, so that the trials beside each other do not ask for more cores than a node has."""
    together = math.inf
    for kind in ("cpus", "gpus"):
        there, needed = (sum(getattr(part, kind) for part in parts) for parts in (nodes, plan.values()))
        together = min(together, there // needed) if needed else together
    cores = max(node.cpus for node in nodes) / max(1, math.ceil(together / len(nodes)))
    collecting = sum(role.kind == "collector" for role in plan) * config.collect.busy_processes
    return max(1, int((cores - collecting) / config.learner.ranks))


class Trial(tune.Trainable):
    """One run in a folder of its own. A step is a line of metrics.

    Its checkpoints are the run's: whatever ended a trial, it is set up again in the same folder and resumes from the
    last of them. What Tune keeps as a checkpoint is the name of that folder.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """The trial's process first, then every role in the order of the plan."""
        driver = kind_of(_run_config(config), config["phase"]).driver
        own = [{"CPU": driver.cpus}] if driver else []
        strategy = "STRICT_PACK" if config["one_node"] else "PACK"
        return tune.PlacementGroupFactory([*own, *bundles(_plan(config))], strategy=strategy)

    def setup(self, config: dict[str, Any]) -> None:
        """Start the run, or resume it where its folder holds a checkpoint.

        Raises:
            PrelarError: see the loop of the run's kind.
        """
        logging.getLogger("ray.train").setLevel(logging.WARNING)  # what Tune keeps here is a name, not worth a line
        self._lines: Generator[Mapping[str, float]] | None = None
        run_config, phase = _run_config(config), config["phase"]
        kind = kind_of(run_config, phase)
        self._out = Path(config["out"])
        resume = any((self._out / "checkpoints").glob("[0-9]*"))
        # A trial is at work once, so whatever the record says, nobody else is.
        run = RunFolder.create(self._out, to_yaml(run_config), phase, resume=resume, abandoned=True)
        if "manifest" in config:
            write_manifest(run, config)
        self._last: dict[str, Any] = {}
        init = kind.find_init(Path(config["init"]), run_config) if config["init"] and not resume else None
        reservation = Reservation(config.get("name", run.path.name), _plan(config))
        self._lines = kind.iterate(run_config, run, init, resume, reservation)

    def __repr__(self) -> str:
        """The run's name: the prefix of its lines in the log, and its row on the dashboard."""
        return str(self.config.get("name", Path(self.config["out"]).name)) if self.config else type(self).__name__

    def step(self) -> dict[str, Any]:
        """Continue to the next line of metrics."""
        assert self._lines is not None
        line = next(self._lines, None)
        self._last |= line or {}
        return {**self._last, "done": line is None}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Note where the run's own checkpoints are."""
        (Path(checkpoint_dir) / CHECKPOINT_FILE).write_text(json.dumps({"run": str(self._out)}))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: :meth:`setup` resumes from the run's own checkpoints."""

    def cleanup(self) -> None:
        """Stop the run where it is, with a checkpoint, unless it has ended."""
        if self._lines is not None:
            with suppress(KeyboardInterrupt, StopIteration):
                self._lines.throw(KeyboardInterrupt())


def _run_config(config: Mapping[str, Any]) -> RunConfig:
    return RunConfig.model_validate_json(json.dumps(config["config"]))


def write_manifest(run: RunFolder, config: Mapping[str, Any]) -> None:
    """Write ``manifest.json``: what the run is in its study, and the command that repeats it.

    Raises:
        DataError: it cannot be written.
    """
    command = ["prelar-ray", config["phase"], "--config", str(run.config_path), "--out", "NEW"]
    if config["init"]:
        command += ["--init", config["init"]]
    made_with: dict[str, Any] = {key: run.info.get(key) for key in ("versions", "commit", "hardware")}
    manifest = Manifest(**config["manifest"], command=shlex.join(command), **made_with)
    with atomic_file(run.path / "manifest.json") as file:
        file.write(json.dumps(manifest.model_dump(mode="json"), indent=1).encode())


def _plan(config: Mapping[str, Any]) -> dict[RoleId, Resources]:
    return {RoleId(kind, index): Resources(*need) for kind, index, *need in config["plan"]}
