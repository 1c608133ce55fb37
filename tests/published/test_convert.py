"""Published checkpoints come in and go out bit for bit, and tell everything that shapes can tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prelar_ray.acting.policy import ActingNoise, Policy
from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.checkpoint.transfer import policy_weights
from prelar_ray.config import load_config
from prelar_ray.errors import OfficialCheckpointError
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.models.image_encoder import ImageEncoder
from prelar_ray.published.convert import Imported, export_state, import_published
from prelar_ray.published.files import write_published
from prelar_ray.published.names import LAYOUTS, official_key, own_key
from tests.parity.folder import PUBLIC, ParityFolder
from tests.parity.options import run_config
from tests.parity.subjects import finetune_learner
from tests.tiny import ACTION, tiny_batch, tiny_clips, tiny_config

Publish = Callable[..., Path]

FOLDER = ParityFolder.load(PUBLIC)

TWO_CLASSES = "world_model.rssm.classes=2"  # what tests.tiny has

# Several stacks of several layers, for their numbers in names.
DEEP = [f"world_model.{part}.{n}" for part in ("encoder", "decoder") for n in ("stacks=3", "layers=2")]


def imported(path: Path, *overrides: str) -> Imported:
    return import_published(path, None, None, overrides)


def stored(source: Imported, folder: Path) -> CheckpointStore:
    store = CheckpointStore(folder, keep_last=1)
    store.save(source.phase, source.config, 0, source.state, source.counters)
    return store


def files(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {path.name: torch.load(path, weights_only=True) for path in folder.iterdir()}


def assert_same_files(one: Path, two: Path) -> None:
    first, second = files(one), files(two)
    assert first.keys() == second.keys()
    for name, tensors in first.items():
        assert tensors.keys() == second[name].keys()
        for key, value in tensors.items():
            assert second[name][key].dtype == value.dtype, key
            assert torch.equal(second[name][key], value), key


def trained(name: str, phase: str, *overrides: str) -> PretrainLearner | FinetuneLearner:
    """A learner after one update, so that no tensor is what it was made with."""
    config = tiny_config(f"method={name}", *DEEP, *overrides)
    if phase == "pretrain":
        learner = PretrainLearner(config)
        learner.update(tiny_clips(0))
        return learner
    tuned = FinetuneLearner(config, ACTION)
    tuned.update(tiny_batch(0))
    return tuned


# The published files


def test_a_published_pretraining_is_imported_tensor_for_tensor() -> None:
    found = imported(PUBLIC / "pretrained", "world_model.rssm.classes=4")
    published = FOLDER.tensors["pretrained/variables.pt"]
    assert (found.phase, found.layout, found.config.method) == ("pretrain", "prelar", "prelar")
    assert found.filled == ()
    model = PretrainLearner(load_config(None, None, ["device=cpu"], base=found.config)).model
    model.load_state_dict(found.state["model"])
    assert {official_key(key): value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in published.items()
    }
    for key, value in model.state_dict().items():
        assert torch.equal(value, published[official_key(key)])


def test_the_widths_of_the_published_pretraining_are_found() -> None:
    found = imported(PUBLIC / "pretrained", "world_model.rssm.classes=4").config.world_model
    expected = run_config(FOLDER, "pretrain").world_model
    in_other_phase = {"action_encoder", "reward_head"}
    assert found.model_dump(exclude=in_other_phase) == expected.model_dump(exclude=in_other_phase)


def test_the_widths_of_the_published_finetuning_are_found() -> None:
    found = imported(PUBLIC / "finetuned" / "variables.pt", "world_model.rssm.classes=4")
    expected = run_config(FOLDER, "finetune")
    in_other_phase = {"inverse_dynamics", "inverse_dynamics_head"}
    assert found.config.world_model.model_dump(exclude=in_other_phase) == expected.world_model.model_dump(
        exclude=in_other_phase
    )
    assert (found.config.behaviour.actor, found.config.behaviour.critic) == (
        expected.behaviour.actor,
        expected.behaviour.critic,
    )
    bonus = found.config.finetune.bonus
    assert (bonus.input, bonus.projection, bonus.queue) == ("embedding", 16, 64)
    assert found.inferred.action == 4
    assert found.published.aliases == {"_expl_behavior.": 33, "wm.af_rssm.": 14}
    assert found.filled == ("bonus.filled",)


def test_the_imported_policy_acts_as_the_published_one(tmp_path: Path) -> None:
    found = imported(PUBLIC / "finetuned", "world_model.rssm.classes=4")
    ours, theirs = Policy(found.config, 4), Policy(run_config(FOLDER, "finetune"), 4)
    ours.load_weights(policy_weights(stored(found, tmp_path).latest()), 0)
    theirs.load_weights(finetune_learner(FOLDER).policy_weights(), 0)
    states = [policy.initial(2) for policy in (ours, theirs)]
    for t, image in enumerate(tiny_clips(0, rows=2).swapaxes(0, 1)):
        first = np.full(2, t == 0)
        noise = ActingNoise(None, None)
        (one, states[0]), (two, states[1]) = (
            policy.act(image, first, state, noise) for policy, state in zip((ours, theirs), states, strict=True)
        )
        np.testing.assert_array_equal(one, two)
        assert np.abs(one).max() > 0


def test_the_rest_of_the_published_finetuning_is_imported_too() -> None:
    state = imported(PUBLIC / "finetuned", "world_model.rssm.classes=4").state
    expected = finetune_learner(FOLDER)
    assert expected.bonus is not None
    own = {"model": expected.model, "actor_critic": expected.actor_critic, "bonus": expected.bonus}
    for part, module in own.items():
        assert state[part].keys() == module.state_dict().keys()
        for key, value in module.state_dict().items():
            assert torch.equal(state[part][key], value), key
    published = FOLDER.tensors["finetuned/variables.pt"]["_task_behavior.rewnorm.mag"]
    assert torch.equal(state["behaviour"]["reward_normaliser"]["magnitude"], published)


@pytest.mark.parametrize("phase", ["pretrained", "finetuned"])
def test_a_published_checkpoint_comes_out_as_it_went_in(tmp_path: Path, phase: str) -> None:
    found = imported(PUBLIC / phase, "world_model.rssm.classes=4")
    export = export_state(stored(found, tmp_path / "store").latest())
    write_published(tmp_path / "out", export.tensors, export.aliases, export.parts)
    assert_same_files(PUBLIC / phase, tmp_path / "out")


def test_the_parts_of_a_pretraining_are_as_good_as_the_whole(tmp_path: Path) -> None:
    for path in (PUBLIC / "pretrained").glob("*_variables.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = imported(PUBLIC / "pretrained" / "variables.pt", "world_model.rssm.classes=4")
    parts = imported(tmp_path, "world_model.rssm.classes=4")
    assert parts.config == whole.config
    assert parts.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(value, whole.tensors[key]) for key, value in parts.tensors.items())


# Every method and layout

PRETRAINED = {  # method: what its pre-training is recognised as
    "prelar": "prelar",
    "prelar_no_consistency": "prelar",
    "prelar_naive": "prelar",
    "prelar_deterministic": "prelar_deterministic",
    "apv": "apv",
    "apv_naive": "apv",
    "contextwm": "contextwm",
}
FINETUNED = {
    **{name: name for name in ("prelar", "prelar_naive", "apv", "apv_naive", "contextwm", "dreamerv2")},
    "prelar_no_consistency": "prelar",
    "prelar_deterministic": "prelar",
}
OF_CONTEXTWM = ("apv", "contextwm", "dreamerv2")
CASES = [
    (phase, layout, name)
    for phase, methods in (("pretrain", PRETRAINED), ("finetune", FINETUNED))
    for layout in LAYOUTS
    for name in methods
    if layout == "prelar" or name in OF_CONTEXTWM
]


@pytest.mark.parametrize(("phase", "layout", "name"), CASES)
def test_every_method_goes_out_and_comes_in_unchanged(
    publish: Publish, tmp_path: Path, phase: str, layout: str, name: str
) -> None:
    learner = trained(name, phase)
    folder = publish(learner, layout)
    found = imported(folder, TWO_CLASSES)
    assert (found.phase, found.layout) == (phase, layout)
    assert found.config.method == {"pretrain": PRETRAINED, "finetune": FINETUNED}[phase][name]
    state = learner.state_dict()
    for part in ("model", "actor_critic") if phase == "finetune" else ("model",):
        assert found.state[part].keys() == state[part].keys()
        for key, value in state[part].items():
            assert torch.equal(found.state[part][key], value), key
    if phase == "finetune" and learner.config.finetune.bonus.weight:
        assert torch.equal(found.state["bonus"]["queue"], state["bonus"]["queue"])
        assert found.state["bonus"]["filled"] == 0  # not published
    export = export_state(stored(found, tmp_path / "again").latest())
    write_published(tmp_path / "out", export.tensors, export.aliases, export.parts)
    assert_same_files(folder, tmp_path / "out")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["apv", "contextwm"])
def test_fine_tuning_takes_over_an_imported_pretraining(publish: Publish, layout: str, name: str) -> None:
    pretrained = trained(name, "pretrain")
    found = imported(publish(pretrained, layout), TWO_CLASSES)
    learner = FinetuneLearner(load_config(None, None, ["device=cpu"], base=found.config), ACTION)
    learner.load_pretrained(found.state["model"])
    source = pretrained.state_dict()["model"]
    for part, module in learner.model.pretrained.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, source[f"{part}.{key}"])


@pytest.mark.parametrize(("phase", "layout", "name"), CASES)
def test_a_named_method_wins_where_it_fits(publish: Publish, phase: str, layout: str, name: str) -> None:
    found = imported(publish(trained(name, phase), layout), TWO_CLASSES, f"method={name}")
    assert found.config.method == name
    assert found.method_named


def test_names_of_the_layouts_differ_where_the_repositories_do(publish: Publish) -> None:
    learner = trained("contextwm", "finetune")
    one, two = (files(publish(learner, layout, name=layout))["variables.pt"] for layout in LAYOUTS)
    for key in (
        "wm.rssm._img_in.0.weight",
        "wm.af_rssm._ensemble_out_layers.0.img_out_head_0.bias",
        "wm.encoder._cnn_net.res1.stack.0.identity.1.running_var",
        "wm.encoder._deco_net.convin.0.weight",
        "wm.encoder._deco_net.res2.stack.1.res_block.3.weight",
        "wm.heads.decoder.convin.0.weight",
        "wm.heads.decoder._cnn_nn.res1.stack.0.cross_attention.att.in_proj_weight",
        "wm.heads.decoder._cnn_nn.res0.stack.0.kv_pos_emb",
        "wm.heads.reward._mlp_nn.dense_0.weight",
        "_task_behavior.actor._out_dist._std_nn.bias",
    ):
        assert key in one
        assert key not in two
    for key in (
        "wm.rssm.img_in.weight",
        "wm.af_rssm.img_dist_0.bias",
        "wm.encoder.res1.stack.0.identity.1.running_var",
        "wm.encoder.cond_convin.weight",
        "wm.encoder.cond_res2.stack.1.res_block.3.weight",
        "wm.heads.decoder.convin.weight",
        "wm.heads.decoder.res1.stack.0.cross_attention.att.out_proj.weight",
        "wm.heads.decoder.res0.stack.0.norm_cross_att.running_mean",
        "wm.heads.decoder.res0.stack.0.q_pos_emb",
        "wm.heads.reward.dense0.weight",
        "_task_behavior.actor.out.std.bias",
        "_expl_behavior.critic.out.out.weight",
        "wm.rssm._cell._norm.weight",
        "wm.intr_bonus.random_projection_matrix",
    ):
        assert key in two
    assert len(one) == len(two)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_translate_there_and_back(layout: str) -> None:
    model = trained("contextwm", "finetune").state_dict()["model"]
    for key in model:
        assert own_key(official_key(key, layout), layout) == key.replace("rssm.above.", "rssm.")


# Widths

WIDTHS = {
    "encoder": "depth=3 stacks=2 layers=1 norm=none",
    "decoder": "depth=5 stacks=3 layers=3 norm=batch",
    "inverse_dynamics": "depth=4 stacks=4 layers=2 norm=none",
    "rssm": "deter=7 hidden=9 stoch=2 classes=32",
    "inverse_dynamics_head": "hidden=11",
    "action_encoder": "hidden=13",
    "reward_head": "layers=3 units=5",
}
OTHER_WIDTHS = [
    *(f"world_model.{section}.{setting}" for section, settings in WIDTHS.items() for setting in settings.split()),
    "world_model.latent_action=6",
    *("behaviour.actor.layers=2", "behaviour.actor.units=14", "behaviour.critic.layers=5", "behaviour.critic.units=15"),
    *("finetune.bonus.projection=17", "finetune.bonus.queue=18"),
]


def test_all_widths_of_a_pretraining_are_found(publish: Publish) -> None:
    learner = PretrainLearner(tiny_config(*OTHER_WIDTHS))
    found = imported(publish(learner)).config.world_model
    in_other_phase = {"action_encoder", "reward_head"}
    assert found.model_dump(exclude=in_other_phase) == learner.config.world_model.model_dump(exclude=in_other_phase)


def test_all_widths_of_a_finetuning_are_found(publish: Publish) -> None:
    learner = FinetuneLearner(tiny_config(*OTHER_WIDTHS), 3)
    found = imported(publish(learner))
    in_other_phase = {"inverse_dynamics", "inverse_dynamics_head"}
    expected = learner.config
    assert found.config.world_model.model_dump(exclude=in_other_phase) == expected.world_model.model_dump(
        exclude=in_other_phase
    )
    assert found.config.behaviour.actor == expected.behaviour.actor
    assert found.config.behaviour.critic == expected.behaviour.critic
    assert (found.config.finetune.bonus.projection, found.config.finetune.bonus.queue) == (17, 18)
    assert found.inferred.action == 3


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["finetune.bonus.weight=0"], {"bonus": 0.0, "aux": 1.0}),
        (["loss.aux_reward_weight=0"], {"bonus": 1.0, "aux": 0.0}),
        (["finetune.bonus.input=feature"], {"bonus": 1.0, "aux": 1.0}),
    ],
)
def test_parts_that_are_not_there_get_no_weight(
    publish: Publish, overrides: list[str], expected: dict[str, float]
) -> None:
    learner = FinetuneLearner(tiny_config(*overrides), ACTION)
    config = imported(publish(learner), TWO_CLASSES).config
    assert {"bonus": config.finetune.bonus.weight, "aux": config.loss.aux_reward_weight} == expected
    if expected["bonus"]:
        assert config.finetune.bonus.input == learner.config.finetune.bonus.input


def test_weights_of_the_settings_are_kept_for_parts_that_are_there(publish: Publish) -> None:
    folder = publish(FinetuneLearner(tiny_config(), ACTION))
    config = imported(folder, TWO_CLASSES, "finetune.bonus.weight=0.3", "loss.aux_reward_weight=0.5").config
    assert (config.finetune.bonus.weight, config.loss.aux_reward_weight) == (0.3, 0.5)


def test_what_no_shape_tells_comes_from_preset_and_overrides(publish: Publish) -> None:
    folder = publish(PretrainLearner(tiny_config("world_model.rssm.classes=16")))
    found = import_published(folder, "tiny", None, ["loss.free_nats=2.5"])
    assert found.config.world_model.rssm.stoch == 2
    assert found.config.behaviour.horizon == load_config("tiny").behaviour.horizon
    assert found.config.loss.free_nats == 2.5
    assert found.config.world_model.rssm.deter == 8  # and not the preset's


def test_latent_actions_that_could_be_of_two_kinds_are_what_the_settings_say(publish: Publish) -> None:
    kind = "world_model.latent_action_distribution=categorical"
    settings = ("world_model.latent_action=4", "world_model.latent_action_classes=2")
    folder = publish(PretrainLearner(tiny_config(kind, *settings)))
    assert imported(folder, TWO_CLASSES).config.method == "prelar_deterministic"
    found = imported(folder, TWO_CLASSES, kind, settings[1]).config
    assert (found.method, found.world_model.latent_action_distribution) == ("prelar", "categorical")
    assert found.world_model.latent_action == 4


def test_a_pretraining_with_more_frames_comes_in_with_their_number(publish: Publish) -> None:
    folder = publish(PretrainLearner(tiny_config("world_model.inverse_dynamics_frames=4")))
    found = imported(folder, TWO_CLASSES).config.world_model
    assert (found.inverse_dynamics_input, found.inverse_dynamics_frames) == ("pair", 4)


# Residual layers without norms


def test_without_norms_the_published_layers_have_other_names_and_no_biases(publish: Publish) -> None:
    learner = PretrainLearner(tiny_config("world_model.encoder.norm=none"))
    folder = publish(learner)
    tensors = files(folder)["variables.pt"]
    of_encoder = [key for key in tensors if key.startswith("wm.encoder._cnn_net.res0.stack.0.")]
    names = [key.removeprefix("wm.encoder._cnn_net.res0.stack.0.") for key in of_encoder]
    assert names == ["res_block.0.weight", "res_block.2.weight"]
    found = imported(folder, TWO_CLASSES)
    assert "encoder.trunk.stacks.0.0.conv1.bias" in found.filled
    image = torch.from_numpy(tiny_clips(0)).movedim(-1, 2) / 255
    encoder = ImageEncoder(found.config.world_model.encoder)
    encoder.load_state_dict(
        {key.removeprefix("encoder."): v for key, v in found.tensors.items() if key.startswith("encoder.")}
    )
    assert torch.equal(encoder(image), learner.model.encoder(image))


def test_what_has_no_place_in_a_layout_is_not_exported(tmp_path: Path, publish: Publish) -> None:
    with pytest.raises(OfficialCheckpointError, match="inverse_dynamics.* has no place in the layout contextwm"):
        publish(PretrainLearner(tiny_config()), "contextwm")
    learner = trained("prelar", "pretrain", "world_model.encoder.norm=none")
    with pytest.raises(OfficialCheckpointError, match=r"conv1\.bias of shape \(2,\) is not zero"):
        publish(learner)
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize(
    "setting",
    [
        *("world_model.encoder.norm=layer", "world_model.decoder.norm=layer", "world_model.rssm.uniform_mix=0.01"),
        *("world_model.reward_distribution=two_hot", "behaviour.critic_distribution=two_hot"),
    ],
)
def test_what_the_published_code_cannot_compute_is_not_exported(setting: str, publish: Publish) -> None:
    with pytest.raises(OfficialCheckpointError, match=f"the published code has no {setting}; only"):
        publish(FinetuneLearner(tiny_config(setting), ACTION))


def test_an_import_is_the_same_each_time(publish: Publish) -> None:
    folder = publish(trained("apv", "finetune"))
    one, two = imported(folder, TWO_CLASSES), imported(folder, TWO_CLASSES)
    assert one.config == two.config


@pytest.mark.parametrize(
    ("phase", "size", "settings"),
    [
        ("pretrain", 128, []),
        ("finetune", 0, ["method=dreamerv2", "env.vector_key=observation", "env.vector_size=1"]),
    ],
)
def test_a_checkpoint_of_another_image_size_is_not_exported(
    tmp_path: Path, phase: Any, size: int, settings: list[str]
) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    store.save(phase, tiny_config(f"env.image_size={size}", *settings), 0, {}, {})
    with pytest.raises(OfficialCheckpointError, match=rf"the published code has no env\.image_size={size}; only"):
        export_state(store.latest())
