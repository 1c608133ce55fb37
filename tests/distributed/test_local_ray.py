from __future__ import annotations

import ipaddress
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from prelar_ray.config import RunConfig
from prelar_ray.distributed.connection import connect
from prelar_ray.distributed.local_ray import check_temporary_folder
from prelar_ray.errors import ResourceError


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a Ray is an error of the test."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started"))


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_whose_path_is_too_long_for_sockets_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    end = len(f"/ray/session_2026-11-27_08-57-39_658545_{os.getpid()}/sockets/plasma_store")
    for size, too_long in ((107 - end, False), (108 - end, True), (200, True)):
        folder = "/tmp/".ljust(size, "x")
        monkeypatch.setenv(variable, folder)
        if not too_long:
            check_temporary_folder()
            continue
        with pytest.raises(ResourceError) as caught:
            connect(RunConfig(cluster="auto"))
        assert str(caught.value) == (
            f"cluster=auto: {variable}={folder}: too long by {size + end - 107} bytes; Ray's sockets below it may have "
            "paths of 107; set RAY_TMPDIR to a folder that you can write, with a short path; or cluster=none, which "
            "does without Ray"
        )


@pytest.mark.usefixtures("no_ray")
def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("")
    monkeypatch.setenv("TMPDIR", f"{file}/x")
    monkeypatch.setattr("prelar_ray.distributed.local_ray.SOCKET_BYTES", 500)
    with pytest.raises(ResourceError, match=rf"^cluster=auto: TMPDIR={file}/x: {file} cannot be written, .*RAY_TMPDIR"):
        connect(RunConfig(cluster="auto"))


@pytest.mark.usefixtures("no_ray")
def test_a_home_that_cannot_be_written_is_told_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match=r"^cluster=auto: .*/\.ray/auth_token: Not a directory; .*let HOME"):
        connect(RunConfig(cluster="auto"))


LISTENING = """
import json, time
import psutil, ray
from prelar_ray.config import RunConfig
from prelar_ray.distributed.connection import connected

def listening():
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        for socket in process.net_connections(kind="inet"):
            if socket.status == psutil.CONN_LISTEN:
                yield process.name(), socket.laddr.ip

with connected(RunConfig(cluster="auto", dashboard=False)):
    address = ray.get(ray.remote(lambda: ray.util.get_node_ip_address()).remote())
    deadline = time.monotonic() + 60
    while len(dict(found := list(listening()))) < 4 and time.monotonic() < deadline:
        time.sleep(0.5)  # its agents follow
print(json.dumps({"address": address, "found": found}))
"""
"""Prints the address of a local Ray's node, and where it listens, by process."""


def is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


@pytest.mark.cluster
def test_a_local_ray_listens_to_this_machine_alone_and_its_token_is_private(tmp_path: Path) -> None:
    token = tmp_path / "token"
    # In a process of its own: one that has started a Ray before remembers that token.
    environment = os.environ | {"RAY_AUTH_TOKEN_PATH": str(token)}
    done = subprocess.run(
        [sys.executable, "-c", LISTENING], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["address"] == "127.0.0.1"
    assert len(dict(said["found"])) >= 4
    assert [where for where in said["found"] if not is_loopback(where[1])] == []
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
