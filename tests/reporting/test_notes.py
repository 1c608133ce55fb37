"""The reservations a report states."""

from __future__ import annotations

from pathlib import Path

import pytest

from prelar_ray.reporting.notes import notes
from prelar_ray.reporting.runs import Evaluation, Run
from prelar_ray.statistics import Interval


def evaluation(env_steps: int, low: float, high: float, episodes: int = 50) -> Evaluation:
    returns = Interval((low + high) / 2, low, high, episodes)
    success = Interval(0.5, 0.4, 0.6, episodes)
    return Evaluation(env_steps, env_steps // 5, "metaworld/reach-v3", episodes, returns, success, "any step", "mode")


def run(name: str = "run", phase: str = "finetune", steps: int = 250_000, **fields: object) -> Run:
    metrics: list[dict[str, float | None]] = [{"update": steps, "env_steps": steps}]
    config = {"seed": fields.pop("seed", 0), "world_model": {"rssm": {"deter": fields.pop("deter", 1024)}}}
    return Run(Path(name), {"phase": phase}, metrics, config=config, **fields)  # type: ignore[arg-type]


def texts(*runs: Run) -> list[str]:
    return [f"{', '.join(note.runs)}: {note.text}".replace("\N{NARROW NO-BREAK SPACE}", " ") for note in notes(runs)]


def test_a_full_run_of_the_published_size_needs_no_reservation() -> None:
    runs = [run(seed=seed, evaluations=[evaluation(250_000, 1, 2)]) for seed in range(5)]
    assert texts(*runs) == []


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
    [((5.0, 6.0), "an improvement"), ((1.5, 6.0), "no improvement is shown"), ((0.1, 0.2), "no improvement is shown")],
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
