"""The report of a comparison: published numbers come out, and bad runs cost themselves only."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html import unescape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelar_ray.errors import DataError, UsageError
from prelar_ray.reporting.compare import Options
from prelar_ray.reporting.comparison_report import ComparisonReport, is_comparison, write_comparison
from prelar_ray.reporting.scores import read_scores
from prelar_ray.storage.run_folder import RunFolder
from tests.reporting.pages import Page

pytestmark = pytest.mark.usefixtures("_no_pictures")

Planned = Callable[..., dict[str, Any]]
MakeStudy = Callable[..., Path]
CheckPage = Callable[[Path, str], None]
Run = Callable[..., RunFolder]
TASK = "prelar/point-reach"
MADE_WITH = {
    "commit": "0123abcd",
    "versions": {"metaworld": "3.1", "mujoco": "3.3"},
    "hardware": {"cpu": "a processor", "cores": 2, "memory_gib": 8, "gpus": ["a GPU"]},
}
PUBLISHED = resources.files("prelar_ray.reporting") / "published" / "apv_2022_metaworld_success.csv"


def text_of(page: Path) -> str:
    """Text of a well-formed page, that of neighbouring elements apart."""
    Page(page.read_text())
    return " ".join(unescape(re.sub("<[^>]*>", " ", page.read_text())).split())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, _no_pictures: None) -> ComparisonReport:
    out = tmp_path_factory.mktemp("published")
    (out / "data.csv").write_bytes(PUBLISHED.read_bytes())
    return write_comparison([out / "data.csv"], out, Options())


def published_scores() -> dict[str, dict[str, list[float]]]:
    """Per method and task: the success rates at 245 000 steps, without this project's reader."""
    scores: dict[str, dict[str, list[float]]] = {}
    for row in csv.DictReader(PUBLISHED.read_text().splitlines()):
        if row["env_step"] == "245000":
            scores.setdefault(row["method"], {}).setdefault(row["task"], []).append(float(row["success_rate"]))
    return scores


@pytest.mark.parametrize(("method", "expected"), [("APV", "0.86"), ("DreamerV2", "0.60")])
def test_published_scores_give_the_published_means(published: ComparisonReport, method: str, expected: str) -> None:
    (group,) = published.groups
    assert group.at == 245_000
    by_task = published_scores()[method]
    assert len(by_task) == 6
    mean = sum(sum(rates) / len(rates) for rates in by_task.values()) / 6
    pooled = sorted(rate for rates in by_task.values() for rate in rates)
    assert len(pooled) == 48
    iqm = sum(pooled[12:36]) / 24
    assert f"{mean:.2f}" == expected
    assert group.mean[method].estimate == pytest.approx(mean)
    assert group.iqm[method].estimate == pytest.approx(iqm)
    for task, rates in by_task.items():
        assert group.means[method][task].estimate == pytest.approx(sum(rates) / 8)


@pytest.mark.parametrize("method", ["APV", "DreamerV2"])
def test_published_intervals_are_those_of_a_bootstrap_of_their_own(published: ComparisonReport, method: str) -> None:
    rng = np.random.default_rng(11)
    by_task = published_scores()[method]
    means, iqms = [], []
    for _ in range(3000):
        drawn = [[rates[i] for i in rng.integers(0, 8, 8)] for rates in by_task.values()]
        means.append(sum(sum(rates) / 8 for rates in drawn) / 6)
        iqms.append(sum(sorted(rate for rates in drawn for rate in rates)[12:36]) / 24)
    (group,) = published.groups
    for interval, values in ((group.mean[method], means), (group.iqm[method], iqms)):
        assert (interval.low, interval.high) == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.01)


def test_the_published_probability_of_improvement_is_the_share_of_pairs(published: ComparisonReport) -> None:
    scores = published_scores()
    shares = [
        sum((x > y) + 0.5 * (x == y) for x in scores["APV"][task] for y in scores["DreamerV2"][task]) / 64
        for task in scores["APV"]
    ]
    assert list(published.groups[0].improvements) == [("APV", "DreamerV2")]
    assert published.groups[0].improvements["APV", "DreamerV2"].estimate == pytest.approx(sum(shares) / 6)


def test_the_page_of_a_table_of_scores_is_as_it_was(published: ComparisonReport, check_page: CheckPage) -> None:
    check_page(published.page, "table_of_scores")
    assert (
        Page(published.page.read_text()).pictures == 26
    )  # light and dark of seven charts over tasks, one of each task


def test_figures_and_tables_lie_beside_the_page(published: ComparisonReport) -> None:
    folder = published.page.parent / "report"
    names = {path.name for path in folder.iterdir()}
    stems = {path.stem for path in folder.glob("*.png")}
    assert len(stems) == 13
    assert names == {
        *(f"{stem}{kind}" for stem in stems for kind in (".png", ".pdf")),
        *("scores.csv", "summary.csv", "table.md", "table.tex"),
    }
    assert "| mean over tasks | 0.60 [" in (folder / "table.md").read_text()
    assert "mean over tasks & 0.60 [" in (folder / "table.tex").read_text()
    assert len((folder / "scores.csv").read_text().splitlines()) == 1 + 2 * 6 * 8 * 25
    with (folder / "summary.csv").open() as file:
        rows = {(row["quantity"], row["series"], row["task"]): row for row in csv.DictReader(file)}
    assert float(rows["mean_over_tasks", "APV", ""]["estimate"]) == pytest.approx(0.85625)


@pytest.fixture(scope="module")
def study(
    tmp_path_factory: pytest.TempPathFactory, planned: Planned, make_study: MakeStudy, begin: Run, finish: Run
) -> Path:
    """Two methods of two seeds, one that crashes from every seed, one run under way, one not begun."""
    prelar, apv, crash = ([planned(m, "metaworld/reach-v3", s) for s in range(2)] for m in ("prelar", "apv", "bad"))
    extra = [planned("prelar", "metaworld/reach-v3", seed) for seed in (2, 3)]
    first = planned("prelar", None, 0, phase="pretrain", name="pretrain/ab")
    path = make_study(tmp_path_factory.mktemp("reports") / "study", [first, *prelar, *apv, *crash, *extra])
    begin(path, first).update(status="finished", timings={"pretrain": 1800.0})
    for seed in range(2):
        finish(path, prelar[seed], [0.0, 0.4, 0.8 + 0.1 * seed])
        finish(path, apv[seed], [0.0, 0.2, 0.5])
        begin(path, crash[seed]).update(status="failed", error="NonFiniteError: update 3: loss/total is <nan>")
    finish(path, extra[0], [0.1, 0.3]).update(status="running")
    for number, record in enumerate(sorted(path.glob("runs/**/run.json"))):
        folder = RunFolder.open(record.parent)
        folder.update(**MADE_WITH, timings={folder.info["phase"]: 1800.0 + number})
    return path


@pytest.fixture(scope="module")
def report(study: Path, _no_pictures: None) -> ComparisonReport:
    return write_comparison([study], study, Options())


def test_the_page_of_a_study_is_as_it_was(report: ComparisonReport, check_page: CheckPage) -> None:
    assert report.groups[0].mean.keys() == {"prelar", "apv"}
    check_page(report.page, "study")


def test_published_curves_are_drawn_and_can_be_left_out(study: Path, report: ComparisonReport, tmp_path: Path) -> None:
    text = text_of(report.page)
    assert "DreamerV2 (published, APV 2022), APV (published, APV 2022), DreamerV2 (published, MWM 2022)" in (
        report.page.read_text()
    )
    for needed in (
        "Dashed, published: APV 2022: Meta-World v2, pixels, camera corner, action repeat 1",
        "TD-MPC2 2024: Meta-World v2, state instead of pixels",
        "Published success rates at the environment step of each table",
        "env.camera corner2-moved",
        "success rule last step",
        "Meta-World v2 and v3. All published success rates are of Meta-World v2",
    ):
        assert needed in text
    without = write_comparison([study], tmp_path, Options(published=False))
    assert not re.search("MWM|Dashed|Published curves|Meta-World v2", without.page.read_text())
    assert without.groups[0].mean == report.groups[0].mean


def test_the_long_table_of_a_report_gives_the_same_report(
    study: Path, report: ComparisonReport, tmp_path: Path
) -> None:
    table = study / "report" / "scores.csv"
    again = write_comparison([table], tmp_path, Options())
    assert again.groups[0].mean == report.groups[0].mean
    assert again.groups[0].half_reached == report.groups[0].half_reached
    assert "1 running" in text_of(again.page)
    assert {run.status for run in read_scores(table)} == {"finished", "running"}


def test_studies_are_put_together_and_given_twice_count_once(
    study: Path, tmp_path: Path, planned: Planned, make_study: MakeStudy, finish: Run
) -> None:
    run = planned("dreamerv2", "metaworld/reach-v3", 0)
    other = make_study(tmp_path / "other", [run])
    finish(other, run, [0.0, 0.1, 0.2]).update(versions=MADE_WITH["versions"])
    together = write_comparison([study, other, study], tmp_path / "out", Options())
    assert together.groups[0].mean.keys() == {"prelar", "apv", "dreamerv2"}
    assert "prelar_ray: study, other" in text_of(together.page)
    assert "0.20 (no interval)" in text_of(together.page)
    assert "dreamerv2: One seed on a task: no interval is given" in text_of(together.page)


def test_run_folders_beside_a_table_are_compared_with_it(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    make_run(tmp_path / "run", "finetune", seed=4)
    (tmp_path / "data.csv").write_text("method,task,seed,env_step,success_rate\nother,prelar/point-reach,0,3000,0.5\n")
    with pytest.raises(UsageError, match="evaluation.episodes|success rule"):
        write_comparison([tmp_path / "run", tmp_path / "data.csv"], tmp_path, Options())
    paths = [tmp_path / "run", tmp_path / "data.csv"]
    mixed = write_comparison(paths, tmp_path / "out", Options(mix_protocols=True))
    assert mixed.groups[0].mean["prelar"].estimate == 0.25
    assert "Runs of different protocols are put together, as asked for" in text_of(mixed.page)


def test_other_numbers_of_episodes_are_refused(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, finish: Run
) -> None:
    runs = [planned("prelar", TASK, seed) for seed in range(2)]
    study = make_study(tmp_path / "study", runs)
    finish(study, runs[0])
    path = finish(study, runs[1]).evaluations_path
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["returns"], row["successes"] = row["returns"][:5], row["successes"][:5]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match=r"evaluation.episodes is 10 in .*seed-0 of study, 5 in .*seed-1 of study"):
        write_comparison([study], tmp_path / "out", Options())
    assert not (tmp_path / "out").exists()


def test_a_study_of_which_nothing_has_begun_says_so(tmp_path: Path, planned: Planned, make_study: MakeStudy) -> None:
    study = make_study(tmp_path / "study", [planned("prelar", TASK, seed) for seed in range(2)])
    report = write_comparison([study], study, Options())
    text = text_of(report.page)
    assert report.groups == []
    assert "There is no score to compare yet" in text
    assert "finetune/prelar/point-reach/plain/seed-1 not begun" in text
    assert list((study / "report").glob("*.png")) == []


def test_a_study_that_runs_shows_its_curves(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, finish: Run
) -> None:
    run = planned("prelar", TASK, 0)
    study = make_study(tmp_path / "study", [run])
    finish(study, run, [0.1, 0.2]).update(status="running")
    text = text_of(write_comparison([study], study, Options()).page)
    assert "No success rate is compared: no run has finished." in text
    assert "Success rate per task" in text
    early = write_comparison([study], study, Options(at=1000))
    assert early.groups[0].mean["prelar"].estimate == pytest.approx(0.1)


def test_text_from_runs_cannot_become_markup(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, begin: Run
) -> None:
    run = planned("<i>method", TASK, 0, name="finetune/x", labels={"a.<u>": "<s>"})
    study = make_study(tmp_path / "study", [run])
    (study / "study.yaml").write_text("a: <script>alert(1)</script>\n")
    begin(study, run).update(status="failed", error="<b>")
    source = write_comparison([study], study, Options()).page.read_text()
    Page(source)
    assert not re.search("<(script|b|i|u|s)>", source)


def test_what_holds_no_fine_tuning_is_refused(tmp_path: Path, planned: Planned, make_study: MakeStudy) -> None:
    study = make_study(tmp_path / "study", [planned("prelar", None, 0, phase="pretrain")])
    with pytest.raises(DataError, match="no fine-tuning run among these"):
        write_comparison([study], study, Options())
    assert not (study / "report.html").exists()


def test_runs_alone_are_no_comparison(tmp_path: Path, make_study: MakeStudy) -> None:
    RunFolder.create(tmp_path / "run", "", "finetune")
    assert not is_comparison([tmp_path / "run", tmp_path / "missing"])
    assert is_comparison([tmp_path / "run", make_study(tmp_path / "study")])
    assert is_comparison([tmp_path / "missing.csv"])
