from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from prelar_ray.acting.rollout import Rollout
from prelar_ray.action_space import ActionSpace
from prelar_ray.commands import evaluate
from prelar_ray.envs.point_reach import PointReach
from prelar_ray.storage.run_folder import RunFolder

Refused = Callable[..., str]

pytestmark = pytest.mark.usefixtures("short_episodes")


def test_results_are_printed_with_intervals_and_written(
    finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores.json"
    assert evaluate.main([str(finetuned), "--episodes", "5", "--json", str(scores)]) == 0
    lines = capsys.readouterr().out.splitlines()
    number = r"-?\d+\.\d\d"
    assert lines[0] == f"{finetuned}/checkpoints/000000006, update 6, prelar/point-reach"
    assert re.fullmatch(rf"return   {number} \[{number}, {number}\]", lines[1])
    assert re.fullmatch(rf"success  {number} \[{number}, {number}\] \(any step of an episode\)", lines[2])
    assert lines[3:] == ["95 % intervals over 5 episodes"]
    result = json.loads(scores.read_text())
    assert (result["task"], result["seed"], result["update"]) == ("prelar/point-reach", 0, 6)
    assert (result["policy"], result["success_rule"]) == ("mode", "any step")
    assert [len(result[key]) for key in ("returns", "successes", "lengths")] == [5, 5, 5]
    assert result["lengths"] == [20] * 5
    assert f"return   {sum(result['returns']) / 5:.2f} " in lines[1]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_a_checkpoint_is_evaluated_with_the_same_episodes_each_time_whatever_the_settings_of_speed(
    finetuned: Path, tmp_path: Path
) -> None:
    path = finetuned / "checkpoints" / "000000004"
    for name, settings in (("one", "evaluation.envs=1"), ("two", "evaluation.envs=3")):
        evaluate.main([str(path), "--episodes", "3", "--json", str(tmp_path / name), settings])
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert one["update"] == 4
    assert one["returns"] == pytest.approx(two["returns"], rel=1e-4)
    evaluate.main([str(path), "--episodes", "3", "--json", str(tmp_path / "other"), "seed=1"])
    assert json.loads((tmp_path / "other").read_text())["returns"] != pytest.approx(one["returns"], rel=1e-3)


def test_the_random_policy_can_be_measured_for_comparison(
    finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(finetuned), "--random", "--episodes", "2", "--json", str(tmp_path / "r.json")]) == 0
    assert capsys.readouterr().out.startswith("random policy, ")
    assert json.loads((tmp_path / "r.json").read_text())["policy"] == "random"


def test_a_film_shows_as_many_episodes_as_asked_for(
    finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "film.mp4"
    evaluate.main([str(finetuned), "--episodes", "3", "--film", str(film), "--film-episodes", "2"])
    assert f"film: {film}" in capsys.readouterr().out
    with av.open(str(film)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2 * 21
    evaluate.main([str(finetuned), "--episodes", "1", "--film", str(tmp_path / "film.gif")])
    with Image.open(tmp_path / "film.gif") as image:
        assert 1 < image.n_frames <= 21  # frames that do not change are shown longer


def test_a_film_can_be_drawn_larger_than_the_policy_sees(finetuned: Path, tmp_path: Path) -> None:
    films = {size: tmp_path / f"{size}.gif" for size in (64, 100)}
    for size, film in films.items():
        evaluate.main([str(finetuned), "--episodes", "2", "--film", str(film), "--film-size", str(size)])
    with Image.open(films[100]) as image:
        assert image.size == (200, 200)  # enlarged by whole numbers up to 256
    evaluate.main([str(finetuned), "--episodes", "2", "--film", str(tmp_path / "seen.gif")])
    assert films[64].read_bytes() == (tmp_path / "seen.gif").read_bytes()  # drawn again as the policy saw it


def test_an_environment_that_does_not_repeat_itself_cannot_be_drawn_again(
    finetuned: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, drift = PointReach._advance, itertools.count()

    def drifting(self: PointReach, action: Any) -> tuple[float, bool, bool]:
        reward, success, terminated = advance(self, action)
        return reward + next(drift), success, terminated

    monkeypatch.setattr(PointReach, "_advance", drifting)
    film = tmp_path / "film.gif"
    error = refused(evaluate.main, finetuned, "--episodes", "1", "--film", film, "--film-size", "64", code=2)
    assert "prelar/point-reach: does not repeat an episode of the same seed and actions (step 1: reward" in error
    assert not film.exists()


def test_episodes_are_as_many_as_the_run_or_the_command_line_says(
    finetuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in (
        ([], "2 episodes"),
        (["evaluation.episodes=3"], "3 episodes"),
        (["--episodes", "1"], "1 episode"),
    ):
        evaluate.main([str(finetuned), *arguments])
        assert capsys.readouterr().out.endswith(f"95 % intervals over {said}\n")


def test_episodes_that_failed_and_were_replaced_are_said(
    finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reset, resets = PointReach.reset, itertools.count(1)

    def failing_twice(self: PointReach, **options: Any) -> Any:
        if next(resets) in (2, 4):
            raise ValueError("unstable")
        return reset(self, **options)

    monkeypatch.setattr(PointReach, "reset", failing_twice)
    evaluate.main([str(finetuned), "--episodes", "3", "--json", str(tmp_path / "scores.json"), "evaluation.envs=1"])
    said = "95 % intervals over 3 episodes; 2 more failed and were replaced\n"
    assert capsys.readouterr().out.endswith(said)
    result = json.loads((tmp_path / "scores.json").read_text())
    assert (len(result["returns"]), result["replaced"]) == (3, 2)


def test_the_folder_of_a_result_is_made(finetuned: Path, tmp_path: Path) -> None:
    film, scores = tmp_path / "new" / "film.gif", tmp_path / "other" / "scores.json"
    assert evaluate.main([str(finetuned), "--episodes", "1", "--film", str(film), "--json", str(scores)]) == 0
    assert film.is_file()
    assert scores.is_file()


def test_a_result_that_cannot_be_written_is_refused_before_the_episodes_are_run(
    finetuned: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prelar_ray.commands.evaluate.Evaluator", lambda config: pytest.fail("ran"))
    (tmp_path / "file").touch()
    for option, path in (("--json", tmp_path / "file" / "scores.json"), ("--film", tmp_path / "file" / "film.mp4")):
        assert f"error: {path}: cannot write" in refused(evaluate.main, finetuned, option, path, code=2)


def test_one_episode_has_no_interval_and_that_is_said(finetuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([str(finetuned), "--episodes", "1"])
    assert re.search(r"^return   \d+\.\d\d \[one value, no interval\]$", capsys.readouterr().out, flags=re.MULTILINE)


def test_a_pretraining_run_has_no_policy(pretrained: Path, refused: Refused) -> None:
    error = refused(evaluate.main, pretrained, code=2)
    assert "000000005: a pretrain checkpoint has no policy; fine-tune it first" in error


def test_a_folder_without_checkpoint_is_refused(tmp_path: Path, refused: Refused) -> None:
    assert f"error: {tmp_path}: not a checkpoint" in refused(evaluate.main, tmp_path, code=2)
    RunFolder.create(tmp_path / "run", "", "finetune").checkpoints.mkdir()
    assert "holds no usable checkpoint" in refused(evaluate.main, tmp_path / "run", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--film", "film.avi"], "film.avi: films are written as .mp4 or .gif"),
        (["--episodes", "0"], "error: evaluation.episodes=0: must be"),
        (["--episodes", "x"], "error: evaluation.episodes=x: must be"),
        (["--film-episodes", "x"], "--film-episodes: x: must be a whole number of at least 1"),
        (["--film-size", "255"], "--film-size: 255: must be even, for H.264"),
        (["evaluation.episode=2"], "error: evaluation.episode=2: unknown key; nearest: evaluation.episodes"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(
    finetuned: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("prelar_ray.commands.evaluate.Evaluator", lambda config: pytest.fail("ran"))
    assert message in refused(evaluate.main, finetuned, *arguments, code=2)


def test_other_sizes_than_the_checkpoint_s_are_refused(finetuned: Path, refused: Refused) -> None:
    error = refused(evaluate.main, finetuned, "world_model.rssm.deter=12", code=2)
    assert f"{finetuned}/checkpoints/000000006: made with world_model.rssm.deter=8 (here 12); leave these" in error


def test_a_task_with_other_actions_is_refused(
    finetuned: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = property(lambda self: ActionSpace.continuous(4), lambda self, space: None)
    monkeypatch.setattr(Rollout, "actions", four, raising=False)
    error = refused(evaluate.main, finetuned, code=2)
    expected = "its policy has actions of size 2, env.task=prelar/point-reach takes size 4"
    assert error.startswith(f"error: {finetuned}/checkpoints/000000006: {expected}")
