from __future__ import annotations

import functools
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelar_ray.acting.evaluator import EvaluationResult, Evaluator
from prelar_ray.checkpoint.store import CheckpointStore, load_checkpoint
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.training.evaluations import Evaluated, record_evaluation
from prelar_ray.training.local_backend import LocalBackend
from tests.training.runs import EVALUATOR, Mortal, Run, SlowEvaluator, checkpoints, ctrl_c, never

pytestmark = pytest.mark.usefixtures("short_episodes")


def test_evaluations_come_every_so_many_steps_and_each_evaluates_a_checkpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []
    evaluate = Evaluator.evaluate

    @functools.wraps(evaluate)
    def noting(self: Evaluator, weights: Any, episodes: int, round_: int) -> Any:
        rounds.append((round_, {key: value.copy() for key, value in weights.items()}))
        return evaluate(self, weights, episodes, round_)

    monkeypatch.setattr(Evaluator, "evaluate", noting)
    folder = run(
        "run",
        "collect.synchronous=true",
        "evaluation.every_env_steps=10",
        "evaluation.episodes=1",
        "checkpoint.keep_last=9",
        "checkpoint.every_updates=100",
    )
    rows = folder.evaluations()
    assert [row.env_steps // 10 for row in rows] == [6, 7, 8]
    first, *evaluated = checkpoints(folder)
    assert first == 0  # saved before anything is learnt
    assert [row.update for row in rows] == evaluated  # the last is not evaluated a second time
    assert [round_ for round_, _ in rounds] == [1, 2, 3]
    for update, (_, weights) in zip(evaluated, rounds, strict=True):
        model = load_checkpoint(folder.checkpoints / f"{update:09d}").state["model"]
        np.testing.assert_array_equal(model["rssm.input.weight"].numpy(), weights["rssm.input.weight"])
    best = CheckpointStore(folder.checkpoints, 9).best()
    assert best is not None
    assert int(best.name) == max(rows, key=lambda row: row.returns[0]).update
    lines = [row for row in read_metrics(folder.metrics_path) if "evaluation/return_mean" in row]
    assert [row["evaluation/return_mean"] for row in lines] == [row.returns[0] for row in rows]


def test_asynchronous_evaluations_are_of_checkpoints_too(run: Run) -> None:
    settings = ["evaluation.every_env_steps=10", "evaluation.episodes=1", "checkpoint.keep_last=9"]
    folder = run("run", *settings, "finetune.env_steps=90")
    evaluated = [row.update for row in folder.evaluations()]
    assert len(evaluated) > 2
    assert set(evaluated) <= set(checkpoints(folder))


def test_an_evaluation_due_at_the_last_step_is_of_the_last_update_and_the_only_one_there(run: Run) -> None:
    lagging = ("replay.tolerance_updates=9", "finetune.initial_updates=5")  # all steps are taken before the updates
    rows = run("run", "evaluation.every_env_steps=40", "evaluation.episodes=1", *lagging).evaluations()
    assert [(row.env_steps, row.update) for row in rows] == [(80, 9)]


def test_nobody_waits_for_a_long_evaluation_and_those_due_meanwhile_are_of_the_moment_at_which_they_were(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    evaluate = Evaluator.evaluate

    @functools.wraps(evaluate)
    def noting(self: Evaluator, weights: Any, *args: Any) -> Any:
        given.append({key: value.copy() for key, value in weights.items()})
        return evaluate(self, weights, *args)

    monkeypatch.setattr(Evaluator, "evaluate", noting)
    backend = SlowEvaluator()
    settings = ["evaluation.every_env_steps=10", "evaluation.episodes=1", "checkpoint.keep_last=9"]
    folder = run("run", *settings, "finetune.env_steps=90", backend=lambda: backend)
    assert set(backend.waited) == {8}
    rows = folder.evaluations()
    assert [row.env_steps // 10 for row in rows] == [7, 8, 9]
    for row, weights in zip(rows, given, strict=True):
        model = load_checkpoint(folder.checkpoints / f"{row.update:09d}").state["model"]
        np.testing.assert_array_equal(model["rssm.input.weight"].numpy(), weights["rssm.input.weight"])


def test_an_evaluation_that_an_interrupt_cut_off_is_made_when_the_run_resumes(
    run: Run, tmp_path: Path, during_update: Any
) -> None:
    settings = ["collect.synchronous=true", "evaluation.every_env_steps=10", "evaluation.episodes=1"]
    expected = run("whole", *settings).evaluations()
    during_update(3, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run("cut", *settings, backend=SlowEvaluator)
    folder = RunFolder.open(tmp_path / "cut")
    assert folder.evaluations() == []
    assert load_checkpoint(folder.path).update == 3
    during_update(0, never)
    found = run("cut", *settings, resume=True).evaluations()
    assert found[0] == expected[0]  # of update 2, though the run went on from update 3
    assert [row.update for row in found] == [row.update for row in expected]


def test_checkpoints_that_do_not_say_which_evaluations_are_pending_can_be_resumed_from(run: Run) -> None:
    folder = run("run", "finetune.env_steps=70")
    meta = folder.checkpoints / "000000004" / "meta.json"
    content = json.loads(meta.read_text())
    del content["counters"]["evaluations_owed"]
    meta.write_text(json.dumps(content))
    assert [row.update for row in run("run", resume=True).evaluations()] == [4, 6]


def test_evaluations_beyond_the_checkpoint_are_forgotten(run: Run) -> None:
    settings = ["collect.synchronous=true", "evaluation.every_env_steps=10", "evaluation.episodes=1"]
    folder = run("run", *settings)
    before = folder.evaluations()
    (folder.checkpoints / f"{before[-1].update:09d}" / "state.pt").write_bytes(b"damaged")
    reached = load_checkpoint(folder.path).update
    assert reached < before[-1].update
    again = run("run", *settings, resume=True).evaluations()
    assert again[:-1] == before[:-1]
    assert [row.update for row in again] == [row.update for row in before]


def test_an_evaluator_that_dies_is_replaced_and_only_its_evaluation_is_missing(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Mortal(EVALUATOR, "evaluate")
    folder = run("run", "collect.synchronous=true", "evaluation.every_env_steps=70", backend=lambda: backend)
    assert backend.stopped == [EVALUATOR]
    assert "evaluator died: killed; this evaluation is left out" in caplog.text
    assert [row.update for row in folder.evaluations()] == [6]


def test_an_evaluation_that_takes_too_long_is_left_out(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(LocalBackend):
        """Evaluators are processes of their own that do not answer."""

        parallel = True

        def wait(self, futures: Any, timeout: float) -> list[Any]:
            rest = [future for future in futures if not future.call.method.__name__ == "evaluate"]
            return super().wait(rest, timeout) if rest else []

    monkeypatch.setattr("prelar_ray.training.finetuning.time.monotonic", itertools.count().__next__)
    folder = run("run", "evaluation.timeout=100", backend=Elsewhere)
    assert "evaluator died: no answer for evaluation.timeout=100 s; this evaluation is left out" in caplog.text
    assert folder.info["status"] == "finished"
    assert folder.evaluations() == []


def test_a_run_without_any_evaluation_ends_all_the_same(run: Run) -> None:
    folder = run("run", backend=lambda: Mortal(EVALUATOR, "evaluate"))
    info = RunFolder.open(folder.path).info
    assert info["status"] == "finished"
    assert info["summary"] == {"updates": 6, "env_steps": 80, "episodes": 4}


OFTEN = ("evaluation.every_env_steps=10", "evaluation.episodes=1", "checkpoint.keep_last=1", "finetune.env_steps=200")


@pytest.fixture(autouse=True)
def _one_update_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an update takes on this machine."""
    monkeypatch.setattr("prelar_ray.training.learners.CALL_SECONDS", 1e-9)


def test_where_evaluating_is_slower_than_training_the_newest_are_made_and_the_others_counted(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run("run", *OFTEN, backend=SlowEvaluator)
    made = [row.env_steps // 10 for row in folder.evaluations()]
    assert made == [7, 17, 18, 19, 20]  # the first was in flight all the time, the last is of the last update
    rows = read_metrics(folder.metrics_path)
    skipped = [row["evaluation/skipped"] for row in rows if "evaluation/skipped" in row]
    assert skipped[0] == 0
    assert skipped[-1] == 8  # at 80 to 150 steps; that at 160 gives way to the last, after the last line of metrics
    assert skipped == sorted(skipped)
    assert "is left out, 1 so far: evaluating takes longer than evaluation.every_env_steps=10" in caplog.text
    assert caplog.text.count("is left out") == 4  # said at 1, 2, 4 and 8


def test_checkpoints_whose_evaluation_is_pending_are_kept_and_a_resume_makes_all_of_them(
    run: Run, tmp_path: Path, during_update: Any
) -> None:
    during_update(20, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run("run", *OFTEN, backend=SlowEvaluator)
    folder = RunFolder.open(tmp_path / "run")
    assert folder.evaluations() == []
    pending = load_checkpoint(folder.path).counters["evaluations_owed"]
    assert len(pending) == 5
    assert {one["update"] for one in pending} <= set(checkpoints(folder))
    during_update(0, never)
    folder = run("run", *OFTEN, resume=True)
    found = [row.update for row in folder.evaluations()]
    assert found[:5] == [one["update"] for one in pending]
    assert len(checkpoints(folder)) <= 2  # the last and the best


def test_an_evaluation_due_at_the_update_of_the_last_checkpoint_survives_a_kill(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prelar_ray.training.finetuning import Finetuning

    begin = Finetuning._begin_evaluation

    def after_a_checkpoint(self: Finetuning) -> None:
        self._begin_save()
        begin(self)
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "_begin_evaluation", after_a_checkpoint)
        with pytest.raises(RuntimeError, match="power cut"):
            run("run", *OFTEN, backend=SlowEvaluator)
    pending = load_checkpoint(tmp_path / "run").counters["evaluations_owed"]
    assert [one["update"] for one in pending] == [load_checkpoint(tmp_path / "run").update]


def test_the_record_of_an_evaluation_counts_episodes_that_failed_and_were_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder.create(tmp_path / "run", "", "finetune")
    for update, replaced in enumerate((0, 2)):
        result = EvaluationResult(returns=(1.0,), successes=(True,), lengths=(5,), frames=(), replaced=replaced)
        with caplog.at_level(logging.INFO):
            record_evaluation(folder, Evaluated(update, 10, result), "prelar/point-reach")
    assert [row.replaced for row in folder.evaluations()] == [0, 2]
    assert [message.endswith("success 1.00; 2 more failed and were replaced") for message in caplog.messages] == [
        False,
        True,
    ]
