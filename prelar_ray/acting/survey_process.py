"""The survey of an environment in a process of its own, which may die of it."""

from __future__ import annotations

import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Final

from prelar_ray.acting.environment_check import Finding, survey
from prelar_ray.config import RunConfig
from prelar_ray.types import Frames
from prelar_ray.video.processes import inheriting
from prelar_ray.wording import how_it_ended

__all__ = ["survey_apart"]

DYING_SECONDS: Final = 10.0
"""For a process that has answered, or whose pipe broke, to end."""


def survey_apart(config: RunConfig) -> tuple[list[Finding], Frames | None]:
    """:func:`~prelar_ray.acting.environment_check.survey` in a spawned process; where that dies, how is the finding.

    Where native code crashes, the process writes to stderr where it was.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_survey, args=(theirs, config), name="survey")  # no daemon: it may start others
    with inheriting({"PYTHONFAULTHANDLER": "1"}):
        process.start()
    theirs.close()  # now the pipe ends with the process
    found: tuple[list[Finding], Frames | None] | None = None
    try:
        with suppress(EOFError, OSError):
            found = ours.recv()
        process.join(DYING_SECONDS)
    finally:
        process.kill()
        process.join()
        ours.close()
    if found is None:
        text = f"the process that played it {how_it_ended(process.exitcode)}"
        return [Finding("env", "FAIL", text, "mend the environment, or correct env.kwargs")], None
    return found


def _survey(pipe: Connection, config: RunConfig) -> None:
    pipe.send(survey(config))
