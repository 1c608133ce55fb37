"""Lines of metrics to Weights & Biases and MLflow, beside the run's own files: ``telemetry.loggers``.

The run's files are what counts. A service that refuses a run when it starts is an error; one that fails later is left
out of the rest of the run, with a warning.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from prelar_ray.errors import ConfigError
from prelar_ray.extras import require
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["logging_to"]

log = logging.getLogger(__name__)

Ending = Literal["finished", "interrupted", "failed"]
Line = Mapping[str, float]


class Logger(Protocol):
    """A run of a service."""

    id: str
    """By which the service continues the run."""

    def write(self, line: Line) -> None:
        """Send a line of metrics, with ``update`` and ``env_steps``."""

    def close(self, ending: Ending) -> None:
        """Send what is left, and how the run ended."""


@contextmanager
def logging_to(
    names: Sequence[str], project: str, run: RunFolder, settings: Mapping[str, Any]
) -> Iterator[Callable[[Line], None]]:
    """Send lines to services until the block ends; a resumed run continues the services' runs.

    Args:
        names: services, of :data:`SERVICES`.
        project: project of W&B, experiment of MLflow.
        run: the run; its record keeps the ids that the services know it by.
        settings: of the run, by sections.

    Raises:
        UsageError: the package of a service is not installed.
        ConfigError: a service refuses the run.
    """
    require(f"telemetry.loggers=[{','.join(names)}]", *names)
    active: dict[str, Logger] = {}
    ending: Ending = "failed"
    try:
        for name in names:
            active[name] = _opened(name, project, run, settings)
        yield lambda line: _each(active, lambda logger: logger.write(line))
        ending = "finished"
    except (KeyboardInterrupt, GeneratorExit):
        ending = "interrupted"
        raise
    finally:
        _each(active, lambda logger: logger.close(ending))


def _opened(name: str, project: str, run: RunFolder, settings: Mapping[str, Any]) -> Logger:
    known = run.info.get("loggers")
    known = dict(known) if isinstance(known, dict) else {}
    try:
        logger = SERVICES[name](project, run, settings, known.get(name))
    except Exception as error:  # each service has its own, and none says what the user asked for
        raise ConfigError(f"telemetry.loggers={name}: {_line(error)}; {REMEDIES[name]}, or leave it out") from error
    run.update(loggers=known | {name: logger.id})
    return logger


def _each(active: dict[str, Logger], action: Callable[[Logger], None]) -> None:
    """Do something with every service; one that fails gets nothing more."""
    for name, logger in list(active.items()):
        try:
            action(logger)
        except Exception as error:  # a copy is lost, not the run
            del active[name]
            log.warning("%s gets nothing more of this run: %s; metrics.jsonl has everything", name, _line(error))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class WandbLogger:
    """A run of Weights & Biases, drawn over updates."""

    def __init__(self, project: str, run: RunFolder, settings: Mapping[str, Any], known: str | None) -> None:
        import wandb  # an extra

        self._run = wandb.init(
            project=project,
            name=run.path.name,
            id=known or run.info["id"],
            resume="allow",
            reinit="create_new",  # a process may drive several runs
            dir=str(run.path),
            config=dict(settings),
            job_type=run.info["phase"],
            settings=wandb.Settings(console="off"),  # the log is the user's
        )
        self.id = str(self._run.id)
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")

    def write(self, line: Line) -> None:
        """See :class:`Logger`."""
        self._run.log(dict(line))

    def close(self, ending: Ending) -> None:
        """See :class:`Logger`."""
        self._run.finish(exit_code=0 if ending == "finished" else 1)


class MlflowLogger:
    """A run of MLflow, its steps the updates."""

    def __init__(self, project: str, run: RunFolder, settings: Mapping[str, Any], known: str | None) -> None:
        import mlflow  # an extra
        from mlflow.entities import Metric, Param

        self._client, self._metric = mlflow.MlflowClient(), Metric
        if known:
            self._client.update_run(known, status="RUNNING")
            self.id = known
            return
        experiment = mlflow.set_experiment(project).experiment_id
        self.id = str(self._client.create_run(experiment, run_name=run.path.name).info.run_id)
        tags = {"phase": run.info["phase"], "prelar_ray.id": run.info["id"]}
        for key, value in tags.items():
            self._client.set_tag(self.id, key, value)
        parameters = [Param(key, str(value)) for key, value in _flat(settings)]
        for start in range(0, len(parameters), PARAMETERS):
            self._client.log_batch(self.id, params=parameters[start : start + PARAMETERS])

    def write(self, line: Line) -> None:
        """See :class:`Logger`."""
        now, update = int(time.time() * 1000), int(line["update"])
        values = [self._metric(name, float(value), now, update) for name, value in line.items() if name != "update"]
        self._client.log_batch(self.id, metrics=values)

    def close(self, ending: Ending) -> None:
        """See :class:`Logger`."""
        status = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[ending]
        self._client.set_terminated(self.id, status=status)


PARAMETERS = 100
"""That MLflow takes at once."""

SERVICES: Mapping[str, Callable[[str, RunFolder, Mapping[str, Any], str | None], Logger]] = {
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
}
"""Services by the names of ``telemetry.loggers``."""
REMEDIES = {
    "wandb": "`wandb login`, or WANDB_MODE=offline to send it later with `wandb sync`",
    "mlflow": "MLFLOW_TRACKING_URI names its server",
}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by dotted key."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
