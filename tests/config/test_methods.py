"""``--method`` chooses parts; it stands between preset and file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prelar_ray.config import (
    RunConfig,
    json_schema,
    load_config,
    method_names,
    native_methods,
    preset_names,
    to_yaml,
    yaml_text,
)
from prelar_ray.config.load import _METHODS
from prelar_ray.errors import ConfigError


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("method", method_names())
def test_every_method_goes_with_every_preset_and_is_noted_in_the_configuration(preset: str, method: str):
    # The networks of RLlib's DreamerV3 are of frames of 64 pixels, which `cpu` and `demo` do not have.
    size = ["env.image_size=64"] if preset in ("cpu", "demo") and method == "rllib/DreamerV3" else []
    assert load_config(preset, None, [f"method={method}", *size]).method == method


def test_prelar_is_the_default_and_changes_nothing():
    assert load_config(None, None, ["method=prelar"]) == load_config()


@pytest.mark.parametrize("method", sorted(set(method_names()) - {"prelar"}))
def test_every_other_method_differs_from_prelar_in_more_than_its_name(method: str):
    other = load_config(None, None, [f"method={method}"])
    assert other.model_copy(update={"method": "prelar"}) != load_config()


def test_a_method_wins_over_the_preset_and_file_and_overrides_win_over_it(tmp_path: Path):
    assert load_config("tiny", None, ["method=apv"]).world_model.latent_action == 50
    file = tmp_path / "my.yaml"
    file.write_text("preset: tiny\nmethod: apv\nworld_model: {latent_action: 20}\n")
    assert load_config(None, file).world_model.latent_action == 20
    assert load_config(None, file).world_model.dynamics == "stacked"
    assert load_config(None, file, ["world_model.latent_action=30"]).world_model.latent_action == 30
    assert load_config("tiny", None, ["method=prelar_naive"]).finetune.bonus.weight == 0


def test_a_resolved_configuration_of_a_method_reads_back_unchanged(tmp_path: Path):
    for method in method_names():
        config = load_config("small", None, [f"method={method}", "world_model.latent_action=40"])
        file = tmp_path / f"{method.replace('/', '-')}.yaml"
        file.write_text(to_yaml(config))
        assert load_config(None, file) == config
        assert load_config(None, None, ["seed=3"], base=config).world_model == config.world_model


def test_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"method=prelr: unknown method; nearest: prelar; known: apv, apv_naive"):
        load_config(None, None, ["method=prelr"])


def test_a_second_method_on_top_of_resolved_settings_is_refused(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(load_config("tiny", None, ["method=apv"])))
    with pytest.raises(ConfigError, match=r"method=dreamerv2: .* those of method=apv; start from a preset"):
        load_config(None, file, ["method=dreamerv2"])
    with pytest.raises(ConfigError, match="start from a preset"):
        load_config(None, None, ["method=dreamerv2"], base=load_config("tiny", None, ["method=apv"]))


def test_the_algorithms_of_rllib_are_methods_but_none_of_this_package_s_own():
    baselines = set(method_names()) - set(native_methods())
    assert baselines == {"rllib/DreamerV3", "rllib/PPO"}
    assert load_config("tiny", None, ["method=rllib/PPO"]).algorithm == "PPO"
    assert {load_config("tiny", None, [f"method={name}"]).algorithm for name in native_methods()} == {""}


def test_settings_of_rllib_are_laid_over_those_of_its_method_key_by_key(tmp_path: Path):
    plain = load_config("tiny", None, ["method=rllib/PPO"]).rllib
    changed = load_config(
        "tiny", None, ["method=rllib/PPO", "rllib.training.lr=1e-4", "rllib.model.conv_filters=[[8, 4, 2]]"]
    )
    assert changed.rllib.training == {**plain.training, "lr": 1e-4}
    assert changed.rllib.model == {**plain.model, "conv_filters": [[8, 4, 2]]}
    assert RunConfig.model_validate_json(json.dumps(changed.model_dump(mode="json"))) == changed


@pytest.mark.parametrize("method", method_names())
def test_a_method_file_fits_a_page_and_says_where_the_method_comes_from(method: str):
    text = (_METHODS / f"{method}.yaml").read_text()
    assert text.startswith("# ")
    assert len(text.splitlines()) <= 25
    assert isinstance(yaml_text.parse(text.encode()), dict)


def test_editors_know_the_methods():
    assert json_schema()["properties"]["method"]["enum"] == method_names()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["world_model.latent_action_distribution=categorical", "world_model.latent_action=10"], "not a multiple"),
        (["world_model.latent_action_distribution=deterministic"], "a deterministic latent action has no KL"),
        (["world_model.dynamics=stacked"], "latent_action_source=zeros"),
        (["method=rllib/PPO", "cluster=none"], "cluster=none: PPO of RLlib needs Ray; use cluster=auto"),
        (["method=rllib/PPO", "learner.ranks=2"], "learner.ranks=2: PPO of RLlib learns in one process; set it to 1"),
        (["rllib.training=3"], "rllib.training=3: must be a mapping"),
        (["rllib.training.lr=.inf"], "rllib.training: inf is not finite"),
    ],
)
def test_contradicting_parts_are_refused(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(None, None, overrides)
