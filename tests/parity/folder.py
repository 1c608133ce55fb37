"""A parity folder: what the published code computed, loaded whole and checked before anything is compared.

``tests/data/parity`` is one; its ``README.md`` describes every file of the format. No width, length or seed of any
folder is known here.
"""

from __future__ import annotations

import io
import json
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prelar_ray.errors import PrelarError

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

PUBLIC = Path(__file__).parents[1] / "data" / "parity"

ARRAY_FILES = (
    *("inputs", "modules", "dists", "misc"),
    *("e2e_pretrain", "e2e_pretrain_f64", "e2e_finetune", "e2e_finetune_f64"),
)
PRETRAINED, FINETUNED = "pretrained/variables.pt", "finetuned/variables.pt"
PARTS = {
    "pretrained/rssm_variables.pt": "wm.rssm.",
    "pretrained/va_encoder_variables.pt": "wm.va_encoder.",
    "pretrained/encoder_variables.pt": "wm.encoder.",
    "pretrained/decoder_variables.pt": "wm.heads.decoder.",
}
"""Parts of the pre-trained checkpoint that have a file of their own, with what their names lack."""
TENSOR_FILES = (PRETRAINED, *PARTS, FINETUNED)


class ParityError(PrelarError):
    """A parity folder lacks something, holds it in another shape, or asks for what this project does not do."""

    exit_code = 2


class Entries(dict[str, Any]):
    """What one file holds, by name; a name that it lacks is an error that says so."""

    def __init__(self, source: str, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.source = source

    def __missing__(self, key: str) -> Any:
        raise ParityError(f"{self.source}: {key} is missing")


@dataclass(frozen=True, eq=False)
class ParityFolder:
    """Everything that a folder holds."""

    options: Entries
    """``config.json``; ``pretrain`` and ``finetune`` hold the options of either phase."""
    arrays: dict[str, Entries]
    """Arrays by file name without ``.npz``, then by array name."""
    tensors: dict[str, Entries]
    """Checkpoints before the first recorded update, by path, then by the published code's names, in order."""
    tensor_table: Entries
    """``state_dict_keys.json``: rows with key, shape and dtype, by path."""
    parameter_order: Entries
    """``param_order.json``: parameter names by optimiser."""
    noise: Entries
    """``noise.json``: rows by file, then by array."""

    @classmethod
    def load(cls, path: Path) -> ParityFolder:
        """Read a folder.

        Raises:
            ParityError: a file is missing or damaged, or an array that computation starts from is missing or of the
                wrong shape.
        """
        if not path.is_dir():
            raise ParityError(f"{path}: no such folder")
        options = _read_json(path, "config.json")
        for phase in ("pretrain", "finetune"):
            options[phase] = Entries(f"config.json: {phase}", options[phase])
        noise = _read_json(path, "noise.json")
        folder = cls(
            options=options,
            arrays={name: _read_arrays(path, f"{name}.npz") for name in ARRAY_FILES},
            tensors={name: _read_tensors(path, name) for name in TENSOR_FILES},
            tensor_table=_read_json(path, "state_dict_keys.json"),
            parameter_order=_read_json(path, "param_order.json"),
            noise=Entries("noise.json", {name: Entries(f"noise.json: {name}", noise[name]) for name in noise}),
        )
        _check_shapes(folder)
        _check_permutation(folder)
        _check_tensor_table(folder)
        return folder

    def tensor(self, file: str, key: str) -> Tensor:
        """A copy of an array on the default device; numbers with a fraction as float32, which is what training sees."""
        tensor = to_tensor(self.arrays[file][key])
        return tensor.float() if tensor.is_floating_point() else tensor


def to_tensor(array: Array) -> Tensor:
    """A copy on torch's default device, which is where this project computes."""
    return torch.from_numpy(array.copy()).to(torch.get_default_device())


# What the parsers raise for a file that is cut off, altered, of another format, or holds objects.
_DAMAGED = (ValueError, LookupError, EOFError, OSError, RuntimeError, BadZipFile, zlib.error, pickle.UnpicklingError)


def _read(path: Path, name: str, parse: Callable[[IO[bytes]], Any]) -> Any:
    try:
        content = (path / name).read_bytes()
    except OSError as error:
        raise ParityError(f"{name}: cannot read: {error.strerror}; expected in {path}") from error
    try:
        return parse(io.BytesIO(content))
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ParityError(f"{name}: damaged: {reason}") from error


def _read_json(path: Path, name: str) -> Entries:
    content = _read(path, name, json.load)
    if not isinstance(content, dict):
        raise ParityError(f"{name}: expected a JSON object")
    return Entries(name, content)


def _read_arrays(path: Path, name: str) -> Entries:
    def parse(file: IO[bytes]) -> dict[str, Array]:
        with np.load(file) as archive:
            return {key: archive[key] for key in archive.files}

    content = Entries(name, _read(path, name, parse))
    for key, array in content.items():
        if array.dtype.kind not in "biuf":
            raise ParityError(f"{name}: {key} has type {array.dtype}, expected numbers")
    return content


def _read_tensors(path: Path, name: str) -> Entries:
    content = _read(path, name, lambda file: torch.load(file, map_location="cpu", weights_only=True))
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ParityError(f"{name}: expected a dictionary of tensors")
    return Entries(name, dict(content))


# Shapes of all arrays that this project computes from; whatever else a folder holds is compared with a result and
# must have that one's shape. Capitals are sizes that config.json states, small letters any size, one within a file.
INPUT_SHAPES = {
    "inputs": {
        "inputs/image": "B T C Hpx Wpx",
        "inputs/action": "B T A",
        "inputs/reward": "B T",
        "inputs/is_first": "B T",
        "inputs/is_terminal": "B T",
        "module_inputs/step/stoch": "n S K",
        "module_inputs/step/deter": "n D",
        "module_inputs/step/action": "n L",
        "module_inputs/step/embed": "n E",
        "module_inputs/step/is_first": "n",
        "module_inputs/imagine/action": "n i L",
        "module_inputs/heads/feat": "m F",
        "module_inputs/heads/target": "m",
        "module_inputs/heads/action": "m A",
        "module_inputs/lambda/reward": "h k",
        "module_inputs/lambda/value": "h k",
        "module_inputs/lambda/pcont": "h k",
        "module_inputs/lambda/bootstrap": "k",
        "module_inputs/streamnorm/x": "x y z",
        "module_inputs/intr/feat": "c b t E",
        "module_inputs/intr/reward": "c b t",
        "module_inputs/intr/projection": "E Q",
        "module_inputs/policy/is_first": "r s",
    },
    "modules": {
        "encoder/train/embed": "B T E",
        "vanet/train/action_repr": "B T L",
        "vanet/train/mean": "B P L",
        "vanet/train/std": "B P L",
        "rssm/observe/post_stoch": "B T S K",
        "rssm/observe/post_deter": "B T D",
        "rssm/observe/post_logit": "B T S K",
        "rssm/observe/prior_logit": "B T S K",
        "rssm/observe_carry/post_logit": "B c S K",
        "rank/prior_kl": "N",
        "rank/action_kl": "N",
    },
    "dists": {
        "truncnorm/loc": "g",
        "truncnorm/scale": "g",
        "truncnorm/values": "v",
        "truncnorm/p": "p",
        "truncnorm/sample_clip/loc": "s",
    },
    "misc": {"enc_lr_schedule/pretrain0": "u"},
    "e2e_pretrain": {"trajectory/total": "u"},
    "e2e_pretrain_f64": {"trajectory/total": "u"},
    "e2e_finetune": {
        "wm/post_index": "B T S",
        "wm/post_deter": "B T D",
        "wm/post_logit": "B T S K",
        "trajectory/wm/model_loss": "u",
        "frozen/max_abs_update": "f 4",
    },
    "e2e_finetune_f64": {"trajectory/wm/model_loss": "u", "frozen/max_abs_update": "f 4"},
}


def _check_shapes(folder: ParityFolder) -> None:
    sizes = sizes_of(folder)
    for file, shapes in INPUT_SHAPES.items():
        arrays, known = folder.arrays[file], dict(sizes)
        for key, letters in shapes.items():
            wanted = [int(letter) if letter.isdigit() else known.get(letter, letter) for letter in letters.split()]
            expected = f"shape ({', '.join(letters.split())}) = ({', '.join(map(str, wanted))})"
            if key not in arrays:
                raise ParityError(f"{file}.npz: {key} is missing, expected {expected}")
            shape = arrays[key].shape
            fits = len(shape) == len(wanted) and 0 not in shape
            if not fits or any(isinstance(w, int) and w != size for w, size in zip(wanted, shape, strict=True)):
                raise ParityError(f"{file}.npz: {key} has shape {shape}, expected {expected}")
            known |= dict(zip(letters.split(), shape, strict=True))
    rows, steps = folder.arrays["inputs"]["module_inputs/policy/is_first"].shape
    if rows > sizes["B"] or steps > sizes["T"]:
        raise ParityError(
            f"inputs.npz: module_inputs/policy/is_first has shape {(rows, steps)}, "
            f"expected at most (B, T) = {(sizes['B'], sizes['T'])}"
        )


def sizes_of(folder: ParityFolder) -> dict[str, int]:
    """Sizes by the letters of ``prelar_ray.types``, as config.json states them."""
    options, pre, tune = folder.options, folder.options["pretrain"], folder.options["finetune"]
    image = options["image"]
    if not (isinstance(image, list) and len(image) == 3):
        raise ParityError(f"config.json: image={image!r}, expected channels, height and width")
    sizes = {
        "B": options["batch"],
        "T": options["length"],
        "A": options["action_dim"],
        "E": pre["rssm.embed_dim"],
        "D": pre["rssm.deter"],
        "S": pre["rssm.stoch"],
        "K": pre["rssm.discrete"],
        "F": options["feat_dim"],
        "L": options["action_repr_dim"],
        "Q": tune["queue_dim"],
        **dict(zip(("C", "Hpx", "Wpx"), image, strict=True)),
    }
    for letter, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ParityError(f"config.json: size {letter} is {size!r}, expected a positive number")
    pairs = sizes["T"] - 1  # of frames
    return sizes | {"P": pairs, "N": sizes["B"] * pairs}


def _check_permutation(folder: ParityFolder) -> None:
    permutation, rows = folder.options["fixed_batch_permutation"], folder.options["batch"]
    if sorted(permutation) != list(range(rows)):
        raise ParityError(f"config.json: fixed_batch_permutation={permutation} is no permutation of {rows} rows")


def _check_tensor_table(folder: ParityFolder) -> None:
    """The checkpoints hold what ``state_dict_keys.json`` says, in that order."""
    for file, tensors in folder.tensors.items():
        rows = {row["key"]: f"{row['dtype']} {tuple(row['shape'])}" for row in folder.tensor_table[file]}
        for key, row in rows.items():
            if key not in tensors:
                raise ParityError(f"{file}: {key} is missing, state_dict_keys.json says {row}")
            held = f"{tensors[key].dtype} {tuple(tensors[key].shape)}".removeprefix("torch.")
            if held != row:
                raise ParityError(f"{file}: {key} is {held}, state_dict_keys.json says {row}")
        if list(rows) != list(tensors):
            unknown = next((key for key in tensors if key not in rows), None)
            raise ParityError(f"{file}: {unknown or 'the order of tensors'} is not as state_dict_keys.json says")
