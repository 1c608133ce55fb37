"""`prelar-ray import-checkpoint`: a checkpoint of the published code becomes a run folder."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prelar_ray.action_space import ActionSpace
from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.commands.dry_run import print_dry_run
from prelar_ray.commands.options import command_parser, override_option, overrides
from prelar_ray.config import named_value, to_yaml
from prelar_ray.envs import action_space, check_task
from prelar_ray.errors import OfficialCheckpointError, RenderingError
from prelar_ray.published.convert import Imported, import_published
from prelar_ray.storage.files import cannot_write, new_folder
from prelar_ray.storage.occupancy import require_new
from prelar_ray.storage.run_folder import IMPORT, RunFolder

__all__ = ["main"]

log = logging.getLogger(__name__)

BUFFERS = ("bonus", "reward_normaliser")
"""Parts without parameters."""

DESCRIPTION = """\
Turn a checkpoint of the published code into a run folder that finetune and evaluate take.

PATH is the folder of a published pre-training (variables.pt, rssm_variables.pt, ...), or a file variables.pt of
pre-training or fine-tuning. The layouts of PreLAR's repository (PreLAR, APV, ContextWM, DreamerV2) and of ContextWM's
(ContextWM, APV, DreamerV2) are distinguished by their keys. OUT is the new folder.
"""

EPILOG = """\
Phase, method and every width come from the keys and shapes. Shapes do not tell how many classes a group of the latent
state has (world_model.rssm.classes, 32 in the published runs), nor anything that is not a network: the task, loss
weights, learning rates. Those come from preset, file and overrides, as in the other commands. All keys must be known
and all networks complete. Files are read as tensors; one that contains code is refused and not executed.

Published checkpoints hold no optimiser state, so --resume cannot resume OUT.

examples:
  prelar-ray import-checkpoint downloads/prelar-rlbench runs/rlbench
  prelar-ray finetune --init runs/rlbench --config runs/rlbench/config.yaml --out runs/drawer

  prelar-ray import-checkpoint logs/drawer/variables.pt runs/published --task metaworld/drawer-open-v3
  prelar-ray evaluate runs/published --episodes 50

  prelar-ray import-checkpoint small.pt runs/small --method prelar_no_consistency world_model.rssm.classes=16 --dry-run
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Import."""
    paths = {"path": "folder or file that the published code wrote", "out": "run folder to make; must not exist"}
    parser = command_parser("import-checkpoint", DESCRIPTION, EPILOG, paths)
    override_option(parser, "--task", "env.task", help="environment id that the checkpoint was or will be tuned in")
    args = parser.parse_args(argv)
    require_new(args.out)
    imported = import_published(args.path, args.preset, args.config, overrides(args))
    named = named_value("env.task", args.config, overrides(args)) is not None
    actions = _actions_of_task(imported, named)
    if named and actions != _actions_of_checkpoint(imported):
        raise OfficialCheckpointError(
            f"{args.path}: {_contradiction(imported, actions)}; name the task it was tuned in"
        )
    console = Console(soft_wrap=True, highlight=False)
    if args.dry_run:
        _print_summary(console, imported)
        print_dry_run(imported.config)
        return 0
    _write(args.out, imported, args.path)
    run = RunFolder.open(args.out)
    _print_summary(console, imported)
    console.print(
        f"imported: {run.last_checkpoint()}\nnext: prelar-ray {_following(run, imported, actions)}", markup=False
    )
    return 0


def _write(out: Path, imported: Imported, source: Path) -> None:
    """Write the run folder, which appears when it is whole.

    Raises:
        CheckpointError, DataError: it cannot be written.
    """
    try:
        with new_folder(out) as partial:
            run = RunFolder.create(partial, to_yaml(imported.config), IMPORT)
            with run.track():
                store = CheckpointStore(run.checkpoints, keep_last=1)
                store.save(imported.phase, imported.config, 0, imported.state, imported.counters)
                run.update(summary={"tensors": len(imported.tensors), "source": str(source)})
    except OSError as error:
        raise cannot_write(out, error) from error


def _actions_of_checkpoint(imported: Imported) -> ActionSpace | None:
    """Return the actions of a checkpoint, which are continuous in published code; None where it has no policy."""
    size = imported.inferred.action
    return None if size is None else ActionSpace.continuous(size)


def _actions_of_task(imported: Imported, named: bool) -> ActionSpace | None:
    """Return the actions of the configuration's task, or of the checkpoint if the task's are not known.

    Raises:
        ConfigError: no such task.
    """
    env, actions = imported.config.env, _actions_of_checkpoint(imported)
    try:
        if actions is not None:
            return action_space(env)
        if named:
            check_task(env.task)
    except RenderingError as error:  # a machine that imports may be unable to render
        log.warning("env.task=%s is not checked: %s", env.task, error)
    return actions


def _following(run: RunFolder, imported: Imported, actions: ActionSpace | None) -> str:
    """Return the next command for the run folder, as arguments of prelar-ray."""
    folder, config = shlex.quote(str(run.path)), shlex.quote(str(run.config_path))
    if imported.phase == "pretrain":
        return f"finetune --init {folder} --config {config} --out runs/finetune"
    if actions == _actions_of_checkpoint(imported):
        return f"evaluate {folder} --film film.mp4"
    reason = _contradiction(imported, actions)
    return f"evaluate {folder} --film film.mp4 env.task=TASK, with the task it was tuned in: {reason}"


def _contradiction(imported: Imported, actions: ActionSpace | None) -> str:
    return (
        f"env.task={imported.config.env.task} takes actions of {actions}, the checkpoint has {imported.inferred.action}"
    )


def _print_summary(console: Console, imported: Imported) -> None:
    settings = Table("settings", "from the checkpoint", title_justify="left")
    settings.add_row("layout", f"{imported.layout} ({', '.join(imported.published.files)})")
    settings.add_row("phase", imported.phase)
    settings.add_row("method", imported.config.method + (" (named)" if imported.method_named else ""))
    sections: dict[str, list[str]] = {}
    for path, setting in imported.inferred.settings.items():
        section, _, name = path.rpartition(".")
        sections.setdefault(section, []).append(f"{name} {setting.value}")
    for section, values in sections.items():
        settings.add_row(section, ", ".join(values))
    if imported.inferred.action is not None:
        settings.add_row("action size", str(imported.inferred.action))
    console.print(settings)

    parts: dict[str, tuple[int, int]] = {}
    for key, value in imported.tensors.items():
        name = key.partition(".")[0]
        tensors, parameters = parts.get(name, (0, 0))
        is_parameter = value.is_floating_point() and ".running_" not in key and name not in BUFFERS
        parts[name] = tensors + 1, parameters + is_parameter * value.numel()
    table = Table("part", title_justify="left")
    table.add_column("tensors", justify="right")
    table.add_column("parameters", justify="right")
    for name, (tensors, parameters) in parts.items():
        table.add_row(name.replace("_", " "), f"{tensors:,}", f"{parameters:,}")
    console.print(table)

    aliases = imported.published.aliases
    used = len(imported.published.tensors)
    console.print(f"keys: {used + sum(aliases.values())}, of which {used} used, 0 unused, 0 missing")
    for prefix, count in aliases.items():
        console.print(f"names of the same tensors once more: {count} under {prefix}")
    if imported.filled:
        console.print(f"not published, set to zero: {_few(imported.filled)}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
