"""Runs grouped into series by method and by the settings that vary."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from prelar_ray.errors import UsageError
from prelar_ray.reporting.trials import SUCCESS, Trial, name_series, shown, varying_labels

MakeTrial = Callable[..., Trial]


def test_a_series_is_named_by_its_method_and_by_what_varies(make_trial: MakeTrial) -> None:
    trials = [
        make_trial(seed=seed, labels={"loss.action_kl_weight": weight, "seedless.constant": 3})
        for weight in (0.1, 1)
        for seed in (0, 1)
    ]
    trials += [make_trial("apv", labels={"loss.action_kl_weight": 7})]
    series = name_series(trials)
    assert list(series) == ["prelar (β_a=0.1)", "prelar (β_a=1)", "apv"]
    assert [trial.seed for trial in series["prelar (β_a=1)"]] == [0, 1]


def test_seeds_of_pretraining_make_series_of_their_own(make_trial: MakeTrial) -> None:
    trials = [make_trial(seed=seed, labels={"pretrain.seed": first}) for first in (0, 1) for seed in (0, 1)]
    assert list(name_series(trials)) == ["prelar (pre-training seed=0)", "prelar (pre-training seed=1)"]


def test_a_setting_that_a_run_lacks_tells_it_apart(make_trial: MakeTrial) -> None:
    assert list(name_series([make_trial(), make_trial(labels={"a.b": 1})])) == ["prelar", "prelar (b=1)"]


def test_settings_of_the_same_last_name_are_written_out(make_trial: MakeTrial) -> None:
    trials = [make_trial(labels={"a.rate": x, "b.rate": x}) for x in (1, 2)]
    assert list(name_series(trials)) == ["prelar (a.rate=1, b.rate=1)", "prelar (a.rate=2, b.rate=2)"]
    assert varying_labels(trials) == {"prelar": ["a.rate", "b.rate"]}


def test_equal_numbers_are_one_setting(make_trial: MakeTrial) -> None:
    assert list(name_series([make_trial(labels={"a.b": 1}), make_trial(seed=1, labels={"a.b": 1.0})])) == ["prelar"]
    assert [shown(value) for value in (1.0, 0.1, True, None, "x", [1, 2])] == [
        "1",
        "0.1",
        "true",
        "null",
        "x",
        "[1, 2]",
    ]


def test_a_seed_that_is_there_twice_is_refused_by_name(make_trial: MakeTrial) -> None:
    twice = [make_trial(name="one", source="a"), make_trial(name="two", source="b")]
    with pytest.raises(UsageError, match="seed 0, is there twice: one of a and two of b; a seed counts once"):
        name_series(twice)
    name_series([twice[0], make_trial(name="two", source="b", success=[])])  # a run that has not begun is no second


def test_scores_are_found_at_exact_steps(make_trial: MakeTrial) -> None:
    trial = make_trial(success=[0.1, 0.4])
    assert trial.score_at(SUCCESS, 2000) == 0.4
    assert trial.score_at(SUCCESS, 1500) is None
    assert trial.score_at("episode_return", 1000) is None
    assert trial.last_step == 2000
    assert trial.scores[SUCCESS][0].dtype == np.int64
