"""Hosts on this machine, for tests of what crosses a network: network, mount, PID and UTS namespaces, an sshd in each.

Every host has its own address on a bridge, its own ``/root``, ``/tmp``, ``/run``, ``/dev/shm`` and processes; all see
the same ``/mnt/shared``, and the rest of this machine's file system. A further host without sshd is the operator's.
Nothing is connected to a network outside: the bridge is in a namespace of its own too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NETWORK = "10.77.0"
TOOLS = ("ip", "unshare", "nsenter", "mount", "rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd")
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
CLEAN = {"HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb"}
"""The environment of a login; the PATH is the shell's business."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> str:
    """Why hosts cannot be made here; empty where they can."""
    if os.geteuid() != 0:
        return "needs root, to make namespaces"
    if absent := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"needs {', '.join(absent)}"
    tried = subprocess.run(["unshare", "-n", "-m", "-p", "-u", "-f", "true"], capture_output=True, text=True)
    return f"may not make namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def run(*command: object, check: bool = True, timeout: float = 60.0) -> str:
    """Output of a command on this machine."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout)
    assert not (check and done.returncode), f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Host:
    """One of the hosts; ``folder`` holds its ``root`` and ``tmp``."""

    name: str
    address: str
    namespace: str
    folder: Path
    shared: Path
    shm: str = "1g"
    ssh: bool = True
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _pid: int = 0

    @property
    def root(self) -> Path:
        """Its home, as this machine sees it."""
        return self.folder / "root"

    @property
    def link(self) -> str:
        return f"{self.namespace}-b"  # its end of the cable in the bridge's namespace

    def boot(self) -> None:
        """Start its first process, with namespaces and mounts, and its sshd."""
        for name in ("root", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        base = Path(sys.base_prefix)
        python = f"mkdir -p {self.root}/{base.relative_to('/root')} && " if base.is_relative_to("/root") else ""
        python += f"mount --bind {base} {self.root}/{base.relative_to('/root')}" if python else "true"
        init = textwrap.dedent(f"""\
            set -e
            mount --make-rprivate /
            hostname {self.name}
            {python}
            mount -t tmpfs none /mnt && mkdir /mnt/shared && mount --bind {self.shared} /mnt/shared
            mount --rbind {self.root} /root
            mount -t tmpfs -o size={self.shm} none /dev/shm
            mount -t tmpfs none /run && mkdir -p /run/sshd
            mount --bind {self.folder}/tmp /tmp
            {"/usr/sbin/sshd -f /root/sshd_config" if self.ssh else "true"}
            echo ready > /root/booted
            set +e
            while :; do wait; sleep 0.2; done
            """)
        (self.root / "booted").unlink(missing_ok=True)
        command = ["nsenter", f"--net=/run/netns/{self.namespace}"]
        command += ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child=KILL"]
        log = (self.folder / "boot.log").open("wb")
        self._process = subprocess.Popen(
            [*command, "bash", "-c", init], env={**CLEAN, "PATH": PATH}, stdout=log, stderr=log, start_new_session=True
        )
        wait_for(lambda: (self.root / "booted").exists(), 20, f"{self.name}: {self.folder / 'boot.log'}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._pid = int(children[0])

    def run(self, command: str, check: bool = True, timeout: float = 120.0) -> str:
        """Output of a command in a login shell of the host, both streams together."""
        done = subprocess.run(self.inside(command), capture_output=True, text=True, timeout=timeout)
        output = done.stdout + done.stderr
        assert not (check and done.returncode), f"{self.name}: {command}: {done.returncode}\n{output}"
        return output

    def inside(self, command: str) -> list[str]:
        """The words that run a command in a login shell of the host."""
        environment = [f"{name}={value}" for name, value in {**CLEAN, "PATH": PATH}.items()]
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--net", "--pid", "--uts", "--ipc"]
        shell = f"cd /root && . /root/.bashrc 2>/dev/null; {command}"
        return [*enter, "env", "-i", *environment, "bash", "-c", shell]

    def yield_cores(self) -> None:
        """Let other hosts come first on the cores that all share: a real host that starts has cores of its own.

        Ray gives the processes of a node 15 s to start, which takes several seconds of a core.
        """
        self.run("for pid in $(pgrep -x raylet); do echo 15 > /proc/$pid/autogroup; done", check=False)

    def stop(self) -> None:
        """Switch it off: all its processes are gone at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def processes(self) -> list[str]:
        """Command lines of what runs there, without its first process."""
        return [line for line in self.run("ps -eo args --no-headers").splitlines() if "ps -eo" not in line]


class Hosts:
    """The hosts of a cluster, head first, and the operator; made by :func:`hosts`."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.prefix = f"pr{os.getpid() % 10000}"
        self.shared = folder / "shared"
        self.shared.mkdir(parents=True)
        self.switch = f"{self.prefix}sw"
        self.all = [
            Host(name, f"{NETWORK}.{index + 10}", f"{self.prefix}{index}", folder / name, self.shared)
            for index, name in enumerate(names)
        ]
        self.operator = Host(
            "operator", f"{NETWORK}.2", f"{self.prefix}op", folder / "operator", self.shared, ssh=False
        )

    @property
    def head(self) -> Host:
        return self.all[0]

    @property
    def workers(self) -> list[Host]:
        return self.all[1:]

    def boot(self) -> None:
        """Make the network and start all hosts."""
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self.switch, "address", "add", f"{NETWORK}.1/24", "dev", "br0")
        run("ip", "-n", self.switch, "link", "set", "br0", "up")
        key = self.folder / "id_ed25519"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        for host in [*self.all, self.operator]:
            self._connect(host)
            (host.root / ".ssh").mkdir(parents=True, mode=0o700)
            (host.root / ".ssh" / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
            (host.root / ".ssh" / "authorized_keys").chmod(0o600)
            if host.ssh:
                seed_environment(host.root)
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host.root / "host_key")
                (host.root / "sshd_config").write_text(SSHD)
            host.boot()
        shutil.copy(key, self.operator.root / ".ssh" / "id_ed25519")

    def _connect(self, host: Host) -> None:
        inside = f"{host.namespace}-a"
        run("ip", "netns", "add", host.namespace)
        run(
            "ip",
            "link",
            "add",
            inside,
            "netns",
            host.namespace,
            "type",
            "veth",
            "peer",
            host.link,
            "netns",
            self.switch,
        )
        run("ip", "-n", self.switch, "link", "set", host.link, "master", "br0", "up")
        for words in (
            ["link", "set", inside, "name", "eth0"],
            ["address", "add", f"{host.address}/24", "dev", "eth0"],
            ["link", "set", "lo", "up"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "via", f"{NETWORK}.1"],  # Ray asks for it to learn its own address
        ):
            run("ip", "-n", host.namespace, *words)

    def cut(self, host: Host) -> None:
        """Pull its cable."""
        run("ip", "-n", self.switch, "link", "set", host.link, "down")

    def restore(self, host: Host) -> None:
        """Plug its cable in again."""
        run("ip", "-n", self.switch, "link", "set", host.link, "up")

    def close(self) -> None:
        """End all processes and remove the network."""
        for host in [*self.all, self.operator]:
            host.stop()
        for namespace in [self.switch, *(host.namespace for host in [*self.all, self.operator])]:
            run("ip", "netns", "del", namespace, check=False)


SSHD = """\
HostKey /root/host_key
PidFile /run/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM yes
StrictModes no
PrintMotd no
PrintLastLog no
"""


def seed_environment(root: Path) -> None:
    """Make a virtual environment that has what the project needs, and not the project: as after an installation.

    Its packages are those of this interpreter, so that no host downloads or copies them.
    """
    venv = root / "prelar-ray" / ".venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    packages = venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (packages / "base.pth").write_text(f"{SITE_PACKAGES}\n")
    script = venv / "bin" / "ray"
    script.write_text("#!/root/prelar-ray/.venv/bin/python\nfrom ray.scripts.scripts import main\nmain()\n")
    script.chmod(0o755)


def wait_for(condition: object, seconds: float, what: str, every: float = 0.2) -> float:
    """Wait until ``condition()`` is true and return the seconds that it took."""
    assert callable(condition)
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(every)
    return time.monotonic() - began


@contextmanager
def hosts(*names: str) -> Iterator[Hosts]:
    """Hosts of these names, the head's first, with their operator; all is gone after the block."""
    folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/var/tmp"))
    made = Hosts(folder, names)
    try:
        made.boot()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)
