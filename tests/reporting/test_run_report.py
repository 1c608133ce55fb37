"""The page on single runs: complete, self-contained, and written whatever state the runs are in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prelar_ray.errors import DataError
from prelar_ray.reporting.pages import machines
from prelar_ray.reporting.read import Run, read_run
from prelar_ray.reporting.run_report import LATENT_CHARTS, _latent, _seeds, write_report
from prelar_ray.storage.files import append_json_line
from prelar_ray.storage.records import Diagnostics, ProbeScores, read_diagnostics, write_diagnostics
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.metrics import METRICS
from tests.reporting.pages import Page

pytestmark = pytest.mark.usefixtures("_no_pictures")

MakeRun = Callable[..., RunFolder]
CheckPage = Callable[[Path, str], None]
FILES = ["run.json", "config.yaml", "metrics.jsonl", "evaluations.jsonl", "frames/prediction.npz"]
MADE_WITH = {
    "commit": "0123abcd",
    "versions": {"prelar_ray": "0.1.0", "torch": "2.0"},
    "hardware": {"cpu": "a processor", "cores": 2, "memory_gib": 8, "gpus": []},
    "command": "prelar-ray --out <run>",
    "finished": "2025-01-09T12:00:00+00:00",
    "process": None,
}
LATENT = [name for name in METRICS if name.split("/")[0] in ("latent", "open_loop")]
PROBE = ProbeScores(
    r2=0.875,
    r2_by_dimension=[0.9, None, 0.85],
    r2_permuted=-0.0125,
    ridge=1e-3,
    train_episodes=9,
    test_episodes=2,
    test_steps=198,
    unseen=True,
)


def diagnosis(probe: ProbeScores | None = PROBE, kl: bool = True) -> Diagnostics:
    return Diagnostics(
        checkpoint="runs/pretrain/checkpoints/000000030",
        update=30,
        videos="videos",
        episodes=3,
        clips=64,
        held_out=True,
        metrics={name: 7.25 for name in LATENT if kl or "kl" not in name} | {"latent/spearman": None},
        kl_by_dimension=[3.0, 0.5, 0.0] if kl else [],
        probe=probe,
        without_probe="" if probe else "no true actions beside videos",
    )


def measure_latent(folder: RunFolder) -> None:
    """Write two lines of diagnostics; the last value of the n-th is n + 0.5."""
    for update in (40, 50, 60):
        values = {} if update == 50 else {name: index + update / 120 for index, name in enumerate(LATENT)}
        append_json_line(folder.metrics_path, {"update": update, "env_steps": 0, "loss/total": 1.0} | values)


def settle(folder: RunFolder, day: int, **fields: object) -> None:
    """Write into a run's record what differs from one time and machine to the next."""
    timings = {folder.info["phase"]: 3600.0 * day}
    folder.update(**{**MADE_WITH, "created": f"2025-01-{day:02}T12:00:00+00:00", "timings": timings, **fields})


def test_the_page_of_runs_of_every_kind_is_as_it_was(tmp_path: Path, make_run: MakeRun, check_page: CheckPage) -> None:
    recording = RunFolder.create(tmp_path / "demo/record", "seed: 0\n", "record")
    settle(recording, 1, status="finished", summary={"frames": 1234567})
    pretrain = make_run(tmp_path / "demo/pretrain", "pretrain")
    measure_latent(pretrain)
    write_diagnostics(pretrain.diagnostics_path, diagnosis())
    settle(pretrain, 2, summary={"held_out_episodes": 3})
    for seed in (0, 1):
        settle(make_run(tmp_path / f"demo/seed{seed}", "finetune", seed), 3 + seed, resumed=["2025-01-04"])
    settle(make_run(tmp_path / "demo/ppo", "finetune", 0, "rllib/PPO"), 5)
    failed = RunFolder.create(tmp_path / "demo/failed", "a: <script>alert(1)</script>\n", "finetune")
    settle(failed, 6, status="failed", error="ValueError: <b>loss</b> is nan", commit=None)
    settle(RunFolder.create(tmp_path / "demo/running", "seed: 0\n", "pretrain"), 7, finished=None)
    damaged = make_run(tmp_path / "demo/damaged", "finetune", 2)
    settle(damaged, 8)
    for name in ("config.yaml", "metrics.jsonl", "evaluations.jsonl", "frames/prediction.npz"):
        (damaged.path / name).write_bytes(b"{broken\n\x00\n")
    runs = write_report([tmp_path / "demo"], tmp_path / "report.html")
    assert [run.path.name for run in runs] == [
        *("record", "pretrain", "seed0", "seed1", "ppo", "failed", "running", "damaged")
    ]
    check_page(tmp_path / "report.html", "runs")


def test_phases_stand_in_the_order_they_were_run(tmp_path: Path) -> None:
    for phase, created in (("finetune", "2025-01-03"), ("record", "2025-01-01"), ("pretrain", "2025-01-02")):
        RunFolder.create(tmp_path / phase, "", phase).update(created=created)
    assert [run.phase for run in write_report([tmp_path], tmp_path / "r.html")] == ["record", "pretrain", "finetune"]


def test_no_mean_is_taken_over_methods_or_tasks(tmp_path: Path, make_run: MakeRun) -> None:
    def names(*runs: Run) -> list[str]:
        return [panel.name for panel in _seeds(runs)]

    folders = [
        make_run(tmp_path / name, "finetune", seed, method)
        for name, seed, method in (("a", 0, "prelar"), ("b", 0, "rllib/PPO"), ("c", 1, "rllib/PPO"))
    ]
    a, b, c = (read_run(folder.path) for folder in folders)
    assert names(a, b, c) == ["Mean return over runs of rllib/PPO", "Success rate over runs of rllib/PPO"]
    assert names(a, b) == []
    row = folders[1].evaluations()[0].model_dump() | {"task": "metaworld/push-v3"}
    append_json_line(folders[1].evaluations_path, row)
    assert names(a, read_run(folders[1].path), c) == []


def test_last_values_stand_beside_what_diagnose_found(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "pretrain", "seed: 0\n", "pretrain")
    measure_latent(folder)
    part = _latent(read_run(folder.path))
    assert part is not None
    assert [panel.name for panel in part["charts"]] == list(LATENT_CHARTS)
    assert [row[2:4] for row in part["rows"]] == [(index + 0.5, None) for index in range(len(LATENT))]
    write_diagnostics(folder.diagnostics_path, diagnosis())
    part = _latent(read_run(folder.path))
    assert part is not None
    assert [panel.name for panel in part["charts"]] == [*LATENT_CHARTS, "KL per dimension", "Probe"]
    *rows, probe, permuted = part["rows"]
    assert [row[0] for row in rows] == LATENT
    assert [row[3] for row in rows] == [None if name == "latent/spearman" else 7.25 for name in LATENT]
    assert (probe[0], permuted[0], probe[2:4]) == ("probe/r2", "probe/r2_permuted", (None, 0.875))
    assert "On 198 steps of 2 episodes that neither model nor probe saw." in probe[4]


def test_diagnostics_of_a_run_without_curves_are_shown_alone(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "old", "seed: 0\n", "pretrain")
    write_diagnostics(folder.diagnostics_path, diagnosis(probe=None, kl=False))
    part = _latent(read_run(folder.path))
    assert part is not None
    assert part["charts"] == []
    assert {row[2] for row in part["rows"]} == {None}
    write_report([folder.path], folder.path / "report.html")
    assert "No probe: no true actions beside videos." in (folder.path / "report.html").read_text()


def test_runs_without_latent_actions_have_no_such_part(tmp_path: Path, make_run: MakeRun) -> None:
    assert _latent(read_run(make_run(tmp_path / "finetune", "finetune").path)) is None


def test_diagnostics_that_were_written_are_read(tmp_path: Path) -> None:
    for written in (diagnosis(), diagnosis(probe=None, kl=False)):
        write_diagnostics(tmp_path / "diagnostics.json", written)
        assert read_diagnostics(tmp_path / "diagnostics.json") == written
    assert [path.name for path in tmp_path.iterdir()] == ["diagnostics.json"]


def test_runs_of_one_machine_and_commit_stand_together() -> None:
    old, new = {"commit": "a", "versions": {}, "hardware": {}}, {"commit": "b", "versions": {}, "hardware": {}}
    groups = machines([("first", old), ("second", new), ("first", {**old, "status": "failed"})])
    assert [group["runs"] for group in groups] == [["first", "first"], ["second"]]
    assert groups[1]["made_with"]["commit"] == "b"


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
