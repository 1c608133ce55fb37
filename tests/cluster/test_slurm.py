"""`sbatch cluster/slurm.sh` on a Slurm of two hosts made of namespaces: a study, its requeue and its end."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.hosts import Host, Hosts, hosts, missing, run, wait_for
from tests.cluster.test_ray_up import ROOT, STUDY

needs = missing() or ("" if shutil.which("slurmctld") and shutil.which("slurmd") else "needs slurmctld and slurmd")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.faults,
    pytest.mark.nightly,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(needs), reason=needs or "Slurm can be started"),
]

SLURM = """\
ClusterName=test
SlurmctldHost={head.name}({head.address})
AuthType=auth/none
CredType=cred/none
SlurmUser=root
StateSaveLocation=/tmp/slurmctld
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/tmp/slurmctld.log
SlurmdLogFile=/tmp/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
CONF = "SLURM_CONF=/mnt/shared/slurm.conf"


@pytest.fixture
def slurm() -> Iterator[Hosts]:
    """Two hosts with the package and Slurm's daemons, and the project's folder on their shared storage."""
    run("make", "-C", ROOT, "wheel", timeout=300)
    with hosts("head", "worker1") as found:
        lines = [f"NodeName={host.name} NodeAddr={host.address} CPUs=2 RealMemory=4000" for host in found.all]
        (found.shared / "slurm.conf").write_text(SLURM.format(head=found.head, nodes="\n".join(lines)))
        shutil.copytree(ROOT / "cluster", found.shared / "project" / "cluster")
        (found.shared / "study.yaml").write_text(yaml.safe_dump(STUDY | {"concurrent": 2}))
        for host in found.all:
            shutil.copytree(ROOT / "dist", host.root / "prelar-ray" / "package")
            host.run("bash ~/prelar-ray/package/install.sh", timeout=300)
            (host.root / ".ray").mkdir(exist_ok=True)  # homes are shared where Slurm is; here they are not
            (host.root / ".ray" / "auth_token").write_text("0123456789abcdef0123456789abcdef")
            host.run("mkdir -p /tmp/slurmctld /tmp/slurmd")
        found.head.run(f"{CONF} slurmctld")
        for host in found.all:
            host.run(f"{CONF} slurmd -N {host.name}")
        wait_for(lambda: "idle" in found.head.run(f"{CONF} sinfo -h -o '%t %D'", check=False), 60, "idle nodes")
        yield found


def state(head: Host, job: str) -> str:
    found = re.search(r"JobState=(\S+)", head.run(f"{CONF} scontrol show job {job}", check=False))
    return found[1] if found else "gone"


def test_a_study_runs_on_all_nodes_of_a_job_and_resumes_after_its_time_was_over(slurm: Hosts) -> None:
    head, out = slurm.head, slurm.shared / "three"
    small = "RAY_START_OPTIONS=--object-store-memory=100000000"
    options = "--nodes=2 --cpus-per-task=2 --gpus-per-node=0 --mem=2G --time=1:00:00 --output=/mnt/shared/job.log"
    command = "prelar-ray tune /mnt/shared/study.yaml --out /mnt/shared/three"
    said = head.run(f"cd /mnt/shared/project && {CONF} {small} sbatch {options} cluster/slurm.sh {command}")
    job = said.split()[-1]
    log = slurm.shared / "job.log"

    def lines() -> int:
        return sum(path.read_text().count("\n") for path in out.glob("runs/finetune/**/metrics.jsonl"))

    wait_for(lambda: lines() > 20, 400, f"runs at work: {log}", every=1.0)
    text = log.read_text()
    assert "Ray on 2 nodes:" in text
    places = {address for _, address in re.findall(r"\((\S+) pid=\d+(?:, ip=([\d.]+))?\)", text)}
    assert len(places) == 2, places  # trials of the head's node say no address

    head.run(f"{CONF} scancel --signal=USR1 --batch {job}")  # as Slurm does before the time is over
    wait_for(lambda: state(head, job) == "PENDING", 200, f"it is requeued: {log.read_text()[-2000:]}", every=1.0)
    assert not any("raylet" in line for host in slurm.all for line in host.processes())
    head.run(f"{CONF} scontrol update JobId={job} StartTime=now")
    wait_for(lambda: state(head, job) in ("COMPLETED", "FAILED", "gone"), 700, "the study ends", every=3.0)
    assert state(head, job) != "FAILED", log.read_text()[-3000:]
    assert sorted(json.loads(path.read_text())["status"] for path in out.glob("runs/**/run.json")) == ["finished"] * 4
    assert log.read_text().count("Ray on 2 nodes:") == 2
    time.sleep(1)
    assert Path(out / "study.yaml").exists()
