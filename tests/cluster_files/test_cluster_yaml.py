from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

FILE = Path(__file__).parents[2] / "cluster" / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def start_command(config: dict[str, Any], role: str) -> str:
    """The one command of a role that starts Ray, environment included."""
    (command,) = [line for line in config[f"{role}_start_ray_commands"] if "ray start" in line]
    return command


def test_ray_up_accepts_the_file(cluster):
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["max_workers"] == len(cluster["provider"]["worker_ips"])
    (node_type,) = prepared["available_node_types"].values()
    assert node_type["min_workers"] == prepared["max_workers"]  # every machine listed is used


def test_ray_up_refuses_a_misspelt_section(cluster):
    cluster["setup_comands"] = cluster.pop("setup_commands")
    with pytest.raises(Exception, match="setup_comands"):
        validate_config(prepare_config(cluster))


@pytest.mark.parametrize("role", ["head", "worker"])
def test_every_option_of_ray_start_exists(cluster, role: str):
    command = start_command(cluster, role)
    arguments = shlex.split(command.partition("ray start ")[2])
    start.make_context("start", arguments)  # parses, runs nothing; raises NoSuchOption


@pytest.mark.parametrize("role", ["head", "worker"])
def test_every_node_uses_the_token(cluster, role: str):
    before, _, _ = start_command(cluster, role).partition("; ray start")
    assert "RAY_AUTH_MODE=token" in shlex.split(before)
    assert before.startswith("export ")
    assert cluster["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


def test_the_head_pins_autoscaler_1_and_notices_a_lost_node_within_seconds(cluster):
    exports = dict(
        word.split("=") for word in shlex.split(start_command(cluster, "head").partition(";")[0]) if "=" in word
    )
    assert exports["RAY_enable_autoscaler_v2"] == "0"
    for name in ("initial_delay_ms", "period_ms", "timeout_ms"):
        assert exports[f"RAY_health_check_{name}"] == "1000"
    assert exports["RAY_health_check_failure_threshold"] == "3"
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start_command(cluster, "head")


def test_fixed_ports_are_the_same_on_head_and_workers_and_never_clash(cluster):
    def ports(role: str) -> dict[str, int]:
        found = re.findall(r"--([a-z-]*port)=(\d+)", start_command(cluster, role))
        return {name: int(port) for name, port in found}

    head, worker = ports("head"), ports("worker")
    assert {"metrics-export-port", "node-manager-port", "object-manager-port"} <= worker.keys()
    assert {name: head[name] for name in worker} == worker
    assert len(set(head.values())) == len(head)
    reserved = set(head.values()) - {head["min-worker-port"], head["max-worker-port"]}
    assert not any(head["min-worker-port"] <= port <= head["max-worker-port"] for port in reserved)


def test_workers_join_the_head_at_its_port(cluster):
    assert "--address=$RAY_HEAD_IP:6379" in start_command(cluster, "worker")
    assert "--port=6379" in start_command(cluster, "head")


def test_addresses_in_the_file_are_placeholders_of_the_documentation_range(cluster):
    addresses = [cluster["provider"]["head_ip"], *cluster["provider"]["worker_ips"]]
    assert all(address.startswith("192.0.2.") for address in addresses)
    assert len(set(addresses)) == len(addresses)
