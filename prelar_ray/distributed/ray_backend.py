"""Roles as Ray actors: each owns one plain object, and the loop of :mod:`prelar_ray.training` drives them."""

from __future__ import annotations

import logging
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import psutil
import ray
from ray import exceptions
from ray.util import get_current_placement_group, placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from prelar_ray.config import RunConfig
from prelar_ray.distributed.connection import connect, first_line
from prelar_ray.distributed.gauges import Gauges
from prelar_ray.distributed.rendezvous import Rendezvous
from prelar_ray.distributed.resources import Reservation, Resources
from prelar_ray.distributed.shared_folder import check_shared
from prelar_ray.envs.egl_devices import TURN
from prelar_ray.errors import CheckpointError, ConfigError, DataError, PrelarError, ResourceError, RoleDied
from prelar_ray.replay.memory import GIB
from prelar_ray.roles import RoleId
from prelar_ray.training.backend import Future, Role

__all__ = ["RayBackend", "bundles", "cluster_nodes", "labelled"]

WAIT_SECONDS = 30
"""Between two lines about waiting for resources that other runs use."""

REFUSALS: dict[str, type[PrelarError]] = {kind.__name__: kind for kind in (CheckpointError, ConfigError, DataError)}
"""What a role's constructor may raise because of what the user gave; it stays that on its way through Ray."""

DEATHS = (exceptions.RayActorError, exceptions.ObjectLostError)

A = TypeVar("A")
B = TypeVar("B")
F = TypeVar("F", bound=Future[Any])
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

log = logging.getLogger(__name__)


class RayBackend:
    """Starts and drives actors on the Ray that the configuration's ``cluster`` names."""

    parallel = True

    def __init__(
        self,
        config: RunConfig,
        make_plan: Callable[[Sequence[Resources]], dict[RoleId, Resources]],
        folder: Path | None = None,
        reservation: Reservation | None = None,
    ) -> None:
        """Connect to a cluster, or start one on this machine for ``cluster=auto``, and reserve a place for every role.

        Args:
            config: of the run.
            make_plan: returns what every role gets, from what every node has.
            folder: of the run.
            reservation: what a trial of Ray Tune has reserved; then this process is the trial's, and Ray continues
                after it.

        Raises:
            ResourceError: no cluster at that address, it can never hold what the configuration asks for, or its nodes
                do not share ``folder``.
        """
        self._roles: dict[str, _RayRole[Any]] = {}  # by actor id
        self._rendezvous: Rendezvous | None = None
        self._group: PlacementGroup | None = None
        self._run = reservation.name if reservation else folder.name if folder else ""
        self._in_trial = reservation is not None
        if not self._in_trial:
            connect(config)
        self._gauges = Gauges(run=self._run)
        nodes = cluster_nodes()
        try:
            if folder and not self._in_trial and len(nodes) > 1:
                check_shared(folder)
            self._plan = reservation.plan if reservation else make_plan(nodes)
            self._group = _own_group() if self._in_trial else _reserve(self._plan)
        except ResourceError:
            self.close()
            raise
        # A learner that shares a core with a collector waits for its slowest thread at every kernel.
        cores = (os.cpu_count() or 1) if len(nodes) == 1 else int(max(node.cpus for node in nodes))
        collectors = sum(role.kind == "collector" for role in self._plan)
        free = cores - collectors * config.collect.busy_processes
        self._threads = config.threads or max(1, free // config.learner.ranks)
        kinds = Counter(role.kind for role in self._plan)
        asked = {role.kind: need for role, need in self._plan.items()}
        placed = ", ".join(f"{count} {kind} ({asked[kind]} each)" for kind, count in kinds.items())
        log.info("ray: %d node(s), %s; %s", len(nodes), _total(nodes), placed)

    def start(self, role: RoleId, make: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Role[R]:
        """Start ``make(*args)`` as an actor in its place; errors of its construction come with its first call."""
        assert self._group is not None
        need = self._plan[role]
        # Ray sets OMP_NUM_THREADS to the logical CPUs; only the learner profits from more than one thread.
        threads = str(self._threads) if role.kind == "learner" else "1"
        position = list(self._plan).index(role)
        # Where nobody gave it a GPU it draws on any. Runs of a study begin at different ones.
        turn = str(zlib.crc32(self._run.encode()) + position)
        options: dict[str, Any] = {
            "num_cpus": need.cpus,
            "num_gpus": need.gpus,
            "memory": int(need.memory * GIB),
            "max_restarts": 0,  # a restarted actor would have lost its state; the loop starts a new one knowingly
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads, TURN: turn}},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._group,
                # A trial's own process is in the first bundle.
                placement_group_bundle_index=position + self._in_trial,
                placement_group_capture_child_tasks=True,
            ),
        }
        actor = ray.remote(labelled(make, f"{self._run}/{role}".lstrip("/"))).options(**options).remote(*args, **kwargs)
        started: _RayRole[R] = _RayRole(role, actor)
        self._roles[actor._actor_id.hex()] = started
        return started

    def wait(self, futures: Sequence[F], timeout: float) -> list[F]:
        """Return those futures that are done, at least one unless ``timeout`` seconds pass."""
        by_ref = {_ref(future): future for future in futures}
        ready, _ = ray.wait(list(by_ref), num_returns=1, timeout=timeout)
        if ready:
            ready, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
        return [by_ref[ref] for ref in ready]

    def rendezvous(self) -> str:
        """Return an address of this process at which learner ranks can meet; one of an earlier call is given up."""
        self._rendezvous = Rendezvous()
        return self._rendezvous.address

    def get(self, future: Future[T]) -> T:
        """Return a future's value, or raise what its call raised.

        Raises:
            RoleDied: the actor's process ended; names the role.
            ResourceError: the actor could not be constructed; names the role and the reason.
        """
        try:
            value: T = ray.get(_ref(future))
            return value
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
        if getattr(error, "actor_init_failed", False):
            # Ray hands on the text of what the constructor raised; its last line is the exception itself.
            kind, _, message = str(error).strip().splitlines()[-1].strip().partition(": ")
            if refusal := REFUSALS.get(kind.rpartition(".")[-1]):
                return refusal(message)
            return ResourceError(f"{role.id if role else 'a role'} could not start: {kind}: {message}")
        return RoleDied(role.id if role else None, first_line(error))

    def stop(self, role: Role[Any]) -> None:
        """Kill an actor; it may be dead already."""
        assert isinstance(role, _RayRole)
        ray.kill(role.actor)
        self._roles.pop(role.actor._actor_id.hex(), None)

    def memory(self) -> dict[str, float]:
        """Metrics of the group ``memory``, as the roles last answered: a busy one is not waited for."""
        found: dict[str, float] = {}
        for role in self._roles.values():
            name = f"memory/{'collectors' if role.id.kind == 'collector' else role.id.kind}"
            found[name] = found.get(name, 0.0) + role.memory()
        return {name: size for name, size in found.items() if size}

    def report(self, values: Mapping[str, float]) -> None:
        """Show metrics to whoever scrapes this node's Ray."""
        self._gauges.show(values)

    def stop_all(self) -> None:
        """Kill all actors; their places are kept."""
        for role in list(self._roles.values()):
            self.stop(role)

    def close(self) -> None:
        """Kill all actors, give their places back, and end Ray or the connection to it."""
        self._gauges.close()
        if not ray.is_initialized():
            return
        self.stop_all()
        self._rendezvous = None  # not before its ranks
        if self._in_trial:
            return
        if self._group is not None:
            remove_placement_group(self._group)
        ray.shutdown()


def cluster_nodes() -> list[Resources]:
    """What every living node of the cluster has in all."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Resources(node.get("CPU", 0.0), node.get("GPU", 0.0), node.get("memory", 0.0) / GIB) for node in alive]


def bundles(plan: Mapping[RoleId, Resources]) -> list[dict[str, float]]:
    """A plan as a placement group wants it, in the order of the plan."""
    asked = [{"CPU": need.cpus, "GPU": need.gpus, "memory": int(need.memory * GIB)} for need in plan.values()]
    return [{name: amount for name, amount in bundle.items() if amount} for bundle in asked]


def _reserve(plan: Mapping[RoleId, Resources]) -> PlacementGroup:
    """Wait until all roles have their places: together or not at all, so that two runs never block each other."""
    group: PlacementGroup = placement_group(bundles(plan), strategy="PACK")
    while not group.wait(WAIT_SECONDS):
        free = ray.available_resources()
        log.warning(
            "ray: waiting for %s, free are %g CPU %g GPU: others use the rest",
            *(_total(plan.values()), free.get("CPU", 0.0), free.get("GPU", 0.0)),
        )
    return group


def _own_group() -> PlacementGroup:
    group = get_current_placement_group()
    assert group is not None, "a trial has one"
    return group


def _total(parts: Iterable[Resources]) -> Resources:
    found = list(parts)
    return Resources(*(round(sum(getattr(x, name) for x in found), 2) for name in ("cpus", "gpus", "memory")))


class _RayFuture(Future[T]):
    __slots__ = ("ref",)

    def __init__(self, ref: Any) -> None:
        self.ref = ref


class _RayRole(Role[R]):
    def __init__(self, role: RoleId, actor: Any) -> None:
        self.id, self.actor = role, actor
        self._asked: Any = None
        self._memory = 0.0

    def memory(self) -> float:
        """GiB, as last known; asks again once the last question is answered."""
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            with suppress(*DEATHS):
                self._memory = ray.get(self._asked)
            self._asked = None
        if self._asked is None:
            self._asked = self.actor.__ray_call__.remote(_resident)
        return self._memory

    def call(self, method: Callable[Concatenate[R, P], T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return _RayFuture(self._remote(1, method, *args, **kwargs))

    def call_pair(
        self, method: Callable[Concatenate[R, P], tuple[A, B]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[Future[A], Future[B]]:
        first, second = self._remote(2, method, *args, **kwargs)
        return _RayFuture(first), _RayFuture(second)

    def call_each(
        self, count: int, method: Callable[Concatenate[R, P], tuple[T, ...]], *args: P.args, **kwargs: P.kwargs
    ) -> list[Future[T]]:
        return [_RayFuture(ref) for ref in self._remote(count, method, *args, **kwargs)]

    def _remote(self, returns: int, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        refs = [_value_or_ref(arg) for arg in args]
        named = {name: _value_or_ref(arg) for name, arg in kwargs.items()}
        return getattr(self.actor, method.__name__).options(num_returns=returns).remote(*refs, **named)


def labelled(factory: Callable[..., Any], label: str) -> type[Any]:
    """The class of a role whose lines in the log, and whose row on the dashboard, begin with ``label``."""
    assert isinstance(factory, type)
    return type(factory.__name__, (factory,), {"__repr__": lambda role: label, "__module__": factory.__module__})


def _value_or_ref(argument: Any) -> Any:
    return argument.ref if isinstance(argument, _RayFuture) else argument


def _ref(future: Future[Any]) -> Any:
    assert isinstance(future, _RayFuture), "a future of another backend"
    return future.ref


def _resident(role: Any) -> float:
    """Resident memory of a role's process and of its workers, GiB."""
    process, size = psutil.Process(), 0
    for member in (process, *process.children()):
        with suppress(psutil.NoSuchProcess):  # a worker that ended meanwhile
            size += member.memory_info().rss
    return size / GIB


def _cause(error: exceptions.RayTaskError) -> BaseException | None:
    """The exception that the actor raised; an argument that could not be computed nests them."""
    cause: BaseException | None = error.cause
    while isinstance(cause, exceptions.RayTaskError):
        cause = cause.cause
    return cause
