from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prelar_ray.config import EnvConfig, RecordConfig, RunConfig
from prelar_ray.errors import ConfigError, RunFolderError
from prelar_ray.storage.arrow import read_arrays
from prelar_ray.video.actions import actions_path
from prelar_ray.video.recorder import RecordSummary, record
from prelar_ray.video.store import VideoStore

POINT_REACH = "prelar/point-reach"


def configure(seed: int = 0, **changes: object) -> RunConfig:
    settings = {
        **{"tasks": (POINT_REACH,), "episodes_per_task": 3, "frames_per_episode": 12, "shard_frames": 20},
        "workers": 1,
    }
    return RunConfig(
        seed=seed,
        env=EnvConfig(render_quality="fast"),
        record=RecordConfig.model_validate(settings | changes),
    )


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[RecordSummary, VideoStore]]:
    """Record into a fresh folder and open what came of it."""

    def run(seed: int = 0, **changes: object) -> tuple[RecordSummary, VideoStore]:
        folder = tmp_path / f"store-{len(list(tmp_path.iterdir()))}"
        summary = record(configure(seed, **changes), folder, lambda frames: None)
        return summary, VideoStore(folder)

    return run


def all_frames(store: VideoStore) -> np.ndarray:
    return np.concatenate([store.frames(episode) for episode in range(len(store))])


Run = Callable[..., tuple[RecordSummary, VideoStore]]


def test_store_holds_episodes_of_the_asked_length(run: Run) -> None:
    summary, store = run(tasks=(POINT_REACH, POINT_REACH))
    assert store.lengths.tolist() == [12] * 6
    assert set(store.sources) == {POINT_REACH}
    assert (summary.episodes, summary.frames) == (6, 72)
    assert not np.array_equal(store.frames(0), store.frames(3))  # the same task twice is recorded afresh


def test_episodes_end_with_the_environments_time_limit(run: Run) -> None:
    _, store = run(frames_per_episode=500, episodes_per_task=1)
    assert store.lengths.tolist() == [101]


def test_files_hold_frames_and_nothing_else(tmp_path: Path) -> None:
    record(configure(), tmp_path / "store", lambda frames: None)
    shards = sorted((tmp_path / "store").glob("*.arrow"))
    assert len(shards) == 2
    for shard in shards:
        arrays, metadata = read_arrays(shard)
        assert list(arrays) == ["frames"]
        assert not {"action", "reward"} & {word for text in metadata.values() for word in text.split('"')}


def test_recording_is_determined_by_the_seed(run: Run) -> None:
    frames = all_frames(run(seed=1)[1])
    assert np.array_equal(frames, all_frames(run(seed=1)[1]))
    assert not np.array_equal(frames, all_frames(run(seed=2)[1]))


def test_an_episode_does_not_depend_on_those_before_it(run: Run) -> None:
    short, long = run(episodes_per_task=2, frames_per_episode=5)[1], run(episodes_per_task=2, frames_per_episode=9)[1]
    assert np.array_equal(short.frames(1), long.frames(1)[:5])


def test_noise_disturbs_the_expert_and_zero_noise_does_not(run: Run) -> None:
    settings = {"frames_per_episode": 60, "episodes_per_task": 1}
    calm, noisy = (run(noise=noise, **settings)[1].frames(0) for noise in (0.0, 0.3))
    assert np.array_equal(calm[0], noisy[0])
    assert np.array_equal(calm[-1], calm[-2])  # it has arrived and stays
    assert not np.array_equal(noisy[-1], noisy[-2])


def test_expert_succeeds_and_random_actions_hardly_do(run: Run) -> None:
    settings = {"episodes_per_task": 10, "frames_per_episode": 60}
    assert run(policy="expert", **settings)[0].success_rates == {POINT_REACH: 1.0}
    assert run(policy="random", **settings)[0].success_rates[POINT_REACH] < 0.5


def test_nothing_is_said_of_success_where_a_task_has_none(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO):
        assert run(frames_per_episode=2)[0].success_rates == {POINT_REACH: 0.0}
        monkeypatch.setattr("prelar_ray.envs.point_reach.PointReach.has_success", False)
        assert run(frames_per_episode=2)[0].success_rates == {}
    said = [message for message in caplog.messages if message.startswith(POINT_REACH)]
    assert said == [f"{POINT_REACH}: success in 0 of 3 episodes", f"{POINT_REACH}: 3 episodes"]


def test_mixed_takes_expert_and_random_actions_in_turn(run: Run) -> None:
    mixed, expert, random = (run(policy=policy)[1] for policy in ("mixed", "expert", "random"))
    assert np.array_equal(mixed.frames(0), expert.frames(0))
    assert np.array_equal(mixed.frames(1), random.frames(1))
    assert np.array_equal(mixed.frames(2), expert.frames(2))
    assert not np.array_equal(random.frames(0), expert.frames(0))


def test_progress_counts_every_frame(tmp_path: Path) -> None:
    seen: list[int] = []
    summary = record(configure(), tmp_path / "store", seen.append)
    assert sum(seen) == summary.frames == 36


def test_attributes_tell_how_it_was_recorded(run: Run) -> None:
    attributes = run(seed=5, policy="mixed", noise=0.2)[1].attributes
    assert attributes["simulator"] == "point-reach"
    assert attributes["orientation"] == "upright"
    assert attributes["action_repeat"] == 1
    assert (attributes["policy"], attributes["noise"], attributes["seed"]) == ("mixed", 0.2, 5)


@pytest.mark.render
def test_attributes_that_differ_are_listed_by_task(run: Run) -> None:
    tasks = ("metaworld/push-v3", "metaworld/window-open-v3", POINT_REACH)
    _, store = run(tasks=tasks, episodes_per_task=1, frames_per_episode=3)
    assert store.sources == list(tasks)
    assert store.attributes["action_repeat"] == 1
    assert store.attributes["camera"] == dict.fromkeys(tasks[:2], "corner") | {POINT_REACH: None}


@pytest.mark.render
def test_unknown_task_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^record\.tasks\.1=prelar/point-reech: .*prelar/point-reach"):
        record(configure(tasks=(POINT_REACH, "prelar/point-reech")), tmp_path / "store", lambda frames: None)
    assert not (tmp_path / "store").exists()


@pytest.mark.render
def test_task_without_an_expert_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = configure(tasks=(POINT_REACH, "dmc/walker-walk"))
    with pytest.raises(ConfigError, match=r"^record\.tasks\.1=dmc/walker-walk: .*record\.policy=random"):
        record(config, tmp_path / "store", lambda frames: None)
    assert not (tmp_path / "store").exists()


def test_an_interrupted_recording_says_what_it_kept_and_is_incomplete(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = iter(range(30))

    def until_the_third_episode(new: int) -> None:
        if next(frames) == 29:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(configure(episodes_per_task=5), tmp_path / "store", until_the_third_episode)
    kept = f"{tmp_path}/store: interrupted, kept 2 of 5 episodes, 24 frames; record into a new folder"
    assert kept in caplog.text
    assert not VideoStore(tmp_path / "store").complete


def test_an_earlier_recording_is_kept_and_named_with_its_actions(tmp_path: Path) -> None:
    store = tmp_path / "store"
    record(configure(), store, lambda frames: None)
    message = rf"^{store} and {actions_path(store)} hold an earlier recording; .*delete both first$"
    with pytest.raises(RunFolderError, match=message):
        record(configure(), store, lambda frames: None)
    assert VideoStore(store).complete
    assert actions_path(store).is_file()
