"""Lines of metrics to Weights & Biases and MLflow, beside the run's own files: ``telemetry.loggers``.

The run's files are what counts. A service that refuses a run when it starts is an error; one that fails later is left
out of the rest of the run, with a warning.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from prelar_ray.errors import ConfigError
from prelar_ray.extras import require
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["Services", "check_services"]

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


def check_services(names: Sequence[str]) -> None:
    """Make sure that the packages of services are there.

    Raises:
        UsageError: one is not; names its extra.
    """
    require(f"telemetry.loggers=[{','.join(names)}]", *names)


class Services:
    """The services that get the lines of a run; a context manager that tells them how the run ended.

    A resumed run continues the services' runs. They keep what they were sent: lines after the checkpoint that a run
    resumes from are there a second time.
    """

    def __init__(self, names: Sequence[str], project: str, run: RunFolder, settings: Mapping[str, Any]) -> None:
        """Note what is sent where; nothing is opened.

        Args:
            names: services, of :data:`SERVICES`.
            project: project of W&B, experiment of MLflow.
            run: the run; its record keeps the ids that the services know it by.
            settings: of the run, by sections, without addresses and keys.
        """
        self._names, self._project, self._run, self._settings = dict.fromkeys(names), project, run, settings
        self._active: dict[str, Logger] = {}

    def open(self) -> None:
        """Open or continue the run at each service, once the run has started; repeated calls do nothing.

        Raises:
            UsageError: the package of a service is not installed.
            ConfigError: a service refuses the run.
        """
        check_services(list(self._names))
        for name in self._names:
            self._active[name] = self._opened(name)
        self._names = {}

    def write(self, line: Line) -> None:
        """Send a line of metrics, with ``update`` and ``env_steps``."""
        self._each(lambda logger: logger.write(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        ending: Ending = "finished"
        if error is not None:
            ending = "interrupted" if isinstance(error, KeyboardInterrupt | GeneratorExit) else "failed"
        self._each(lambda logger: logger.close(ending))

    def _opened(self, name: str) -> Logger:
        known = self._run.info.get("loggers")
        known = dict(known) if isinstance(known, dict) else {}
        try:
            logger = SERVICES[name](self._project, self._run, self._settings, known.get(name))
        except Exception as error:  # each service has its own, and none says what the user asked for
            raise ConfigError(
                f"telemetry.loggers={name}: {_line(error)}; {REMEDIES[name]}, or leave {name} out"
            ) from error
        self._run.update(loggers=known | {name: logger.id})
        return logger

    def _each(self, action: Callable[[Logger], None]) -> None:
        """Do something with every service; one that fails gets nothing more."""
        for name, logger in list(self._active.items()):
            try:
                action(logger)
            except Exception as error:  # a copy is lost, not the run
                del self._active[name]
                log.warning("%s gets nothing more of this run: %s; metrics.jsonl has everything", name, _line(error))
                with suppress(Exception):
                    logger.close("failed")


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
            # The log is the user's, and the command line may hold the keys of an address.
            settings=wandb.Settings(console="off", x_disable_meta=True),
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
        tags = {"phase": run.info["phase"], "prelar_ray.id": run.info["id"]}
        self.id = str(self._client.create_run(experiment, run_name=run.path.name, tags=tags).info.run_id)
        parameters = [Param(key, str(value)) for key, value in _flat(settings)]
        try:
            for start in range(0, len(parameters), PARAMETERS):
                self._client.log_batch(self.id, params=parameters[start : start + PARAMETERS])
        except Exception:
            self.close("failed")
            raise

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
    "mlflow": "let MLFLOW_TRACKING_URI name its server or data base (sqlite:///mlflow.db)",
}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by dotted key."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
