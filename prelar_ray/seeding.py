"""One seed per (run seed, role, index): every process derives its generators here and nowhere else."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["derive_seed", "generator"]


def derive_seed(seed: int, role: str, *index: int) -> int:
    """Return a 63-bit seed for one role, for example ``derive_seed(0, "env", 3)``.

    Independent of process, platform and Python's hash seed. Different roles or indices get unrelated seeds, so
    training and evaluation environments never share one.
    """
    text = ":".join([str(seed), role, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, role: str, *index: int) -> np.random.Generator:
    """Return a NumPy generator for one role; its state is ``generator.bit_generator.state``."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, role, *index)))
