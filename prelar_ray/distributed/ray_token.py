"""The file of Ray's token: whoever can read it can run programs on the Rays that it opens.

Ray 2.60 creates it readable by everyone. So it is created here beforehand, and an open one is closed.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from prelar_ray.errors import ResourceError
from prelar_ray.storage.files import exclusive_file

__all__ = ["close_token", "describe_access", "ensure_token", "read_token", "token_path"]

PRIVATE: Final = 0o600
OTHERS: Final = 0o077
"""Rights of group and everyone."""

log = logging.getLogger(__name__)


def token_path() -> Path | None:
    """Return the file that Ray reads its token from; None where it needs no file.

    That is where ``RAY_AUTH_TOKEN`` has the token, or ``RAY_AUTH_MODE`` switches tokens off.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return None
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def read_token() -> str | None:
    """Return the token that a Ray of this user has; None where there is none, or tokens are switched off.

    Raises:
        ResourceError: there is one that cannot be read.
    """
    path = token_path()
    if path is None:
        return os.environ.get("RAY_AUTH_TOKEN") if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" else None
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(
            f"{path}: {reason}; Ray keeps its token there, let it be a file that you can read"
        ) from error


def ensure_token() -> None:
    """Make sure that there is a token for a Ray of this machine, which only its owner can read.

    Raises:
        ResourceError: it cannot be written, or is readable by others and belongs to somebody else.
    """
    path = token_path()
    if path is None:
        return
    try:
        if not path.exists():
            _create(path)
        close_token(path)
    except OSError as error:
        raise ResourceError(
            f"{path}: {error.strerror or error}; Ray keeps its token there: let HOME be a folder that you can "
            "write, or RAY_AUTH_TOKEN_PATH a file in one"
        ) from error


def close_token(path: Path) -> None:
    """Take the rights of others to a token away, and say so.

    Raises:
        OSError: it cannot be done, as with somebody else's file.
    """
    if access := describe_access(path):
        path.chmod(PRIVATE)
        log.warning(
            "%s: was %s; now only you can. Who read it knows the token: `rm %s` once no Ray of yours runs, and the "
            "next has a new one",
            *(path, access, path),
        )


def describe_access(path: Path) -> str:
    """Return who else can read or write a token, for example "readable by others (mode 644)"; nothing if nobody can.

    Raises:
        OSError: there is no such file, or it cannot be asked.
    """
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if not mode & OTHERS:
        return ""
    return f"{'readable' if mode & 0o044 else 'open'} by others (mode {mode:o})"


def _create(path: Path) -> None:
    """Create a token; where another process is faster, its token stays.

    It appears under its name with its content: who finds it can read all of it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    created = exclusive_file(made, PRIVATE)
    try:
        with created as file:
            file.write(secrets.token_hex(32).encode())
        with suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink()
