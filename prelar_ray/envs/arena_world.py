"""What is in the arena and how it moves: an effector, perhaps an arm that holds it, a block and a wall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

__all__ = [
    "BLOCK_RADIUS",
    "EFFECTOR_RADIUS",
    "WALL_HALF_WIDTH",
    "WALL_TOP",
    "Arm",
    "Vector",
    "World",
    "in_wall",
    "path_to",
    "push_from",
]

Vector = npt.NDArray[np.float64]
"""A position or movement ``(x, y)``, y upwards, in the arena [-1, 1] x [-1, 1]."""

SPEED: Final = 0.1
"""Largest movement of the effector per step and axis."""
TURN: Final = 0.15
"""Largest turn of a joint per step, radians."""
EFFECTOR_RADIUS: Final = 0.18
BLOCK_RADIUS: Final = 0.24
CONTACT: Final = EFFECTOR_RADIUS + BLOCK_RADIUS
WALL_TOP: Final = 0.3
"""The wall stands at x = 0, from the lower edge to this height."""
WALL_HALF_WIDTH: Final = 0.06
BESIDE_WALL: Final = WALL_HALF_WIDTH + EFFECTOR_RADIUS
LINK: Final = 0.95
"""Length of both links of an arm."""
BASE: Final = np.array((0.0, -0.9))
"""Shoulder of an arm."""


@dataclass
class Arm:
    """Two links; ``joints`` are the angle of the first to the right and that of the second to the first, radians."""

    joints: Vector

    @property
    def elbow(self) -> Vector:
        """Where the links meet."""
        return BASE + LINK * np.array((np.cos(self.joints[0]), np.sin(self.joints[0])))

    @property
    def tip(self) -> Vector:
        """Where the effector is."""
        angle = self.joints.sum()
        return self.elbow + LINK * np.array((np.cos(angle), np.sin(angle)))

    def turns_for(self, step: Vector) -> Vector:
        """Return turns of the joints that move the tip about so far (damped least squares)."""
        to_tip, from_elbow = self.tip - BASE, self.tip - self.elbow
        jacobian = np.array([(-to_tip[1], -from_elbow[1]), (to_tip[0], from_elbow[0])])
        turns: Vector = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 0.01 * np.eye(2), step)
        return turns


@dataclass
class World:
    """The arena at one moment."""

    effector: Vector
    block: Vector | None = None
    wall: bool = False
    arm: Arm | None = None

    def is_possible(self) -> bool:
        """Whether nothing overlaps and all of it lies within."""
        apart = self.block is None or np.linalg.norm(self.effector - self.block) > CONTACT
        beside = not self.wall or not in_wall(self.effector)
        return bool(apart and beside and np.all(np.abs(self.effector) <= 1.0))

    def action_for(self, step: Vector) -> npt.NDArray[np.float32]:
        """Return the action ``(2,)`` that moves the effector about so far, as far as one step goes."""
        wanted = step / SPEED if self.arm is None else self.arm.turns_for(step) / TURN
        return np.clip(wanted, -1.0, 1.0).astype(np.float32)

    def move(self, action: npt.NDArray[np.float32]) -> None:
        """Do one step: the effector stops at the edge and the wall, and pushes the block, which stops at the edge."""
        before = self.effector
        if self.arm is not None:
            joints = self.arm.joints + TURN * action
            self.arm = Arm(np.array((joints[0], np.clip(joints[1], 0.1, 3.0))))
            self.effector = self.arm.tip
            return
        after = np.clip(before + SPEED * np.asarray(action, dtype=np.float64), -1.0, 1.0)
        if self.wall and in_wall(after):
            if in_wall(np.array((before[0], after[1]))):  # it comes from above
                after[1] = max(after[1], WALL_TOP + EFFECTOR_RADIUS)
            else:
                after[0] = np.copysign(BESIDE_WALL, before[0])
        if self.block is not None:
            between = self.block - after
            distance = float(np.linalg.norm(between))
            if distance < CONTACT:
                direction = between / distance if distance > 0 else np.array((1.0, 0.0))
                inside = 1.0 - BLOCK_RADIUS
                self.block = np.clip(after + CONTACT * direction, -inside, inside)
                after = self.block - CONTACT * direction  # the edge may have stopped the block, and so the effector
        self.effector = after

    def get_state(self) -> dict[str, Any]:
        """Return all of it, JSON-serialisable."""
        return {
            "effector": self.effector.tolist(),
            "block": None if self.block is None else self.block.tolist(),
            "wall": self.wall,
            "joints": None if self.arm is None else self.arm.joints.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return what :meth:`get_state` described."""
        block, joints = state["block"], state["joints"]
        return cls(
            np.array(state["effector"]),
            None if block is None else np.array(block),
            state["wall"],
            None if joints is None else Arm(np.array(joints)),
        )


def in_wall(effector: Vector) -> bool:
    """Whether an effector there would overlap the wall."""
    return bool(abs(effector[0]) < BESIDE_WALL and effector[1] < WALL_TOP + EFFECTOR_RADIUS)


def path_to(world: World, goal: Vector) -> Vector:
    """Return where to go next to reach ``goal``: straight, or over the wall where it stands between."""
    here, over = world.effector, WALL_TOP + EFFECTOR_RADIUS + 0.05
    same_side = here[0] * goal[0] > 0 and abs(here[0]) >= BESIDE_WALL and abs(goal[0]) >= BESIDE_WALL
    if not world.wall or same_side or (goal[1] >= over and here[1] >= over - 0.05):
        return goal
    if here[1] < over - 0.05:
        return np.array((here[0], over))
    beside = np.copysign(max(abs(goal[0]), BESIDE_WALL), goal[0])
    return np.array((beside, over)) if abs(here[0] - beside) > 0.02 else goal


def push_from(world: World, goal: Vector) -> Vector:
    """Return the step that gets behind the block, seen from ``goal``, or from there pushes it on."""
    assert world.block is not None
    ahead = goal - world.block
    ahead = ahead / max(float(np.linalg.norm(ahead)), 1e-6)
    between = world.block - world.effector
    distance = float(np.linalg.norm(between))
    if between @ ahead > 0.95 * distance and distance < CONTACT + 0.12:
        aside = between - (between @ ahead) * ahead
        return ahead * SPEED + 1.5 * aside
    behind = np.clip(world.block - (CONTACT + 0.08) * ahead, -1.0, 1.0)
    to_behind = behind - world.effector
    towards_block = between / max(distance, 1e-6)
    if distance < CONTACT + 0.12 and to_behind @ towards_block > 0:  # the block is in the way: round it
        round_ = np.array((-towards_block[1], towards_block[0]))
        if round_ @ to_behind < 0:
            round_ = -round_
        return SPEED * round_ - towards_block * max(0.0, CONTACT + 0.06 - distance)
    return to_behind
