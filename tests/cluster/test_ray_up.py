"""A cluster from `ray up` to `ray down`, on hosts made of namespaces: what docs/cluster.md says, done for real.

The tests follow each other: the later ones need the cluster that the earlier ones brought up. With
``CLUSTER_RESULTS=FOLDER`` their times and what `cluster check` said are written there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.hosts import Host, Hosts, hosts, missing, run, wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.faults,
    pytest.mark.nightly,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(missing()), reason=missing() or "hosts can be made"),
]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FILE = "cluster/cluster.yaml"

STUDY: dict[str, Any] = {
    "name": "three",
    "preset": "tiny",
    "concurrent": 3,
    "settings": {
        "device": "cpu",
        "threads": 1,
        "world_model": {"encoder": {"depth": 4}, "decoder": {"depth": 4}, "inverse_dynamics": {"depth": 4}},
        "checkpoint.every_updates": 20,
        "telemetry.every_updates": 10,
    },
    "pretrain": {
        "videos": {
            "point": {
                "record.tasks": ["prelar/point-reach"],
                "record.policy": "random",
                "record.episodes_per_task": 10,
                "record.frames_per_episode": 60,
            }
        },
        "settings": {"pretrain.updates": 20, "pretrain.validation_every_updates": 20},
    },
    "finetune": {
        "methods": ["prelar"],
        "tasks": ["prelar/point-reach"],
        "seeds": [0, 1, 2],
        "settings": {"finetune.env_steps": 4000, "finetune.random_steps": 700, "finetune.initial_updates": 10},
    },
}


class Results:
    """What is written down of a run of these tests."""

    def __init__(self) -> None:
        self.folder = Path(os.environ["CLUSTER_RESULTS"]) if "CLUSTER_RESULTS" in os.environ else None
        self.seconds: dict[str, float] = {}

    def time(self, what: str, seconds: float) -> None:
        self.seconds[what] = round(seconds, 1)
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "times.json").write_text(json.dumps(self.seconds, indent=1) + "\n")

    def text(self, name: str, text: str) -> None:
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)


@pytest.fixture(scope="module")
def results() -> Results:
    return Results()


@pytest.fixture(scope="module")
def made(results: Results) -> Iterator[Hosts]:
    """Three hosts that nothing is installed on, and the operator with the project's folder, its file edited."""
    run("make", "-C", ROOT, "wheel", timeout=300)
    with hosts("head", "worker1", "worker2") as found:
        project = found.operator.root / "project"
        (project / "cluster").mkdir(parents=True)
        shutil.copytree(ROOT / "dist", project / "dist")
        (project / FILE).write_text(edited((ROOT / FILE).read_text(), found))
        (found.operator.root / ".bashrc").write_text(f'export PATH="{BIN}:$PATH" PYTHONPATH={ROOT}\ncd ~/project\n')
        found.operator.run("umask 077; ray get-auth-token --generate")
        yield found
        if results.folder:
            for host in found.all:
                for log in host.folder.glob("tmp/ray/session_2*/logs/*"):
                    if log.name.startswith(("monitor", "gcs_server", "raylet", "job-driver")):
                        (results.folder / "logs").mkdir(exist_ok=True)
                        shutil.copy(log, results.folder / "logs" / f"{host.name}-{log.parts[-3][-8:]}-{log.name}")


def edited(text: str, found: Hosts) -> str:
    """The project's file with the lines marked EDIT edited, and an object store that fits on a test machine."""
    text = text.replace("192.0.2.10", found.head.address).replace("ssh_user: ray ", "ssh_user: root ")
    text = text.replace("    - 192.0.2.11\n", "".join(f"    - {worker.address}\n" for worker in found.workers))
    assert "192.0.2" not in text
    small = f"--object-store-memory={256 * 2**20}"
    return re.sub(r"(start\.sh (head|worker \S+))", rf"\1 {small}", text)


@pytest.fixture(scope="module")
def up(made: Hosts, results: Results) -> Hosts:
    """The same after `ray up`, with all nodes."""
    began = time.monotonic()
    made.operator.run(f"ray up -y {FILE}", timeout=600)
    results.time("ray up returned", time.monotonic() - began)
    wait_for(lambda: len(alive(made)) == 3, 300, "three nodes", every=1.0)
    results.time("from ray up to all three nodes", time.monotonic() - began)
    return made


def alive(made: Hosts) -> set[str]:
    """Addresses of the nodes that the head knows."""
    asked = 'curl -s -H "Authorization: Bearer $(cat ~/.ray/auth_token)" "http://localhost:8265/api/v0/nodes?limit=100"'
    try:
        nodes = json.loads(made.head.run(asked, check=False))["data"]["result"]["result"]
    except (ValueError, TypeError, KeyError):  # nobody answers yet
        return set()
    return {node["node_ip"] for node in nodes if node["state"] == "ALIVE"}


def check(made: Hosts, *options: str, code: int | None) -> str:
    """What `cluster check` says; it must exit with ``code``, if one is named."""
    words = f"prelar-ray cluster check {FILE} {' '.join(options)}; echo exit $?"
    said = made.operator.run(words, timeout=600)
    assert code is None or said.rstrip().endswith(f"exit {code}"), said
    return said.rpartition("exit")[0]


def test_before_ray_up_the_check_finds_nothing_that_would_keep_a_machine_out(made: Hosts, results: Results) -> None:
    said = check(made, code=0)
    results.text("check-before.txt", said)
    assert re.search(r"WARN 10\.77\.0\.1[012] path +the package is not installed yet", said)
    assert len(re.findall(r"OK +\S+ storage +/mnt/shared, written here and seen by 3 of 3", said)) == 3
    assert len(re.findall(r"OK +\S+ ports +\d+ connections", said)) == 3


def test_ray_up_brings_all_nodes_and_the_check_is_green(up: Hosts, results: Results) -> None:
    assert alive(up) == {host.address for host in up.all}
    began = time.monotonic()
    said = check(up, code=0)
    results.time("cluster check, three machines", time.monotonic() - began)
    results.text("check-healthy.txt", said)
    assert len(re.findall(r"OK +\S+ joined +a node of the running cluster", said)) == 3
    assert len(re.findall(r"OK +\S+ versions +prelar-ray 0\.1\.0\+g", said)) == 3
    assert re.search(r"the head logs in to 2 of 2 workers", said)


def test_installing_again_does_nothing(up: Hosts) -> None:
    stamp = up.workers[0].root / "prelar-ray" / "installed"
    before = stamp.stat().st_mtime_ns, (up.workers[0].root / ".bashrc").read_text()
    said = up.workers[0].run("bash ~/prelar-ray/package/install.sh --storage /mnt/shared")
    assert (stamp.stat().st_mtime_ns, (up.workers[0].root / ".bashrc").read_text()) == before
    assert "installing" not in said


# What is broken on the second worker, how it is mended, and what the check must say.
BREAKS = {
    "wrong key": (
        "mv ~/.ssh/authorized_keys ~/.ssh/away",
        "mv ~/.ssh/away ~/.ssh/authorized_keys",
        r"FAIL 10\.77\.0\.12 ssh +does not accept \S+ for user root .* -> ssh-copy-id",
    ),
    "no ssh server": (
        "kill $(cat /run/sshd.pid)",
        "/usr/sbin/sshd -f /root/sshd_config",
        r"FAIL 10\.77\.0\.12 ssh +no SSH server answers",
    ),
    "wrong token": (
        "cp -p ~/.ray/auth_token ~/kept && echo other > ~/.ray/auth_token",
        "mv ~/kept ~/.ray/auth_token",
        r"FAIL 10\.77\.0\.12 token +differs from the one here",
    ),
    "open token": (
        "chmod 644 ~/.ray/auth_token",
        "chmod 600 ~/.ray/auth_token",
        r"FAIL 10\.77\.0\.12 token +others can read it \(mode 644\)",
    ),
    "other version": (
        "sed -i 's/^Version: /Version: 0.0.9+/' ~/prelar-ray/.venv/lib/python3*/site-packages/prelar_ray-*/METADATA",
        "sed -i 's/^Version: 0.0.9+/Version: /' ~/prelar-ray/.venv/lib/python3*/site-packages/prelar_ray-*/METADATA",
        r"FAIL 10\.77\.0\.12 versions +prelar-ray 0\.0\.9\+\S+, 0\.1\.0\+\S+ in dist and on the head",
    ),
    "ray not on the PATH": (
        "mv ~/.bashrc ~/away",
        "mv ~/away ~/.bashrc",
        r"FAIL 10\.77\.0\.12 path +prelar-ray and ray not on the PATH of bash --login -i",
    ),
    "full shared memory": (
        "dd if=/dev/zero of=/dev/shm/full bs=1M 2>/dev/null || true",
        "rm /dev/shm/full",
        r"FAIL 10\.77\.0\.12 shared-memory  0\.0 of 1\.0 GiB free",
    ),
    "storage that is not shared": (
        "umount /mnt/shared",
        "mount --bind {shared} /mnt/shared",
        r"FAIL 10\.77\.0\.12 storage +/mnt/shared is another folder than on 10\.77\.0\.10, 10\.77\.0\.11",
    ),
    "blocked port": (
        "ip rule add pref 1 lookup local; ip rule del pref 0; "
        "ip rule add pref 0 iif eth0 ipproto tcp dport 6381 blackhole",
        "ip rule del pref 0; ip rule add pref 0 lookup local; ip rule del pref 1",
        r"FAIL 10\.77\.0\.12 ports +not reached at 6381 \(objects\) from 10\.77\.0\.10, 10\.77\.0\.11: no answer",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_check_finds(up: Hosts, results: Results, name: str) -> None:
    broken, mended, says = BREAKS[name]
    worker = up.workers[1]
    worker.run(broken)
    try:
        said = check(up, "--quick", "--failures", code=1)
    finally:
        worker.run(mended.format(shared=up.shared))
    results.text(f"check-{name.replace(' ', '-')}.txt", said)
    assert re.search(says, said), said


def test_a_worker_that_the_launcher_gave_up_is_named_and_started_from_here(up: Hosts, results: Results) -> None:
    worker = up.workers[1]
    worker.run(
        "ray stop --force; mv ~/prelar-ray/.venv/bin/ray ~/prelar-ray/.venv/bin/away"
    )  # so that it cannot start again
    try:
        wait_for(lambda: worker.address not in alive(up), 60, "the head notices", every=1.0)
        given_up = "the launcher, which tries a machine once, says uninitialized"
        # Until then the check says that the launcher is at work, which is no failure.
        wait_for(
            lambda: given_up in check(up, "--quick", "--failures", code=None), 300, "the launcher gives up", every=5.0
        )
        results.text("check-given-up.txt", check(up, "--quick", "--failures", code=1))
    finally:
        worker.run("mv ~/prelar-ray/.venv/bin/away ~/prelar-ray/.venv/bin/ray")
    began = time.monotonic()
    said = up.operator.run(f"prelar-ray cluster start {FILE}", timeout=300)
    results.text("start.txt", said)
    assert f"OK   {worker.address}" in said
    wait_for(lambda: len(alive(up)) == 3, 60, "it is a node again", every=1.0)
    results.time("cluster start, until the worker is a node", time.monotonic() - began)
    assert "FAIL" not in check(up, "--quick", "--failures", code=0)


def test_commands_run_on_the_head_over_ssh(up: Hosts) -> None:
    said = up.operator.run(f"ray exec {FILE} 'RAY_AUTH_MODE=token ray status'", timeout=120)
    assert "3 local.cluster.node" in said
    script = up.operator.root / "project" / "where.py"
    script.write_text("import socket\nprint('on', socket.gethostname())\n")
    assert "on head" in up.operator.run(f"ray submit {FILE} where.py", timeout=120)


def test_a_study_on_all_nodes_survives_a_cut_link_and_the_loss_of_a_node(up: Hosts, results: Results) -> None:
    (up.shared / "three.yaml").write_text(yaml.safe_dump(STUDY))
    out, api = up.shared / "three", f"RAY_AUTH_MODE=token RAY_ADDRESS=http://{up.head.address}:8265"
    command = f"prelar-ray tune /mnt/shared/three.yaml --cluster {up.head.address}:6379 --out /mnt/shared/three"
    began = time.monotonic()
    said = up.operator.run(f"{api} ray job submit --no-wait -- {command}")
    found = re.search(r"raysubmit_\w+", said)
    assert found, said
    job = found[0]

    def log() -> str:
        return up.operator.run(f"{api} ray job logs {job}", check=False)

    def places() -> dict[str, str]:
        """Address of the node of every trial that has spoken; those of the head's node say none."""
        spoken = re.findall(r"\((finetune/\S+) pid=\d+(?:, ip=([\d.]+))?\)", log())
        return {name: address or up.head.address for name, address in spoken}

    def lines() -> dict[str, int]:
        return {path.parent.name: path.read_text().count("\n") for path in out.glob("runs/finetune/**/metrics.jsonl")}

    first = wait_for(lambda: any(out.glob("runs/pretrain/**/metrics.jsonl")), 300, "a first update", every=0.5)
    results.time("from submitting to the first update", first)
    wait_for(lambda: len(lines()) == 3 and min(lines().values()) >= 3, 400, "three trials at work", every=1.0)
    results.time("from submitting to three trials at work", time.monotonic() - began)
    assert len(set(places().values())) >= 2, places()

    # The machine that submitted it is switched off and on again.
    up.operator.stop()
    up.operator.boot()
    assert "RUNNING" in status(up.operator, api, job)

    for host in up.all:
        host.yield_cores()
    # The link of a node with a trial is cut, and restored when the trial is at work elsewhere, or waits for a place.
    busy = [host for host in up.workers if host.address in places().values()]
    cut = busy[0]
    lost = next(name for name, address in places().items() if address == cut.address).rpartition("/")[2]
    up.cut(cut)
    cut_at = time.monotonic()
    noticed = wait_for(lambda: cut.address not in alive(up), 60, "the head notices", every=0.5)
    results.time("a cut link, noticed", noticed)
    time.sleep(10)
    up.restore(cut)
    back = wait_for(lambda: cut.address in alive(up), 200, "the node is back", every=1.0)
    results.time("a restored link, the node is back", back)
    before = lines().get(lost, 0)
    wait_for(lambda: lines().get(lost, 0) > before, 300, f"{lost} makes progress again", every=1.0)
    results.time("from the cut to the first new line of the trial that was lost", time.monotonic() - cut_at)

    # The other worker is switched off for good.
    gone = next(host for host in up.workers if host is not cut)
    gone.stop()
    finished = wait_for(lambda: "succeeded" in status(up.operator, api, job), 900, "the study finishes", every=3.0)
    results.time("from the loss of a node to the end of the study", finished)
    results.text("study.log", log())
    finals = [json.loads(path.read_text())["status"] for path in out.glob("runs/**/run.json")]
    assert finals == ["finished"] * 4


def status(operator: Host, api: str, job: str) -> str:
    return operator.run(f"{api} ray job status {job}", check=False)


def test_ray_down_leaves_nothing(up: Hosts, results: Results) -> None:
    began = time.monotonic()
    up.operator.run(f"ray down -y {FILE}", timeout=300, check=False)
    running = [host for host in up.all if host._process is not None]
    up.operator.run(f"prelar-ray cluster stop {FILE}", timeout=300, check=False)  # one of them is switched off
    assert {host.name: rays(host) for host in running} == {host.name: [] for host in running}
    results.time("ray down until nothing is left", time.monotonic() - began)
    for host in running:
        left = host.run("ls /dev/shm")
        assert not left.strip(), f"{host.name}: {left}"


def test_ray_up_works_again_with_a_machine_that_was_repaired(up: Hosts, results: Results) -> None:
    for host in up.all:
        if host._process is None:
            host.boot()
    began = time.monotonic()
    up.operator.run(f"ray up -y {FILE}", timeout=600)
    wait_for(lambda: len(alive(up)) == 3, 300, "three nodes", every=1.0)
    results.time("ray up again, to all three nodes", time.monotonic() - began)
    up.operator.run(f"ray down -y {FILE}", timeout=300, check=False)


def rays(host: Host) -> list[str]:
    """Processes of Ray on a host."""
    return [line for line in host.processes() if re.search(r"raylet|gcs_server|ray::|ray/dashboard|log_monitor", line)]
