"""A program that runs on a machine while it is checked, over SSH; it needs nothing but Python 3.8.

It is sent as text, so it imports nothing of this package, and works where the package is not installed. It answers
requests, a line of JSON each, on standard input, until that ends. Answers begin with a mark, which what shells print
besides does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import Any

MARK = "prelar-ray-agent:"


def now() -> float:
    """Return seconds since 1970."""
    return time.time()


def facts(token: str, home: str) -> dict[str, Any]:
    """Return what needs no package: host name, Python, shared memory, disk, and digest and mode of the token's file."""
    token, home = os.path.expanduser(token), os.path.expanduser(home)
    shm = shutil.disk_usage("/dev/shm")
    found = {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "shm_total": shm.total,
        "shm_free": shm.free,
        "disk_free": shutil.disk_usage(os.path.expanduser("~")).free,
        "installed": os.path.exists(os.path.join(home, ".venv", "bin", "prelar-ray")),
        "raylet": raylet(),
        "addresses": addresses(),
        "pythons": pythons(),
        "launcher": os.path.exists(os.path.expanduser("~/ray_bootstrap_config.yaml")),
        "rsync": shutil.which("rsync") is not None,
        "nvidia_devices": nvidia_devices(),
        "token": None,
        "token_mode": 0,
    }
    if os.path.exists(token):
        with open(token, "rb") as file:
            found["token"] = hashlib.sha256(file.read().strip()).hexdigest()
        found["token_mode"] = os.stat(token).st_mode & 0o777
    return found


def addresses() -> list[str]:
    """Return the machine's own addresses; none where `hostname` does not tell them."""
    try:
        return subprocess.check_output(["hostname", "-I"], stderr=subprocess.DEVNULL).decode().split()
    except (OSError, subprocess.CalledProcessError):
        return []


def nvidia_devices(root: str = "/sys/bus/pci/devices") -> int:
    """Return the number of NVIDIA's graphics devices on the bus, with or without a driver."""
    found = 0
    for device in os.listdir(root) if os.path.isdir(root) else []:
        try:
            vendor, kind = (content(os.path.join(root, device, name)) for name in ("vendor", "class"))
            found += vendor.strip() == "0x10de" and kind.startswith("0x03")
        except OSError:
            pass  # a device that has just left
    return found


def content(path: str) -> str:
    """Return what a text file holds."""
    with open(path) as file:
        return file.read()


def raylet() -> bool:
    """Return whether a raylet of this user, Ray's process of every node, runs on the machine."""
    for process in os.listdir("/proc"):
        if process.isdigit():
            try:
                if os.stat(os.path.join("/proc", process)).st_uid != os.getuid():
                    continue
                with open(os.path.join("/proc", process, "cmdline"), "rb") as file:
                    if os.path.basename(file.read().split(b"\0")[0]) == b"raylet":
                        return True
            except OSError:
                pass
    return False


def run(command: str, timeout: float) -> dict[str, Any]:
    """Return exit code and output of a command in an interactive login shell, which is how Ray runs its own.

    What the shell prints before and after it is left out. The exit code is None after ``timeout`` seconds.
    """
    begin, end = "begin-" + MARK, "end-" + MARK
    script = f"source ~/.bashrc 2>/dev/null; echo {begin}; ({command}); code=$?; echo; echo {end}; exit $code"
    process = subprocess.Popen(
        ["bash", "--login", "-i", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = (stream.decode(errors="replace") for stream in process.communicate(timeout=timeout))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the command too, not the shell alone
        process.communicate()
        return {"code": None, "output": "", "errors": ""}
    _, began, rest = out.rpartition(begin + "\n")
    if not began:
        return {"code": 126, "output": "", "errors": "bash --login -i runs no commands there: see ~/.bashrc"}
    shell = ("bash: cannot set terminal process group", "bash: no job control", "logout")
    said = [line for line in err.splitlines() if not line.startswith(shell)]
    output = rest.partition("\n" + end)[0]
    return {"code": process.returncode, "output": output.rstrip("\n"), "errors": "\n".join(said)}


def pythons() -> list[str]:
    """Return the interpreters with which the package can be installed."""
    able = "import ensurepip, venv, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))"
    names = ("python3.11", "python3.12", "python3.13", "python3")
    found = [name for name in names if shutil.which(name)]
    return [name for name in found if not subprocess.run([name, "-c", able], capture_output=True).returncode]


def expanded(path: str) -> str:
    """Return a path as a shell understands it."""
    return os.path.expandvars(os.path.expanduser(path))


def write(path: str) -> str:
    """Write an empty file; return why that is not possible."""
    try:
        with open(expanded(path), "x"):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def exists(path: str) -> bool:
    """Return whether a file is there, as its folder lists it: a network file system may remember that it was not."""
    path = expanded(path)
    try:
        return os.path.basename(path) in os.listdir(os.path.dirname(path))
    except OSError:
        return False


def remove(paths: list[str]) -> None:
    """Remove those files that are there."""
    for path in paths:
        try:
            os.remove(expanded(path))
        except OSError:
            pass


def nodes(port: int, token: str) -> dict[str, Any]:
    """Return what the dashboard of this head says: addresses of nodes, and where the launcher is at work."""
    headers = {}
    if os.path.exists(os.path.expanduser(token)):
        with open(os.path.expanduser(token)) as file:
            headers["Authorization"] = "Bearer " + file.read().strip()

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy, whatever the environment says

    def get(path: str) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
        with direct.open(request, timeout=10) as answer:
            return json.load(answer)["data"]

    listed = get("/api/v0/nodes?limit=1000")["result"]["result"]
    report = get("/api/cluster_status")["clusterStatus"].get("autoscalerReport") or {}
    return {
        "alive": [node["node_ip"] for node in listed if node["state"] == "ALIVE"],
        "pending": {ip: status for ip, _, status in report.get("pendingNodes") or []},
    }


listening: dict[int, socket.socket] = {}


def listen(ports: list[int]) -> dict[str, list[int]]:
    """Listen at those ports that are free, 0 for any, until the agent ends; return their numbers, and the others."""
    free, taken = [], []
    for port in ports:
        if port in listening:
            free.append(port)
            continue
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            listener.listen(64)
        except OSError:
            taken.append(port)
            listener.close()
        else:
            port = listener.getsockname()[1]
            listening[port] = listener
            free.append(port)
    return {"free": free, "taken": taken}


def connect(to: list[tuple[str, int]], timeout: float) -> list[tuple[str, int, str]]:
    """Connect to hosts and ports; return host, port and reason of those where it is not possible."""
    failed = []
    for host, port in to:
        try:
            socket.create_connection((host, port), timeout).close()
        except TimeoutError:
            failed.append((host, port, "no answer"))
        except OSError as error:
            failed.append((host, port, (error.strerror or str(error)).lower()))
    return failed


def address(host: str) -> str:
    """Return the numeric address of a host; empty if its name is unknown here."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return ""


REQUESTS = {f.__name__: f for f in (now, facts, run, write, exists, remove, listen, connect, address, nodes)}


def say(answer: dict[str, Any]) -> None:
    """Send an answer."""
    sys.stdout.write(MARK + json.dumps(answer) + "\n")
    sys.stdout.flush()


def serve() -> None:
    """Answer requests until there are no more."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": REQUESTS[request.pop("ask")](**request)}
        except Exception as error:  # whatever it is, the one who asked shall know
            answer = {"error": f"{type(error).__name__}: {error}"}
        say(answer)


if __name__ == "__main__":
    say({"answer": "ready"})
    serve()
