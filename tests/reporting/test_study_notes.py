"""The reservations a comparison states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prelar_ray.reporting.comparison import Options, compare_group, group_tasks
from prelar_ray.reporting.study_notes import study_notes
from prelar_ray.reporting.trials import Trial, name_series

MakeTrial = Callable[..., Trial]
PROTOCOL = {"evaluation.episodes": "100"}
FULL = {"config": {"world_model": {"rssm": {"deter": 1024}}}, "info": {"status": "finished"}}


def texts(trials: Sequence[Trial], at: int | None = None, differences: Sequence[str] = ()) -> list[str]:
    series = name_series(trials)
    groups = [compare_group(series, *some, Options(at=at), {}) for some in group_tasks(series).items()]
    found = study_notes(series, groups, differences, at, published=False)
    return [f"{', '.join(note.runs)}: {note.text}".replace("\N{NARROW NO-BREAK SPACE}", " ") for note in found]


def long_trial(make_trial: MakeTrial, seed: int, **fields: object) -> Trial:
    return make_trial(seed=seed, success=[0.5] * 250, protocol=PROTOCOL, **{**FULL, **fields})


def test_full_runs_of_five_seeds_need_no_reservation(make_trial: MakeTrial) -> None:
    assert texts([long_trial(make_trial, seed) for seed in range(5)]) == []


def test_runs_that_did_not_finish_are_counted(make_trial: MakeTrial) -> None:
    trials = [long_trial(make_trial, seed) for seed in range(5)]
    trials += [long_trial(make_trial, 5, status="failed"), make_trial(seed=6, success=[], status="not begun")]
    assert texts(trials) == [
        "prelar: Scores leave out 2 of 7 runs, which did not finish (1 failed, 1 not begun).",
    ]
    (text,) = texts(trials, at=1000)
    assert text.endswith("each is scored if it was evaluated at 1 000 steps.")


def test_one_seed_and_few_seeds_are_pointed_out(make_trial: MakeTrial) -> None:
    (one,) = texts([long_trial(make_trial, 0)])
    assert one.startswith("prelar: One seed on a task: no interval is given for it")
    (few,) = texts([long_trial(make_trial, seed) for seed in range(4)])
    assert few == "prelar: Fewer than 5 seeds on a task: intervals are too narrow to compare methods by."


def test_tasks_left_out_and_unequal_seeds_are_named(make_trial: MakeTrial) -> None:
    trials = [
        make_trial(method, task, seed, protocol=PROTOCOL)
        for method, task, seeds in (
            ("prelar", "prelar/a", 6),
            ("prelar", "prelar/b", 5),
            ("apv", "prelar/a", 5),
        )
        for seed in range(seeds)
    ]
    found = texts(trials)
    assert ": What is put together over tasks leaves out prelar/b (no score of apv)." in found
    assert ": Numbers of seeds differ, from 5 to 6: in an IQM tasks with more seeds weigh more." in found
    apart = texts([make_trial(task="prelar/a", protocol=PROTOCOL), make_trial("apv", "prelar/b", protocol=PROTOCOL)])
    assert ": No task has a success rate of every series: nothing is put together over tasks." in apart


def test_runs_that_are_longer_than_others_are_compared_before_their_end(make_trial: MakeTrial) -> None:
    trials = [long_trial(make_trial, seed) for seed in range(5)]
    short = make_trial(seed=5, success=[0.5] * 200, protocol=PROTOCOL, **FULL)
    (text,) = texts([*trials, short])
    assert text == (
        ": The success rate is compared at 200 000 environment steps, the last at which every finished run was "
        "evaluated; some went on to 250 000."
    )
    assert texts([*trials, short], at=200_000) == []


def test_that_nothing_is_compared_is_said_with_the_reason(make_trial: MakeTrial) -> None:
    assert ": No success rate is compared: no run has finished." in texts([long_trial(make_trial, 0, status="running")])


def test_short_training_and_small_networks_are_named_once(make_trial: MakeTrial) -> None:
    small = {"config": {"world_model": {"rssm": {"deter": 128}}}}
    trials = [make_trial(m, seed=s, protocol=PROTOCOL, **{**FULL, **small}) for m in ("a", "b") for s in range(5)]
    found = texts(trials)
    assert ": 1 000 environment steps of the published 250 000 (0.4\N{NO-BREAK SPACE}%)." in found
    assert ": Networks smaller than the published ones: 128 deterministic units instead of 1024." in found


def test_networks_of_rllib_are_not_compared_with_the_published_ones(make_trial: MakeTrial) -> None:
    small = {**FULL, "config": {"world_model": {"rssm": {"deter": 128}}}}
    trials = [make_trial("rllib/PPO", seed=seed, success=[0.5] * 250, protocol=PROTOCOL, **small) for seed in range(5)]
    assert texts(trials) == []


def test_few_episodes_unstated_protocols_and_mixtures_are_named(make_trial: MakeTrial) -> None:
    trials = [make_trial(seed=seed, protocol={"evaluation.episodes": "10"}) for seed in range(5)]
    assert ": Evaluations of 10 episodes: a run's success rate moves in steps of 0.1." in texts(trials)
    assert ": How these scores were measured is not stated in study." in texts([make_trial(seed=s) for s in range(5)])
    assert texts(trials, differences=["a: x is 1 in b"])[0] == (
        ": Runs of different protocols are put together, as asked for: a: x is 1 in b."
    )
