from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prelar_ray.acting.policy import check_actions
from prelar_ray.action_space import ActionSpace
from prelar_ray.checkpoint.compatibility import (
    check_evaluable,
    check_not_shorter,
    pretrained_checkpoint,
    resumable_checkpoint,
)
from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.config import RunConfig, load_config
from prelar_ray.config.compare import same_pretraining
from prelar_ray.errors import CheckpointError, UsageError


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Save a checkpoint without tensors, for only its configuration is looked at."""

    def save(phase: str, config: RunConfig, update: int = 31, env_steps: int = 82) -> CheckpointStore:
        store = CheckpointStore(tmp_path / "run" / "checkpoints", 1)
        store.save(phase, config, update, {}, {"replay": [{"env_steps": env_steps}]})
        return store

    return save


def change(base: RunConfig, *overrides: str) -> RunConfig:
    return load_config(None, None, overrides, base=base)


def of_method(name: str) -> RunConfig:
    return load_config(None, None, [f"method={name}"])


PRELAR, NO_CONSISTENCY, APV = of_method("prelar"), of_method("prelar_no_consistency"), of_method("apv")


# Starting from a pre-training


@pytest.mark.parametrize(("before", "after"), [("prelar", "prelar_naive"), ("apv_naive", "apv"), ("contextwm",) * 2])
def test_methods_that_pretrain_alike_may_start_from_each_other(
    saved: Any, tmp_path: Path, before: str, after: str
) -> None:
    saved("pretrain", of_method(before))
    assert pretrained_checkpoint(tmp_path / "run", of_method(after)).name == "000000031"


def test_a_method_that_pools_its_inverse_dynamics_pretrains_by_itself() -> None:
    assert not same_pretraining("prelar", "prelar_plus")


@pytest.mark.parametrize(
    ("before", "after", "warns"),
    [
        ([], ["env.action_repeat=2"], False),  # the videos may be recorded so
        (["pretrain.stride=2"], ["env.action_repeat=2"], False),
        (["pretrain.stride=2", "env.action_repeat=2"], ["env.action_repeat=4"], False),
        (["pretrain.stride=2"], ["env.action_repeat=1"], True),
        (["pretrain.stride=2", "env.action_repeat=2"], ["env.action_repeat=2"], True),
    ],
)
def test_dynamics_of_another_pace_than_the_agents_are_warned_of(
    saved: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    before: list[str],
    after: list[str],
    warns: bool,
) -> None:
    replay = "finetune.env_steps_per_update=4"
    saved("pretrain", change(PRELAR, replay, *before))
    pretrained_checkpoint(tmp_path / "run", change(PRELAR, replay, *after))
    assert ("made with pretrain.stride=2" in caplog.text) == warns
    assert ("keeps the pace" in caplog.text) == warns


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("prelar", "prelar_deterministic"),
        ("prelar_deterministic", "prelar"),
        ("prelar_no_consistency", "prelar"),
        ("apv", "prelar"),
        ("apv", "contextwm"),
    ],
)
def test_a_pretraining_of_another_method_is_refused_by_both_names(
    saved: Any, tmp_path: Path, before: str, after: str
) -> None:
    saved("pretrain", of_method(before))
    with pytest.raises(CheckpointError) as error:
        pretrained_checkpoint(tmp_path / "run", of_method(after))
    expected = f"{tmp_path}/run: a pre-training of method {before}, this is {after}; add --method {before}"
    assert str(error.value) == f"--init {expected}"


def test_a_method_without_a_file_starts_from_its_own_pretraining_only(saved: Any, tmp_path: Path) -> None:
    own = PRELAR.model_copy(update={"method": "mine"})
    saved("pretrain", own)
    pretrained_checkpoint(tmp_path / "run", own)
    with pytest.raises(CheckpointError, match="of method mine, this is prelar"):
        pretrained_checkpoint(tmp_path / "run", PRELAR)


def test_settings_that_differ_are_named_with_the_file_to_add(saved: Any, tmp_path: Path) -> None:
    saved("pretrain", change(PRELAR, "world_model.rssm.deter=128", "world_model.latent_action=16"))
    settings = tmp_path / "run" / "config.yaml"
    expected = (
        f"--init {tmp_path}/run: made with world_model.rssm.deter=128 (here 1024), "
        "world_model.latent_action=16 (here 64); "
    )
    for advice in (
        "give the settings it was made with, or pre-train with these",
        f"use --config {settings} and leave these keys out, or pre-train with these",
    ):
        with pytest.raises(CheckpointError) as error:
            pretrained_checkpoint(tmp_path / "run", PRELAR)
        assert str(error.value) == expected + advice
        settings.touch()


def test_a_key_of_ones_own_that_wins_over_the_file_is_to_be_left_out(saved: Any, tmp_path: Path) -> None:
    saved("pretrain", PRELAR)
    settings = tmp_path / "run" / "config.yaml"
    settings.touch()
    with pytest.raises(CheckpointError) as error:
        pretrained_checkpoint(tmp_path / "run", change(PRELAR, "env.image_size=32"))
    assert str(error.value) == (
        f"--init {tmp_path}/run: made with env.image_size=64 (here 32); use --config {settings} and leave "
        "env.image_size out, or pre-train with env.image_size=32"
    )


def test_a_file_that_names_another_method_is_not_advised(saved: Any, tmp_path: Path) -> None:
    saved("pretrain", change(of_method("prelar_naive"), "world_model.rssm.deter=128"))
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(CheckpointError, match=r"made with, or pre-train with world_model\.rssm\.deter=1024$"):
        pretrained_checkpoint(tmp_path / "run", PRELAR)


def test_of_many_settings_that_differ_the_first_are_named(saved: Any, tmp_path: Path) -> None:
    widths = [f"world_model.rssm.{name}=9" for name in ("deter", "hidden", "stoch", "classes")]
    saved("pretrain", change(PRELAR, *widths))
    expected = r"deter=9 \(here 1024\), world_model\.rssm\.hidden=9 \(here 1024\) and 2 more that differ; give"
    with pytest.raises(CheckpointError, match=expected):
        pretrained_checkpoint(tmp_path / "run", PRELAR)


def test_equal_shapes_of_another_meaning_are_refused(saved: Any, tmp_path: Path) -> None:
    saved("pretrain", change(PRELAR, "world_model.rssm.stoch=16", "world_model.rssm.classes=64"))
    with pytest.raises(CheckpointError, match=r"rssm\.stoch=16 \(here 32\), world_model\.rssm\.classes=64 \(here 32\)"):
        pretrained_checkpoint(tmp_path / "run", PRELAR)


def test_settings_that_no_part_taken_over_knows_may_differ(saved: Any, tmp_path: Path) -> None:
    saved(
        "pretrain",
        change(PRELAR, "loss.action_kl_weight=0.1", "world_model.inverse_dynamics.depth=4", "loss.balance=learnt"),
    )
    pretrained_checkpoint(tmp_path / "run", change(PRELAR, "world_model.action_encoder.hidden=9", "precision=bfloat16"))
    robust = ("world_model.rssm.uniform_mix=0.01", "world_model.reward_distribution=two_hot")
    pretrained_checkpoint(tmp_path / "run", change(PRELAR, *robust))


def test_clips_are_rehearsed_at_the_stride_of_pretraining(saved: Any, tmp_path: Path) -> None:
    saved("pretrain", change(PRELAR, "pretrain.stride=2"))
    same_pace = change(PRELAR, "env.action_repeat=2", "finetune.env_steps_per_update=4")
    assert pretrained_checkpoint(tmp_path / "run", same_pace).name == "000000031"
    share = "finetune.rehearsal.share=0.5"
    with pytest.raises(CheckpointError, match=r"made with pretrain\.stride=2 \(here 1\); give the settings"):
        pretrained_checkpoint(tmp_path / "run", change(same_pace, share))
    assert pretrained_checkpoint(tmp_path / "run", change(same_pace, share, "pretrain.stride=2")).is_dir()


def test_a_method_from_scratch_takes_no_pretraining(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--init \S+: method dreamerv2 learns from scratch; leave --init out"):
        pretrained_checkpoint(tmp_path, of_method("dreamerv2"))


# Going on with a run


def test_a_run_resumes_as_the_method_it_started_as(saved: Any) -> None:
    store = saved("finetune", PRELAR)
    with pytest.raises(
        CheckpointError, match=r"000000031: a run of method prelar, which cannot be resumed as apv; leave --pr"
    ):
        resumable_checkpoint(store, APV)


def test_a_run_without_a_checkpoint_can_only_start_again(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no usable checkpoint, the run ended before its first; leave --resume o"
    ):
        resumable_checkpoint(CheckpointStore(tmp_path / "checkpoints", 1), PRELAR)


def test_what_is_no_network_may_change_with_a_resume(saved: Any) -> None:
    changes = ["seed=4", "loss.aux_reward_weight=0.5", "finetune.bonus.weight=2", "behaviour.actor_min_std=0.2"]
    assert resumable_checkpoint(saved("finetune", PRELAR), change(PRELAR, *changes)).update == 31


def test_a_switch_is_a_network(saved: Any) -> None:
    with pytest.raises(CheckpointError, match=r"made with finetune\.bonus\.weight=1 \(here 0\); leave --preset"):
        resumable_checkpoint(saved("finetune", PRELAR), change(PRELAR, "finetune.bonus.weight=0"))


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
@pytest.mark.parametrize(("before", "after"), [("none", "learnt"), ("learnt", "none")])
def test_learnt_scales_of_the_losses_stay_with_a_run(saved: Any, phase: str, before: str, after: str) -> None:
    store = saved(phase, change(PRELAR, f"loss.balance={before}"))
    with pytest.raises(CheckpointError, match=rf"made with loss\.balance={before} \(here {after}\); leave --preset"):
        resumable_checkpoint(store, change(PRELAR, f"loss.balance={after}"))


@pytest.mark.parametrize(
    "other",
    [
        *("world_model.encoder.norm=layer", "world_model.rssm.uniform_mix=0.01"),
        *("world_model.reward_distribution=two_hot", "behaviour.critic_distribution=two_hot"),
        "behaviour.return_normalisation=percentiles",
    ],
)
def test_what_a_checkpoint_means_stays_with_a_resume(saved: Any, other: str) -> None:
    with pytest.raises(CheckpointError, match=rf"made with {other.split('=')[0]}=\S+ \(here {other.split('=')[1]}\)"):
        resumable_checkpoint(saved("finetune", PRELAR), change(PRELAR, other))


def test_a_run_is_not_made_shorter_than_it_is(saved: Any) -> None:
    checkpoint = saved("pretrain", PRELAR).latest()
    with pytest.raises(
        UsageError, match=r"^pretrain\.updates=30: \S+/000000031 has done 31 already; ask for more, or leave --pres"
    ):
        check_not_shorter("pretrain", checkpoint, change(PRELAR, "pretrain.updates=30"))
    check_not_shorter("pretrain", checkpoint, change(PRELAR, "pretrain.updates=31"))


def test_a_finished_run_may_have_gone_a_step_too_far(saved: Any) -> None:
    config = change(PRELAR, "finetune.env_steps=80", "finetune.random_steps=10")
    check_not_shorter("finetune", saved("finetune", config, env_steps=82).latest(), config)


# Acting with a policy


def test_an_evaluation_with_other_networks_is_refused_by_key(saved: Any) -> None:
    checkpoint = saved("finetune", PRELAR).latest()
    with pytest.raises(CheckpointError, match=r"rssm\.uniform_mix=0 \(here 0\.01\); leave"):
        check_evaluable(checkpoint, change(PRELAR, "world_model.rssm.uniform_mix=0.01"))
    check_evaluable(checkpoint, change(PRELAR, "evaluation.envs=3", "behaviour.critic.units=9"))
    with pytest.raises(CheckpointError, match=r"behaviour\.actor\.units=400 \(here 9\); leave these keys out"):
        check_evaluable(checkpoint, change(PRELAR, "behaviour.actor.units=9"))


def test_a_task_with_other_actions_is_refused_by_their_sizes() -> None:
    check_actions({"actor.mean.bias": [0.0] * 4}, ActionSpace.continuous(4), "metaworld/reach-v3")
    with pytest.raises(
        CheckpointError, match=r"actions of size 2, env\.task=metaworld/reach-v3 takes size 4; choose the ta"
    ):
        check_actions({"actor.mean.bias": [0.0] * 2}, ActionSpace.continuous(4), "metaworld/reach-v3")


def test_a_run_resumes_with_the_shards_its_episodes_lie_in(saved: Any) -> None:
    two = change(PRELAR, "replay.shards=2")
    store = saved("finetune", two)
    assert resumable_checkpoint(store, two).update == 31
    with pytest.raises(CheckpointError, match=r"replay\.shards=2 \(here 1\).*use replay\.shards=2, or"):
        resumable_checkpoint(store, PRELAR)
