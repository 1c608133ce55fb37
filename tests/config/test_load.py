from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelar_ray.config import RunConfig, VideoConfig, json_schema, load_config, preset_names, to_yaml, yaml_text
from prelar_ray.errors import ConfigError


def refusal(*overrides: str, file: Path | None = None, preset: str | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(preset, file, overrides)
    return str(error.value)


@pytest.fixture
def written(tmp_path: Path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "run.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# Layers


def test_without_arguments_the_defaults_hold():
    assert load_config() == RunConfig()


def test_overrides_win_over_the_file_and_the_file_over_the_preset(written):
    file = written("seed: 1\nfinetune: {batch_size: 7, segment_length: 9}\n")
    config = load_config("tiny", file, ["finetune.batch_size=8"])
    assert config.finetune.batch_size == 8  # override
    assert (config.seed, config.finetune.segment_length) == (1, 9)  # file
    assert config.world_model.rssm.deter == load_config("tiny").world_model.rssm.deter  # preset
    assert config.checkpoint.keep_last == RunConfig().checkpoint.keep_last  # defaults


def test_a_base_configuration_is_where_the_layers_start():
    base = load_config("small", None, ["seed=9"])
    config = load_config(None, None, ["finetune.batch_size=8"], base=base)
    assert config == load_config("small", None, ["seed=9", "finetune.batch_size=8"])


def test_the_last_of_two_overrides_wins():
    assert load_config(overrides=["seed=1", "seed=2"]).seed == 2


def test_an_override_may_set_several_keys_of_a_section_and_leaves_the_others():
    config = load_config("tiny", None, ["finetune.bonus={weight: 0.5, window: 3}"])
    assert (config.finetune.bonus.weight, config.finetune.bonus.window) == (0.5, 3)
    assert config.finetune.bonus.queue == load_config("tiny").finetune.bonus.queue


def test_a_file_may_name_its_preset_and_the_argument_wins_over_it(written):
    file = written("preset: tiny\nseed: 4\n")
    assert load_config(None, file) == load_config("tiny", None, ["seed=4"])
    assert load_config("small", file) == load_config("small", None, ["seed=4"])


def test_a_file_of_comments_changes_nothing(written):
    assert load_config(None, written("# seed: 1\n")) == RunConfig()


# Values


@pytest.mark.parametrize("text", ["3e-4", "3.0e-4", "0.0003", "3E-4", ".3e-3", "+3e-4"])
def test_every_way_to_write_a_float_is_a_number(text: str):
    assert load_config(overrides=[f"pretrain.optimizer.learning_rate={text}"]).pretrain.optimizer.learning_rate == 3e-4


def test_whole_numbers_serve_as_floats_and_lists_as_tuples():
    config = load_config(overrides=["loss.image_weight=2", "record.tasks=[a, b]"])
    assert config.loss.image_weight == 2.0
    assert config.record.tasks == ("a", "b")


@pytest.mark.parametrize("text", ["0", "null", "a #b: c", "[x", "'quoted'", "key=value", "3e-4"])
def test_an_override_of_a_text_key_is_taken_as_it_stands(text: str):
    assert load_config(overrides=[f"video.path={text}"]).video.path == text


def test_an_override_of_a_path_in_brackets_is_several():
    assert load_config(overrides=["video.path=[a, b]"]).video.path == ("a", "b")


# Mistakes

VIDEO = ", ".join(f"video.{name}" for name in VideoConfig.model_fields)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.batch_sise=3", "finetune.batch_sise=3: unknown key; nearest: finetune.batch_size"),
        ("fintune.batch_size=3", "fintune.batch_size=3: unknown key; nearest: finetune.batch_size"),
        ("world_model.deter=3", "world_model.deter=3: unknown key; nearest: world_model.rssm.deter"),
        ("world_model.rsm.deter=3", "world_model.rsm.deter=3: unknown key; nearest: world_model.rssm.deter"),
        ("video.zzzz=3", f"video.zzzz=3: unknown key; known: {VIDEO}"),
        ("finetune.batch_size=0", "finetune.batch_size=0: must be >= 1"),
        ("pretrain.optimizer.eps=0", "pretrain.optimizer.eps=0: must be > 0"),
        ("loss.kl_balance=1.5", "loss.kl_balance=1.5: must be <= 1"),
        ("loss.image_weight=.nan", "loss.image_weight=NaN: must be finite"),
        ("finetune.batch_size='3'", "finetune.batch_size=3: must be a whole number, not text"),
        ("finetune.batch_size=3,5", "finetune.batch_size=3,5: must be a whole number, not text"),
        ("finetune.batch_size=true", "finetune.batch_size=true: must be a whole number"),
        ("pretrain.updates=1e3", "pretrain.updates=1000.0: must be a whole number; write 1000"),
        ("loss.image_weight='1.0'", "loss.image_weight=1.0: must be a number, not text"),
        ("video.verify=1", "video.verify=1: must be true or false"),
        ("telemetry.loggers=[wandbx]", "telemetry.loggers.0=wandbx: must be one of wandb, mlflow; nearest: wandb"),
        ("env.image_size=96", "env.image_size=96: must be one of 0, 32, 64, 128"),
        ("record.tasks=push", "record.tasks=push: must be a list such as [a, b]"),
        ("seed=", "seed=null: must be a whole number"),
        ("seed.x=1", 'seed={"x": 1}: must be a whole number'),
        (
            "loss.consistency_gradient=sft",
            "loss.consistency_gradient=sft: must be one of straight_through, soft, published; nearest: soft",
        ),
        (
            "evaluation=3",
            "evaluation=3: must be a section with the keys episodes, every_env_steps, envs, workers, gpus, timeout",
        ),
        ("seed", "seed: not an override; write KEY=VALUE with a dotted key, for example seed=1"),
        ("env..task=a", "env..task=a: not an override; write KEY=VALUE with a dotted key, for example seed=1"),
        ("preset=tiny", "preset=tiny: a preset is chosen with --preset tiny"),
    ],
)
def test_a_mistake_is_one_line_with_path_value_and_what_is_allowed(override: str, message: str):
    assert refusal(override) == message


def test_each_of_several_mistakes_has_its_line():
    lines = refusal("finetune.batch_sise=3", "pretrain.batch_size=1").splitlines()
    assert sorted(lines) == [
        "finetune.batch_sise=3: unknown key; nearest: finetune.batch_size",
        "pretrain.batch_size=1: must be >= 2",
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learner.ranks=3"], "pretrain.batch_size=16 is not a multiple of learner.ranks=3, .* use 15 or 18"),
        (["learner.ranks=4"], "finetune.batch_size=50 is not a multiple of learner.ranks=4, .* use 48 or 52"),
        (["learner.ranks=16", "finetune.batch_size=48"], "learner.ranks=16: .* leaves a rank one segment"),
        (["learner.ranks=2", "cluster=none"], "learner.ranks=2: .* use cluster=auto"),
    ],
)
def test_ranks_that_cannot_share_a_batch_are_refused(overrides: list[str], message: str) -> None:
    assert re.match(message, refusal(*overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["finetune.bonus.window=60"],
            "finetune.bonus.window=60 is longer than finetune.segment_length=50; shorten the window or lengthen the "
            "segment",
        ),
        (
            ["finetune.bonus.neighbours=5000"],
            "finetune.bonus.neighbours=5000 exceeds finetune.bonus.queue=4096; use a longer queue",
        ),
        (
            ["behaviour.slow_critic_every=50", "behaviour.slow_critic_fraction=0.02"],
            "behaviour.slow_critic_every=50 with behaviour.slow_critic_fraction=0.02 makes the slow critic lag 2,500 "
            "updates behind the critic, so that returns hardly reach further than the horizon; a fraction goes with "
            "slow_critic_every=1",
        ),
        (
            ["finetune.random_steps=300000"],
            "finetune.random_steps=300000 exceeds finetune.env_steps=250000; nothing would be left for the policy",
        ),
        (
            ["replay.capacity_steps=100"],
            "replay.capacity_steps=100 is below finetune.random_steps=5000; the random phase would not fit",
        ),
        (
            ["video.path=[a, b, a]"],
            "video.path: a is named twice; use weights to let it count more",
        ),
        (
            ["collect.max_age_updates=3"],
            "collect.max_age_updates=3 is below collect.publish_every_updates=10; weights would be too old before the "
            "next are published",
        ),
        (
            ["collect.workers=3", "collect.envs_per_collector=2"],
            "collect.workers=3 is above collect.envs_per_collector=2; a worker without an environment does nothing: "
            "use at most 2, or more environments",
        ),
        (
            ["evaluation.workers=3", "evaluation.envs=2"],
            "evaluation.workers=3 is above evaluation.envs=2; a worker without an environment does nothing: use at "
            "most 2, or more environments",
        ),
        (
            ["method=rllib/PPO", "collect.workers=1"],
            "collect.workers=1: PPO of RLlib steps environments in the processes that rllib.env_runners says; set "
            "it to 0",
        ),
        (
            ["method=rllib/PPO", "evaluation.gpus=0.5"],
            "evaluation.gpus=0.5: PPO of RLlib is evaluated where it learns; set it to 0",
        ),
        (
            ["env.action_repeat=2"],
            "finetune.env_steps_per_update=5 is not a multiple of env.action_repeat=2; the replay ratio could not be "
            "kept exactly",
        ),
        (
            ["world_model.context.enabled=true", "world_model.context.heads=7"],
            "world_model.context.heads=7 does not divide the decoder's channels, multiples of 96; change it or "
            "world_model.decoder.depth",
        ),
        (
            ["world_model.context.enabled=true", "world_model.decoder.depth=96"],
            "world_model.context.enabled=true: the decoder attends to feature maps of the encoder's sizes; make "
            "world_model.decoder equal to world_model.encoder",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_named_in_one_line(overrides: list[str], message: str):
    assert refusal(*overrides) == message


def test_contradictions_in_several_sections_are_all_named():
    lines = refusal("finetune.bonus.window=60", "collect.max_age_updates=3", "video.verify=1").splitlines()
    assert [line.split("=")[0] for line in lines] == [
        "finetune.bonus.window",
        "video.verify",
        "collect.max_age_updates",
    ]


def test_an_override_that_is_not_yaml_is_refused():
    assert refusal("record.tasks=[a").startswith("record.tasks=[a: the value is not valid YAML: line 1: ")


def test_an_unknown_preset_is_refused_with_the_nearest_and_all(written):
    expected = "preset=tny: unknown preset; nearest: tiny; known: cpu, demo, metaworld-experts, paper, small, tiny"
    assert refusal(preset="tny") == expected
    assert refusal(file=written("preset: tny")) == expected


def test_a_missing_file_is_named(tmp_path: Path):
    assert refusal(file=tmp_path / "no.yaml") == f"{tmp_path / 'no.yaml'}: no such configuration file"
    assert refusal(file=tmp_path) == f"{tmp_path}: cannot be read (Is a directory)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\nenv: }\n", "not valid YAML: line 2: "),
        ("seed: 1\nseed: 2\n", "not valid YAML: line 2: key 'seed' is given twice, first in line 1"),
        ("env:\n  task: a\n  task: b\n", "not valid YAML: line 3: key 'task' is given twice, first in line 2"),
        ("- seed\n", "must be a mapping of keys such as `seed: 1`, is "),
        ("seed: !!python/object/apply:os.getcwd []\n", "not valid YAML: line 1: could not determine a constructor"),
        ("env: &a {task: *a}\n", "not valid YAML: line 1: found unconstructable recursive node"),
        ("[" * 5000, "not valid YAML: nested too deeply"),
        (b"seed: \xe9", "not valid YAML: unacceptable character"),
    ],
    ids=["syntax", "duplicate", "nested duplicate", "list", "code", "recursive", "deep", "not utf-8"],
)
def test_a_file_that_is_not_a_mapping_in_yaml_is_refused_with_its_name_and_line(written, content, message: str):
    file = written(content)
    assert refusal(file=file).startswith(f"{file}: {message}")


def test_mistakes_inside_a_file_are_told_by_dotted_path(written):
    assert refusal(file=written("env: {camera: 0}")) == "env.camera=0: must be text; write it in quotes"
    assert refusal(file=written("record: {tasks: [a, 1]}")) == "record.tasks.1=1: must be text; write it in quotes"
    assert refusal(file=written("env: {1: 2}")) == "env.1: a key must be text"
    assert refusal(file=written("evaluation:\n")).startswith(
        "evaluation=null: must be a section with the keys episodes"
    )


# Round trip


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**63),
    learning_rate=st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False),
    task=st.text(),
    tasks=st.lists(st.text(max_size=8), min_size=1, max_size=4),
    verify=st.booleans(),
)
def test_what_to_yaml_writes_reads_back_as_the_same_configuration(
    tmp_path_factory, seed: int, learning_rate: float, task: str, tasks: list[str], verify: bool
):
    base = RunConfig()
    config = RunConfig.model_validate(
        base.model_dump()
        | {
            "seed": seed,
            "pretrain": base.pretrain.model_dump() | {"optimizer": {"learning_rate": learning_rate}},
            "env": {"task": task},
            "record": {"tasks": tasks},
            "video": {"verify": verify},
        }
    )
    file = tmp_path_factory.mktemp("round-trip") / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(None, file) == config


@pytest.mark.parametrize(
    "text", ["3e-4", "1e6", "0", "yes", "null", "2020-01-01", "0x1F", "", "a: b", "- c", "x\x85y", "\n z"]
)
def test_text_that_looks_like_something_else_stays_text(text: str):
    assert yaml_text.parse(yaml_text.dump({"key": text})) == {"key": text}


# JSON schema


def test_the_json_schema_accepts_every_preset_and_describes_every_key():
    schema = json.loads(json.dumps(json_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    for name in preset_names():
        jsonschema.validate(json.loads(json.dumps({"preset": "paper", **load_config(name).model_dump()})), schema)
    for section in (schema, *schema["$defs"].values()):
        for key, field in section["properties"].items():
            described = field if "$ref" not in field else schema["$defs"][field["$ref"].rpartition("/")[2]]
            assert described.get("description"), key


def test_the_json_schema_refuses_unknown_keys_and_presets():
    for wrong in ({"sede": 1}, {"env": {"tsk": "a"}}, {"preset": "tny"}, {"seed": -1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, json_schema())
