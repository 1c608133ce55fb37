"""The part of the page on the latent action: there when something was measured, whole or in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prelar_ray.reporting import write_report
from prelar_ray.reporting.latent import CHARTS, latent_part
from prelar_ray.reporting.runs import load_run
from prelar_ray.storage.records import Diagnostics, ProbeScores, read_diagnostics, write_diagnostics
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.telemetry.writers import MetricWriter

MakeRun = Callable[..., RunFolder]
NAMES = [name for name in METRICS if name.split("/")[0] in ("latent", "open_loop")]
SCORES = ProbeScores(
    r2=0.875,
    r2_by_dimension=[0.9, None, 0.85],
    r2_permuted=-0.0125,
    ridge=1e-3,
    train_episodes=9,
    test_episodes=2,
    test_steps=198,
    unseen=True,
)


def diagnosis(probe: ProbeScores | None = SCORES, kl: bool = True) -> Diagnostics:
    return Diagnostics(
        checkpoint="runs/pretrain/checkpoints/000000030",
        update=30,
        videos="videos",
        episodes=3,
        clips=64,
        held_out=True,
        metrics={name: 7.25 for name in NAMES if kl or "kl" not in name} | {"latent/spearman": None},
        kl_by_dimension=[3.0, 0.5, 0.0] if kl else [],
        probe=probe,
        without_probe="" if probe else "no true actions beside videos",
    )


@pytest.fixture
def measured(tmp_path: Path) -> RunFolder:
    """A pre-training run with two lines of diagnostics; the last value of the n-th is n + 0.5."""
    folder = RunFolder.create(tmp_path / "pretrain", "seed: 0\n", "pretrain")
    with MetricWriter(folder.metrics_path, folder.tensorboard) as writer:
        for update in (10, 20, 30):
            values = {} if update == 20 else {name: index + update / 60 for index, name in enumerate(NAMES)}
            writer.write(update, 0, {"loss/total": 1.0} | values)
    return folder


def test_last_values_stand_beside_what_diagnose_found(measured: RunFolder) -> None:
    write_diagnostics(measured.diagnostics_path, diagnosis())
    part = latent_part(load_run(measured.path))
    assert part is not None
    rows = {row.name: row for row in part.rows}
    assert list(rows) == [*NAMES, "probe/r2", "probe/r2_permuted"]
    for index, name in enumerate(NAMES):
        assert rows[name].training == index + 0.5
        assert rows[name].diagnosis == (None if name == "latent/spearman" else 7.25)
        assert rows[name].reading.endswith(".")
    assert (rows["probe/r2"].training, rows["probe/r2"].diagnosis) == (None, 0.875)
    assert "On 198 steps of 2 episodes that neither model nor probe saw." in rows["probe/r2"].reading
    assert [chart.name for chart in part.charts] == [*CHARTS, "KL per dimension", "Probe"]


def test_without_diagnose_there_are_the_curves_of_training(measured: RunFolder) -> None:
    part = latent_part(load_run(measured.path))
    assert part is not None
    assert [chart.name for chart in part.charts] == list(CHARTS)
    assert {row.diagnosis for row in part.rows} == {None}
    write_report([measured.path], measured.path / "report.html")
    page = (measured.path / "report.html").read_text()
    assert "adds a probe for the true actions" in page
    assert "latent/active_units" in page


def test_diagnostics_of_a_run_without_curves_are_shown_alone(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "old", "seed: 0\n", "pretrain")
    write_diagnostics(folder.diagnostics_path, diagnosis(probe=None, kl=False))
    part = latent_part(load_run(folder.path))
    assert part is not None
    assert part.charts == []
    assert {row.training for row in part.rows} == {None}
    write_report([folder.path], folder.path / "report.html")
    assert "No probe: no true actions beside videos." in (folder.path / "report.html").read_text()


def test_runs_without_latent_actions_have_no_such_part(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path / "finetune", "finetune")
    assert latent_part(load_run(folder.path)) is None
    write_report([folder.path], folder.path / "report.html")
    assert "latent action any good" not in (folder.path / "report.html").read_text()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    for written in (diagnosis(), diagnosis(probe=None, kl=False)):
        write_diagnostics(tmp_path / "diagnostics.json", written)
        assert read_diagnostics(tmp_path / "diagnostics.json") == written
    assert [path.name for path in tmp_path.iterdir()] == ["diagnostics.json"]
