"""Fine-tuning runs that rehearse the pre-training videos, and tie latent actions to real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import CheckpointError, ConfigError, DataError
from prelar_ray.kinds import kind_of
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.seeding import generator
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.training.learner_role import FinetuneLearnerRole
from prelar_ray.training.learners import LearnerGroup
from prelar_ray.types import Frames, SequenceBatch
from prelar_ray.video.clips import ClipSampler
from prelar_ray.video.store import VideoStore
from tests.tiny import tiny_batch, tiny_clips
from tests.training.runs import Run, crash, ctrl_c, logged

pytestmark = pytest.mark.usefixtures("short_episodes")

SHARE = "finetune.rehearsal.share=0.4"
REHEARSAL = ("finetune.batch_size=5", SHARE)
TIED = ("loss.tie_weight=1", "loss.action_decoder_weight=1")
REPEATABLE = ("finetune.random_steps=80", "finetune.initial_updates=8")
"""All steps are collected before the first update: those after a resume are of the same replay."""

Seen = list[tuple[int, SequenceBatch, Frames]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Number, segments and clips of every update."""
    found: Seen = []
    update = FinetuneLearner.update

    def noting(self: FinetuneLearner, batch: SequenceBatch, clips: Frames) -> None:
        update(self, batch, clips)
        found.append((self.updates, batch, clips))

    monkeypatch.setattr(FinetuneLearner, "update", noting)
    return found


def drawn(videos: Path, batches: int) -> list[Frames]:
    """The clips of a run; of these videos the first is held out."""
    sampler = ClipSampler(VideoStore(videos), 2, 5, generator(0, "rehearsal"), [0])
    return [sampler.sample() for _ in range(batches)]


def assert_clips_in_order(seen: Seen, videos: Path, updates: int) -> None:
    """Every update that counted had the clips of its number, also those that were made twice."""
    expected = drawn(videos, updates)
    assert {number for number, _, _ in seen} == set(range(1, updates + 1))
    for number, batch, clips in seen:
        np.testing.assert_array_equal(clips, expected[number - 1])
        assert batch.shape == (3, 5)


@pytest.mark.parametrize(("synchronous", "per_call"), [("true", 1), ("false", 1), ("false", 4)])
def test_every_update_rehearses_the_next_clips(
    run: Run,
    pretrained: Path,
    videos: Path,
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
    synchronous: str,
    per_call: int,
) -> None:
    monkeypatch.setattr(LearnerGroup, "per_call", per_call)
    settings = (*REHEARSAL, *TIED, f"video.path={videos}", f"collect.synchronous={synchronous}")
    folder = run("run", *settings, init=pretrained)
    assert_clips_in_order(seen, videos, 6)
    last = logged(folder)[-1]
    expected = {"loss/tie", "loss/action_decoder", "model/action_r2", "rehearsal/image", "rehearsal/dynamics_kl"}
    assert expected | {"loss/action_kl", "loss/consistency", "loss/reward"} <= last.keys()
    assert last.keys() - {"time", "update", "env_steps"} <= METRICS.keys()
    assert load_checkpoint(folder.path).counters["rehearsal"]["held_out"] == [0]


@pytest.mark.parametrize("end", [crash, ctrl_c])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    run: Run,
    pretrained: Path,
    videos: Path,
    tmp_path: Path,
    seen: Seen,
    during_update: Any,
    end: Callable[[], None],
    assert_same_state: Callable[[Path, Path], None],
) -> None:
    settings = (*REHEARSAL, *TIED, *REPEATABLE, f"video.path={videos}")
    whole = run("whole", *settings, init=pretrained)
    assert_clips_in_order(seen, videos, 8)
    seen.clear()
    during_update(5, end)
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        run("cut", *settings, init=pretrained)
    assert 2 <= load_checkpoint(tmp_path / "cut").update < 8
    during_update(0, crash)
    cut = run("cut", *settings, resume=True)
    assert_clips_in_order(seen, videos, 8)
    assert_same_state(whole.path, cut.path)
    counters = [load_checkpoint(folder.path).counters["rehearsal"] for folder in (whole, cut)]
    assert counters[0] == counters[1]


def test_pretraining_says_what_is_held_out_and_the_run_remembers_it(run: Run, pretrained: Path, videos: Path) -> None:
    settings = (*REHEARSAL, f"video.path={videos}", "pretrain.validation_share=0", "finetune.env_steps=65")
    folder = run("run", *settings, init=pretrained)
    assert load_checkpoint(folder.path).counters["rehearsal"]["held_out"] == [0]
    folder = run("run", *settings, "finetune.env_steps=70", resume=True)
    assert load_checkpoint(folder.path).counters["rehearsal"]["held_out"] == [0]
    folder = run("scratch", *settings)
    assert load_checkpoint(folder.path).counters["rehearsal"]["held_out"] == []


def test_a_run_without_rehearsal_opens_no_videos(run: Run, pretrained: Path) -> None:
    folder = run("run", "video.path=/nowhere", *TIED, init=pretrained)
    assert "rehearsal" not in load_checkpoint(folder.path).counters
    assert "rehearsal/image" not in logged(folder)[-1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("video.path=/nowhere", "^/nowhere: "),
        (
            "finetune.segment_length=9",
            r"the longest of 3 videos has 8 frames, a clip needs 9; set finetune",
        ),
    ],
)
def test_videos_that_cannot_be_rehearsed_are_refused_before_anything_starts(
    run: Run, videos: Path, override: str, message: str
) -> None:
    settings = (*REHEARSAL, f"video.path={videos}", override)
    with pytest.raises(DataError, match=message):
        run("run", *settings, backend=lambda: pytest.fail("started"))


def test_rehearsal_without_videos_is_refused_before_a_run_folder_is_made(minute_config: RunConfig) -> None:
    config = load_config(None, None, REHEARSAL, base=minute_config)
    with pytest.raises(ConfigError, match=r"^video\.path: no video store given, and finetune\.rehearsal\.share=0\.4"):
        kind_of(config, "finetune").check(config)
    kind_of(config, "finetune").check(minute_config)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ((), REHEARSAL, r"made with finetune\.rehearsal\.share=0 \(here 0\.4\)"),
        (TIED, (TIED[0], "loss.action_decoder_weight=0"), r"made with loss\.action_decoder_weight=1 \(here 0\)"),
    ],
)
def test_a_resume_with_other_parts_is_refused(
    run: Run, videos: Path, before: tuple[str, ...], after: tuple[str, ...], message: str
) -> None:
    short = ("finetune.env_steps=60", "finetune.initial_updates=1", f"video.path={videos}")
    run("run", *short, *before)
    with pytest.raises(CheckpointError, match=message):
        run("run", *short, *after, resume=True)


def test_a_resume_with_another_weight_or_share_goes_on(run: Run, videos: Path) -> None:
    short = ("finetune.env_steps=60", "finetune.initial_updates=1", f"video.path={videos}")
    run("run", *short, *REHEARSAL, *TIED)
    more = ("loss.tie_weight=3", "finetune.rehearsal.share=0.6", "finetune.env_steps=65")
    folder = run("run", *short, *REHEARSAL, *TIED, *more, resume=True)
    assert folder.info["status"] == "finished"


def test_an_init_with_another_inverse_dynamics_encoder_is_refused_where_it_is_taken_over(
    pretrained: Path, minute_config: RunConfig
) -> None:
    kind, other = kind_of(minute_config, "finetune"), "world_model.inverse_dynamics_head.hidden=9"
    kind.find_init(pretrained, load_config(None, None, [other], base=minute_config))
    with pytest.raises(CheckpointError, match=r"made with world_model\.inverse_dynamics_head\.hidden=8 \(here 9\)"):
        kind.find_init(pretrained, load_config(None, None, [other, *TIED], base=minute_config))


def test_a_rank_learns_from_the_segments_of_all_shards_and_its_clips(
    minute_config: RunConfig, tmp_path: Path, seen: Seen
) -> None:
    role = FinetuneLearnerRole(load_config(None, None, REHEARSAL, base=minute_config), 2, tmp_path)
    one, other = tiny_batch(0).split([1, 2])
    clips = [tiny_clips(seed, rows=2) for seed in (7, 8)]
    assert role.update([one, None], [other, tiny_batch(1)], clips) == 2
    role.close()
    assert [number for number, _, _ in seen] == [1, 2]
    assert [batch.shape for _, batch, _ in seen] == [(3, 6), (3, 6)]
    for (_, _, found), expected in zip(seen, clips, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_an_update_costs_is_measured_with_clips(minute_config: RunConfig, seen: Seen) -> None:
    config = load_config(None, None, REHEARSAL, base=minute_config)
    assert len(kind_of(config, "finetune").measure(config, 1)) == 1
    assert {(len(batch.reward), len(clips)) for _, batch, clips in seen} == {(3, 2)}
