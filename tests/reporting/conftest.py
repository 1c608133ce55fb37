"""Small run folders and studies as training leaves them, and pages compared with what they were.

``pytest tests/reporting --renew-pages`` writes the pages of ``snapshots/`` again; look at what git shows of them then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prelar_ray.config import load_config, to_yaml
from prelar_ray.reporting import aggregates
from prelar_ray.reporting.drawing import Chart
from prelar_ray.reporting.scores import RETURN, SUCCESS, RunScores
from prelar_ray.storage import run_folder
from prelar_ray.storage.files import append_json_line
from prelar_ray.storage.provenance import provenance
from prelar_ray.storage.run_folder import RunFolder
from tests.reporting.pages import snapshot_of


def _make_run(path: Path, phase: str, seed: int = 0, method: str = "prelar") -> RunFolder:
    """Write a finished run: three metric lines, one with a NaN; when fine-tuning, two evaluations."""
    folder = RunFolder.create(path, to_yaml(load_config("tiny", None, [f"seed={seed}", f"method={method}"])), phase)
    steps = 100 if phase == "finetune" else 0
    with folder.track(), folder.timed(phase):
        for update in (10, 20, 30):
            row = {"time": 0.0, "update": update, "env_steps": steps * update, "rate/updates_per_second": update}
            loss = None if update == 20 else 1000.0 / update  # as the writer of metrics puts down a NaN
            append_json_line(folder.metrics_path, {**row, "loss/total": loss})
        folder.update(summary={"updates": 30})
        _save_prediction(folder)
        if phase == "finetune":
            for update in (10, 30):
                append_json_line(folder.evaluations_path, _evaluation(update, steps * update))
    return folder


def _evaluation(update: int, env_steps: int) -> dict[str, Any]:
    """Return four episodes, of which one succeeded."""
    return {
        "env_steps": env_steps,
        "update": update,
        "task": "metaworld/reach-v3",
        "returns": [1.0, 2.0, 3.0, 4.0],
        "successes": [False, False, False, True],
        "success_rule": "any step",
        "policy": "mode",
    }


def _save_prediction(folder: RunFolder, length: int = 6, context: int = 2) -> None:
    """Write frames of noise."""
    true, reconstructed, open_loop = np.random.default_rng(0).integers(0, 256, (3, length, 64, 64, 3), dtype=np.uint8)
    folder.save_frames("prediction", true=true, reconstructed=reconstructed, open_loop=open_loop, context=context)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-pages", action="store_true", help="write the snapshots of report pages again")


@pytest.fixture(scope="session", autouse=True)
def _ask_for_the_commit_once() -> Iterator[None]:
    """Every run folder records commit, versions and hardware, which git and others are asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "provenance", cache(provenance))
        yield


@pytest.fixture
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are rough, for tests that are not about them."""
    monkeypatch.setattr(aggregates, "RESAMPLES", 99)


@pytest.fixture(scope="module")
def _no_pictures() -> Iterator[None]:
    """Charts are not drawn, which takes most of the time of a report and has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chart, "picture", lambda chart, theme: "")
        patch.setattr(Chart, "files", lambda chart: {".png": b"", ".pdf": b""})
        yield


@pytest.fixture(scope="session")
def check_page(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare the text of a page, line by line, with the snapshot of that name."""

    def check(page: Path, name: str) -> None:
        text, path = (
            snapshot_of(page).replace(str(page.parent), "FOLDER"),
            Path(__file__).parent / "snapshots" / f"{name}.html",
        )
        if request.config.getoption("--renew-pages", default=False):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text(), f"{path.name} differs; if it is meant to, run pytest with --renew-pages"

    return check


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunFolder]:
    return _make_run


@pytest.fixture(scope="session")
def evaluation() -> Callable[..., dict[str, Any]]:
    return _evaluation


@pytest.fixture(scope="session")
def save_prediction() -> Callable[..., None]:
    return _save_prediction


EVERY = 1000
"""Environment steps between the evaluations of runs and studies."""
POINT_REACH = "prelar/point-reach"


def _make_scores(
    method: str = "prelar",
    task: str = POINT_REACH,
    seed: int = 0,
    success: Sequence[float] = (0.5,),
    returns: Sequence[float] = (),
    **fields: Any,
) -> RunScores:
    """A run whose evaluations are a thousand environment steps apart."""
    scores = pd.DataFrame(
        {metric: pd.Series(values) for metric, values in ((SUCCESS, success), (RETURN, returns)) if len(values)},
        dtype=np.float64,
    )
    scores.index = EVERY * (scores.index + 1)
    named = {"name": f"{method}/{task}/seed-{seed}", "source": "study", "phase": "finetune"}
    return RunScores(**{**named, "method": method, "task": task, "seed": seed, "scores": scores, **fields})


def _planned(method: str, task: str | None, seed: int, phase: str = "finetune", **fields: Any) -> dict[str, Any]:
    """An entry of a plan."""
    labels = fields.pop("labels", {})
    tag = "-".join(map(str, labels.values())) or "plain"
    name = f"{phase}/{method}/{(task or 'videos').rpartition('/')[2]}/{tag}/seed-{seed}"
    known = {"name": name, "phase": phase, "method": method, "task": task, "seed": seed, "labels": labels}
    return {**known, "init": None, **fields}


def _make_study(path: Path, plan: Iterable[dict[str, Any]] = ()) -> Path:
    """Write the folder of a study; none of its runs has begun."""
    path.mkdir(parents=True)
    (path / "study.yaml").write_text("seeds: [0, 1]\n")
    (path / "plan.json").write_text(json.dumps({"runs": list(plan)}))
    return path


def _begin(study: Path, run: dict[str, Any], *overrides: str) -> RunFolder:
    """Begin a planned run."""
    settings = [f"seed={run['seed']}", f"evaluation.every_env_steps={EVERY}", f"finetune.env_steps={3 * EVERY}"]
    settings += [f"env.task={run['task']}"] if run["task"] else []
    config = load_config("tiny", None, [*settings, *overrides])
    return RunFolder.create(study / "runs" / run["name"], to_yaml(config), run["phase"])


def _finish(study: Path, run: dict[str, Any], rates: Sequence[float] = (0.0, 0.2, 0.6), *overrides: str) -> RunFolder:
    """Make a planned run a finished one, with an evaluation of ten episodes for each rate of success."""
    folder = _begin(study, run, *overrides)
    with folder.track(), folder.timed(run["phase"]):
        for number, rate in enumerate(rates, start=1):
            successes = [episode < round(10 * rate) for episode in range(10)]
            row = {**_evaluation(number, EVERY * number), "task": run["task"], "successes": successes}
            append_json_line(folder.evaluations_path, {**row, "returns": [100.0 * rate] * 10})
    return folder


@pytest.fixture(scope="session")
def make_scores() -> Callable[..., RunScores]:
    return _make_scores


@pytest.fixture(scope="session")
def planned() -> Callable[..., dict[str, Any]]:
    return _planned


@pytest.fixture(scope="session")
def make_study() -> Callable[..., Path]:
    return _make_study


@pytest.fixture(scope="session")
def begin() -> Callable[..., RunFolder]:
    return _begin


@pytest.fixture(scope="session")
def finish() -> Callable[..., RunFolder]:
    return _finish
