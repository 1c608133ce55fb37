"""TensorBoard event files. Importing this module imports torch, through tensorboardX."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from prelar_ray.storage.files import cannot_write

__all__ = ["EventFile"]


class EventFile:
    """Scalars over updates, written in the calling thread.

    tensorboardX's ``SummaryWriter`` writes in a thread, which ends on a full disk and then blocks its caller.
    """

    def __init__(self, folder: Path, hide_from: int | None) -> None:
        """Create a file; TensorBoard hides the content of earlier files from update ``hide_from``.

        Raises:
            DataError: the folder cannot be written.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Without the suffix, a run that resumes within the same second would truncate the previous file.
            self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        except OSError as error:
            raise cannot_write(self._folder, error) from error
        if hide_from is not None:
            self._write(Event(wall_time=time.time(), step=hide_from, session_log=SessionLog(status=SessionLog.START)))

    def write(self, seconds: float, update: int, values: Mapping[str, float]) -> None:
        """Write finite numbers, at ``seconds`` since 1970.

        Raises:
            DataError: the disk is full.
        """
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(wall_time=seconds, step=update, summary=Summary(value=scalars)))

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            raise cannot_write(self._folder, error) from error
