"""Recording in several processes: the same bytes, in order, and nothing left behind whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from prelar_ray.config import RecordConfig, RunConfig, load_config
from prelar_ray.envs.point_reach import PointReach
from prelar_ray.errors import EnvironmentFailure, PrelarError, RenderingError
from prelar_ray.seeding import derive_seed
from prelar_ray.video import rolling
from prelar_ray.video.actions import actions_path
from prelar_ray.video.episodes import EpisodeId, RecordedEpisode, all_episodes
from prelar_ray.video.recorder import record
from prelar_ray.video.rolling import AHEAD, in_order, worker_count
from prelar_ray.video.store import VideoStore, is_complete

POINT_REACH = "prelar/point-reach"
FAILING = 3  # number of an episode


def configure(workers: int, **changes: object) -> RunConfig:
    settings = {"tasks": (POINT_REACH, POINT_REACH), "policy": "mixed", "frames_per_episode": 8, "shard_frames": 20}
    return RunConfig(record=RecordConfig.model_validate(settings | changes | {"workers": workers}))


def recorded_files(config: RunConfig, store: Path) -> dict[str, bytes]:
    """Record, and return the content of all files by name."""
    record(config, store, lambda frames: None)
    files = {path.name: path.read_bytes() for path in sorted(store.iterdir())}
    return files | {"actions": actions_path(store).read_bytes()}


def children() -> list[psutil.Process]:
    """Processes that record; multiprocessing's tracker of resources stays as long as this process."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.ZombieProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def in_workers(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Run code in every process that is started, with ``failing(env)`` saying whether an episode is the failing one."""
    folder.mkdir()
    seed = derive_seed(0, "record_env", 0, FAILING)
    start = f"""
import os, signal, sys
if "spawn_main" in " ".join(sys.orig_argv):
    from prelar_ray.envs.point_reach import PointReach
    advance = PointReach._advance
    def failing(env):
        return env.np_random_seed == {seed}
{code}
    PointReach._advance = _advance
"""
    (folder / "sitecustomize.py").write_text(start)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, sys.path)]))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process records."""
    return recorded_files(configure(1, episodes_per_task=4), tmp_path_factory.mktemp("alone") / "store")


@pytest.mark.parametrize("workers", [2, 3])
def test_the_files_are_the_same_bytes_however_many_processes_record(
    workers: int, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    assert len(alone) == 6  # manifest, journal, three shards, the actions
    assert recorded_files(configure(workers, episodes_per_task=4), tmp_path / "store") == alone
    assert not children()


def test_an_episode_is_the_same_wherever_it_is_recorded_and_whatever_before(tmp_path: Path) -> None:
    record(configure(1, episodes_per_task=3), tmp_path / "several", lambda frames: None)
    several = VideoStore(tmp_path / "several")
    rolled = rolling.roll_here(configure(1, episodes_per_task=3), [EpisodeId(1, 2)], lambda frames: None)
    assert np.array_equal(next(rolled).frames, several.frames(5))


def test_frames_are_counted_as_episodes_arrive(tmp_path: Path) -> None:
    seen: list[int] = []
    record(configure(2, episodes_per_task=2), tmp_path / "store", seen.append)
    assert seen == [8] * 4


def test_ctrl_c_keeps_what_was_recorded_in_order_and_ends_the_processes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counted = 0

    def until_the_sixth(frames: int) -> None:
        nonlocal counted
        counted += 1
        if counted == 6:  # at most four are held, so two were written
            raise KeyboardInterrupt

    store = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        record(configure(2, episodes_per_task=5), store, until_the_sixth)
    assert not children()
    kept = VideoStore(store)
    assert not kept.complete
    assert 2 <= len(kept) < 6
    assert f"{store}: interrupted, kept {len(kept)} of 10 episodes" in caplog.text
    record(configure(1, episodes_per_task=5), tmp_path / "whole", lambda frames: None)
    whole = VideoStore(tmp_path / "whole")
    assert all(np.array_equal(kept.frames(index), whole.frames(index)) for index in range(len(kept)))


@pytest.mark.nightly
def test_ctrl_c_in_a_terminal_ends_all_processes_and_says_no_more_than_it_must(tmp_path: Path) -> None:
    store = tmp_path / "store"
    lengths = ["record.episodes_per_task=5000", "record.frames_per_episode=10", "record.shard_frames=40"]
    settings = ["record.workers=2", f"record.tasks=[{POINT_REACH}]", *lengths]
    command = [sys.executable, "-m", "prelar_ray", "record", "--preset", "tiny", "--out", str(store), *settings]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as recording:
        deadline = time.monotonic() + 60
        while not list(store.glob("shard-*")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers = psutil.Process(recording.pid).children(recursive=True)
        os.killpg(recording.pid, signal.SIGINT)
        _, said = recording.communicate(timeout=60)
    assert recording.returncode == 130
    assert "interrupted, kept" in said
    assert "Traceback" not in said
    assert len(workers) >= 2
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert not VideoStore(store).complete


RAISES = """
    def _advance(self, action):
        if failing(self):
            raise ValueError("joint out of range")
        return advance(self, action)
"""
HANGS = """
    def _advance(self, action):
        if failing(self):
            os.kill(os.getpid(), signal.SIGVTALRM)  # as the watchdog of a driver does
        return advance(self, action)
"""
LEAVES = """
    def _advance(self, action):
        if failing(self):
            os._exit(3)
        return advance(self, action)
"""


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (RAISES, EnvironmentFailure, "ValueError: joint out of range"),
        (HANGS, RenderingError, "no frame within 60 s: .*record.workers"),
        (LEAVES, EnvironmentFailure, "the process that rolled it left with status 3; .*fewer record.workers"),
    ],
    ids=["raises", "hangs", "leaves"],
)
def test_an_episode_that_fails_is_named_and_those_before_it_are_kept(
    code: str,
    kind: type[PrelarError],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    in_workers(monkeypatch, tmp_path / "site", code)
    with pytest.raises(kind, match=rf"^prelar/point-reach, episode {FAILING}: {reason}"):
        record(configure(2, episodes_per_task=5), tmp_path / "store", lambda frames: None)
    assert f"{tmp_path}/store: failed, kept {FAILING} of 10 episodes" in caplog.text
    store = VideoStore(tmp_path / "store")
    assert (len(store), store.complete) == (FAILING, False)
    assert not children()


def test_one_process_fails_as_several_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: PointReach, action: object) -> None:
        raise ValueError("joint out of range")

    monkeypatch.setattr(PointReach, "_advance", broken)
    with pytest.raises(EnvironmentFailure, match=r"^prelar/point-reach, episode 0: ValueError: joint out of range$"):
        record(configure(1), tmp_path / "store", lambda frames: None)
    assert f"{tmp_path}/store: failed, kept 0 of 100 episodes" in caplog.text


def test_a_process_that_is_killed_is_named_by_its_episode(tmp_path: Path) -> None:
    def kill_one(frames: int) -> None:
        if alive := children():
            alive[0].kill()

    with pytest.raises(EnvironmentFailure, match=r"^prelar/point-reach, episode \d+: .*was killed by SIGKILL; "):
        record(configure(2, episodes_per_task=50), tmp_path / "store", kill_one)
    assert not is_complete(tmp_path / "store")
    assert not children()


class FakePool:
    """Answers in another order than it is asked in."""

    size = 3

    def __init__(self, fails: EpisodeId | None = None) -> None:
        self.running: deque[EpisodeId] = deque()
        self.asked = self.answered = 0
        self.closed = False
        self._fails = fails

    def ask(self, episode: EpisodeId) -> None:
        self.running.append(episode)
        self.asked += 1
        assert len(self.running) <= self.size

    def receive(self) -> tuple[EpisodeId, RecordedEpisode | PrelarError]:
        episode = self.running.pop() if self.answered % 5 else self.running.popleft()
        self.answered += 1
        if episode == self._fails:
            return episode, EnvironmentFailure("it fell over")
        frames = np.full((1, 64, 64, 3), episode.number, np.uint8)
        return episode, RecordedEpisode(frames, np.zeros((1, 2), np.float32), False)

    def close(self) -> None:
        self.closed = True


EPISODES = all_episodes(configure(1, tasks=(POINT_REACH,), episodes_per_task=40))


def test_episodes_come_in_order_and_few_are_held() -> None:
    pool = FakePool()
    for number, recorded in enumerate(in_order(lambda: pool, EPISODES, lambda frames: None)):
        assert recorded.frames[0, 0, 0, 0] == number
        assert pool.asked - number <= AHEAD * pool.size
    assert number == 39
    assert pool.closed


def test_a_failure_comes_after_the_episodes_before_it() -> None:
    pool = FakePool(fails=EPISODES[7])
    recorded = in_order(lambda: pool, EPISODES, lambda frames: None)
    assert [int(next(recorded).frames[0, 0, 0, 0]) for _ in range(7)] == list(range(7))
    with pytest.raises(EnvironmentFailure, match="it fell over"):
        next(recorded)
    assert pool.closed


def test_who_stops_early_ends_the_processes() -> None:
    pool = FakePool()
    recorded = in_order(lambda: pool, EPISODES, lambda frames: None)
    next(recorded)
    recorded.close()
    assert pool.closed


@pytest.mark.parametrize(
    ("workers", "cores", "episodes", "expected"),
    [(0, 8, 50, 8), (0, 1, 50, 1), (0, 128, 50, 16), (0, 8, 3, 3), (5, 2, 50, 5), (40, 2, 50, 40), (1, 8, 50, 1)],
)
def test_processes_are_as_many_as_asked_or_as_cores_and_never_more_than_episodes(
    workers: int, cores: int, episodes: int, expected: int
) -> None:
    assert worker_count(configure(workers, tasks=(POINT_REACH,), episodes_per_task=episodes), cores) == expected


@pytest.mark.nightly
@pytest.mark.render
def test_simulators_draw_the_same_bytes_in_other_processes(tmp_path: Path) -> None:
    settings = ["record.tasks=[metaworld/push-v3]", "record.episodes_per_task=2", "record.frames_per_episode=4"]
    files = [
        recorded_files(load_config(None, None, [*settings, f"record.workers={workers}"]), tmp_path / f"store-{workers}")
        for workers in (1, 2)
    ]
    assert files[0] == files[1]
