from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prelar_ray.commands import diagnose, pretrain, record, visualize
from prelar_ray.learning.probe import Probe, probe
from prelar_ray.reporting.run_report import write_report
from prelar_ray.storage.records import Diagnostics, read_diagnostics
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.training import probing
from prelar_ray.video.actions import ActionFile, ActionWriter, actions_path
from prelar_ray.video.store import VideoStore, VideoWriter

Labelled = tuple[np.ndarray, np.ndarray]
Refused = Callable[..., str]


@pytest.fixture
def run(pretrained: Path, tmp_path: Path) -> Path:
    """A finished pre-training run on three videos, of which one was held out; its folder may be written."""
    path = tmp_path / "run"
    shutil.copytree(pretrained, path)
    return path


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_every_number_is_printed_written_and_reported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnose.main([str(run)]) == 0
    found = read_diagnostics(run / "diagnostics.json")
    assert found.metrics.keys() == {name for name in METRICS if name.split("/")[0] in ("latent", "open_loop")}
    assert (found.update, found.episodes, found.held_out) == (5, 1, True)
    assert len(found.kl_by_dimension) == 4
    assert sum(found.kl_by_dimension) == pytest.approx(found.metrics["latent/kl"])
    assert found.probe is not None
    assert (found.probe.train_episodes, found.probe.test_episodes, found.probe.test_steps) == (2, 1, 7)
    assert found.probe.unseen
    assert len(found.probe.r2_by_dimension) == 2
    text = shown(capsys)
    assert found.probe.ceiling is not None
    assert len(found.probe.ceiling.r2_by_dimension) == 2
    for name in (
        *found.metrics,
        "probe/r2",
        "action[1]",
        "probe/r2_permuted",
        "probe/ceiling",
        "probe/r2_over_ceiling",
    ):
        assert name in text
    assert "of 1 episode held out of pre-training" in text
    assert f"{run}/diagnostics.json" in text
    write_report([run], run / "report.html")
    page = (run / "report.html").read_text()
    for expected in (
        "Is the latent action any good?",
        "probe/r2_permuted",
        "probe/ceiling",
        "latent/active_units",
        "KL per dimension",
    ):
        assert expected in page


def test_clips_with_gaps_are_measured_with_the_mean_action_between(
    settings: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    run, asked = tmp_path / "run", []
    far = ["pretrain.stride=2", "pretrain.segment_length=4", "world_model.inverse_dynamics_frames=3"]
    assert pretrain.main(["--config", settings, "--videos", str(videos), "--out", str(run), *far]) == 0

    def noted(train: list[Labelled], test: list[Labelled], rng: np.random.Generator) -> Probe:
        asked.extend([*train, *test])
        return probe(train, test, rng)

    monkeypatch.setattr("prelar_ray.training.probing.probe", noted)
    assert diagnose.main([str(run), "--no-ceiling"]) == 0
    scores = read_diagnostics(run / "diagnostics.json").probe
    assert scores is not None
    assert (scores.test_steps, scores.ceiling, scores.r2_over_ceiling) == (6, None, None)
    store, file = VideoStore(videos), ActionFile(actions_path(videos))
    actions = [action for episode in range(3) if (action := file.of(store.frames(episode))) is not None]
    expected = [(action[1:-1].astype(float) + action[2:]) / 2 for action in actions]
    assert len(asked) == len(expected) == 3
    for _, found in asked:
        assert any(np.allclose(found, mean) for mean in expected)
    with VideoWriter(tmp_path / "short", {}, 100) as writer:
        writer.append(np.zeros((6, 64, 64, 3), np.uint8), "test")
    error = refused(diagnose.main, run, "--videos", tmp_path / "short", code=2)
    assert "the longest video has 6 frames, this run's clips span 7" in error


def test_the_same_seed_finds_the_same_and_another_does_not(run: Path) -> None:
    def again(*arguments: str) -> Diagnostics:
        assert diagnose.main([str(run), *arguments]) == 0
        return read_diagnostics(run / "diagnostics.json")

    assert again() == again("--seed", "0")
    assert again().metrics != again("--seed", "1").metrics


def test_the_probe_finds_the_action_where_the_latent_action_holds_it(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, run = tmp_path / "videos", tmp_path / "run"
    length = ["record.episodes_per_task=6", "record.frames_per_episode=30"]
    assert record.main(["--config", settings, "--out", str(videos), "--policy", "random", *length]) == 0
    assert pretrain.main(["--config", settings, "--videos", str(videos), "--out", str(run)]) == 0

    def perfect(model: object, frames: np.ndarray, stride: int) -> np.ndarray:
        """What is drawn red, and green, moves; an encoder that is worth its name would find this."""
        pixels = np.arange(64) - 31.5
        red = (frames[..., 0].astype(float) - frames[..., 2]).clip(0) ** 8
        position = np.stack([red.sum(1) @ pixels, red.sum(2) @ pixels], axis=1) / red.sum((1, 2))[:, None]
        return np.diff(position, axis=0)

    monkeypatch.setattr("prelar_ray.training.probing.infer_points", perfect)
    assert diagnose.main([str(run)]) == 0
    scores = read_diagnostics(run / "diagnostics.json").probe
    assert scores is not None
    assert scores.r2 is not None
    assert scores.r2 > 0.6  # at the border of the arena it does not move as it was told to
    assert scores.r2_permuted is not None
    assert abs(scores.r2_permuted) < 0.3


def test_tasks_are_held_out_in_turn_and_a_distractor_is_told_from_the_action(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, run = tmp_path / "videos", tmp_path / "run"
    tasks = "record.tasks=[prelar/arena-reach-distractor,prelar/arena-touch-distractor]"
    length = ["record.episodes_per_task=4", "record.frames_per_episode=30"]
    assert record.main(["--config", settings, "--out", str(videos), "--policy", "random", tasks, *length]) == 0
    assert pretrain.main(["--config", settings, "--videos", str(videos), "--out", str(run)]) == 0
    store, file = VideoStore(videos), ActionFile(actions_path(videos))
    known = {store.frames(i).tobytes(): (file.find(store.frames(i)), store.sources[i]) for i in range(len(store))}

    def distracted(model: object, frames: np.ndarray, stride: int) -> np.ndarray:
        """The distractor and a little of the action, with another sign in the other task."""
        found, source = known[frames.tobytes()]
        assert found is not None
        action, moved = found
        sign = 1 if "reach" in source else -1
        return np.hstack([10 * moved[1:], 0.1 * sign * action[1:]])

    monkeypatch.setattr("prelar_ray.training.probing.infer_points", distracted)
    assert diagnose.main([str(run), "--no-ceiling"]) == 0
    scores = read_diagnostics(run / "diagnostics.json").probe
    assert scores is not None
    assert scores.r2_by_held_out_task.keys() == set(store.sources)
    assert scores.r2_held_out_task is not None
    assert scores.r2_held_out_task < -1
    assert scores.explained_by_nuisance is not None
    assert scores.explained_by_action is not None
    assert scores.explained_by_action < 0.2 < 0.8 < scores.explained_by_nuisance
    text = shown(capsys)
    for name in ("probe/r2_held_out_task", "probe/explained_by_action", "probe/explained_by_nuisance"):
        assert name in text


def test_the_probe_is_compared_with_its_ceiling_where_the_frames_show_the_action() -> None:
    assert probing._share([0.1, 0.3, -0.5, 0.2], [0.2, 0.6, -0.4, None]) == pytest.approx(0.5)
    assert probing._share([0.1], [0.0]) is None


@pytest.mark.parametrize(("ratio", "verdict"), [(1.49, "not used"), (1.5, "used"), (None, "not used")])
def test_whether_the_latent_action_is_used_shows_without_true_actions(ratio: float | None, verdict: str) -> None:
    found = Diagnostics(
        checkpoint="run",
        update=1,
        videos="videos",
        episodes=1,
        clips=1,
        held_out=True,
        metrics={"open_loop/shuffled_over_own": ratio},
        kl_by_dimension=[],
        probe=None,
        without_probe="no true actions",
    )
    assert found.used == (verdict == "used")


def test_without_true_actions_all_but_the_probe_is_measured(
    run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(videos, copy)
    assert diagnose.main([str(run), "--videos", str(copy)]) == 0
    found = read_diagnostics(run / "diagnostics.json")
    assert found.probe is None
    assert found.without_probe == f"no true actions beside {copy}"
    assert "Left out: no true actions beside" in shown(capsys)
    assert diagnose.main([str(run), "--videos", str(copy), "--actions", str(actions_path(videos))]) == 0
    assert read_diagnostics(run / "diagnostics.json").probe is not None


@pytest.mark.parametrize(("lengths", "sizes", "reason"), [([8], [2], "of one episode only"), ([8, 8], [2, 4], "2, 4")])
def test_what_keeps_the_probe_from_being_fitted_is_said(
    run: Path, tmp_path: Path, lengths: list[int], sizes: list[int], reason: str
) -> None:
    store, rng = tmp_path / "store", np.random.default_rng(0)
    with VideoWriter(store, {}, 100) as videos, ActionWriter(actions_path(store), 100) as actions:
        for length, size in zip(lengths, sizes, strict=True):
            frames = rng.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)
            actions.append(rng.uniform(size=(length, size)).astype(np.float32), frames, "test")
            videos.append(frames, "test")
    assert diagnose.main([str(run), "--videos", str(store)]) == 0
    assert reason in read_diagnostics(run / "diagnostics-store.json").without_probe


def test_videos_of_another_store_were_never_seen_and_have_a_file_of_their_own(
    run: Path, settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record.main(["--config", settings, "--out", str(tmp_path / "other"), "seed=1"]) == 0
    assert diagnose.main([str(run), "--videos", str(tmp_path / "other")]) == 0
    found = read_diagnostics(run / "diagnostics-other.json")
    assert (found.episodes, found.held_out, found.other_videos) == (3, True, True)
    assert found.probe is not None
    assert found.probe.unseen
    text = shown(capsys)
    assert f"of 3 episodes of {tmp_path}/other, which pre-training never saw" in text
    assert "neither model nor probe saw" in text
    assert not (run / "diagnostics.json").exists()


def test_a_run_that_left_damaged_shards_out_is_diagnosed_and_drawn_without_them(settings: str, tmp_path: Path) -> None:
    copy, run = tmp_path / "videos", tmp_path / "run"
    arguments = ["--config", settings, "--videos", str(copy), "--out", str(run)]
    assert record.main(["--config", settings, "--out", str(copy), "record.episodes_per_task=7"]) == 0
    (copy / "shard-00001.arrow").unlink()
    assert pretrain.main([*arguments, "--skip-bad"]) == 0
    assert diagnose.main([str(run)]) == 0
    assert read_diagnostics(run / "diagnostics.json").held_out
    assert visualize.main([str(run), "--steps", "2", "--out", str(tmp_path / "figure.png")]) == 0


def test_a_shard_that_was_damaged_since_can_be_left_out(
    run: Path, videos: Path, tmp_path: Path, refused: Refused
) -> None:
    copy = tmp_path / "videos"
    shutil.copytree(videos, copy)
    (copy / "shard-00001.arrow").unlink()
    assert "--skip-bad" in refused(diagnose.main, run, "--videos", copy, code=2)
    assert diagnose.main([str(run), "--videos", str(copy), "--skip-bad"]) == 0
    found = read_diagnostics(run / "diagnostics.json")
    assert (found.episodes, found.held_out, found.other_videos) == (1, True, False)


def test_a_run_that_cannot_be_diagnosed_is_refused_in_one_line(
    settings: str, videos: Path, finetuned: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    free = tmp_path / "free"
    zeros = "world_model.latent_action_source=zeros"
    assert pretrain.main(["--config", settings, "--videos", str(videos), "--out", str(free), zeros]) == 0
    for path, reason in {
        tmp_path / "nowhere": "not the folder of a pre-training run",
        tmp_path / "empty": "not the folder of a pre-training run",
        tmp_path / "begun": "holds no checkpoint",
        finetuned: "a finetune run infers no latent actions",
        free: "action-free (latent_action_source=zeros)",
    }.items():
        error = refused(diagnose.main, path, "--videos", videos, code=2)
        assert error.startswith(f"error: {path}: ")
        assert reason in error
        assert len(error.splitlines()) == 1
        assert not (path / "diagnostics.json").exists()


def test_actions_that_are_missing_or_of_other_videos_are_refused_in_one_line(
    run: Path, videos: Path, tmp_path: Path, refused: Refused
) -> None:
    error = refused(diagnose.main, run, "--actions", tmp_path / "none.arrow", code=2)
    assert error.startswith(f"error: {tmp_path}/none.arrow: no such file")
    other = tmp_path / "other.actions.arrow"
    with ActionWriter(other, 100) as writer:
        writer.append(np.zeros((8, 2), np.float32), 255 - VideoStore(videos).frames(0), "test")
    error = refused(diagnose.main, run, "--actions", other, code=2)
    assert error.startswith(f"error: {other}: actions of other videos; none of the 3 in the store")
    assert len(error.splitlines()) == 1
    assert not (run / "diagnostics.json").exists()


def test_videos_shorter_than_a_clip_are_refused_in_one_line(run: Path, tmp_path: Path, refused: Refused) -> None:
    with VideoWriter(tmp_path / "short", {}, 100) as writer:
        writer.append(np.zeros((4, 64, 64, 3), np.uint8), "test")
    error = refused(diagnose.main, run, "--videos", tmp_path / "short", code=2)
    assert "the longest video has 4 frames, this run's clips have 5" in error
    assert len(error.splitlines()) == 1


def test_a_damaged_file_of_diagnostics_is_named_in_the_report(run: Path) -> None:
    (run / "diagnostics.json").write_text(json.dumps({"update": 1}))
    write_report([run], run / "report.html")
    assert "diagnostics.json: checkpoint: Field required" in (run / "report.html").read_text()
