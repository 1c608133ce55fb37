"""Every kind of file that is read, damaged in every way: a clear message, or nothing that changed. Never a traceback.

Outcomes, counted and printed with ``-s``:

- clean: an error of one line that names the file.
- warned: a warning, or a part that a report lists as missing.
- same: what was read is what it was.
- edited: another value in a file that people write by hand, which nobody can tell from an edit.
- silent: another result without a word. There must be none.
- traceback: any other exception. There must be none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prelar_ray.baselines import checkpoints as algorithms
from prelar_ray.checkpoint.store import CheckpointFolders, CheckpointStore, load_checkpoint
from prelar_ray.commands import finetune
from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.errors import PrelarError
from prelar_ray.published.files import read_published
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.reporting.compare import Options
from prelar_ray.reporting.comparison_report import write_comparison
from prelar_ray.reporting.drawing import Chart
from prelar_ray.reporting.read import read_study
from prelar_ray.reporting.run_report import write_report
from prelar_ray.reporting.scores import read_scores
from prelar_ray.storage.files import write_json
from prelar_ray.storage.records import Fetched, PlanEntry
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.sweep import read_sweep
from prelar_ray.video.actions import ActionFile, ActionWriter
from prelar_ray.video.store import VideoStore, VideoWriter
from tests.faults.damage import BYTES, JSON, TEXT, YAML, Damage
from tests.parity.folder import PUBLIC
from tests.reporting.pages import snapshot_of

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]

ROUNDS = 2
"""Seeds of every damage of every file."""

COUNTS: Counter[str] = Counter()


@dataclass(frozen=True)
class Target:
    """A file, and all that is read of it."""

    folder: str
    """Of the corpus: what is copied, damaged and read."""
    file: str
    """Path in it; the last that matches."""
    read: Callable[[Path], Any]
    damages: tuple[Damage, ...]
    by_hand: bool = False
    """Whether people write such files, so that another value may be meant."""
    rounds: int = field(default=ROUNDS)


def read_report(folder: Path) -> Any:
    page = folder.parent / "report.html"
    (run,) = write_report([folder], page)
    return snapshot_of(page), sorted(run.missing)


def read_checkpoint(folder: Path) -> Any:
    store = CheckpointStore(folder / "checkpoints", keep_last=3)
    best = store.best()
    checkpoint = load_checkpoint(store.paths()[-1])
    known = checkpoint.update, checkpoint.counters, checkpoint.config
    return best and best.name, known, flat(checkpoint.state)


def flat(state: Any) -> Any:
    """A state as what can be compared."""
    if isinstance(state, torch.Tensor):
        return state.numpy().tobytes()
    if isinstance(state, dict):
        return {key: flat(value) for key, value in state.items()}
    return [flat(value) for value in state] if isinstance(state, list | tuple) else state


def read_resume(folder: Path) -> Any:
    """What a resume does before it starts."""
    run = RunFolder.create(folder, (folder / "config.yaml").read_text(), "finetune", resume=True)
    checkpoint = CheckpointStore(run.checkpoints, 3).latest()
    run.start()
    run.warn_of_missing_lines(checkpoint.counters["lines"], checkpoint.update)
    run.forget_evaluations_after(checkpoint.update)
    return [record.model_dump() for record in run.evaluations()]


def read_config(folder: Path) -> Any:
    return load_config(None, folder / "config.yaml", [])


def read_replay(folder: Path) -> Any:
    return [(of.key, of.image.tobytes(), of.reward.tobytes()) for of in EpisodeStore(folder / "replay").load_all()]


def read_algorithm(folder: Path) -> Any:
    checkpoint = algorithms.load(folder / "checkpoints" / "000000004")
    return checkpoint.config, checkpoint.counters, checkpoint.lines


def read_fetched(folder: Path) -> Any:
    return RunFolder(folder, {}).fetched


def read_all_of_study(folder: Path) -> Any:
    study = StudyFolder(folder)
    with study.driven():
        names = [run.name for run in read_study(folder).runs]
    told = [(name, study.status(name), study.labels(name)) for name in names], study.failures()
    report = write_comparison([folder], folder.parent / "compared", Options(published=False))
    texts = [path.read_text() for path in sorted((folder.parent / "compared" / "report").glob("*.[ctm]*"))]
    return told, [(run.name, run.status, run.method, run.task, run.seed) for run in report.runs], texts


def read_sweep_file(folder: Path) -> Any:
    return read_sweep(folder / "sweep.yaml")


def read_store(folder: Path) -> Any:
    store = VideoStore(folder, verify=True)
    return store.attributes, store.lengths.tolist(), [store.frames(index).tobytes() for index in range(len(store))]


def read_actions(folder: Path) -> Any:
    return [(record, action.tobytes()) for record, action in ActionFile(folder / "actions.arrow").in_order]


def read_tensors(folder: Path) -> Any:
    tensors = read_published(folder / "variables.pt").tensors
    return {key: value.numpy().tobytes() for key, value in tensors.items()}


def read_table(folder: Path) -> Any:
    return [(run.method, run.task, run.seed, run.scores.to_csv()) for run in read_scores(folder / "scores.csv")]


TARGETS = (
    Target("run", "run.json", read_report, JSON, rounds=2),
    Target("run", "config.yaml", read_report, YAML, rounds=1),
    Target("run", "metrics.jsonl", read_report, JSON, rounds=2),
    Target("run", "evaluations.jsonl", read_report, JSON, rounds=2),
    Target("run", "diagnostics.json", read_report, JSON, rounds=1),
    Target("run", "frames/prediction.npz", read_report, BYTES, rounds=1),
    Target("run", "run.json", read_resume, JSON),
    Target("run", "config.yaml", read_config, YAML, by_hand=True),
    Target("run", "evaluations.jsonl", read_resume, JSON),
    Target("run", "metrics.jsonl", read_resume, JSON),
    Target("run", "checkpoints/*/meta.json", read_checkpoint, JSON, rounds=3),
    Target("run", "checkpoints/*/score.json", read_checkpoint, JSON),
    Target("run", "checkpoints/*/state.pt", read_checkpoint, BYTES),
    Target("run", "replay/*.arrow", read_replay, BYTES),
    Target("algorithm", "checkpoints/*/rllib.json", read_algorithm, JSON),
    Target("algorithm", "checkpoints/*/algorithm/state.pkl", read_algorithm, BYTES),
    Target("algorithm", "fetched.json", read_fetched, JSON),
    Target("study", "plan.json", read_all_of_study, JSON),
    Target("study", "failures.json", read_all_of_study, JSON, rounds=1),
    Target("study", "stopped.json", read_all_of_study, JSON, rounds=1),
    Target("study", "driver.json", read_all_of_study, JSON, rounds=1),
    Target("study", "runs/*/run.json", read_all_of_study, JSON, rounds=1),
    Target("written", "sweep.yaml", read_sweep_file, YAML, by_hand=True),
    Target("written", "scores.csv", read_table, TEXT, by_hand=True),
    Target("videos", "manifest.json", read_store, JSON),
    Target("videos", "shards.jsonl", read_store, JSON),
    Target("videos", "shard-00000.arrow", read_store, BYTES),
    Target("videos", "verified.json", read_store, JSON, rounds=1),
    Target("videos", "actions.arrow", read_actions, BYTES),
    Target("published", "variables.pt", read_tensors, BYTES, rounds=4),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, minute_config: RunConfig) -> Path:
    """One of everything."""
    folder = tmp_path_factory.mktemp("corpus")
    _make_run(folder, minute_config)
    _make_algorithm(folder / "algorithm")
    _make_study(folder / "study", folder / "run")
    _make_videos(folder / "videos")
    shutil.copytree(PUBLIC / "pretrained", folder / "published")
    (folder / "written").mkdir()
    (folder / "written" / "sweep.yaml").write_text(
        "preset: tiny\nfinetune:\n  tasks: [prelar/point-reach]\n  seeds: [0, 1]\n"
        "  space: {loss.action_kl_weight: [0.1, 1.0]}\nsearch: {kind: grid}\n"
    )
    (folder / "written" / "scores.csv").write_text(
        "method,task,seed,env_step,success_rate,loss.x\nprelar,a/b,0,1000,0.5,1\nprelar,a/b,0,2000,0.75,1\n"
    )
    return folder


def _make_run(folder: Path, config: RunConfig) -> None:
    settings = folder / "settings.yaml"
    often = load_config(None, None, ["evaluation.every_env_steps=15", "finetune.env_steps=130"], config)
    settings.write_text(to_yaml(often))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prelar_ray.envs.point_reach.EPISODE_STEPS", 20)
        assert finetune.main(["--config", str(settings), "--out", str(folder / "run")]) == 0
    values = {"latent/kl": 0.5, "latent/active_units": None}
    diagnostics = {"checkpoint": "c", "update": 3, "videos": "v", "episodes": 2, "clips": 4, "held_out": True}
    more = {"metrics": values, "kl_by_dimension": [0.5, 0.25], "probe": None, "without_probe": "no actions"}
    write_json(folder / "run" / "diagnostics.json", {**diagnostics, "other_videos": False, **more})


def _make_algorithm(folder: Path) -> None:
    def write_algorithm(path: str) -> None:
        Path(path).mkdir(parents=True)
        (Path(path) / "state.pkl").write_bytes(b"weights" * 9)

    config = load_config(None, None, ["method=rllib/PPO"])
    counters = algorithms.Counters(4, 40, 3, 2, 40)
    algorithms.save(
        CheckpointFolders(folder / "checkpoints", 3), config, counters, write_algorithm, {"metrics.jsonl": 3}
    )
    fetched = Fetched(address="s3://b/run", time="2025-01-01T00:00:00+00:00", files=3, bytes=100)
    write_json(folder / "fetched.json", fetched.model_dump())


def _make_study(folder: Path, run: Path) -> None:
    study = StudyFolder.open(folder, "study", resume=False)
    names = ("one", "two", "three")
    plan = [
        PlanEntry(
            name=name, phase="finetune", method="prelar", task="prelar/point-reach", seed=seed, labels={"a.b": 0.5}
        )
        for seed, name in enumerate(names)
    ]
    study.write_plan(b"preset: tiny\n", plan, "study")
    for name in names[:2]:
        shutil.copytree(run, folder / "runs" / name, ignore=shutil.ignore_patterns("checkpoints", "replay", "frames"))
    study.note_failure("three", "DataError: no videos")
    study.note_stopped("two")
    write_json(folder / "driver.json", {"host": "elsewhere", "pid": 2**22 + 1, "started": 0.0})
    RunFolder.open(folder / "runs" / "one").update(status="finished")


def _make_videos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    with VideoWriter(folder, {"camera": "corner", "fps": 10}, 6) as writer:
        with ActionWriter(folder / "actions.arrow", 6) as actions:
            for index in range(3):
                frames = rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
                actions.append(rng.random((4, 2)), frames, f"task-{index}")
                writer.append(frames, f"task-{index}")
    VideoStore(folder, verify=True)


@pytest.fixture(autouse=True)
def _cheap_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts of which the numbers changed are drawn, intervals are rough, and no driver is at work on a study."""
    from prelar_ray.reporting import aggregates

    monkeypatch.setattr(aggregates, "RESAMPLES", 99)
    monkeypatch.setattr(Chart, "picture", lambda chart, theme: str(chart.alt) if theme == "dark" else drawn(chart))
    monkeypatch.setattr(Chart, "files", lambda chart: {".png": b""})
    monkeypatch.setattr("prelar_ray.storage.locks.is_gone", lambda process: True)


DRAWN: set[str] = set()


def drawn(chart: Chart) -> str:
    """Draw a chart, unless one with the same numbers was drawn: it takes most of the time of a report."""
    if chart.alt not in DRAWN:
        DRAWN.add(chart.alt)
        chart._draw("light")
    return ""


def _name(target: Target) -> str:
    return f"{target.folder}/{target.file} by {target.read.__name__}"


@pytest.mark.parametrize("target", TARGETS, ids=_name)
def test_damage_is_said_or_changes_nothing(
    target: Target, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = outcome_of(target, corpus, tmp_path, caplog, None)
    assert expected[0] == "read", expected
    wrong: list[str] = []
    cases = [damage for damage in target.damages for _ in range(target.rounds)]
    for number, damage in enumerate(cases):
        seed = zlib.crc32(f"{_name(target)} {number}".encode())
        damaged = partial(_damaged, damage, seed)
        outcome, result = outcome_of(target, corpus, tmp_path, caplog, damaged)
        if outcome == "read":
            outcome = "same" if result == expected[1] else "edited" if target.by_hand else "silent"
        COUNTS[outcome] += 1
        if outcome in ("silent", "traceback"):
            wrong.append(f"{damage.__name__} (seed {seed}): {outcome}: {str(result)[:300]}")
    assert not wrong, "\n".join(wrong)


def _damaged(damage: Damage, seed: int, content: bytes) -> bytes:
    return damage(content, np.random.default_rng(seed))


def outcome_of(
    target: Target,
    corpus: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes] | None,
) -> tuple[str, Any]:
    """Copy, damage and read; return the outcome and what was read or raised."""
    copy = folder / target.folder
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(corpus / target.folder, copy)
    path = sorted(copy.glob(target.file))[-1]
    if damage is not None:
        path.write_bytes(damage(path.read_bytes()))
        os.utime(path, (0, 0))
    caplog.clear()
    try:
        with caplog.at_level(logging.WARNING):
            result = target.read(copy)
    except PrelarError as error:
        message = str(error)
        # Of a configuration, what is wrong is told by key.
        tells = (
            (str(copy) in message or target.read is read_config)
            and "Traceback" not in message
            and message.replace("\n", "").isprintable()
        )
        return ("clean", message) if tells else ("traceback", f"a message that does not name the file: {message}")
    except Exception as error:
        return "traceback", repr(error)
    missing = target.read is read_report and result[1] != []
    if damage is not None and (missing or any(record.levelno >= logging.WARNING for record in caplog.records)):
        return "warned", result
    return "read", _digest(result)


def _digest(result: Any) -> str:
    return hashlib.sha256(repr(result).encode(errors="replace")).hexdigest()


def test_there_were_enough_and_this_is_what_came_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Last of this file: the counts."""
    with capsys.disabled():
        outcomes = ("clean", "warned", "same", "edited", "silent", "traceback")
        sys.stdout.write(
            f"\n{COUNTS.total()} damages: " + ", ".join(f"{COUNTS[name]} {name}" for name in outcomes) + "\n"
        )
    assert COUNTS.total() >= 500
    assert COUNTS["silent"] == COUNTS["traceback"] == 0
