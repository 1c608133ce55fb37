from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.commands import demo
from prelar_ray.storage.records import read_diagnostics
from prelar_ray.video.store import VideoStore

Refused = Callable[..., str]


@pytest.mark.usefixtures("short_episodes")
def test_the_whole_pipeline(
    settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    reported: list[list[str]] = []  # drawing the page takes longer than all the rest
    monkeypatch.setattr("prelar_ray.commands.report.main", lambda argv: reported.append(argv) or 0)
    assert demo.main(["--config", settings, "--out", str(out)]) == 0
    found = {path.name for path in out.iterdir()}
    assert found == {
        "config.yaml",
        "videos",
        "videos.actions.arrow",
        "clips",
        "pretrain",
        "finetune",
        "film.mp4",
        "evaluation.json",
        "random.json",
    }
    assert reported == [[str(out)]]
    assert VideoStore(out / "videos").total_frames == 24
    assert VideoStore(out / "clips").total_frames == 132
    assert load_checkpoint(out / "pretrain").update == 5
    assert load_checkpoint(out / "finetune").update == 6
    timings = json.loads((out / "finetune" / "run.json").read_text())["timings"]
    assert {"record", "pretrain", "diagnose", "finetune", "evaluate"} <= timings.keys()
    assert read_diagnostics(out / "pretrain" / "diagnostics.json").probe is not None
    said = capsys.readouterr().err
    for line in (
        f"report        {out}/report.html",
        "prelar/point-reach: after 80 environment steps the policy succeeds in ",
        f"tensorboard --logdir {out}",
    ):
        assert line in said


def test_an_earlier_demo_is_kept(settings: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "report.html").write_text("mine")
    error = refused(demo.main, "--config", settings, "--out", tmp_path, code=2)
    assert error.startswith(f"error: {tmp_path}: holds an earlier demo")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
