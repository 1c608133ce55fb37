"""The connection to a Ray: one that a configuration names, or one that is started on this machine."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from prelar_ray.config import RunConfig
from prelar_ray.distributed.local_ray import start_local_ray
from prelar_ray.errors import ResourceError

__all__ = ["check_address", "connect", "connected", "first_line"]

CONNECT_SECONDS = 10
"""For the head of a cluster to take a connection."""


@contextmanager
def connected(config: RunConfig) -> Iterator[None]:
    """Connect to the cluster that the configuration names, or start one on this machine, for the time of the block.

    Raises:
        ResourceError: no cluster at that address, or none could be started.
    """
    connect(config)
    try:
        yield
    finally:
        ray.shutdown()


def connect(config: RunConfig) -> None:
    """Connect to the cluster that ``config.cluster`` names, or start one on this machine for ``auto``.

    Raises:
        ResourceError: no cluster at that address, or none could be started.
    """
    on_terminate = signal.getsignal(signal.SIGTERM)
    # Ray's own processes inherit it: a terminal that is closed, or a batch system, sends these to all of them.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1})
    try:
        _initialise(config)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # ray.init puts its own handler in, which would end the run without a checkpoint.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)


def _initialise(config: RunConfig) -> None:
    common: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
    if config.cluster == "auto":
        try:
            start_local_ray(include_dashboard=config.dashboard, **common)
        except ResourceError as error:
            raise ResourceError(f"cluster=auto: {error}; or cluster=none, which does without Ray") from error
        except Exception as error:  # Ray raises just that where a process of its own does not come up in time
            advice = "where the machine is busy, try again, else run prelar-ray doctor"
            if "dashboard" in str(error).lower():
                advice = "install what its dashboard needs (pip install 'ray[default]') or set dashboard=false"
            raise ResourceError(
                f"cluster=auto: Ray did not start on this machine ({first_line(error)}); {advice}; "
                "cluster=none does without"
            ) from error
        return
    check_address(config.cluster)
    try:
        ray.init(address=config.cluster, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(config.cluster, error) from error


def check_address(cluster: str) -> None:
    """Make sure that somebody listens at the address of a cluster; Ray itself would try for minutes.

    Raises:
        ResourceError: nobody does.
    """
    host, _, port = cluster.rpartition("/")[2].rpartition(":")
    if not port.isdecimal():  # auto, or a form that only Ray knows
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(cluster, error) from error


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its kind where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _unreachable(cluster: str, error: Exception) -> ResourceError:
    return ResourceError(
        f"cluster={cluster}: cannot connect ({first_line(error)}); start one with `ray start --head` or "
        "`ray up cluster/cluster.yaml`, with RAY_AUTH_MODE and the same token here, or use cluster=auto"
    )
