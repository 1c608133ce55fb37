"""Roles as Ray actors: each owns one plain object, and the loop of :mod:`prelar_ray.training` drives them."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import exceptions

from prelar_ray.config.schema import RunConfig
from prelar_ray.distributed.resources import plan_resources
from prelar_ray.errors import CheckpointError, ConfigError, DataError, PrelarError, ResourceError, RoleDied
from prelar_ray.training.backend import Role

__all__ = ["RayBackend"]

REFUSALS: dict[str, type[PrelarError]] = {kind.__name__: kind for kind in (CheckpointError, ConfigError, DataError)}
"""What a role's constructor may raise because of what the user gave; it stays that on its way through Ray."""

DEATHS = (exceptions.RayActorError, exceptions.ObjectLostError)

log = logging.getLogger(__name__)


class RayBackend:
    """Starts and drives actors on the Ray that the configuration's ``cluster`` names."""

    parallel = True

    def __init__(self, config: RunConfig, phase: str = "finetune") -> None:
        """Connect to a cluster, or start one on this machine for ``cluster=auto``.

        Raises:
            ResourceError: no cluster at that address, or it lacks what the configuration asks for.
        """
        self._roles: dict[str, _RayRole] = {}  # by actor id
        self._owned = config.cluster == "auto"
        _connect(config)
        total = ray.cluster_resources()
        cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
        try:
            self._plan = plan_resources(config, cpus, gpus, phase)
        except ResourceError:
            self.close()
            raise
        # A learner that shares a core with a collector waits for its slowest thread at every kernel.
        free = (os.cpu_count() or 1) - (config.collect.collectors if phase == "finetune" else 0)
        self._threads = config.threads or max(1, free // config.learner.ranks)
        number = {"learner": config.learner.ranks, "collector": config.collect.collectors}
        plan = ", ".join(
            f"{number.get(role, 1)} {role} ({need.cpus:g} CPU {need.gpus:g} GPU each)"
            for role, need in self._plan.items()
        )
        log.info("ray: %d node(s), %g CPU, %g GPU; %s", len(ray.nodes()), cpus, gpus, plan)

    def start(self, name: str, factory: Callable[..., Any], *args: Any) -> Role:
        """Start ``factory(*args)`` as an actor; errors of its construction come with its first call."""
        kind = name.split("-")[0]
        need = self._plan[kind]
        # Ray sets OMP_NUM_THREADS to the logical CPUs; only the learner profits from more than one thread.
        threads = str(self._threads) if kind == "learner" else "1"
        options: dict[str, Any] = {
            "num_cpus": need.cpus,
            "num_gpus": need.gpus,
            "max_restarts": 0,  # a restarted actor would have lost its state; the loop starts a new one knowingly
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}},
        }
        actor = ray.remote(factory).options(**options).remote(*args)
        role = _RayRole(name, actor)
        self._roles[actor._actor_id.hex()] = role
        return role

    def wait(self, futures: Sequence[Any], timeout: float) -> list[Any]:
        """Return those futures that are done, at least one unless ``timeout`` seconds pass."""
        futures = list(futures)
        ready, _ = ray.wait(futures, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = ray.wait(futures, num_returns=len(futures), timeout=0)
        return list(ready)

    def get(self, future: Any) -> Any:
        """Return a future's value, or raise what its call raised.

        Raises:
            RoleDied: the actor's process ended; names the role.
            ResourceError: the actor could not be constructed; names the role and the reason.
        """
        try:
            return ray.get(future)
        except exceptions.RayTaskError as error:
            cause = _cause(error)
            if isinstance(cause, PrelarError):
                raise cause from error
            if isinstance(cause, DEATHS):  # of the role that an argument of the call was to come from
                raise self._death(cause) from error
            raise
        except DEATHS as error:
            raise self._death(error) from error

    def _death(self, error: BaseException) -> PrelarError:
        role = self._roles.get(getattr(error, "actor_id", None) or "")
        name = role.name if role else "a role"
        if getattr(error, "actor_init_failed", False):
            # Ray hands on the text of what the constructor raised; its last line is the exception itself.
            kind, _, message = str(error).strip().splitlines()[-1].strip().partition(": ")
            if refusal := REFUSALS.get(kind.rpartition(".")[-1]):
                return refusal(message)
            return ResourceError(f"{name} could not start: {kind}: {message}")
        return RoleDied(name, _first_line(error))

    def stop(self, role: Role) -> None:
        """Kill an actor; it may be dead already."""
        assert isinstance(role, _RayRole)
        ray.kill(role.actor)
        self._roles.pop(role.actor._actor_id.hex(), None)

    def close(self) -> None:
        """Kill all actors, and end Ray if it was started here."""
        if not ray.is_initialized():
            return
        for role in list(self._roles.values()):
            self.stop(role)
        ray.shutdown()


class _RayRole:
    def __init__(self, name: str, actor: Any) -> None:
        self.name, self.actor = name, actor

    def call(self, method: str, *args: Any, returns: int = 1) -> Any:
        return getattr(self.actor, method).options(num_returns=returns).remote(*args)


def _connect(config: RunConfig) -> None:
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        _initialise(config)
    finally:
        # ray.init puts its own handler in, which would end the run without a checkpoint.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)


def _initialise(config: RunConfig) -> None:
    common: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
    if config.cluster == "auto":
        ray.init(address="local", include_dashboard=config.dashboard, **common)
        return
    try:
        ray.init(address=config.cluster, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"cluster={config.cluster}: cannot connect ({_first_line(error)}); start one with `ray start --head` or "
            "`ray up cluster/cluster.yaml`, with RAY_AUTH_MODE and the same token here, or use cluster=auto"
        ) from error


def _cause(error: exceptions.RayTaskError) -> BaseException | None:
    """The exception that the actor raised; an argument that could not be computed nests them."""
    cause: BaseException | None = error.cause
    while isinstance(cause, exceptions.RayTaskError):
        cause = cause.cause
    return cause


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
