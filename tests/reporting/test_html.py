"""The page: complete, self-contained, and written whatever state the runs are in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prelar_ray.errors import DataError
from prelar_ray.reporting import write_report
from prelar_ray.storage.run_folder import RunFolder
from tests.reporting.pages import Page

MakeRun = Callable[..., RunFolder]
FILES = ["run.json", "config.yaml", "metrics.jsonl", "evaluations.jsonl", "frames/prediction.npz"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("report") / "demo"
    recording = RunFolder.create(folder / "record", "seed: 0\n", "record")
    recording.update(status="finished", summary={"frames": 1234567})
    make_run(folder / "pretrain", "pretrain")
    make_run(folder / "finetune", "finetune")
    write_report([folder], folder / "report.html")
    return folder, (folder / "report.html").read_text()


def test_the_page_is_well_formed_and_needs_nothing_else(demo: tuple[Path, str]) -> None:
    page = Page(demo[1])
    assert demo[1].lstrip().startswith("<!DOCTYPE html>")
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert all(link.removeprefix("#") in page.ids for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert "http" not in demo[1].replace("http-equiv", "")
    assert "<script" not in demo[1]


def test_the_page_holds_what_was_promised(demo: tuple[Path, str]) -> None:
    text = " ".join(Page(demo[1]).text.split())
    for expected in (
        "World-model losses",
        "Predicted frames",
        "The model sees the first 2 of 6 frames",
        "Timings and rates",
        "rate/updates_per_second",
        "Resolved configuration",
        "latent_action: ",
        "Minutes on a CPU do not solve the task",
        "the rule “any step”",
        "intervals are over episodes, not over seeds",
        "2.5 [1.5, 3.5]",  # mean return of the four episodes
        "0.25 [0.05, 0.70]",  # one success in four
        "1 234 567",  # split() takes the narrow spaces for white space
    ):
        assert expected in text


def test_phases_stand_in_the_order_they_were_run(tmp_path: Path) -> None:
    for phase, created in (("finetune", "2025-01-03"), ("record", "2025-01-01"), ("pretrain", "2025-01-02")):
        RunFolder.create(tmp_path / phase, "", phase).update(created=created)
    assert [run.phase for run in write_report([tmp_path], tmp_path / "r.html")] == ["record", "pretrain", "finetune"]


def test_several_seeds_are_drawn_together(tmp_path: Path, make_run: MakeRun) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"seed{seed}", "finetune", seed)
    write_report([tmp_path / "seed0", tmp_path / "seed1"], tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text()).text
    assert "Across runs" in text
    assert "2 seeds: " in text
    assert "One seed: " not in text


def test_runs_are_labelled_by_their_method_and_no_mean_is_taken_over_methods(tmp_path: Path, make_run: MakeRun) -> None:
    for name, seed, method in (("a", 0, "prelar"), ("b", 0, "rllib/PPO"), ("c", 1, "rllib/PPO")):
        make_run(tmp_path / name, "finetune", seed, method)
    write_report([tmp_path], tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text()).text
    assert "finetune, rllib/PPO" in text
    assert "Mean return over runs of rllib/PPO" in text
    assert "Grey: each of 2 runs" in text
    assert "over runs of prelar" not in text


@pytest.mark.parametrize(
    ("status", "expected"),
    [("running", "it goes on, or it was killed"), ("failed", "It ended with ValueError: loss is nan")],
)
def test_the_state_of_a_run_is_told(tmp_path: Path, status: str, expected: str) -> None:
    folder = RunFolder.create(tmp_path / "run", "", "pretrain")
    folder.update(status=status, error="ValueError: loss is nan" if status == "failed" else None)
    write_report([folder.path], tmp_path / "report.html")
    assert expected in Page((tmp_path / "report.html").read_text()).text


def test_text_from_runs_cannot_become_markup(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "a: <script>alert(1)</script>\n", "pretrain")
    folder.update(status="failed", error="<b>", command="<i>")
    write_report([folder.path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    Page(page)


@pytest.fixture(scope="module")
def template_run(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun) -> dict[str, bytes]:
    folder = make_run(tmp_path_factory.mktemp("good") / "run", "finetune")
    return {name: (folder.path / name).read_bytes() for name in FILES}


DAMAGE: list[Callable[[bytes, int], bytes | None]] = [
    lambda content, where: None,
    lambda content, where: b"",
    lambda content, where: content[: where % len(content)],
    lambda content, where: content[: where % len(content)] + b"\xff\x00\n" + content[where % len(content) :],
    lambda content, where: bytes([*content[: where % len(content)], where % 256, *content[where % len(content) + 1 :]]),
]


@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(file=st.sampled_from(FILES), damage=st.sampled_from(DAMAGE), where=st.integers(0, 10**6))
def test_a_damaged_run_is_reported_all_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    template_run: dict[str, bytes],
    file: str,
    damage: Callable[[bytes, int], bytes | None],
    where: int,
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "run" / "frames").mkdir(parents=True)
    for name, content in template_run.items():
        changed = damage(content, where) if name == file else content
        if changed is not None:
            (folder / "run" / name).write_bytes(changed)
    if not (folder / "run" / "run.json").exists():
        with pytest.raises(DataError, match="not a run folder"):
            write_report([folder / "run"], folder / "report.html")
        return
    write_report([folder / "run"], folder / "report.html")
    Page((folder / "report.html").read_text())


def test_a_page_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "", "record")
    with pytest.raises(DataError, match="cannot write"):
        write_report([folder.path], tmp_path / "missing" / "report.html")
