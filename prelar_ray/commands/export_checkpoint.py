"""`prelar-ray export-checkpoint`: a checkpoint in the layout of the published code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.commands.options import plain_parser
from prelar_ray.published.convert import export_state
from prelar_ray.published.files import write_published
from prelar_ray.published.names import LAYOUTS
from prelar_ray.storage.occupancy import require_new

__all__ = ["main"]

DESCRIPTION = """\
Write a checkpoint as the published code writes and loads it.

From a pre-training checkpoint come variables.pt and a file per part (rssm_variables.pt, encoder_variables.pt, ...),
which the published fine-tuning loads; from a fine-tuning checkpoint variables.pt. Tensors keep their bits: an imported
checkpoint is exported with the same keys, types and values.
"""

EPILOG = """\
Optimiser state, counters and replay are not part of a published checkpoint and are left out.

examples:
  prelar-ray export-checkpoint runs/pretrain exported/pretrain
  prelar-ray export-checkpoint runs/contextwm exported/contextwm --layout contextwm
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Export."""
    parser = plain_parser("export-checkpoint", DESCRIPTION, EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder (its last checkpoint), or a checkpoint")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; must not exist")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="names of PreLAR's or of ContextWM's repository (without: as imported, else prelar)",
    )
    args = parser.parse_args(argv)
    require_new(args.out)
    checkpoint = load_checkpoint(args.run)
    export = export_state(checkpoint, args.layout)
    files = write_published(args.out, export.tensors, export.aliases, export.parts)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"exported: {checkpoint.path}, {checkpoint.config.method}, as {args.out}/{{{', '.join(files)}}}")
    console.print(f"layout {export.layout}: {len(export.tensors)} tensors")
    for prefix in export.aliases:
        console.print(f"written once more: {prefix}")
    if export.left_out:
        console.print(f"without a published name: {', '.join(export.left_out[:3])}")
    return 0
