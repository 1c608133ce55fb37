from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prelar_ray.cluster import agent
from prelar_ray.cluster.judgements import (
    ANY_PORT,
    GIB,
    UNSEEN,
    judge_clock,
    judge_connections,
    judge_disk,
    judge_gpus,
    judge_joined,
    judge_path,
    judge_shared_memory,
    judge_token,
    judge_tools,
    judge_versions,
)

TWO_GPUS = "0, NVIDIA GeForce RTX 3090, 560.35.03, 24576, 1\n1, NVIDIA GeForce RTX 3090, 560.35.03, 24576, {used}\n"


def facts(**changed: Any) -> dict[str, Any]:
    usual = {"shm_total": 64 * GIB, "shm_free": 63 * GIB, "disk_free": 100 * GIB, "installed": True, "raylet": False}
    tools = {"rsync": True, "pythons": ["python3"], "python": "3.11.2"}
    return {**usual, **tools, "token": "abc", "token_mode": 0o600, **changed}


@pytest.mark.parametrize(
    ("skew", "uncertainty", "status"),
    [(0.2, 0.1, "OK"), (-3.0, 2.5, "OK"), (3.0, 0.1, "WARN"), (-90.0, 0.1, "FAIL")],
)
def test_a_clock_is_wrong_by_what_is_certain(skew: float, uncertainty: float, status: str) -> None:
    check = judge_clock(skew, uncertainty)
    assert check.status == status
    assert ("ahead" if skew > 0 else "behind") in check.finding


def test_a_missing_command_is_a_failure_only_where_the_package_is_installed() -> None:
    assert judge_path(False, []).status == "WARN"
    own = "/home/ray/prelar-ray/.venv/bin"
    assert judge_path(True, [f"{own}/ray"]).finding == "prelar-ray not on the PATH of bash --login -i"
    assert judge_path(True, [f"{own}/ray", f"{own}/prelar-ray"]).status == "OK"
    shadowed = judge_path(True, ["/opt/conda/bin/ray", f"{own}/prelar-ray"])
    assert (shadowed.status, shadowed.finding) == (
        "WARN",
        "/opt/conda/bin/ray comes first on the PATH; jobs would run it",
    )


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, "OK"),
        ({"rsync": False}, "FAIL"),
        ({"pythons": []}, "OK"),
        ({"pythons": [], "installed": False}, "FAIL"),
    ],
)
def test_what_an_installation_needs_must_be_there(changed: dict[str, Any], status: str) -> None:
    assert judge_tools(facts(**changed)).status == status


def test_an_installed_package_that_does_not_run_is_a_failure() -> None:
    check = judge_versions(None, {}, "on the head", "ModuleNotFoundError: No module named 'torch'")
    assert check.status == "FAIL"
    assert "No module named" in check.finding


def test_a_version_that_differs_is_named_with_both() -> None:
    reference = {"prelar-ray": "0.1.0+gabc", "ray": "2.60.0", "python": "3.11.7"}
    assert judge_versions(dict(reference), reference, "on the head").status == "OK"
    check = judge_versions({**reference, "ray": "2.59.1"}, reference, "on the head")
    assert (check.status, check.finding) == ("FAIL", "ray 2.59.1, 2.60.0 on the head")
    assert judge_versions(None, reference, "on the head").status == "SKIP"
    other = judge_versions({**reference, "python": "3.12.3"}, reference, "on the head")
    assert (other.status, "install the same Python" in other.remedy) == ("FAIL", True)


def test_gpus_are_told_with_driver_and_free_memory() -> None:
    check = judge_gpus(0, TWO_GPUS.format(used=200), False)
    assert (check.status, check.finding) == (
        "OK",
        "2 x NVIDIA GeForce RTX 3090, driver 560.35.03, 23.8 GiB free at least",
    )


def test_a_gpu_whose_memory_is_in_use_is_named() -> None:
    check = judge_gpus(0, TWO_GPUS.format(used=12288), False)
    assert check.status == "WARN"
    assert "in use on GPU 1: 12.0 of 24.0 GiB" in check.finding


@pytest.mark.parametrize(
    ("code", "output", "elsewhere", "status"),
    [
        (127, "", False, "OK"),
        (127, "", True, "WARN"),
        (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", False, "FAIL"),
        (0, "No devices were found", False, "FAIL"),
        (0, "0, NVIDIA GeForce RTX 3090, 560.35.03, [Unknown Error], [N/A]", False, "FAIL"),
        (0, f"Welcome to gpu1, user, it, is, late\n{TWO_GPUS.format(used=1)}", False, "OK"),
        (None, "", False, "FAIL"),
    ],
)
def test_a_machine_without_a_working_gpu(code: int | None, output: str, elsewhere: bool, status: str) -> None:
    assert judge_gpus(code, output, elsewhere).status == status


def test_a_machine_with_a_gpu_and_no_driver_is_not_taken_for_one_without() -> None:
    check = judge_gpus(127, "", elsewhere=False, devices=2)
    assert (check.status, "2 NVIDIA device(s) on the bus" in check.finding) == ("FAIL", True)


def test_graphics_devices_of_the_bus_are_counted(tmp_path: Path) -> None:
    for name, vendor, kind in (("a", "0x10de", "0x030200"), ("b", "0x10de", "0x040300"), ("c", "0x8086", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    (tmp_path / "gone").mkdir()
    assert agent.nvidia_devices(str(tmp_path)) == 1
    assert agent.nvidia_devices(str(tmp_path / "nowhere")) == 0


@pytest.mark.parametrize(
    ("changed", "store", "status"),
    [
        ({}, 16 * GIB, "OK"),
        ({"shm_total": 8 * GIB, "shm_free": 8 * GIB}, 16 * GIB, "FAIL"),  # docker's is smaller still
        ({"shm_free": 4 * GIB}, 16 * GIB, "FAIL"),
        ({"shm_free": 4 * GIB, "raylet": True}, 16 * GIB, "OK"),  # its own object store
        ({"shm_free": 1, "raylet": True}, 16 * GIB, "FAIL"),
        ({}, 0, "OK"),
    ],
)
def test_shared_memory_must_hold_the_object_store(changed: dict[str, Any], store: int, status: str) -> None:
    assert judge_shared_memory(facts(**changed), store).status == status


def test_disk_must_hold_an_installation_until_it_is_there() -> None:
    assert judge_disk(facts(disk_free=5 * GIB)).status == "OK"
    assert judge_disk(facts(disk_free=5 * GIB, installed=False)).status == "WARN"
    assert judge_disk(facts(disk_free=GIB // 2)).status == "FAIL"


@pytest.mark.parametrize(
    ("changed", "mine", "status"),
    [
        ({}, "abc", "OK"),
        ({"token": None}, "abc", "WARN"),
        ({"token": None, "raylet": True}, "abc", "FAIL"),
        ({"token": "def"}, "abc", "FAIL"),
        ({"token_mode": 0o644}, "abc", "FAIL"),
    ],
)
def test_a_token_must_be_that_of_here_and_private(changed: dict[str, Any], mine: str, status: str) -> None:
    assert judge_token(facts(**changed), mine).status == status


def test_what_is_blocked_is_told_by_port_with_its_use_and_from_where() -> None:
    failed = [("a", "c", 6381, "no answer"), ("b", "c", 6381, "no answer"), ("a", "c", 22, "connection refused")]
    check = judge_connections(failed, [], {6381: "objects", 22: "ssh"}, 20)
    assert check.status == "FAIL"
    assert check.finding == "not reached at 6381 (objects) from a, b: no answer; 22 (ssh) from a: connection refused"


def test_ports_that_only_ranks_on_several_machines_need_are_no_failure() -> None:
    check = judge_connections([("a", "b", 40001, "no answer")], [], {40001: ANY_PORT}, 20)
    assert (check.status, "learner.ranks" in check.remedy) == ("WARN", True)
    both = [("a", "b", 40001, "no answer"), ("a", "b", 6381, "no answer")]
    assert judge_connections(both, [], {40001: ANY_PORT, 6381: "objects"}, 20).status == "FAIL"


def test_a_port_that_something_else_has_comes_first() -> None:
    check = judge_connections([], [8265], {8265: "dashboard and jobs"}, 20)
    assert (check.status, check.finding) == ("FAIL", "another process listens to 8265 (dashboard and jobs)")


@pytest.mark.parametrize(
    ("raylet", "joined", "pending", "status", "says"),
    [
        (False, None, "", "OK", "no Ray runs yet"),
        (True, None, "", "WARN", "none on the head"),
        (True, True, "", "OK", "a node of the running cluster"),
        (True, False, "", "FAIL", "of another cluster"),
        (False, False, "", "FAIL", "not a node, and no Ray runs here"),
        (False, False, "setting-up", "WARN", "the launcher is at work: setting-up"),
        (False, False, UNSEEN, "WARN", "the launcher is at work: nothing of it yet"),
        (False, False, "uninitialized", "FAIL", "which tries a machine once, says uninitialized"),
    ],
)
def test_why_a_machine_is_no_node(raylet: bool, joined: bool | None, pending: str, status: str, says: str) -> None:
    check = judge_joined("gpu2", facts(raylet=raylet), joined, pending)
    assert check.status == status
    assert says in check.finding
    if status == "FAIL":
        assert "prelar-ray cluster start FILE gpu2" in check.remedy
