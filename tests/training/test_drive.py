"""What every kind of run shares, with a loop that only counts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import CheckpointError, RoleDied
from prelar_ray.roles import RoleId
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.drive import Loop, drive
from prelar_ray.training.metric_log import MetricLog


class Counting(Loop):
    """Counts to ten from where it starts; notes what it is asked for."""

    def __init__(self, run: RunFolder, log: list[str], start: int, act: Callable[[int], None]) -> None:
        self.run, self.log, self.count, self.act = run, log, start, act
        self.metrics = MetricLog(run, lambda line: None, start if start or run.metrics_path.exists() else None)

    @property
    def finished(self) -> bool:
        return self.count >= 10

    @property
    def reached(self) -> int:
        return self.count

    @property
    def shown(self) -> Mapping[str, float]:
        return {}

    def advance(self) -> None:
        self.act(self.count)
        self.count += 1
        self.metrics.write(self.count, 0, {"loss/total": float(self.count)})

    def finish(self) -> None:
        self.log.append("finish")

    def save(self) -> None:
        self.log.append(f"save {self.count}")

    def conclude(self) -> None:
        self.log.append("conclude")

    def close(self) -> None:
        self.log.append("close loop")
        super().close()


class Resource:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def close(self) -> None:
        self.log.append("close backend")


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def start(minute_config: RunConfig, tmp_path: Path, log: list[str]) -> Callable[..., Generator[Any]]:
    def start(
        act: Callable[[int], None] = lambda count: None, restart: Any = None, config: RunConfig = minute_config
    ) -> Generator[Any]:
        run = RunFolder.create(tmp_path / "run", "", "pretrain")
        return drive(
            config,
            run,
            phase="pretrain",
            total=10,
            unit="updates",
            is_whole=lambda path: True,
            load=lambda: 0,
            done=lambda origin: origin,
            start=lambda: Resource(log),
            open_loop=lambda backend, origin: Counting(run, log, origin, act),
            restart=restart,
        )

    return start


def status(tmp_path: Path) -> str:
    return str(RunFolder.open(tmp_path / "run").info["status"])


def test_a_run_ends_with_a_checkpoint_and_its_conclusion(start: Any, log: list[str], tmp_path: Path) -> None:
    assert [line["update"] for line in start()] == list(range(1, 11))
    assert log == ["finish", "save 10", "conclude", "close loop", "close backend"]
    assert status(tmp_path) == "finished"


def test_an_interrupt_saves_and_takes_effect(start: Any, log: list[str], tmp_path: Path) -> None:
    lines = start()
    next(lines)
    with pytest.raises(KeyboardInterrupt):
        lines.throw(KeyboardInterrupt())
    assert log == ["save 1", "close loop", "close backend"]
    assert status(tmp_path) == "interrupted"


def test_the_last_line_of_progress_is_of_what_an_interrupt_saved(
    start: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finishing(self: Counting) -> None:
        self.count = 7  # updates that were in flight

    monkeypatch.setattr(Counting, "save", finishing)
    lines = start()
    next(lines)
    with pytest.raises(KeyboardInterrupt):
        lines.throw(KeyboardInterrupt())
    assert "pretrain: 7/10 updates, stopped" in capsys.readouterr().err


def test_an_interrupt_takes_effect_also_when_saving_fails_because_a_role_is_dead(
    start: Any, log: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def dead(self: Counting) -> None:
        raise RoleDied(RoleId("learner"), "killed")

    monkeypatch.setattr(Counting, "save", dead)
    lines = start(restart=lambda *_: pytest.fail("nothing restarts"))
    next(lines)
    with pytest.raises(KeyboardInterrupt):
        lines.throw(KeyboardInterrupt())
    assert "learner died: killed; the last checkpoint stands" in caplog.text
    assert log == ["close loop", "close backend"]
    assert status(tmp_path) == "interrupted"


def test_a_death_restarts_the_loop_where_the_policy_says(start: Any, log: list[str]) -> None:
    deaths: list[tuple[str, int]] = []

    def die_once(count: int) -> None:
        if count == 6 and not deaths:
            raise RoleDied(RoleId("learner"), "killed")

    def restart(death: RoleDied, backend: Any, origin: int) -> int:
        deaths.append((str(death), origin))
        return 4

    assert [line["update"] for line in start(die_once, restart)] == [*range(1, 7), *range(5, 11)]
    assert deaths == [("learner died: killed", 0)]
    assert log == ["close loop", "finish", "save 10", "conclude", "close loop", "close backend"]


def test_without_a_policy_a_death_ends_the_run(start: Any, log: list[str], tmp_path: Path) -> None:
    def die(count: int) -> None:
        raise RoleDied(None, "killed")

    with pytest.raises(RoleDied, match="a role died: killed"):
        list(start(die))
    assert log == ["close loop", "close backend"]
    assert status(tmp_path) == "failed"


@pytest.fixture
def services(log: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a service of W&B or MLflow would get: names, project, settings and lines."""
    found = SimpleNamespace(lines=[])

    class Recorder:
        def __init__(self, names: Sequence[str], project: str, run: RunFolder, settings: Mapping[str, Any]) -> None:
            found.names, found.project, found.settings = names, project, settings

        def __enter__(self) -> Recorder:
            return self

        def open(self) -> None:
            log.append("open services")

        def write(self, line: Mapping[str, float]) -> None:
            found.lines.append(line)

        def __exit__(self, kind: object, error: object, at: object) -> None:
            log.append("close services")

    monkeypatch.setattr("prelar_ray.training.drive.Services", Recorder)
    return found


def test_services_get_every_line_and_settings_without_addresses(
    start: Any, minute_config: RunConfig, log: list[str], tmp_path: Path, services: Any
) -> None:
    asked = ["telemetry.loggers=[mlflow]", "telemetry.project=arm", "video.path=s3://KEY:SECRET@bucket/videos?x=SECRET"]
    config = load_config(
        None, None, [*asked, f"checkpoint.mirror=file://{tmp_path}/mirror?key=SECRET"], base=minute_config
    )
    assert services.lines == list(start(config=config))
    assert len(services.lines) == 10
    assert (services.names, services.project) == (("mlflow",), "arm")
    assert "SECRET" not in str(services.settings)
    assert services.settings["video"]["path"] == "videos"
    assert log.index("close loop") < log.index("close services") < log.index("close backend")


def test_services_are_not_opened_where_the_loop_cannot_be(
    start: Any, log: list[str], monkeypatch: pytest.MonkeyPatch, services: Any
) -> None:
    def refuse(*arguments: object) -> None:
        raise CheckpointError("of another experiment")

    monkeypatch.setattr(Counting, "__init__", refuse)
    with pytest.raises(CheckpointError):
        list(start())
    assert log == ["close services", "close backend"]
