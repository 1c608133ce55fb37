"""Completion of commands, options and settings in shells, through argcomplete.

``eval "$(register-python-argcomplete prelar-ray)"`` in ``~/.bashrc`` or ``~/.zshrc`` turns it on.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

import argcomplete
from argcomplete.lexers import split_line

from prelar_ray.commands.options import ASKED
from prelar_ray.config import method_names, preset_names
from prelar_ray.config.paths import choices, field_type, fields, setting_paths

__all__ = ["complete", "complete_command"]


def complete_command(commands: Sequence[str]) -> list[str]:
    """Return the words before the cursor, where the first is a command, whose parser has to answer.

    Where the command is being written, this answers and leaves the process.

    Args:
        commands: all that there are.
    """
    before = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    _, _, _, words, _ = split_line(before)
    if len(words) > 1 and words[1] in commands:
        os.environ[ASKED] = "2"  # the parser's program is two words
        return [str(word) for word in words[1:]]
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=list(commands))
    argcomplete.autocomplete(parser)
    return []


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer what could be written next after a command, and leave the process."""
    completers = {"overrides": _settings, "preset": _presets}
    for action in parser._actions:
        if action.dest in completers:
            action.completer = completers[action.dest]  # type: ignore[attr-defined]
        if "--method" in action.option_strings:
            action.completer = _methods  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def _settings(prefix: str, **_: Any) -> list[str]:
    """``KEY=``, or the values where a key has few."""
    key, written, _value = prefix.partition("=")
    if written:
        values = method_names() if key == "method" else choices(field_type(key.split(".")))
        return [f"{key}={value}" for value in values]
    return [f"{path}=" for path in setting_paths() if not fields(field_type(path.split(".")))]


def _presets(**_: Any) -> list[str]:
    return list(preset_names())


def _methods(**_: Any) -> list[str]:
    return list(method_names())
