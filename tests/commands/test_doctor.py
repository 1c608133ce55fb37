"""The doctor: one line per check, a remedy with each complaint, and no traceback."""

from __future__ import annotations

import resource
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from prelar_ray.commands import doctor
from prelar_ray.config import RunConfig, load_config
from prelar_ray.envs import rendering_check
from prelar_ray.envs.rendering_check import RenderingReport
from prelar_ray.errors import ConfigError, RenderingError
from prelar_ray.replay.memory import step_bytes

CHECKS = [
    "python",
    "packages",
    "rendering",
    "gpu",
    "shared-memory",
    "memory",
    "disk",
    "open-files",
    "ray",
    "token",
    "cluster",
]
DiskUsage = namedtuple("DiskUsage", "total used free")


@pytest.fixture
def fine_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    report = RenderingReport("egl", "llvmpipe", 40.0, upright=True)
    monkeypatch.setattr(rendering_check, "check_rendering", lambda quality, image_size: report)


def with_capacity(steps: int) -> RunConfig:
    return load_config("tiny", None, [f"replay.capacity_steps={steps}"])


@pytest.mark.usefixtures("fine_rendering")
def test_there_is_one_line_per_check(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main(["--preset", "tiny"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[5:].split()[0] for line in lines] == CHECKS
    assert {line.split()[0] for line in lines} <= {"OK", "WARN", "FAIL"}
    assert all("->" in line for line in lines if not line.startswith("OK"))


def test_a_failed_check_gives_exit_code_1_and_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(quality: str, image_size: int) -> None:
        raise RenderingError("EGL is missing; apt-get install libegl1")

    monkeypatch.setattr(rendering_check, "check_rendering", broken)
    assert doctor.main(["--only", "rendering", "--only", "python"]) == 1
    assert "FAIL rendering      EGL is missing; apt-get install libegl1" in capsys.readouterr().out


def test_only_the_named_checks_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--only", "python"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.usefixtures("fine_rendering")
def test_an_environment_that_is_named_is_checked_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, sheet = "env.task=gym/tests.envs.own_world:Track-v0", tmp_path / "track.png"
    doctor.main(["--preset", "tiny", task, "--sheet", str(sheet)])
    lines = capsys.readouterr().out.splitlines()
    assert [line[5:].split()[0] for line in lines[: len(CHECKS)]] == CHECKS
    assert {line[5:].split()[0] for line in lines} >= {"env-image", "env-reward", "env-end", "env-speed", "env-sheet"}
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_a_bad_environment_gives_exit_code_1_and_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    task = "env.task=gym/tests.envs.own_world:Endless-v0"
    assert doctor.main(["--preset", "tiny", "--only", "environment", task]) == 1
    assert "FAIL env " in (said := capsys.readouterr().out)
    assert "set env.time_limit" in said


def test_an_environment_that_crashes_is_a_line_and_leaves_the_doctor_alive(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    task, sheet = "env.task=gym/tests.envs.own_world:Crashing-v0", str(tmp_path / "no.png")
    assert doctor.main(["--preset", "tiny", "--only", "environment", "--sheet", sheet, task]) == 1
    said = capfd.readouterr()
    assert said.out.startswith("FAIL env            the process that played it was killed by SIGSEGV  -> mend")
    assert "SKIP env-sheet" in said.out
    assert "own_world.py" in said.err  # where it crashed


def test_a_sheet_is_drawn_of_an_environment_that_fails_a_check_and_not_without_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, sheet = "env.task=gym/tests.envs.own_world:Track-v0", tmp_path / "track.png"
    line = ["--preset", "tiny", "--only", "environment", "--sheet", str(sheet)]
    assert doctor.main([*line, task, "env.success_key=solved"]) == 1
    assert f"OK   env-sheet      {sheet}: gym/tests.envs.own_world:Track-v0 under random" in capsys.readouterr().out
    assert sheet.read_bytes().startswith(b"\x89PNG")
    sheet.unlink()
    assert doctor.main([*line, "env.task=gym/tests.envs.own_world:Broken-v0"]) == 1
    assert f"SKIP env-sheet      {sheet} is not written: there are no frames" in capsys.readouterr().out
    assert not sheet.exists()


def test_an_unknown_check_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        doctor.main(["--only", "rendring"])
    assert leaving.value.code == 2
    assert "no such check; there are python, packages, rendering" in capsys.readouterr().err


def test_a_broken_package_is_a_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # makes `import ray` raise
    assert doctor.main(["--only", "ray"]) == 1
    line = capsys.readouterr().out
    assert line.startswith("FAIL ray ")
    assert "reinstall" in line


def test_a_wrong_override_is_refused() -> None:
    with pytest.raises(ConfigError, match="replay.capacity"):
        doctor.main(["replay.capacity=3"])


@pytest.mark.parametrize(
    ("upright", "frames_per_second", "status"), [(True, 40.0, "OK"), (True, 4.0, "WARN"), (False, 40.0, "FAIL")]
)
def test_rendering_is_judged_by_orientation_and_speed(
    monkeypatch: pytest.MonkeyPatch, upright: bool, frames_per_second: float, status: str
) -> None:
    report = RenderingReport("egl", "llvmpipe", frames_per_second, upright)
    monkeypatch.setattr(rendering_check, "check_rendering", lambda quality, image_size: report)
    assert doctor.check_rendering(RunConfig()).status == status


@pytest.mark.parametrize(
    ("device", "drawing", "chosen", "driver", "status"),
    [
        ("NVIDIA H200/PCIe/SSE2", 2, 2, True, "OK"),
        ("NVIDIA H200/PCIe/SSE2", 0, 2, True, "FAIL"),
        ("NVIDIA H200/PCIe/SSE2", None, 2, True, "OK"),  # a driver that does not tell
        ("llvmpipe (LLVM 19.1.7, 256 bits)", 3, 2, True, "FAIL"),
        ("llvmpipe (LLVM 19.1.7, 256 bits)", 0, None, True, "WARN"),
        ("llvmpipe (LLVM 19.1.7, 256 bits)", 0, None, False, "OK"),
    ],
)
def test_rendering_is_judged_by_the_device_that_draws(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    device: str,
    drawing: int | None,
    chosen: int | None,
    driver: bool,
    status: str,
) -> None:
    report = RenderingReport("egl", device, 900.0, upright=True, egl_device=drawing, cuda=0, chosen=chosen)
    monkeypatch.setattr(rendering_check, "check_rendering", lambda quality, image_size: report)
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", tmp_path if driver else tmp_path / "none")
    check = doctor.check_rendering(RunConfig())
    assert check.status == status
    assert (f"(EGL device {drawing}, CUDA 0)" in check.finding) == (drawing is not None)
    assert ("EGL device 2 should draw" in check.finding) == (status == "FAIL")


@pytest.mark.render
def test_rendering_is_checked_for_real() -> None:
    check = doctor.check_rendering(load_config("tiny", None, ["env.render_quality=fast"]))
    assert "frames/s at quality fast, upright" in check.finding


@pytest.mark.parametrize(("gib", "status"), [(0.4, "OK"), (0.6, "WARN"), (1.5, "FAIL")])
def test_the_replay_buffer_is_judged_against_the_memory(
    monkeypatch: pytest.MonkeyPatch, gib: float, status: str
) -> None:
    monkeypatch.setattr(doctor, "memory_limit", lambda: doctor.GIB)
    check = doctor.check_memory(with_capacity(int(gib * doctor.GIB / step_bytes(RunConfig()))))
    assert check.status == status


def test_the_remedy_for_too_large_a_replay_buffer_is_one_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "memory_limit", lambda: doctor.GIB)
    override = doctor.check_memory(with_capacity(10**7)).remedy.split()[0]
    assert doctor.check_memory(load_config("tiny", None, [override])).status == "OK"


@pytest.mark.parametrize(("free_gib", "status"), [(100, "OK"), (3, "WARN"), (0.5, "FAIL")])
def test_free_space_is_judged_against_what_a_run_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_gib: float, status: str
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: DiskUsage(0, 0, free_gib * doctor.GIB))
    assert doctor.check_disk(with_capacity(10_000), tmp_path).status == status


@pytest.mark.parametrize(("share", "status"), [(0.5, "OK"), (0.1, "WARN")])
def test_shared_memory_is_judged_against_rays_object_store(
    monkeypatch: pytest.MonkeyPatch, share: float, status: str
) -> None:
    monkeypatch.setattr(doctor, "memory_limit", lambda: doctor.GIB)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: DiskUsage(share * doctor.GIB, 0, 0))
    assert doctor.check_shared_memory().status == status


@pytest.mark.parametrize(
    ("limits", "status", "remedy"),
    [
        ((1024, 4096), "WARN", "ulimit -n 4096"),
        ((1024, 1024), "WARN", "let root raise the limit"),
        ((65536, 65536), "OK", ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), "OK", ""),
    ],
)
def test_the_limit_on_open_files_is_judged(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], status: str, remedy: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits)
    check = doctor.check_open_files()
    assert check.status == status
    assert check.remedy.startswith(remedy) if remedy else not check.remedy


def write_distribution(folder: Path, name: str, requirements: list[str]) -> None:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {r}" for r in requirements)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("requirement", "status", "finding"),
    [
        ("numpy>=1.0", "OK", "1 of 1 requirements met"),
        ("numpy>=99", "FAIL", "tested >=99"),
        ("no-such-package-at-all", "FAIL", "no-such-package-at-all missing"),
        ("no-such-package-at-all; extra == 'dev'", "OK", "0 of 0"),
    ],
)
def test_packages_are_compared_with_the_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requirement: str, status: str, finding: str
) -> None:
    write_distribution(tmp_path, "sample-for-doctor", [requirement])
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.check_packages("sample-for-doctor")
    assert check.status == status
    assert finding in check.finding


def test_requirements_of_a_tree_that_is_not_installed_are_unknown() -> None:
    assert doctor.check_packages("never-installed-anywhere").status == "WARN"


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({}, "OK"),
        ({"RAY_ADDRESS": "head:6379"}, "WARN"),
        ({"RAY_ADDRESS": "head:6379", "RAY_AUTH_MODE": "token"}, "FAIL"),
        ({"RAY_ADDRESS": "head:6379", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"}, "OK"),
    ],
)
def test_an_existing_cluster_wants_a_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], status: str
) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "no_token"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check = doctor.check_cluster(RunConfig())
    assert check.status == status
    assert "secret" not in check.finding + check.remedy


@pytest.mark.cluster
def test_ray_is_started_and_stopped_when_asked() -> None:
    import ray

    check = doctor.check_ray(start=True)
    assert check.status == "OK"
    assert "starts, runs a task and stops" in check.finding
    assert not ray.is_initialized()


def test_dry_run_prints_the_configuration_and_checks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--preset", "tiny", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("method: prelar\nseed: 0\n")
    assert "rendering  " not in output
