"""``sys.exit`` in an environment's own code: an error as any other, not the end of the program that steps it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prelar_ray.errors import EnvironmentFailure
from prelar_ray.wording import printable

__all__ = ["refusing_to_leave"]


@contextmanager
def refusing_to_leave() -> Iterator[None]:
    """Run an environment's own code, which may not end this process.

    Raises:
        EnvironmentFailure: it called ``sys.exit``.
    """
    try:
        yield
    except SystemExit as leaving:
        if vars(leaving):  # of Ray, which ends a worker process so, and marks it
            raise
        code = "" if leaving.code is None else printable(repr(leaving.code))
        raise EnvironmentFailure(
            f"the environment left with sys.exit({code}); have it raise an error instead"
        ) from leaving
