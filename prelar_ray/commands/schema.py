"""``prelar-ray schema``: write the JSON schema of configuration files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from prelar_ray.commands.options import plain_parser
from prelar_ray.config import json_schema
from prelar_ray.storage.files import atomic_file, prepare_file

__all__ = ["main"]

DESCRIPTION = "Write the JSON schema of configuration files: every key with its meaning, type and range."

EPILOG = """\
An editor with a YAML language server completes and checks a configuration whose first line is
  # yaml-language-server: $schema=prelar_ray.schema.json
after
  prelar-ray schema --out prelar_ray.schema.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the schema to ``--out`` or to standard output.

    Raises:
        DataError: ``--out`` cannot be written.
    """
    parser = plain_parser("schema", DESCRIPTION, EPILOG)
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write; without it, standard output")
    out: Path | None = parser.parse_args(argv).out
    text = json.dumps(json_schema(), indent=2) + "\n"
    if out is None:
        sys.stdout.write(text)
        return 0
    prepare_file(out)
    with atomic_file(out) as file:
        file.write(text.encode())
    return 0
