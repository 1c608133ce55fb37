"""Arena: a family of tasks that share looks and dynamics and differ in their goals, drawn with NumPy.

Videos of some of its tasks hold what the others need: how the effector moves, and what it moves. ``-distractor`` after
a task's name adds a spot that moves by itself, which no action explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Literal

import numpy as np

from prelar_ray.envs.arena_drawing import Disc, draw
from prelar_ray.envs.arena_world import BLOCK_RADIUS, EFFECTOR_RADIUS, Arm, Vector, World, in_wall, path_to, push_from
from prelar_ray.envs.family import check_task_name
from prelar_ray.envs.pixel_env import Action, Image, PixelEnv, RenderMode
from prelar_ray.types import IMAGE_SIZE

__all__ = ["Arena", "task_names"]

EPISODE_STEPS: Final = 100
SUCCESS_RADIUS: Final = 0.15
REWARD_RADIUS: Final = 0.4
"""Distance from the goal at which the reward has fallen to half."""
SMALLEST_START_DISTANCE: Final = 0.6
DISTRACTOR: Final = "-distractor"
FARTHEST_GOAL: Final = 0.7
"""Largest coordinate of a target of a block."""
FARTHEST_BLOCK: Final = 0.45
"""Largest coordinate of a block at the start: the effector must get behind it."""
FARTHEST: Final = 0.9
"""Largest coordinate of other targets, and of the effector at the start."""
LEAST_JOINTS: Final = (0.2, 0.5)
LARGEST_JOINTS: Final = (np.pi - 0.2, 2.5)
"""Joints of an arm at the start and at its target, radians."""


@dataclass(frozen=True)
class Task:
    """What is in the arena, and what must be where."""

    moves: Literal["effector", "block"] = "effector"
    """What must reach the goal."""
    goal: Literal["target", "block", "right edge"] = "target"
    block: bool = False
    wall: bool = False
    arm: bool = False
    """The effector is the tip of an arm, whose joints the actions turn; else its velocity is the action."""


TASKS: Final = {
    "arena-reach": Task(),
    "arena-wall": Task(wall=True),
    "arena-touch": Task(goal="block", block=True),
    "arena-push": Task(moves="block", block=True),
    "arena-sweep": Task(moves="block", goal="right edge", block=True),
    "arena-arm": Task(arm=True),
}
"""Reach a target; reach it round a wall; touch a block; push it to a target; sweep it to the right edge; reach a target
with an arm of two links."""


def task_names() -> list[str]:
    """Return the names of all tasks, each also with a distractor."""
    return [*TASKS, *(name + DISTRACTOR for name in TASKS)]


class Arena(PixelEnv):
    """One task of the arena, for example "arena-push".

    Actions ``(2,)`` are velocities. Reward in (0, 10] per environment step, ``10 / (1 + (distance / 0.4)^2)``, where
    the distance is that of effector or block from the goal; success within 0.15 of it.

    Args:
        task: its name, see :func:`task_names`.
        action_repeat, seed, render_mode, image_size: see :class:`PixelEnv`.

    Raises:
        ConfigError: unknown task.
    """

    def __init__(
        self,
        task: str = "arena-reach",
        action_repeat: int = 1,
        seed: int | None = None,
        render_mode: RenderMode = None,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        check_task_name("task", task, task_names())
        super().__init__(2, EPISODE_STEPS, action_repeat, seed, render_mode, image_size=image_size)
        self._name = task
        self._task = TASKS[task.removesuffix(DISTRACTOR)]
        self._distracted = task.endswith(DISTRACTOR)
        self._world = World(np.zeros(2))
        self._target: Vector | None = None
        self._phases = np.zeros(2)  # of the distractor

    @property
    def render_attributes(self) -> dict[str, Any]:
        """Versions and protocol."""
        return {
            "simulator": "arena",
            "versions": {"numpy": version("numpy")},
            "orientation": "upright",
            "reward_version": "v0",
            "action_repeat": self._action_repeat,
            "episode_steps": EPISODE_STEPS,
        }

    def expert_action(self) -> Action:
        """Return the velocity ``(2,)`` on the way to the goal."""
        world = self._world
        if self._task.moves == "block":
            step = push_from(world, self._goal())
        else:
            step = path_to(world, self._goal()) - world.effector
        return world.action_for(step)

    def nuisance(self) -> Vector | None:
        """Return the position ``(2,)`` of the distractor; None without one."""
        return 0.8 * np.sin(self._phases) if self._distracted else None

    def get_state(self) -> dict[str, Any]:
        """Return the state from which :meth:`set_state` continues bit for bit; JSON-serialisable."""
        return {
            "world": self._world.get_state(),
            "target": None if self._target is None else self._target.tolist(),
            "phases": self._phases.tolist(),
            "elapsed": self._elapsed,
            "running": self._running,
            "generator": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state of :meth:`get_state`."""
        self._world = World.from_state(state["world"])
        self._target = None if state["target"] is None else np.array(state["target"])
        self._phases = np.array(state["phases"])
        self._elapsed, self._running = state["elapsed"], state["running"]
        self.np_random.bit_generator.state = state["generator"]

    def _begin(self) -> None:
        rng, task = self.np_random, self._task
        self._phases = rng.uniform(0, 2 * np.pi, 2)
        while True:
            arm = self._draw_arm() if task.arm else None
            effector = arm.tip if arm else rng.uniform(-FARTHEST, FARTHEST, 2)
            block = rng.uniform(-FARTHEST_BLOCK, FARTHEST_BLOCK, 2) if task.block else None
            self._world = World(effector, block, task.wall, arm)
            self._target = self._draw_target() if task.goal == "target" else None
            blocked = task.wall and self._target is not None and in_wall(self._target)
            if self._world.is_possible() and not blocked and self._distance() > SMALLEST_START_DISTANCE:
                return

    def _draw_target(self) -> Vector:
        if self._task.arm:
            return self._draw_arm().tip
        farthest = FARTHEST_GOAL if self._task.moves == "block" else FARTHEST
        return self.np_random.uniform(-farthest, farthest, 2)

    def _draw_arm(self) -> Arm:
        """Return an arm whose tip is in the picture."""
        while True:
            arm = Arm(self.np_random.uniform(LEAST_JOINTS, LARGEST_JOINTS))
            if np.all(np.abs(arm.tip) <= FARTHEST):
                return arm

    def _goal(self) -> Vector:
        world = self._world
        if self._target is not None:
            return self._target
        assert world.block is not None
        if self._task.goal == "block":
            return world.block
        return np.array((1.0 - BLOCK_RADIUS, world.block[1]))

    def _distance(self) -> float:
        """Distance of what must move from its goal; to touch is to be as near as both radii."""
        world = self._world
        moved = world.block if self._task.moves == "block" else world.effector
        assert moved is not None
        between = float(np.linalg.norm(moved - self._goal()))
        return max(0.0, between - EFFECTOR_RADIUS - BLOCK_RADIUS) if self._task.goal == "block" else between

    def _advance(self, action: Action) -> tuple[float, bool, bool]:
        self._world.move(action)
        self._phases += (0.11, 0.17)
        distance = self._distance()
        return 10.0 / (1.0 + (distance / REWARD_RADIUS) ** 2), distance < SUCCESS_RADIUS, False

    def _draw(self) -> Image:
        discs = [] if self._target is None else [Disc(self._target, "target")]
        distractor = self.nuisance()
        if distractor is not None:
            discs.append(Disc(distractor, "distractor"))
        return draw(self._world, discs, self.image_size)
