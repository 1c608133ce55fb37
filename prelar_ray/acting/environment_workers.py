"""Environments stepped by processes of their own: each holds some, and frames return through shared memory."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from prelar_ray.acting.environments import Environments, EpisodeLost, LocalEnvironments, MakeEnv, Step
from prelar_ray.action_space import ActionSpace
from prelar_ray.config import EnvConfig
from prelar_ray.errors import EnvironmentFailure

__all__ = ["EnvironmentWorkers", "make_environments", "serve"]

log = logging.getLogger(__name__)

START_SECONDS = 120.0
"""What a worker's process may take to start and to load the simulator, on a busy machine, besides the time limit."""

GRACE_SECONDS = 5.0
"""After the time limit, at which a worker interrupts its environment by itself, unless native code hangs."""

DYING_SECONDS = 1.0
"""Between the end of a worker's pipe and the end of the worker."""

CLOSE_SECONDS = 10.0
"""For workers to close their environments before they are killed."""


def _place(config: EnvConfig) -> np.dtype[Any]:
    """One environment's place in the shared memory: its last step, and whether that answers the present request."""
    return np.dtype(
        [
            ("image", np.uint8, (config.image_size, config.image_size, 3)),
            ("reward", np.float64),
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("success", np.bool_),
            ("vector", np.float32, (config.vector_size,)),
            ("answered", np.bool_),
        ],
        align=True,
    )


def make_environments(
    make_env: MakeEnv, config: EnvConfig, seeds: Mapping[int, int], workers: int, timeout: float
) -> Environments:
    """Make environments in at most ``workers`` processes, or in this one for 0.

    The other arguments, and what it raises, are those of :class:`~prelar_ray.acting.environments.LocalEnvironments`.
    Workers import ``make_env`` by its name.
    """
    if workers:
        return EnvironmentWorkers(make_env, config, seeds, min(workers, len(seeds)), timeout)
    return LocalEnvironments(make_env, config, seeds, timeout)


class EnvironmentWorkers:
    """Environments in processes, all stepped at once.

    A worker interrupts an environment that does not answer in time, as :class:`LocalEnvironments` does. A worker that
    dies, or that hangs in native code and is killed, takes all its environments with it: the one that it was at has
    failed, the others are lost (:class:`~prelar_ray.acting.environments.EpisodeLost`). Replacing them starts a new one.

    A worker ends when the pipe to it closes, however this process ends. Its memory has no name, so none is left.
    """

    def __init__(
        self, make_env: MakeEnv, config: EnvConfig, seeds: Mapping[int, int], workers: int, timeout: float
    ) -> None:
        """Start ``workers`` processes and make the environments; see :func:`make_environments`."""
        self._setup, self._timeout = (make_env, config, timeout), timeout
        self._workers: list[_Worker] = []
        try:
            for share in np.array_split(list(seeds), workers):
                self._workers.append(_Worker([int(i) for i in share], self._setup, timeout))
            for error in self.replace(seeds).values():
                raise error
            self.actions: ActionSpace = self._workers[0].attribute("actions")
        except BaseException:
            self.close()
            raise

    @property
    def episode_steps(self) -> int:
        """See :class:`~prelar_ray.acting.environments.Environments`."""
        return self._workers[0].attribute("episode_steps")

    @property
    def terminates(self) -> bool:
        """See :class:`~prelar_ray.acting.environments.Environments`."""
        return self._workers[0].attribute("terminates")

    @property
    def has_success(self) -> bool:
        """See :class:`~prelar_ray.acting.environments.Environments`; a worker that died says nothing."""
        said = []
        for worker in self._workers:
            with suppress(EnvironmentFailure):
                said.append(worker.attribute("has_success"))
        return any(said)

    def replace(self, seeds: Mapping[int, int]) -> dict[int, Exception]:
        """See :class:`~prelar_ray.acting.environments.Environments`."""
        for k, worker in enumerate(self._workers):
            if worker.gone and not seeds.keys().isdisjoint(worker.positions):
                try:
                    self._workers[k] = _Worker(worker.positions, self._setup, self._timeout)
                except OSError as error:  # out of memory or processes; the old one answers that it is gone
                    log.warning("a worker process could not be started: %s", str(error))  # a record keeps no frames
        outcomes = self._call("replace", seeds)
        return {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, Exception)}

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Step | Exception]:
        """See :class:`~prelar_ray.acting.environments.Environments`."""
        return self._call("reset", seeds)

    def step(self, actions: Mapping[int, npt.NDArray[np.float32]]) -> dict[int, Step | Exception]:
        """See :class:`~prelar_ray.acting.environments.Environments`."""
        return self._call("step", actions)

    def close(self) -> None:
        """End the workers, which close their environments."""
        for worker in self._workers:
            worker.connection.close()
        until = time.monotonic() + CLOSE_SECONDS
        for worker in self._workers:
            worker.end(until)

    def _call(self, method: str, arguments: Mapping[int, Any]) -> dict[int, Step | Exception]:
        asked = []
        for worker in self._workers:
            share = {i: arguments[i] for i in worker.positions if i in arguments}
            if share:
                worker.ask(method, share)
                asked.append(worker)
        outcomes: dict[int, Step | Exception] = {}
        for worker in asked:
            outcomes |= worker.answer()
        return outcomes


class _Worker:
    """The parent's side of a process that holds the environments at ``positions``; none are made yet."""

    def __init__(self, positions: list[int], setup: tuple[MakeEnv, EnvConfig, float], timeout: float) -> None:
        self.positions = positions
        self.gone = False
        self._patience = timeout + GRACE_SECONDS
        self._starting = True
        self._asked: list[int] = []
        self.connection, other = Pipe()
        memory = os.memfd_create("prelar-ray-frames")
        place = _place(setup[1])
        os.ftruncate(memory, len(positions) * place.itemsize)
        self._places = _places(memory, place)
        code = f"from prelar_ray.acting.environment_workers import serve; serve({other.fileno()}, {memory})"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,  # nothing is written to it; its end is the parent's
                pass_fds=(other.fileno(), memory),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
                process_group=0,  # Ctrl-C in a terminal is for the parent to handle
            )
        finally:
            other.close()
            os.close(memory)
        self._send((positions, *setup))

    def ask(self, method: str, arguments: dict[int, Any]) -> None:
        """Begin a method of the environments."""
        self._asked = list(arguments)
        self._places["answered"] = False
        self._send((method, arguments))

    def answer(self) -> dict[int, Step | Exception]:
        """Wait for what :meth:`ask` began; a worker that died or hangs answers for all its environments."""
        places = self._places
        failures = self._receive()
        if isinstance(failures, Exception):
            answered = places["answered"]
            unanswered = [i for i in self._asked if not answered[self.positions.index(i)]]
            at_fault = (unanswered or self._asked)[0]
            lost = EpisodeLost(f"another environment of its worker process failed ({failures})")
            return {at_fault: failures, **{i: lost for i in self.positions if i != at_fault}}
        return {i: failures.get(i) or self._step(self.positions.index(i)) for i in self._asked}

    def attribute(self, name: str) -> Any:
        """Ask for an attribute of the environments.

        Raises:
            EnvironmentFailure: the worker died, or hangs.
        """
        self._send((name, None))
        value = self._receive()
        if isinstance(value, Exception):
            raise value
        return value

    def end(self, until: float) -> None:
        """Wait for the process, whose connection is closed, and kill it if it does not end by ``until``, monotonic."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            assert self._process.stdin is not None
            self._process.stdin.close()
            # The last reference to the shared memory frees it.
            self._places = np.zeros(len(self.positions), self._places.dtype)

    def _send(self, message: object) -> None:
        with suppress(OSError):  # it is dead, which shows when it should answer
            self.connection.send(message)

    def _receive(self) -> Any:
        """What the process sent, or why it never will; then it is gone."""
        patience = self._patience + (START_SECONDS if self._starting else 0)
        progress = 0
        while not self._readable(patience):
            before, progress = progress, int(self._places["answered"].sum())
            if progress == before:
                self._kill()
                return EnvironmentFailure(f"no answer for {patience:g} s, so its worker process was killed")
        self._starting = False
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):  # its end of the pipe closes a moment before it has ended
                self._process.wait(DYING_SECONDS)
            self._kill()
            code = self._process.returncode
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            return EnvironmentFailure(f"its worker process died: {how}")

    def _readable(self, seconds: float) -> bool:
        try:
            return self.connection.poll(seconds)
        except OSError:  # it died with unread requests; receiving says so, too
            return True

    def _kill(self) -> None:
        self.gone = True
        self._process.kill()
        self.connection.close()
        self.end(time.monotonic() + DYING_SECONDS)

    def _step(self, place: int) -> Step:
        found = self._places[place]
        terminated, truncated, success = (bool(found[name]) for name in ("terminated", "truncated", "success"))
        return Step(
            found["image"].copy(), float(found["reward"]), terminated, truncated, success, found["vector"].copy()
        )


def serve(connection: int, memory: int) -> None:
    """Answer requests until the parent closes the pipe: what a worker's process runs.

    Args:
        connection, memory: descriptors of the pipe and of the shared memory.
    """
    for number in (signal.SIGHUP, signal.SIGUSR1):  # a batch system sends them to all processes: the parent answers
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent()
    pipe = Connection(connection)
    with suppress(EOFError, OSError):  # the parent is done, or gone
        positions, make_env, config, timeout = pipe.recv()
        places = _places(memory, _place(config))
        environments = LocalEnvironments(make_env, config, {}, timeout)
        try:
            while True:
                method, arguments = pipe.recv()
                if arguments is None:
                    pipe.send(getattr(environments, method))
                    continue
                failures = {}
                for i, argument in arguments.items():
                    outcome = getattr(environments, method)({i: argument}).get(i)
                    place = positions.index(i)
                    if isinstance(outcome, Exception):
                        failures[i] = _portable(outcome)
                    elif outcome is not None:
                        places[place] = (*outcome, False)
                    places["answered"][place] = True
                pipe.send(failures)
        finally:
            environments.close()


def _end_with_parent() -> None:
    """End this process when the parent does, even while native code hangs that would never look at the pipe.

    Standard input is a pipe that only the parent holds open. When it closes, the kernel sends SIGIO, which ends the
    process by default.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def _places(memory: int, place: np.dtype[Any]) -> npt.NDArray[Any]:
    """The shared memory as an array of places, one per environment."""
    return np.frombuffer(mmap.mmap(memory, 0), dtype=place)


def _portable(error: Exception) -> Exception:
    """The exception itself if it can go through a pipe, or one that says the same."""
    with suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    return EnvironmentFailure(f"{type(error).__name__}: {error}")
