"""The check of a cluster's machines where an `ssh` of these tests stands for the real one: each machine is this one."""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from prelar_ray.cluster import agent
from prelar_ray.cluster.check import check_here, check_machines
from prelar_ray.cluster.connection import Machine, Unreachable, describe_failure
from prelar_ray.cluster.file import ClusterFile, read_cluster_file
from prelar_ray.commands import cluster as command
from prelar_ray.errors import ConfigError
from prelar_ray.telemetry.checks import Check

EXAMPLE_FILE = Path(__file__).parents[2] / "cluster" / "cluster.yaml"

WHEEL = "prelar_ray-0.1.0+gabc-py3-none-any.whl"

SSH = """\
#!/bin/sh
for word; do before=$last; last=$word; case $word in *@*) machine=${{word#*@}};; esac; done
case $machine in
  refusing) echo "root@refusing: Permission denied (publickey)." >&2; exit 255;;
  leaving) echo "noise of a login"; sh -c "$last" | (sed -u {answers}q; kill $$);;
  *) echo "noise of a login"; exec sh -c "$last";;
esac
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterFile:
    """A cluster of two machines that answer, with all that is copied to them."""
    if not shutil.which("ssh-keygen"):
        pytest.skip("needs ssh-keygen")
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    fake.write_text(SSH.format(answers=3))
    fake.chmod(0o755)
    (fake.parent / "rsync").symlink_to(fake)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    (tmp_path / ".ray" / "auth_token").chmod(0o600)
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / WHEEL).touch()
    (tmp_path / "dist" / "package.txt").write_text(f"{WHEEL}\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    return read(tmp_path)


def read(tmp_path: Path, **changed: Any) -> ClusterFile:
    """The project's file with the lines marked EDIT edited, and ``changed`` sections."""
    content = yaml.safe_load(EXAMPLE_FILE.read_text())
    content["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": ["127.0.0.2"]}
    content["auth"] = {"ssh_user": "root", "ssh_private_key": str(tmp_path / "key")}
    content["file_mounts"]["~/prelar-ray/package"] = str(tmp_path / "dist")
    shutil.copy(EXAMPLE_FILE.parent / "start.sh", tmp_path / "dist")
    content["setup_commands"] = [f"bash ~/prelar-ray/package/install.sh --storage {tmp_path}"]
    content |= changed
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_cluster_file(path)


def found(file: ClusterFile) -> dict[tuple[str, str], Check]:
    return {(machine, name): check for machine, name, check in check_machines(file, draw=False)}


def test_the_file_is_read_as_ray_reads_it(file: ClusterFile, tmp_path: Path) -> None:
    assert file.machines == ("127.0.0.1", "127.0.0.2")
    assert file.storage == str(tmp_path)
    assert file.object_store == 16 * 2**30
    assert file.ports["node-manager-port"] == file.head_ports["node-manager-port"] == 6380
    assert "dashboard-port" in file.head_ports.keys() - file.ports.keys()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"provider": {"type": "aws", "region": "x"}}, "provider.type must be local"),
        (
            {"provider": {"type": "local", "head_ip": "127.0.0.1", "worker_ips": ["127.0.0.2", "127.0.0.2"]}},
            "127.0.0.2 is listed twice",
        ),
        ({"provider": {"type": "local", "head_ip": "127.0.0.1", "worker_ips": [3]}}, "must be addresses, one is 3"),
        ({"setup_comands": []}, "`ray up` refuses it: .*setup_comands"),
        ({"auth": {"ssh_user": "root"}}, "auth.ssh_private_key is missing"),
    ],
)
def test_a_file_that_cannot_work_is_refused_in_one_line(
    file: ClusterFile, tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        read(tmp_path, **changed)
    assert "\n" not in str(error.value)


def test_the_files_own_addresses_are_no_machines(tmp_path: Path) -> None:
    checks = dict(check_here(read_cluster_file(EXAMPLE_FILE)))
    assert checks["file"] == Check("FAIL", "192.0.2.10, 192.0.2.11 is an example", "edit the lines marked EDIT")


def test_what_is_copied_from_here_is_checked(file: ClusterFile, tmp_path: Path) -> None:
    assert {name: check.status for name, check in check_here(file)} == dict.fromkeys(
        ("file", "key", "token", "package"), "OK"
    )
    (tmp_path / ".ray" / "auth_token").chmod(0o644)
    (tmp_path / "dist" / WHEEL).unlink()
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", tmp_path / "key"], check=True)
    checks = dict(check_here(file))
    assert "others can read it" in checks["token"].finding
    assert checks["package"].finding.startswith("no package in")
    assert "has a passphrase" in checks["key"].finding


def test_a_missing_tool_is_named_before_it_is_used(file: ClusterFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    checks = dict(check_here(file))
    assert checks["tools"] == Check("FAIL", "no ssh, ssh-keygen, rsync", "sudo apt-get install openssh-client rsync")
    assert "key" not in checks


def test_machines_that_answer_have_a_line_for_each_check(file: ClusterFile, tmp_path: Path) -> None:
    checks = found(file)
    assert {name for machine, name in checks if machine == "127.0.0.2"} >= {
        *(
            "ssh",
            "clock",
            "path",
            "versions",
            "gpu",
            "shared-memory",
            "disk",
            "token",
            "storage",
            "ports",
        ),  # joined: a Ray may run on this machine
    }
    assert checks["127.0.0.2", "storage"] == Check("OK", f"{tmp_path}, written here and seen by 2 of 2")
    assert checks["127.0.0.2", "token"].status == "OK"
    assert checks["127.0.0.2", "clock"].status == "OK"
    assert not list(tmp_path.glob(".check-*"))


def test_a_machine_that_refuses_the_key_does_not_hide_the_others(file: ClusterFile, tmp_path: Path) -> None:
    checks = found(read(tmp_path, provider={"type": "local", "head_ip": "127.0.0.1", "worker_ips": ["refusing"]}))
    assert [name for machine, name in checks if machine == "refusing"] == ["ssh"]
    refused = checks["refusing", "ssh"]
    assert refused.status == "FAIL"
    assert "does not accept" in refused.finding
    assert "ssh-copy-id" in refused.remedy
    assert checks["127.0.0.1", "storage"].status == "OK"


def test_a_machine_that_is_lost_meanwhile_is_named_and_the_others_are_checked(
    file: ClusterFile, tmp_path: Path
) -> None:
    # It answers that it is ready, its facts, the time three times and five commands; then it is gone.
    (tmp_path / "bin" / "ssh").write_text(SSH.format(answers=9))
    checks = found(read(tmp_path, provider={"type": "local", "head_ip": "127.0.0.1", "worker_ips": ["leaving"]}))
    assert checks["leaving", "ssh"].status == "FAIL"
    assert checks["127.0.0.1", "storage"].finding.endswith("seen by 1 of 1")
    assert not list(tmp_path.glob(".check-*"))


def test_the_command_exits_with_1_where_a_check_fails(
    file: ClusterFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path, provider={"type": "local", "head_ip": "127.0.0.1", "worker_ips": ["refusing"]})
    assert command.main(["check", str(tmp_path / "cluster.yaml"), "--quick", "--failures"]) == 1
    said = capsys.readouterr().out
    assert re.search("FAIL refusing +ssh", said)
    assert "2 machines: " in said
    assert "OK   127.0.0.1" not in said


def test_workers_are_not_started_without_a_head(
    file: ClusterFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path, provider={"type": "local", "head_ip": "refusing", "worker_ips": ["127.0.0.2"]})
    with pytest.raises(Exception, match="refusing: no Ray runs on the head, or it does not answer; ray up"):
        command.main(["start", str(tmp_path / "cluster.yaml")])
    with pytest.raises(SystemExit):
        command.main(["start", str(tmp_path / "cluster.yaml"), "three"])
    assert "three: no worker of" in capsys.readouterr().err


def test_ray_is_stopped_on_workers_alone(file: ClusterFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ray = tmp_path / "prelar-ray" / ".venv" / "bin" / "ray"
    ray.parent.mkdir(parents=True)
    ray.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    ray.chmod(0o755)
    read(tmp_path, provider={"type": "local", "head_ip": "127.0.0.1", "worker_ips": ["127.0.0.2", "refusing"]})
    assert command.main(["stop", str(tmp_path / "cluster.yaml")]) == 1
    assert (tmp_path / "calls").read_text() == "stop\n"
    said = capsys.readouterr().out
    assert re.search("OK +127.0.0.2 +no Ray is left", said)
    assert re.search("FAIL +refusing +does not accept", said)


@pytest.mark.parametrize(
    ("said", "finding"),
    [
        ("ssh: Could not resolve hostname gpu2: Name or service not known", "its name is unknown here"),
        ("ssh: connect to host gpu2 port 22: Connection refused", "no SSH server answers"),
        ("ssh: connect to host gpu2 port 22: Connection timed out", "no answer"),
        ("ssh: connect to host gpu2 port 22: No route to host", "no way to it"),
        ("ray@gpu2: Permission denied (publickey,password).", "does not accept /k for user ray"),
        ("bash: line 1: exec: python3: not found", "has no python3"),
        ("kex_exchange_identification: read: Connection reset by peer", "kex_exchange_identification"),
        ("", "ssh ended without a word"),
    ],
)
def test_what_ssh_says_is_told_in_the_words_of_who_has_to_mend_it(said: str, finding: str) -> None:
    failure = describe_failure("gpu2", "ray", Path("/k"), f"banner\n{said}\n" if said else "")
    assert str(failure).startswith(finding)
    assert failure.remedy


def test_an_answer_that_does_not_come_is_an_error_of_that_machine(file: ClusterFile) -> None:
    machine = Machine("one", "root", file.key)
    machine.open()
    try:
        with pytest.raises(Unreachable, match="no answer within 0 s"):
            machine.ask("run", 0.3, command="sleep 5", timeout=9)
    finally:
        machine.close()


def test_a_command_that_takes_too_long_has_no_exit_code(file: ClusterFile) -> None:
    machine = Machine("one", "root", file.key)
    machine.open()
    try:
        assert machine.run("sleep 5", 0.3) == (None, "", "")
        assert machine.run("echo out; echo err >&2; exit 3") == (3, "out", "err")
    finally:
        machine.close()


@pytest.mark.parametrize("rest", ["echo welcome; trap 'echo bye' EXIT", "exec true", "exit 0"])
def test_what_a_login_shell_prints_or_does_is_not_taken_for_output(
    file: ClusterFile, tmp_path: Path, rest: str
) -> None:
    (tmp_path / ".bashrc").write_text(rest + "\n")
    machine = Machine("127.0.0.1", "root", file.key)
    machine.open()
    try:
        code, output, errors = machine.run("echo out")
        assert (code, output) == ((0, "out") if "echo" in rest else (126, ""))
        assert errors == "" or "runs no commands" in errors
    finally:
        machine.close()


def test_listening_again_finds_no_port_taken() -> None:
    try:
        first = agent.listen([0, 0])
        assert agent.listen(first["free"]) == first
    finally:
        for listener in agent.listening.values():
            listener.close()
        agent.listening.clear()


def test_a_path_is_understood_as_a_shell_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert agent.write("~/there") == ""
    assert agent.exists("$HOME/there")
    agent.remove(["~/there"])
    assert not list(tmp_path.iterdir())


def test_the_agent_needs_nothing_but_an_old_python() -> None:
    source = Path(agent.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} <= sys.stdlib_module_names


def test_the_agent_writes_nothing_over_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("content")
    assert agent.write(str(tmp_path / "there")) == "File exists"
    assert (tmp_path / "there").read_text() == "content"
    assert stat.S_ISREG((tmp_path / "there").stat().st_mode)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("WARN gpu          torch 2.13.0 cannot use the GPU of this machine  -> install another", "FAIL"),
        ("OK   gpu          1: NVIDIA GeForce RTX 3090 24 GiB, with bfloat16", "OK"),
        ("Traceback", "FAIL"),
    ],
)
def test_a_gpu_that_the_installed_torch_cannot_use_is_found(file: ClusterFile, said: str, status: str) -> None:
    """Its driver may be too old: learners would run on the CPU without a word."""
    home = Path(os.environ["HOME"])
    scripts = {
        home / "prelar-ray/.venv/bin/python": "echo '{}'",
        home / "prelar-ray/.venv/bin/prelar-ray": f"echo '{said}'",
        home / "bin/nvidia-smi": "echo '0, NVIDIA GeForce RTX 3090, 535.10, 24576, 1'",
    }
    for path, script in scripts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    (home / ".profile").write_text(f'PATH="{home}/bin:$PATH"\n')  # as the checked shell is a login shell
    checks = {name: check for machine, name, check in check_machines(file, draw=True) if machine == "127.0.0.1"}
    assert checks["gpu"].status == "OK"
    assert checks["torch"].status == status
