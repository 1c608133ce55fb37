"""What an agent may do: numbers in [-1, 1], or a choice for each of some factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["ActionSpace"]

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ActionSpace:
    """Actions, all of them float32 vectors ``(A,)``.

    A continuous action is A numbers in [-1, 1]. A discrete one is a choice for each factor, written as one-hot vectors
    one after another: three choices and two are five numbers, of which two are 1.
    """

    kind: Literal["continuous", "discrete"]
    sizes: tuple[int, ...]
    """Continuous: A alone. Discrete: the number of choices of every factor."""

    @classmethod
    def continuous(cls, size: int) -> ActionSpace:
        """Return the space of ``size`` numbers."""
        return cls("continuous", (size,))

    @classmethod
    def discrete(cls, *sizes: int) -> ActionSpace:
        """Return the space of a factor for each of ``sizes``, with so many choices."""
        return cls("discrete", sizes)

    @classmethod
    def of(cls, actions: ActionSpace | int) -> ActionSpace:
        """Return the space itself; a number stands for so many continuous ones."""
        return actions if isinstance(actions, ActionSpace) else cls.continuous(actions)

    @property
    def size(self) -> int:
        """Numbers A in an action."""
        return sum(self.sizes)

    @property
    def is_discrete(self) -> bool:
        """Whether actions are choices."""
        return self.kind == "discrete"

    def indices(self, action: Numbers) -> npt.NDArray[np.int64]:
        """Return the choice of every factor, the one of its largest number: ``(..., A) -> (..., factors)``."""
        factors = np.split(action, np.cumsum(self.sizes)[:-1], axis=-1)
        return np.stack([factor.argmax(axis=-1) for factor in factors], axis=-1).astype(np.int64)

    def one_hot(self, indices: npt.NDArray[np.int64]) -> Numbers:
        """Return the action of these choices, ``(..., factors) -> (..., A)``."""
        parts = [np.eye(size, dtype=np.float32)[indices[..., i]] for i, size in enumerate(self.sizes)]
        return np.concatenate(parts, axis=-1)

    def random(self, uniform: Numbers) -> Numbers:
        """Return uniformly distributed actions, made of as many numbers that are uniform in [0, 1): ``(..., A)``."""
        return self.one_hot(self.indices(uniform)) if self.is_discrete else 2 * uniform - 1

    def __str__(self) -> str:
        """Say for a message what an action is."""
        if self.is_discrete:
            return f"a choice of {' and one of '.join(map(str, self.sizes))}"
        return f"size {self.size}"
