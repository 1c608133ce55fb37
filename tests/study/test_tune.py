"""The adapter to Ray Tune, without a cluster."""

from __future__ import annotations

import inspect
import json
import logging
import pickle
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import tune as ray_tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import TrialScheduler

from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.sweep import Scheduler, Sweep
from prelar_ray.study.table import StudyTable
from prelar_ray.study.tune import (
    CHECKPOINT_SECONDS,
    RESTORE_HINT,
    Events,
    StopSignals,
    _without_hint,
    make_scheduler,
    run_trials,
)


class Tried:
    """A trial, as far as schedulers and callbacks look at it."""

    def __init__(self, name: str) -> None:
        self.trial_id, self.config = name, {"name": name}

    def get_error(self) -> Exception:
        return RuntimeError("Traceback\n  in a role\nDataError: no disk\n")


class Shown(dict[tuple[str, ...], float]):
    """Gauges: the last values that were shown, by name and tags."""

    def show(self, values: dict[str, float], **tags: str) -> None:
        self.update({(name, *tags.values()): value for name, value in values.items()})


class Controller:
    """What a scheduler sees of Ray Tune, with a run that waits."""

    def get_live_trials(self) -> list[Any]:
        return [SimpleNamespace(status="PENDING")]


def scheduler(kind: str, folder: StudyFolder) -> TrialScheduler:
    asked = {"kind": kind, "grace_env_steps": 100, "metric": "score"}
    return make_scheduler(Scheduler.model_validate(asked), folder)


@pytest.mark.parametrize("kind", ["fifo", "asha", "median"])
def test_stopped_runs_get_time_for_their_checkpoints(tmp_path: Path, kind: str) -> None:
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    assert "_actor_force_cleanup_timeout" in TuneController.__init__.__code__.co_names, (
        "Ray Tune calls it otherwise now"
    )
    controller = Controller()
    scheduler(kind, folder).on_trial_add(controller, Tried("a"))  # type: ignore[arg-type]
    assert vars(controller)["_actor_force_cleanup_timeout"] == CHECKPOINT_SECONDS


def test_the_median_rule_stops_the_worst_and_pauses_nobody(tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    rule, controller = scheduler("median", folder), Controller()
    trials: list[Any] = [Tried(f"run-{n}") for n in range(5)]

    def tell(trial: Any, steps: int, score: float) -> str:
        return rule.on_trial_result(controller, trial, {"env_steps": steps, "score": score})  # type: ignore[arg-type]

    for trial in trials:
        rule.on_trial_add(controller, trial)  # type: ignore[arg-type]
    assert [tell(trial, 200, 5.0) for trial in trials[:4]] == [TrialScheduler.CONTINUE] * 4
    rule.on_trial_complete(controller, trials[3], {"done": True})  # type: ignore[arg-type]
    assert tell(trials[4], 200, 1.0) == TrialScheduler.STOP
    assert json.loads((folder.path / "stopped.json").read_text()).keys() == {"run-4", "checksum"}


def test_ctrl_c_that_ray_tune_took_for_itself_is_raised_and_its_handler_does_not_stay() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignals().heard():
        signal.signal(signal.SIGINT, lambda *_: None)  # as it leaves it where no signal came
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt), StopSignals().heard():
        signal.signal(signal.SIGINT, before)  # as it leaves it after one
    assert signal.getsignal(signal.SIGINT) is before


def test_of_what_ray_tune_says_at_the_end_only_its_advice_to_restore_is_left_out() -> None:
    assert RESTORE_HINT in inspect.getsource(ray_tune.run), "Ray Tune words it otherwise now"
    advice = f"Experiment has been interrupted.\n{RESTORE_HINT}Tuner.restore(path=...)"
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    ray_tune.logger.addHandler(handler)
    level = ray_tune.logger.level
    ray_tune.logger.setLevel(logging.WARNING)  # a Ray that another test started may have raised that of all of Ray
    try:
        with _without_hint():
            ray_tune.logger.warning(advice)
            ray_tune.logger.warning("Trials did not complete")
        assert said == ["Trials did not complete"]
        ray_tune.logger.warning(advice)
        assert said[1:] == [advice]
    finally:
        ray_tune.logger.setLevel(level)
        ray_tune.logger.removeHandler(handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_other_signals_that_ask_to_stop_give_trials_their_time_too(number: int) -> None:
    before, kept = signal.getsignal(signal.SIGINT), signal.getsignal(number)
    took = []
    with StopSignals().heard():
        signal.signal(signal.SIGINT, lambda *_: took.append("Ray Tune's handler"))
        signal.raise_signal(number)
    assert took == ["Ray Tune's handler"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(number)) == (before, kept)


def as_ray_tune_does(signals: StopSignals, before: Any) -> None:
    """Take both signals, start, and put the handler of Ctrl-C back when one comes."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signals.setup()
    signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, before))
    signal.raise_signal(signal.SIGUSR1)


def test_a_signal_that_ray_tune_took_for_itself_is_taken_back_and_heard_by_its_own_handler_at_the_end() -> None:
    """So that a batch system's signal ends the command with the exit code that asks for another turn."""
    before, heard = signal.getsignal(signal.SIGINT), []
    kept = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    signals = StopSignals()
    try:
        with pytest.raises(KeyboardInterrupt), signals.heard():
            as_ray_tune_does(signals, before)
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, kept)


def test_ray_tune_is_given_what_takes_its_signals_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    class Tuner:
        def __init__(self, trainable: object, *, tune_config: object, run_config: Any) -> None:
            given.extend(run_config.callbacks)

        def fit(self) -> None:
            signal.signal(signal.SIGINT, lambda *_: None)  # as it leaves it where no signal came

    monkeypatch.setattr("prelar_ray.study.tune.tune.Tuner", Tuner)
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    queue: Any = SimpleNamespace(pending=["a"])
    sweep = Sweep.model_validate({"name": "study", "finetune": {"methods": ["dreamerv2"], "seeds": [0]}})
    run_trials(sweep, folder, queue, lambda run: {}, StudyTable([], {}), Shown())  # type: ignore[arg-type]
    assert sum(isinstance(callback, StopSignals) for callback in given) == 1


def test_how_a_trial_ended_is_recorded_and_shown(tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    table, shown = StudyTable([], {"a": "running"}), Shown()
    events, trial = Events(folder, table, shown), Tried("a")  # type: ignore[arg-type]
    assert (shown["study_runs", "waiting"], shown["study_runs", "failed"]) == (1, 0), "before anything happens"
    events.on_trial_error(0, [], trial)
    assert (table.status, folder.failures()) == ({"a": "failed"}, {"a": "DataError: no disk"})
    assert (shown["study_runs", "waiting"], shown["study_runs", "failed"]) == (0, 1)
    RunFolder.create(folder.run_path("a"), "", "pretrain").update(status="finished")
    events.on_trial_complete(0, [], trial)
    assert (table.status, folder.failures()) == ({"a": "finished"}, {})
    assert pickle.loads(pickle.dumps(events)) is not events, "Ray Tune keeps a copy of its callbacks on disk"
