"""What is compared with what, and how closely: the one table that the checker and the tests read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import torch

from tests.parity import given, updates
from tests.parity.folder import ARRAY_FILES, FINETUNED, TENSOR_FILES, Array, Arrays, Entries, ParityError, ParityFolder
from tests.parity.formulas import distributions, formulas
from tests.parity.networks import networks
from tests.parity.options import run_config
from tests.parity.subjects import to_arrays
from tests.parity.verdict import UNDISTURBED, Outcome, Tolerance, compare

SHARP = 1e-9  # float64
STEPPED = 1e-7  # float64 on a GPU, after an optimiser's step
LOOSE = 1e-4  # float32
NOISE_FACTOR = 2


class Rule(NamedTuple):
    """How closely the arrays of a case must agree."""

    text: str
    tolerance: Callable[[ParityFolder, str, str, Array], Tolerance]  # of (folder, file, name, expected)
    float64: bool = False
    """Compare with this project's float64 result, although the file is float32."""


def _noise(folder: ParityFolder, file: str, name: str, expected: Array) -> float:
    row = folder.noise[f"{file}.npz"][name]
    if "vs_f64" not in row:
        raise ParityError(f"noise.json: {file}.npz: {name} lacks vs_f64")
    return NOISE_FACTOR * float(row["vs_f64"]) / _scale(expected)


def _gradient(folder: ParityFolder, file: str, name: str, expected: Array) -> Tolerance:
    return Tolerance(LOOSE + _noise(folder, file, name, expected))


def _trajectory(folder: ParityFolder, file: str, name: str, expected: Array) -> Tolerance:
    return Tolerance(LOOSE + _noise(folder, file, name, expected), "first entry")


def _step(folder: ParityFolder, file: str, name: str, expected: Array) -> Tolerance:
    rate = _learning_rates(folder, file).get(name.split("after/")[1])
    if rate is None:  # a buffer, which no gradient reaches
        return Tolerance(LOOSE)
    return Tolerance(LOOSE + 2 * rate / _scale(expected), "median")


def _scale(expected: Array) -> float:
    return float(abs(expected).max(initial=0)) or math.inf


@cache
def _learning_rates(folder: ParityFolder, file: str) -> dict[str, float]:
    """Learning rate of each parameter of the world model."""
    if file == "e2e_pretrain":
        groups = {"pretrain/model": run_config(folder, "pretrain").pretrain.optimizer}
    else:
        tune = run_config(folder, "finetune").finetune
        groups = {"finetune/enc_model": tune.dynamics_optimizer, "finetune/model": tune.optimizer}
    return {key: config.learning_rate for group, config in groups.items() for key in folder.parameter_order[group]}


EXACT = Rule("equal", lambda *_: Tolerance(0.0))
FLOAT64 = Rule(f"{SHARP:.0e}", lambda *_: Tolerance(SHARP))
# A bias before a batch norm has a gradient of nothing but rounding errors, which Adam divides by its own size. A GPU
# adds in another order than the CPU that the files come from, so such a parameter, and what follows, agrees less.
AFTER_STEP = Rule(
    f"{SHARP:.0e}; on a GPU {STEPPED:.0e}",
    lambda *_: Tolerance(STEPPED if torch.get_default_device().type == "cuda" else SHARP),
)
FLOAT32 = Rule(f"{LOOSE:.0e}", lambda *_: Tolerance(LOOSE))
# In float32 a ReLU input within rounding of zero changes gradients by percents, then signs of Adam's steps, then what
# follows. `vs_f64` in noise.json is how far that took the recorded float32 run from the exact one, which this project
# computes in float64 and is held to 1e-9 elsewhere. So the noise of one more float32 run does not come on top.
GRADIENT = Rule(f"{LOOSE:.0e} + {NOISE_FACTOR} noise", _gradient, float64=True)
TRAJECTORY = Rule(f"{LOOSE:.0e} + {NOISE_FACTOR} noise; first entry {UNDISTURBED:.0e}", _trajectory, float64=True)
# Adam's first step is shorter than the learning rate, so a flipped sign moves a parameter by less than two of them.
STEP = Rule(f"{LOOSE:.0e} + 2 lr; median {UNDISTURBED:.0e}", _step, float64=True)

LEGEND = (
    "Errors and tolerances are relative to the largest expected value of an array; shown is the array nearest to its "
    "tolerance. noise: vs_f64 in noise.json. lr: learning rate. The arrays that either enters are float32 and noisy; "
    "they are compared with this project's float64 result."
)


class Case(NamedTuple):
    """Arrays of one file that show one thing; an array belongs to the first case with a prefix of its name."""

    title: str
    file: str
    prefixes: tuple[str, ...]
    rule: Rule


def _end_to_end() -> Iterator[Case]:
    for file, rule in (("e2e_pretrain_f64", FLOAT64), ("e2e_pretrain", FLOAT32)):
        exact = rule is FLOAT64
        yield Case("gradients", file, ("grad",), rule if exact else GRADIENT)
        yield Case("parameters after the step", file, ("after/",), AFTER_STEP if exact else STEP)
        yield Case("trajectory", file, ("trajectory/",), AFTER_STEP if exact else TRAJECTORY)
        yield Case("losses and states", file, ("",), rule)
    for file, rule in (("e2e_finetune_f64", FLOAT64), ("e2e_finetune", FLOAT32)):
        exact = rule is FLOAT64
        yield Case("world model: gradients", file, ("wm/grad",), rule if exact else GRADIENT)
        yield Case("world model: after the step", file, ("wm/after/",), AFTER_STEP if exact else STEP)
        yield Case("world model: losses and states", file, ("wm/",), rule)
        for prefix, title in (("ac/", "behaviour"), ("ac_iso/", "behaviour alone")):
            if not (exact and prefix == "ac_iso/"):
                follows = AFTER_STEP if exact else rule  # the world model's step
                yield Case(f"{title}: gradients", file, (f"{prefix}grad",), follows)
                yield Case(f"{title}: after the step", file, (f"{prefix}after/",), follows)
                yield Case(f"{title}: imagination, losses", file, (prefix,), follows)
        yield Case("trajectory", file, ("trajectory/",), AFTER_STEP if exact else TRAJECTORY)
        yield Case("frozen start", file, ("frozen/",), AFTER_STEP if exact else TRAJECTORY)
        yield Case("policy", file, ("policy/",), rule)


CASES = (
    Case("inputs as used", "inputs", ("",), EXACT),
    Case("image encoder", "modules", ("encoder/",), FLOAT32),
    Case("inverse dynamics", "modules", ("vanet/",), FLOAT32),
    Case("dynamics KL", "modules", ("rssm/kl/", "rssm/prior_entropy", "rssm/post_entropy"), FLOAT32),
    Case("RSSM", "modules", ("rssm/",), FLOAT32),
    Case("action-state consistency", "modules", ("rank/",), FLOAT32),
    Case("image decoder", "modules", ("decoder/",), FLOAT32),
    Case("heads", "modules", ("heads/",), FLOAT32),
    Case("truncated normal, float64", "dists", ("truncnorm/f64/",), FLOAT64),
    Case("truncated normal", "dists", ("truncnorm/",), FLOAT32),
    Case("lambda-return", "misc", ("lambda_return/",), FLOAT32),
    Case("running normaliser", "misc", ("streamnorm/",), FLOAT32),
    Case("intrinsic bonus", "misc", ("intr_bonus/",), FLOAT32),
    Case("frozen learning rate", "misc", ("enc_lr_schedule/",), FLOAT32),
    *_end_to_end(),
    *(Case("tensors as held here", file, ("",), EXACT) for file in TENSOR_FILES),
)

FILES = (*ARRAY_FILES, *TENSOR_FILES)


def case_of(file: str, name: str) -> Case | None:
    """The case that an array belongs to."""
    return next((case for case in CASES if case.file == file and name.startswith(case.prefixes)), None)


def expected(folder: ParityFolder, file: str) -> Arrays:
    """Recorded side of one file."""
    return to_arrays(folder.tensors[file]) if file in TENSOR_FILES else folder.arrays[file]


@cache
def ours(folder: ParityFolder, file: str) -> Arrays:
    """This project's side of one file; computed once."""
    return given.tensors(folder, file) if file in TENSOR_FILES else _ARRAYS[file](folder)


def judge(folder: ParityFolder, file: str, name: str, own: Array, recorded: Array) -> Outcome:
    """Compare one array.

    Raises:
        ParityError: the shapes differ.
    """
    if own.shape != recorded.shape:
        raise ParityError(f"{_path(file)}: {name} has shape {recorded.shape}, expected {own.shape}")
    case = case_of(file, name)
    assert case is not None, f"{file}: no case compares {name}"
    return compare(name, own, recorded, case.rule.tolerance(folder, file, name, recorded))


def outcomes(folder: ParityFolder, file: str) -> tuple[list[Outcome], dict[str, str]]:
    """Comparison of all arrays of a file, and the reason for each array that could not be compared.

    Raises:
        ParityError: an array that this project computes is missing, or has another shape.
    """
    own, recorded = ours(folder, file), expected(folder, file)
    for name, value in own.items():
        if name not in recorded:
            raise ParityError(f"{_path(file)}: {name} is missing, expected shape {value.shape}")
    compared = [judge(folder, file, name, own[name], recorded[name]) for name in recorded if name in own]
    return compared, {name: "this project computes no such array" for name in recorded if name not in own}


def _path(file: str) -> str:
    return f"{file}.npz" if file in ARRAY_FILES else file


@cache
def _pretraining(folder: ParityFolder) -> Arrays:
    steps = {len(folder.arrays[file]["trajectory/total"]) for file in ("e2e_pretrain", "e2e_pretrain_f64")}
    return updates.pretraining(folder, torch.float64, max(steps))


@cache
def _finetuning(folder: ParityFolder) -> Arrays:
    files = ("e2e_finetune", "e2e_finetune_f64")
    steps = {len(folder.arrays[file]["trajectory/wm/model_loss"]) for file in files}
    return updates.finetuning(folder, torch.float64, max(steps)) | updates.frozen_start(folder, torch.float64, files[1])


def _float64_pretraining(folder: ParityFolder) -> Arrays:
    return _as_stored(_pretraining(folder))


def _float64_finetuning(folder: ParityFolder) -> Arrays:
    return _as_stored(_finetuning(folder) | updates.policy(folder, torch.float64))


def _as_stored(results: Arrays) -> Arrays:
    """As the float64 files hold results: large arrays subsampled, no embeddings."""
    parts = ("grad/", "after/")
    return {
        name: thin(value) if name.removeprefix("wm/").removeprefix("ac/").startswith(parts) else value
        for name, value in results.items()
        if not name.endswith("embed")
    }


def thin(array: Array) -> Array:
    """Every (size // 128)th element of the flattened array, if it has more than 256."""
    return array if array.size <= 256 else array.reshape(-1)[:: array.size // 128]


def _float32_pretraining(folder: ParityFolder) -> Arrays:
    return _mixed("e2e_pretrain", updates.pretraining(folder, torch.float32, 1), _pretraining(folder))


def _float32_finetuning(folder: ParityFolder) -> Arrays:
    own = updates.finetuning(folder, torch.float32, 1)
    # Imagination through the recorded parameters after the step: free from the noise in ours.
    after = {key: value for key, value in folder.arrays["e2e_finetune"].items() if key.startswith("wm/after/")}
    updated = {key.removeprefix("wm/after/"): torch.from_numpy(value.copy()) for key, value in after.items()}
    published = folder.tensors[FINETUNED]
    own |= updates.behaviour_alone(folder, "ac/", Entries("e2e_finetune.npz: wm/after", published | updated))
    own |= updates.behaviour_alone(folder, "ac_iso/", published)
    return _mixed("e2e_finetune", own | updates.policy(folder, torch.float32), _finetuning(folder))


def _mixed(file: str, own: Arrays, float64: Arrays) -> Arrays:
    """Float32 results, but float64 ones where a rule says so. No float32 file holds single gradients."""
    result = {}
    for name in sorted(own.keys() | float64.keys()):
        case = case_of(file, name)
        if case is not None and "grad/" not in name:
            result[name] = (float64 if case.rule.float64 else own)[name]
    return result


_ARRAYS: dict[str, Callable[[ParityFolder], Arrays]] = {
    "inputs": given.inputs,
    "modules": networks,
    "dists": distributions,
    "misc": formulas,
    "e2e_pretrain_f64": _float64_pretraining,
    "e2e_pretrain": _float32_pretraining,
    "e2e_finetune_f64": _float64_finetuning,
    "e2e_finetune": _float32_finetuning,
}
