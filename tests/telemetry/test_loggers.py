"""Weights & Biases offline, and MLflow with a folder as its server."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest

from prelar_ray.errors import ConfigError, UsageError
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry import loggers
from prelar_ray.telemetry.loggers import Services

SETTINGS = {"seed": 3, "loss": {"image_weight": 30.0}}
LINES = [{"update": 5, "env_steps": 50, "loss/total": 7.25}, {"update": 10, "env_steps": 100, "loss/total": 6.125}]


@pytest.fixture(autouse=True)
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path}/server")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "reach", "", "finetune")


@contextmanager
def opened(run: RunFolder, *names: str) -> Iterator[Services]:
    with Services(names, "arm", run, SETTINGS) as services:
        services.open()
        services.open()  # as after a restart
        yield services


def sent(run: RunFolder, *names: str) -> None:
    with opened(run, *names) as services:
        for line in LINES:
            services.write(line)


def curve(run: RunFolder, metric: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient().get_metric_history(run.info["loggers"]["mlflow"], metric)
    return [(point.step, point.value) for point in history]


def test_mlflow_has_every_line_over_updates_and_the_settings(run: RunFolder) -> None:
    sent(run, "mlflow")
    assert curve(run, "loss/total") == [(5, 7.25), (10, 6.125)]
    assert curve(run, "env_steps") == [(5, 50.0), (10, 100.0)]
    found = mlflow.get_run(run.info["loggers"]["mlflow"])
    assert found.data.params == {"seed": "3", "loss.image_weight": "30.0"}
    assert found.data.tags["phase"] == "finetune"
    assert found.info.run_name == "reach"
    assert found.info.status == "FINISHED"
    assert mlflow.get_experiment(found.info.experiment_id).name == "arm"


def test_a_resumed_run_continues_in_mlflow(run: RunFolder) -> None:
    sent(run, "mlflow")
    with opened(RunFolder.open(run.path), "mlflow") as services:
        assert mlflow.get_run(run.info["loggers"]["mlflow"]).info.status == "RUNNING"
        services.write({"update": 10, "loss/total": 6.0})  # again, after the checkpoint of update 5
        services.write({"update": 15, "loss/total": 5.0})
    assert sorted(curve(run, "loss/total")) == [(5, 7.25), (10, 6.0), (10, 6.125), (15, 5.0)]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED")])
def test_mlflow_knows_how_a_run_ended(run: RunFolder, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), opened(run, "mlflow"):
        raise error
    assert mlflow.get_run(run.info["loggers"]["mlflow"]).info.status == status


def test_wandb_has_every_line_under_the_run_s_id_also_after_a_resume(run: RunFolder) -> None:
    sent(run, "wandb")
    sent(RunFolder.open(run.path), "wandb")
    assert RunFolder.open(run.path).info["loggers"] == {"wandb": run.info["id"]}
    files = sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))
    assert [path.name for path in files] == [f"run-{run.info['id']}.wandb"] * len(files)
    written = b"".join(path.read_bytes() for path in files)
    assert written.count(b"6.125") >= 2
    for text in (b"loss/total", b"7.25", b"image_weight", b"finetune", b"reach"):
        assert text in written


class Failing:
    def __init__(self, project: str, run: RunFolder, settings: Mapping[str, Any], known: str | None) -> None:
        self.id, self.calls = "1", 0

    def write(self, line: Mapping[str, float]) -> None:
        self.calls += 1
        raise ConnectionError("no route\nto host")

    def close(self, ending: str) -> None:
        closed.append(ending)
        raise ConnectionError("still none")


closed: list[str] = []


def test_a_service_that_fails_later_is_left_out_once_and_the_others_get_everything(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loggers, "SERVICES", {**loggers.SERVICES, "wandb": Failing})
    with caplog.at_level(logging.WARNING, "prelar_ray.telemetry.loggers"):
        sent(run, "wandb", "mlflow")
    assert caplog.messages == ["wandb gets nothing more of this run: no route to host; metrics.jsonl has everything"]
    assert closed == ["failed"]
    assert len(curve(run, "loss/total")) == 2


def test_nothing_is_opened_before_the_run_has_started(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="refused"), Services(["mlflow"], "arm", run, SETTINGS):
        raise ValueError("a resume that is refused")
    assert "loggers" not in run.info


def test_a_service_that_is_named_twice_is_opened_once(run: RunFolder) -> None:
    sent(run, "mlflow", "mlflow")
    experiment = mlflow.get_experiment_by_name("arm").experiment_id
    assert len(mlflow.MlflowClient().search_runs([experiment])) == 1


def test_wandb_does_not_get_the_command_line(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["prelar-ray", "checkpoint.mirror=s3://KEY:SECRET@bucket/runs"])
    sent(run, "wandb")
    for path in (run.path / "wandb").rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes(), path


def test_a_service_that_refuses_the_run_is_an_error_with_a_remedy(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    with pytest.raises(ConfigError, match=r"^telemetry\.loggers=mlflow: .*let MLFLOW_TRACKING_URI name its server"):
        sent(run, "mlflow")


def test_a_package_that_is_missing_is_named(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"^telemetry\.loggers=\[wandb\] needs .*pip install 'prelar-ray\[wandb\]'$"):
        sent(run, "wandb")


def test_without_services_nothing_is_noted(run: RunFolder) -> None:
    sent(run)
    assert "loggers" not in run.info
