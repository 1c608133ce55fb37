"""`prelar-ray export`: weights, settings and a page about them in a folder that can be published."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from prelar_ray.checkpoint.store import Checkpoint, load_checkpoint, write_meta
from prelar_ray.checkpoint.weights import WEIGHTS, write_weights
from prelar_ray.commands.options import plain_parser
from prelar_ray.config import to_yaml
from prelar_ray.reporting.model_card import model_card
from prelar_ray.reporting.read import read_run
from prelar_ray.storage.addresses import without_places
from prelar_ray.storage.files import cannot_write
from prelar_ray.storage.occupancy import require_new

__all__ = ["main"]

DESCRIPTION = """\
Write the weights of a run for others: model.safetensors, meta.json, config.yaml, and README.md, a page that says what
was trained, on what and how well.

The folder is taken wherever a checkpoint is, by evaluate, finetune --init and prelar_ray.load_run. Optimisers and
replay are left out, so a run cannot be resumed from it. Paths of this machine are left out of the settings."""

EPILOG = """\
examples:
  prelar-ray export runs/reach --to published/reach --licence CC-BY-4.0
  prelar-ray evaluate published/reach --episodes 50
  prelar-ray finetune --init published/videos --config published/videos/config.yaml --out runs/mine
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Export."""
    parser = plain_parser("export", DESCRIPTION, EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder (its last checkpoint), or a checkpoint")
    parser.add_argument("--to", type=Path, metavar="DIR", required=True, help="folder to make; must not exist")
    parser.add_argument(
        "--licence", default="", metavar="TEXT", help="of the weights, for the page (without: not stated)"
    )
    args = parser.parse_args(argv)
    require_new(args.to)
    checkpoint = load_checkpoint(args.run)
    parameters = _write(checkpoint, args.to, args.licence)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"exported: {checkpoint.path}, {checkpoint.config.method}, {parameters} numbers, as {args.to}")
    console.print("left out: optimisers, random states, replay, metrics, and paths of this machine")
    return 0


def _write(checkpoint: Checkpoint, folder: Path, licence: str) -> int:
    """Write the folder, whole or not at all, and return how many numbers the weights are.

    Raises:
        DataError: it cannot be written.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of an export that was cut off
    config = without_places(checkpoint.config)
    try:
        temporary.mkdir(parents=True)
        parameters = write_weights(temporary / WEIGHTS, checkpoint.state)
        described = checkpoint.phase, checkpoint.update, checkpoint.counters, config
        write_meta(temporary, temporary / WEIGHTS, *described)
        (temporary / "config.yaml").write_text(to_yaml(config))
        run = checkpoint.path.parent.parent
        known = read_run(run) if (run / "run.json").is_file() else None
        card = model_card(known, config, checkpoint.phase, checkpoint.update, parameters, licence)
        (temporary / "README.md").write_text(card)
        if folder.exists():  # and is empty
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return parameters
