"""The pace of a run: one update every so many environment steps, counted in one place."""

from __future__ import annotations

__all__ = ["RateLimiter"]


class RateLimiter:
    """Counts environment steps and updates; an update never comes before the steps that pay for it.

    After ``random_steps`` environment steps, ``initial_updates`` are due at once and one more with every
    ``env_steps_per_update`` further steps.
    """

    def __init__(self, random_steps: int, env_steps_per_update: int, initial_updates: int) -> None:
        self.random_steps = random_steps
        self.env_steps_per_update = env_steps_per_update
        self.initial_updates = initial_updates
        self.env_steps = 0
        self.updates = 0

    def insert(self, env_steps: int) -> None:
        """Count collected environment steps."""
        self.env_steps += env_steps

    def take(self) -> None:
        """Count one update.

        Raises:
            RuntimeError: no update is due; callers ask :attr:`updates_due` first.
        """
        if self.updates_due < 1:
            raise RuntimeError(f"no update is due after {self.env_steps} environment steps and {self.updates} updates")
        self.updates += 1

    @property
    def updates_due(self) -> int:
        """Updates that the collected steps have paid for and that were not taken yet."""
        if self.env_steps < self.random_steps:
            return 0
        paid = (self.env_steps - self.random_steps) // self.env_steps_per_update
        # Below zero where a resume asks for fewer updates per step than were made.
        return max(0, self.initial_updates + paid - self.updates)

    def restore(self, env_steps: int, updates: int) -> None:
        """Continue from a checkpoint's counters; what was sampled but never learnt from is due again."""
        self.env_steps, self.updates = env_steps, updates
