"""A machine of a cluster, asked over SSH."""

from __future__ import annotations

import base64
import json
import queue
import shlex
import subprocess
import threading
import time
import zlib
from pathlib import Path
from typing import Any, Final

from prelar_ray.cluster import agent
from prelar_ray.errors import PrelarError

__all__ = ["Machine", "Refused", "Unreachable", "describe_failure", "ssh_options"]

CONNECT_SECONDS: Final = 10
ANSWER_SECONDS: Final = 30

OPTIONS: Final = {
    "BatchMode": "yes",  # a password or a passphrase would be asked for where nobody sees it
    "StrictHostKeyChecking": "no",  # as Ray does
    "UserKnownHostsFile": "/dev/null",
    "IdentitiesOnly": "yes",
    "LogLevel": "ERROR",
    "ConnectTimeout": str(CONNECT_SECONDS),
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
}


def ssh_options() -> list[str]:
    """Return the options of ssh with which machines are asked."""
    return [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]


class Unreachable(PrelarError):
    """The machine of that address cannot be asked; ``remedy`` says what to do."""

    def __init__(self, address: str, finding: str, remedy: str) -> None:
        super().__init__(finding)
        self.address, self.remedy = address, remedy


class Refused(Unreachable):
    """A machine answers, and says that it could not do what it was asked."""


class Machine:
    """One machine, by its address in the cluster's file; open while it is checked."""

    def __init__(self, address: str, user: str, key: Path) -> None:
        self.address, self.user, self.key = address, user, key
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def open(self) -> None:
        """Log in and start the agent.

        Raises:
            Unreachable: that is not possible.
        """
        source = base64.b64encode(zlib.compress(Path(agent.__file__).read_bytes())).decode()
        program = f"import base64,zlib;exec(zlib.decompress(base64.b64decode('{source}')))"
        command = ["ssh", "-T", *ssh_options(), "-i", str(self.key), f"{self.user}@{self.address}"]
        self._process = subprocess.Popen(
            [*command, f"exec python3 -u -c {shlex.quote(program)}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._answer(3 * CONNECT_SECONDS)

    def close(self) -> None:
        """Log out; what the agent listens to is free again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                if stream is not None:
                    stream.close()
            self._process = None

    def ask(self, request: str, seconds: float = ANSWER_SECONDS, **arguments: Any) -> Any:
        """Return the agent's answer to one of :data:`prelar_ray.cluster.agent.REQUESTS`.

        Raises:
            Unreachable: none came within that time.
            Refused: the machine says that it failed.
        """
        assert self._process is not None, "open it first"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"ask": request, **arguments}) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # it is closed at the other end, or here
            pass  # the reader knows why
        return self._answer(seconds)

    def run(self, command: str, seconds: float = ANSWER_SECONDS) -> tuple[int | None, str, str]:
        """Return exit code, output and errors of a command in a login shell; no exit code where it took too long.

        Raises:
            Unreachable: the connection is lost.
        """
        answer = self.ask("run", seconds + ANSWER_SECONDS, command=command, timeout=seconds)
        return answer["code"], answer["output"], answer["errors"]

    def clock_skew(self) -> tuple[float, float]:
        """Return by how many seconds the machine's clock is ahead of this one's, and how uncertain that is.

        Raises:
            Unreachable: the connection is lost.
        """
        best = (0.0, float("inf"))
        for _ in range(3):
            before = time.time()
            theirs = float(self.ask("now"))
            after = time.time()
            best = min(best, (theirs - (before + after) / 2, (after - before) / 2), key=lambda pair: pair[1])
        return best

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                mark, found, answer = line.partition(agent.MARK)
                if found and not mark:
                    self._lines.put(answer)
        except ValueError:  # closed while it was read
            pass
        self._lines.put(None)

    def _answer(self, seconds: float) -> Any:
        assert self._process is not None
        assert self._process.stderr is not None
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self._process.kill()
            remedy = "see whether the machine is overloaded"
            raise Unreachable(self.address, f"no answer within {seconds:.0f} s", remedy) from None
        if line is None:
            self._lines.put(None)
            self._process.kill()  # whatever is left of it would keep its errors open
            if self._process.stdin is not None:
                self._process.stdin.close()
            raise describe_failure(self.address, self.user, self.key, self._process.stderr.read())
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(self.address, str(answer["error"]), "look at that machine")
        return answer["answer"]


def describe_failure(address: str, user: str, key: Path, said: str) -> Unreachable:
    """Return what an error message of ssh means, in the words of who has to mend it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "ssh ended without a word"
    for part, finding, remedy in (
        ("Could not resolve", "its name is unknown here", "write its address, or add it to /etc/hosts or the DNS"),
        (
            "Connection refused",
            "no SSH server answers",
            "sudo apt-get install openssh-server, or sudo systemctl start ssh",
        ),
        ("timed out", "no answer", "see whether it is switched on, and whether a firewall blocks port 22"),
        ("No route to host", "no way to it", "see whether it is switched on and in this network"),
        ("Network is unreachable", "no way to it", "see whether this machine is in that network"),
        (
            "Permission denied",
            f"does not accept {key} for user {user}",
            f"ssh-copy-id -i {key} {user}@{address}; or correct auth.ssh_user",
        ),
        ("python3: not found", "has no python3", "sudo apt-get install python3 python3-venv"),
    ):
        if any(part in line.replace("command not found", "not found") for line in lines):
            return Unreachable(address, f"{finding} ({last})", remedy)
    return Unreachable(address, last, f"ssh -i {key} {user}@{address} true, and mend what it says")
