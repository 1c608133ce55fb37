"""The reservations that reports state, on single runs and on comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from prelar_ray.reporting.compare import Options, compare
from prelar_ray.reporting.notes import comparison_notes, run_notes
from prelar_ray.reporting.read import Run
from prelar_ray.reporting.scores import RunScores, name_series
from prelar_ray.storage.records import EvaluationRecord

pytestmark = pytest.mark.usefixtures("_few_resamples")

MakeScores = Callable[..., RunScores]
PROTOCOL = {"evaluation.episodes": "100"}
FULL = {"config": {"world_model": {"rssm": {"deter": 1024}}}, "info": {"status": "finished"}}


def evaluation(env_steps: int, low: float, high: float, episodes: int = 50) -> EvaluationRecord:
    """An evaluation of which one half of the episodes has the one return, the other half the other."""
    return EvaluationRecord(
        update=env_steps // 5,
        env_steps=env_steps,
        task="metaworld/reach-v3",
        returns=(low, high) * (episodes // 2),
        successes=(True, False) * (episodes // 2),
        success_rule="any step",
        policy="mode",
    )


def run(name: str = "run", phase: str = "finetune", steps: int = 250_000, **fields: object) -> Run:
    metrics: list[dict[str, float | None]] = [{"update": steps, "env_steps": steps}]
    config = {"seed": fields.pop("seed", 0), "world_model": {"rssm": {"deter": fields.pop("deter", 1024)}}}
    return Run(Path(name), {"phase": phase}, metrics=metrics, config=config, **fields)  # type: ignore[arg-type]


def texts(*runs: Run) -> list[str]:
    return [
        f"{', '.join(note.about)}: {note.text}".replace("\N{NARROW NO-BREAK SPACE}", " ") for note in run_notes(runs)
    ]


def test_a_full_run_of_the_published_size_needs_no_reservation() -> None:
    runs = [run(seed=seed, evaluations=[evaluation(250_000, 1, 2)]) for seed in range(5)]
    assert texts(*runs) == []


def test_an_experiment_that_a_resume_changed_is_called_two() -> None:
    changed = run(phase="pretrain", steps=600_000)
    settings = {"seed": [0, 1], "videos": ["a", "b"], "telemetry.every_updates": [5, 7]}
    changed.info["changes"] = [{"at": "then", "update": 2000, "settings": settings}, {"update": "damaged"}]
    (text,) = texts(changed)
    assert text == (
        "run: A resume changed the experiment, so this is not one run: seed was 0 up to update 2 000, then 1; videos "
        "was a up to update 2 000, then b."
    )


def test_minutes_of_fine_tuning_do_not_solve_the_task() -> None:
    (text,) = texts(run(steps=3_000))
    assert text.startswith("run: 3 000 environment steps of the published 250 000 (1.2\N{NO-BREAK SPACE}%). Minutes on")
    assert "do not solve the task" in text


def test_a_short_pre_training_is_called_short() -> None:
    (text,) = texts(run(phase="pretrain", steps=200))
    assert "200 updates of the published 600 000" in text


def test_small_networks_are_mentioned_once_for_all_runs() -> None:
    (text,) = texts(run("a", deter=64), run("b", deter=64))
    assert text == "a, b: Networks smaller than the published ones: 64 deterministic units instead of 1024."


def test_a_baseline_has_networks_of_its_own_that_are_not_compared_with_the_published_ones() -> None:
    baseline = run(deter=64)
    baseline.config["method"] = "rllib/PPO"
    assert texts(baseline) == []


@pytest.mark.parametrize(
    ("last", "verdict"),
    [((5.0, 6.0), "an improvement"), ((1.0, 2.2), "no improvement is shown"), ((0.1, 0.2), "no improvement is shown")],
)
def test_the_last_evaluation_is_compared_with_the_first(last: tuple[float, float], verdict: str) -> None:
    text = texts(run(evaluations=[evaluation(0, 1.0, 2.0), evaluation(250_000, *last)]))[0]
    assert verdict in text


def test_few_episodes_are_pointed_out() -> None:
    assert any("in steps of 0.1 only" in text for text in texts(run(evaluations=[evaluation(250_000, 1, 2, 10)])))


def test_one_seed_and_few_seeds_are_pointed_out() -> None:
    runs = [run(seed=seed, evaluations=[evaluation(250_000, 1, 2)]) for seed in range(3)]
    assert any(text.startswith(": One seed: intervals are over the episodes") for text in texts(runs[0]))
    assert any(text.startswith(": 3 seeds: ") for text in texts(*runs))


def test_a_damaged_configuration_is_no_reason_to_fail() -> None:
    damaged = run(steps=250_000)
    damaged.config = {"world_model": "?"}
    assert texts(damaged) == []


def compared(runs: Sequence[RunScores], at: int | None = None, differences: Sequence[str] = ()) -> list[str]:
    series = name_series(runs)
    groups = compare(series, Options(at=at), {})
    found = comparison_notes(series, groups, differences, at, published=False)
    return [f"{', '.join(note.about)}: {note.text}".replace("\N{NARROW NO-BREAK SPACE}", " ") for note in found]


def long_run(make_scores: MakeScores, seed: int, **fields: object) -> RunScores:
    return make_scores(seed=seed, success=[0.5] * 250, protocol=PROTOCOL, **{**FULL, **fields})


def test_full_runs_of_five_seeds_need_no_reservation(make_scores: MakeScores) -> None:
    assert compared([long_run(make_scores, seed) for seed in range(5)]) == []


def test_runs_that_did_not_finish_are_counted(make_scores: MakeScores) -> None:
    runs = [long_run(make_scores, seed) for seed in range(5)]
    runs += [long_run(make_scores, 5, status="failed"), make_scores(seed=6, success=[], status="not begun")]
    assert compared(runs) == [
        "prelar: Scores leave out 2 of 7 runs, which did not finish (1 failed, 1 not begun).",
    ]
    (text,) = compared(runs, at=1000)
    assert text.endswith("each is scored if it was evaluated at 1 000 steps.")


def test_one_seed_and_few_seeds_of_a_series_are_pointed_out(make_scores: MakeScores) -> None:
    (one,) = compared([long_run(make_scores, 0)])
    assert one.startswith("prelar: One seed on a task: no interval is given for it")
    (few,) = compared([long_run(make_scores, seed) for seed in range(4)])
    assert few == "prelar: Fewer than 5 seeds on a task: intervals are too narrow to compare methods by."


def test_tasks_left_out_and_unequal_seeds_are_named(make_scores: MakeScores) -> None:
    runs = [
        make_scores(method, task, seed, protocol=PROTOCOL)
        for method, task, seeds in (
            ("prelar", "prelar/a", 6),
            ("prelar", "prelar/b", 5),
            ("apv", "prelar/a", 5),
        )
        for seed in range(seeds)
    ]
    found = compared(runs)
    assert ": What is put together over tasks leaves out prelar/b (no score of apv)." in found
    assert ": Numbers of seeds differ, from 5 to 6: in an IQM tasks with more seeds weigh more." in found
    apart = compared(
        [make_scores(task="prelar/a", protocol=PROTOCOL), make_scores("apv", "prelar/b", protocol=PROTOCOL)]
    )
    assert ": No task has a success rate of every series: nothing is put together over tasks." in apart


def test_runs_that_are_longer_than_others_are_compared_before_their_end(make_scores: MakeScores) -> None:
    runs = [long_run(make_scores, seed) for seed in range(5)]
    short = make_scores(seed=5, success=[0.5] * 200, protocol=PROTOCOL, **FULL)
    (text,) = compared([*runs, short])
    assert text == (
        ": The success rate is compared at 200 000 environment steps, the last at which every finished run was "
        "evaluated; some continued to 250 000."
    )
    assert compared([*runs, short], at=200_000) == []


def test_that_nothing_is_compared_is_said_with_the_reason(make_scores: MakeScores) -> None:
    assert ": No success rate is compared: no run has finished." in compared(
        [long_run(make_scores, 0, status="running")]
    )


def test_short_training_and_small_networks_are_named_once(make_scores: MakeScores) -> None:
    small = {"config": {"world_model": {"rssm": {"deter": 128}}}}
    runs = [make_scores(m, seed=s, protocol=PROTOCOL, **{**FULL, **small}) for m in ("a", "b") for s in range(5)]
    found = compared(runs)
    assert ": 1 000 environment steps of the published 250 000 (0.4\N{NO-BREAK SPACE}%)." in found
    assert ": Networks smaller than the published ones: 128 deterministic units instead of 1024." in found


def test_networks_of_rllib_are_not_compared_with_the_published_ones(make_scores: MakeScores) -> None:
    small = {**FULL, "config": {"world_model": {"rssm": {"deter": 128}}}}
    runs = [make_scores("rllib/PPO", seed=seed, success=[0.5] * 250, protocol=PROTOCOL, **small) for seed in range(5)]
    assert compared(runs) == []


def test_few_episodes_unstated_protocols_and_mixtures_are_named(make_scores: MakeScores) -> None:
    runs = [make_scores(seed=seed, protocol={"evaluation.episodes": "10"}) for seed in range(5)]
    assert ": Evaluations of 10 episodes: a run's success rate moves in steps of 0.1." in compared(runs)
    assert ": How these scores were measured is not stated in study." in compared(
        [make_scores(seed=s) for s in range(5)]
    )
    assert compared(runs, differences=["a: x is 1 in b"])[0] == (
        ": Runs of different protocols are put together, as asked for: a: x is 1 in b."
    )
