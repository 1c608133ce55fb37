from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from prelar_ray.study.tune import CHECKPOINT_SECONDS

FOLDER = Path(__file__).parents[2] / "cluster"
FILES = ["cluster.yaml", "single-node.yaml"]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


@pytest.fixture(params=FILES)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


FAKE_RAY = """\
#!/bin/sh
echo "$@" >> {folder}/calls
echo "{says}"
env | grep -E '^(RAY_|MUJOCO|PYOPENGL)' >> {folder}/environment
[ "$1" = stop ] || [ "$(grep -c ^start {folder}/calls)" -ge {succeeds} ]
"""


def started(tmp_path: Path, *words: str, succeeds: int = 1, says: str = "") -> tuple[list[str], dict[str, str], int]:
    """What start.sh calls `ray` with, in which environment, and its exit code; `ray start` works the n-th time."""
    fake = tmp_path / "ray"
    fake.write_text(FAKE_RAY.format(folder=tmp_path, succeeds=succeeds, says=says))
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", str(FOLDER / "start.sh"), *words], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True
    )
    environment = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines())
    return (tmp_path / "calls").read_text().splitlines(), environment, done.returncode


def test_ray_up_accepts_the_file(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["max_workers"] == len(cluster["provider"]["worker_ips"])
    (node_type,) = prepared["available_node_types"].values()
    assert node_type["min_workers"] == prepared["max_workers"]  # every machine listed is used


def test_ray_up_refuses_a_misspelt_section(cluster: dict[str, Any]) -> None:
    cluster["setup_comands"] = cluster.pop("setup_commands")
    with pytest.raises(Exception, match="setup_comands"):
        validate_config(prepare_config(cluster))


def test_both_files_install_and_start_alike() -> None:
    several, single = (read(name) for name in FILES)
    for section in ("file_mounts", "head_start_ray_commands"):
        assert several[section] == single[section]
    assert "start.sh worker $RAY_HEAD_IP" in several["worker_start_ray_commands"][-1]


def test_package_and_token_are_copied(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert cluster["file_mounts"]["~/prelar-ray/package"] == "dist"


def test_addresses_in_the_file_are_placeholders_of_the_documentation_range(cluster: dict[str, Any]) -> None:
    addresses = [cluster["provider"]["head_ip"], *cluster["provider"]["worker_ips"]]
    assert all(address.startswith("192.0.2.") for address in addresses)
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize("words", [("head",), ("worker", "10.0.0.1")])
def test_every_option_of_ray_start_exists(tmp_path: Path, words: tuple[str, ...]) -> None:
    (call,), _, code = started(tmp_path, *words)
    assert code == 0
    command, *arguments = shlex.split(call)
    assert command == "start"
    start.make_context("start", arguments)  # parses, runs nothing; raises NoSuchOption


def test_an_option_given_to_the_script_wins(tmp_path: Path) -> None:
    (call,), _, _ = started(tmp_path, "head", "--port=7000", "--object-store-memory=1000000000")
    parameters = start.make_context("start", shlex.split(call)[1:]).params
    assert (parameters["port"], parameters["object_store_memory"]) == (7000, 1_000_000_000)


def test_the_head_pins_autoscaler_1_and_notices_a_lost_node_within_seconds(tmp_path: Path) -> None:
    _, environment, _ = started(tmp_path, "head")
    assert environment["RAY_enable_autoscaler_v2"] == "0"
    period, timeout, failures = (
        int(environment[f"RAY_health_check_{name}"]) for name in ("period_ms", "timeout_ms", "failure_threshold")
    )
    assert failures * (period + timeout) <= 15_000
    assert int(environment["RAY_health_check_initial_delay_ms"]) >= 10_000  # a loaded machine takes long to start


@pytest.mark.parametrize("words", [("head",), ("worker", "10.0.0.1")])
def test_every_node_uses_the_token_and_draws_without_a_display(tmp_path: Path, words: tuple[str, ...]) -> None:
    _, environment, _ = started(tmp_path, *words)
    assert (environment["RAY_AUTH_MODE"], environment["MUJOCO_GL"]) == ("token", "egl")


def test_a_start_that_fails_is_tried_again(tmp_path: Path) -> None:
    calls, _, code = started(tmp_path, "worker", "10.0.0.1", succeeds=3)
    assert [call.partition(" ")[0] for call in calls] == ["start", "stop", "start", "stop", "start"]
    assert code == 0


def test_a_second_start_of_a_head_ends_nothing(tmp_path: Path) -> None:
    calls, _, code = started(tmp_path, "head", succeeds=9, says="but is already running at 10.0.0.1:6379")
    assert [call.partition(" ")[0] for call in calls] == ["start"]
    assert code == 1


def test_jobs_that_are_stopped_have_time_for_their_checkpoints(tmp_path: Path) -> None:
    assert float(started(tmp_path, "head")[1]["RAY_JOB_STOP_WAIT_TIME_S"]) >= CHECKPOINT_SECONDS


def test_a_start_that_always_fails_is_a_failure(tmp_path: Path) -> None:
    calls, _, code = started(tmp_path, "worker", "10.0.0.1", succeeds=9)
    assert sum(call.startswith("start") for call in calls) == 5
    assert code == 1


def test_fixed_ports_are_the_same_on_head_and_workers_and_never_clash(tmp_path: Path) -> None:
    def ports(role: str, *words: str) -> dict[str, int]:
        (tmp_path / role).mkdir()
        (call,), _, _ = started(tmp_path / role, role, *words)
        return {name: int(port) for name, port in re.findall(r"--([a-z-]*port)=(\d+)", call)}

    head, worker = ports("head"), ports("worker", "10.0.0.1")
    assert {"metrics-export-port", "node-manager-port", "object-manager-port"} <= worker.keys()
    assert {name: head[name] for name in worker} == worker
    assert len(set(head.values())) == len(head)
    reserved = set(head.values()) - {head["min-worker-port"], head["max-worker-port"]}
    assert not any(head["min-worker-port"] <= port <= head["max-worker-port"] for port in reserved)


@pytest.mark.parametrize(("given", "joined"), [("10.0.0.1", "10.0.0.1:6379"), ("10.0.0.1:7000", "10.0.0.1:7000")])
def test_workers_join_the_head_at_its_port(tmp_path: Path, given: str, joined: str) -> None:
    (call,), _, _ = started(tmp_path, "worker", given)
    assert f"--address={joined}" in call
    (tmp_path / "head").mkdir()
    assert "--port=6379" in started(tmp_path / "head", "head")[0][0]


def test_an_installed_package_is_left_as_it_is_and_earlier_ones_are_deleted(tmp_path: Path) -> None:
    """What copies a package deletes no earlier one; ``package.txt`` says which is meant."""
    package, venv = tmp_path / "prelar-ray" / "package", tmp_path / "prelar-ray" / ".venv" / "bin"
    package.mkdir(parents=True)
    venv.mkdir(parents=True)
    wheel, old = package / "prelar_ray-0.1.0+gnew-py3-none-any.whl", package / "prelar_ray-0.1.0+gold-py3-none-any.whl"
    for path in (wheel, old, package / "constraints.txt"):
        path.write_text(path.name)
    (package / "package.txt").write_text(f"{wheel.name}\n")
    shutil.copy(FOLDER / "install.sh", package)
    (venv / "prelar-ray").write_text("#!/bin/sh\necho prelar-ray 0.1.0+gnew\n")
    (venv / "prelar-ray").chmod(0o755)
    digest = hashlib.sha256((wheel.name + "constraints.txt").encode()).hexdigest()
    (tmp_path / "prelar-ray" / "installed").write_text(f"{digest}  -\n")
    (tmp_path / ".bashrc").write_text("alias ll='ls -l'\n")
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for _ in range(2):
        command = ["bash", str(package / "install.sh"), "--storage", str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "installing" not in done.stdout
    assert wheel.exists()
    assert not old.exists()
    assert (tmp_path / ".bashrc").read_text().count("prelar-ray/environment") == 2  # one line names it twice
    assert f"PRELAR_STORAGE={tmp_path}" in (tmp_path / "prelar-ray" / "environment").read_text()
