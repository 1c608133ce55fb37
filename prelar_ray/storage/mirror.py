"""Mirror: a copy of a run folder at an address that ``pyarrow.fs`` supports, updated with every checkpoint."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyarrow import fs

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.storage.addresses import FAILURES, open_address, reason
from prelar_ray.storage.files import exclusive_file, new_folder, write_json
from prelar_ray.storage.json_text import parse_json
from prelar_ray.storage.names import check_names, files_inside, is_inside
from prelar_ray.storage.occupancy import require_new
from prelar_ray.storage.provenance import utc_now
from prelar_ray.storage.records import CHECKPOINT_META, RLLIB_META, Fetched
from prelar_ray.storage.run_folder import FETCHED, RunFolder
from prelar_ray.wording import printable

__all__ = ["Mirror", "fetch", "mirrored"]

POLL_SECONDS = 2.0
"""Interval between two looks for a new checkpoint."""
COPIES = 8
"""Files that are fetched at once."""
CHUNK = 2**20
"""Bytes read at a time."""
PART = ".part"
"""Suffix of what is on its way."""

RECORD, REPLAY, CHECKPOINTS = "run.json", "replay/", "checkpoints/"

IMMUTABLE = (CHECKPOINTS, REPLAY)
"""Folders whose files are written once: a file is copied once, and its copy is removed with the file."""

MANIFESTS = (CHECKPOINT_META, RLLIB_META)
"""Files with the checksums of the rest of a checkpoint, which is complete once they exist."""

log = logging.getLogger(__name__)


class Mirror:
    """Copies one run folder to ``uri``/name of the folder, and never modifies the copy of another run."""

    def __init__(self, run: RunFolder, uri: str, is_whole: Callable[[Path], bool]) -> None:
        """Create the folder of the copy.

        Args:
            is_whole: whether the files of a checkpoint folder match their checksums.

        Raises:
            ConfigError: the address cannot be used, or holds the checkpoints or episodes of another run.
        """
        self.run, self.folder, self.uri, self._is_whole = run, run.path, uri, is_whole
        self._left_out: set[str] = set()
        name = run.path.absolute().name
        self._address = f"{uri.rstrip('/')}/{name}"
        try:
            self._fs, base = open_address(uri)
            self._base = f"{base}/{name}"
            self._fs.create_dir(self._base)
            self._there()
        except FAILURES as error:
            raise ConfigError(
                f"checkpoint.mirror={uri}: {reason(error)}; give an address such as s3://bucket/runs or file:///mnt/runs"
            ) from error

    def sync(self) -> None:
        """Copy new files, episodes before the checkpoints that need them; then remove files that no longer exist here.

        Files of the copy appear atomically, and a checkpoint's manifest after its tensors. The copy of a checkpoint
        that is damaged here is kept, and nothing is removed from the copy unless some checkpoint here is intact.

        Raises:
            ConfigError: another run uses the address.
            OSError, pyarrow.ArrowException: the remote side does not answer; the copy stays usable.
        """
        there, here = self._there(), self._files()
        checkpoints: dict[str, list[str]] = {}
        for name in (name for name in here if name.startswith(CHECKPOINTS)):
            checkpoints.setdefault(_checkpoint(name), []).append(name)
        for name in sorted(here, key=_order):
            # Episodes without a checkpoint are useless, and would make the address refuse a run that is started again.
            if not name.startswith(CHECKPOINTS) and (checkpoints or not name.startswith(REPLAY)):
                self._update(name, there)
        copied = {path for path, names in sorted(checkpoints.items()) if self._update_checkpoint(path, names, there)}
        stay = checkpoints.keys() - copied
        gone = [name for name in set(there) - set(here) if name.startswith(IMMUTABLE) and _checkpoint(name) not in stay]
        if gone and (copied or any(self._is_whole(self.folder / path) for path in sorted(checkpoints, reverse=True))):
            for name in gone:
                with suppress(FileNotFoundError):  # a partial file that has been completed since
                    self._fs.delete_file(f"{self._base}/{name}")

    def _there(self) -> dict[str, int]:
        """Return the sizes of the files of the copy by name, after checking that it is of this run.

        Raises:
            ConfigError: it is of another run, which could not be resumed without it.
        """
        there = _listing(self._fs, self._base)
        if any(name.startswith(IMMUTABLE) for name in there):
            record: Any = None
            if RECORD in there:
                with suppress(ValueError):
                    record = parse_json(self._read(RECORD))
            if not isinstance(record, Mapping) or _identity(record) != _identity(self.run.info):
                raise ConfigError(
                    f"checkpoint.mirror={self.uri}: {self._address} holds the copy of another run; to resume that run, "
                    f"`prelar-ray fetch {self._address} NEW` and --resume there; else choose another address or name"
                )
        return there

    def _files(self) -> list[str]:
        """Return the names of the files of the run folder, except unfinished ones and links that leave it."""
        names = []
        for name, inside in files_inside(self.folder):
            if inside and not _unfinished(Path(name)):
                names.append(name)
            elif not inside and name not in self._left_out:
                self._left_out.add(name)
                log.warning("%s: a link out of the run folder, which is not copied to the mirror", self.folder / name)
        return names

    def _update(self, name: str, there: Mapping[str, int]) -> None:
        with suppress(FileNotFoundError):  # pruned meanwhile
            if not name.startswith(IMMUTABLE) or there.get(name) != (self.folder / name).stat().st_size:
                self._copy(name)

    def _update_checkpoint(self, checkpoint: str, names: list[str], there: Mapping[str, int]) -> bool:
        """Copy the missing files of a checkpoint if it is intact here; return whether it is known to be intact.

        A run that resumed from an earlier checkpoint saves the same update again, with files of the same sizes; the
        manifest tells them apart.
        """
        manifests = [name for name in names if _is_manifest(name)]
        try:
            described = {name: (self.folder / name).read_bytes() for name in manifests}
            sizes = {name: (self.folder / name).stat().st_size for name in names}
            same = all(name in there and self._read(name) == text for name, text in described.items())
            stale = [name for name in names if not same or there.get(name) != sizes[name]]
            if not stale or not self._is_whole(self.folder / checkpoint):
                return False
            for name in sorted(stale, key=_order):
                if _is_manifest(name) and (self.folder / name).read_bytes() != described[name]:
                    return False  # saved again meanwhile; the next sync copies it
                self._copy(name)
        except FileNotFoundError:  # pruned meanwhile
            return False
        return True

    def _read(self, name: str) -> bytes:
        with self._fs.open_input_stream(f"{self._base}/{name}") as stream:
            return bytes(stream.read())

    def _copy(self, name: str) -> None:
        target = f"{self._base}/{name}"
        with (self.folder / name).open("rb") as source, self._sink(f"{target}{PART}") as sink:
            shutil.copyfileobj(source, sink, CHUNK)
        self._fs.move(f"{target}{PART}", target)

    def _sink(self, path: str) -> Any:
        """Open a file of the copy to write; on a local file system no link is followed out of the copy."""
        if not isinstance(self._fs, fs.LocalFileSystem):
            self._fs.create_dir(path.rpartition("/")[0])
            return self._fs.open_output_stream(path)
        if not is_inside(Path(path).parent, Path(self._base)):
            raise OSError(f"{path}: a link leads out of the copy")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).unlink(missing_ok=True)
        return exclusive_file(Path(path))


@contextmanager
def mirrored(run: RunFolder, uri: str, is_whole: Callable[[Path], bool]) -> Iterator[None]:
    """Keep a copy of a run folder at ``uri`` up to date in a thread; an empty ``uri`` does nothing.

    Only the end of the block waits for the copy. A failed copy is logged and retried at the next checkpoint. A resume
    that is refused leaves the copy unchanged.

    Raises:
        ConfigError: see :class:`Mirror`; recorded as the failure of the run.
    """
    if not uri:
        yield
        return
    try:
        mirror = Mirror(run, uri, is_whole)
    except ConfigError:
        with run.track():
            raise
    done = threading.Event()

    def keep() -> None:
        copied: set[str] = set()
        while not done.wait(POLL_SECONDS):
            present = {path.name for path in run.checkpoints.glob("[0-9]*")}
            if run.started and present - copied:
                copied = present
                _try(mirror)

    thread = threading.Thread(target=keep, name="mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if run.started:
            _try(mirror)


def fetch(uri: str, out: Path) -> Fetched:
    """Copy a run folder from ``uri`` into the new folder ``out``, which appears atomically, and note where it is from.

    All names are checked before the first byte is written. Links that leave the run folder are not followed.

    Raises:
        RunFolderError: ``out`` exists.
        DataError: there is no run at that address, a name there leads out of ``out``, or the copy does not fit.
    """
    require_new(out)
    address = printable(re.sub(r"//[^/@]*@", "//", uri.partition("?")[0]))  # without keys and options
    try:
        source, base = open_address(uri)
        if not source.get_file_info(f"{base}/{RECORD}").is_file:
            raise DataError(f"{address}: no run folder, it holds no run.json; name one as RUN below checkpoint.mirror")
        sizes = {name: size for name, size in _listing(source, base).items() if not name.endswith(PART)}
        sizes.pop(FETCHED, None)  # says where the copy there is from
        check_names(sizes, address)
        with new_folder(out) as partial:
            free, total = shutil.disk_usage(partial).free, sum(sizes.values())
            if total > free:
                raise DataError(f"{address}: {total:,} bytes do not fit into the {free:,} free at {out}; free space")
            with ThreadPoolExecutor(COPIES) as pool:
                list(pool.map(lambda name: _fetch_file(source, f"{base}/{name}", partial / name, sizes[name]), sizes))
            fetched = Fetched(address=address, time=utc_now(), files=len(sizes), bytes=total)
            write_json(partial / FETCHED, fetched.model_dump())
    except FAILURES as error:
        raise DataError(f"{address}: cannot be copied to {out} ({reason(error)})") from error
    return fetched


def _fetch_file(source: fs.FileSystem, path: str, target: Path, size: int) -> None:
    """Copy one file; one that gives more or less than was listed is refused."""
    target.parent.mkdir(parents=True, exist_ok=True)
    left = size
    with source.open_input_stream(path) as stream, exclusive_file(target) as sink:
        while chunk := stream.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                raise OSError(f"{printable(path)} gives more than its {size:,} bytes")
            sink.write(chunk)
    if left:
        raise OSError(f"{printable(path)} gives only {size - left:,} of its {size:,} bytes")


def _listing(source: fs.FileSystem, base: str) -> dict[str, int]:
    """Return the sizes of the files below a folder by name; of a local one, without links that leave it.

    Raises:
        OSError: a name does not begin with that of the folder.
    """
    if isinstance(source, fs.LocalFileSystem):
        # pyarrow would descend into links to folders.
        return {name: os.stat(f"{base}/{name}").st_size for name, inside in files_inside(Path(base)) if inside}
    sizes = {}
    for info in source.get_file_info(fs.FileSelector(base, recursive=True)):
        if info.is_file:
            if not info.path.startswith(f"{base}/"):
                raise OSError(f"{printable(info.path)} is listed, which is not in {base}")
            sizes[info.path.removeprefix(f"{base}/")] = info.size
    return sizes


def _try(mirror: Mirror) -> None:
    try:
        mirror.sync()
    except (ConfigError, *FAILURES) as error:
        log.warning("checkpoint.mirror=%s: not up to date (%s); the run folder itself is", mirror.uri, reason(error))


def _identity(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what identifies a run, also after a resume or fetch; older runs have no id."""
    return record.get("id"), record.get("created")


def _order(name: str) -> tuple[int, bool, str]:
    """Sort key: ``run.json``, episodes, other records, then checkpoints, each manifest after its tensors."""
    rank = 0 if name == RECORD else 1 if name.startswith(REPLAY) else 3 if name.startswith(CHECKPOINTS) else 2
    return rank, _is_manifest(name), name


def _checkpoint(name: str) -> str:
    """Return the first two parts of a file's path: the folder, for a file of a checkpoint."""
    return "/".join(name.split("/")[:2])


def _is_manifest(name: str) -> bool:
    return name.startswith(CHECKPOINTS) and name.rpartition("/")[2] in MANIFESTS


def _unfinished(path: Path) -> bool:
    return any(part.startswith(".") or part.endswith(".tmp") for part in path.parts)
