"""Updates of both phases: seconds, FLOP/s beside the machine's ceiling, peak memory, host syncs, and time by part.

Plain torch on made-up batches: no environment, no Ray. A row per preset, phase, number format (``float32``,
``bfloat16``) and ``compiled`` (the faster of these two formats through torch.compile), and with ``--parts`` one per
part of an update, forward and backward.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import (
    Result,
    Row,
    copy_ceiling,
    matmul_ceiling,
    peak_memory,
    report_options,
    reset_peak_memory,
    show,
    synchronise,
    timed,
)
from prelar_ray.config import RunConfig, load_config
from prelar_ray.learning.behaviour import imagine
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner, resolve_device
from prelar_ray.learning.precision import has_bfloat16
from prelar_ray.models.image_decoder import image_log_prob
from prelar_ray.models.layers import frozen
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.types import IMAGE_SIZE, SequenceBatch

ACTION = 4
MODES = ("float32", "bfloat16", "compiled")
PHASES = ("pretrain", "finetune")
COLUMNS = {
    "seconds": ".4g",
    "seconds_min": ".4g",
    "seconds_max": ".4g",
    "first_seconds": ".3g",
    "tflop": ".3g",
    "tflop_per_s": ".3g",
    "share_of_ceiling": ".0%",
    "peak_gib": ".2f",
    "operators": "d",
    "host_syncs": "d",
    "share_of_update": ".0%",
}
HOST_SYNCS = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero"}

Learner = PretrainLearner | FinetuneLearner


class OperatorCount(TorchDispatchMode):
    """Count operators, and those whose result the host has to wait for.

    On a CPU nothing can leave the device, so a copy to the host shows on a GPU alone.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = 0
        self.host_syncs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count ``func`` and run it."""
        name = func.overloadpacket._qualified_op_name
        self.operators += 1
        self.host_syncs += name in HOST_SYNCS or _asks_the_device(name, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _asks_the_device(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a copy leaves the device, or an index is a mask whose true entries have to be counted first."""
    if name == "aten::_to_copy":
        target = kwargs.get("device")
        return target is not None and torch.device(target).type == "cpu" and args[0].device.type != "cpu"
    if name in ("aten::index", "aten::index_put", "aten::index_put_"):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return False


def synthetic_batch(config: RunConfig, phase: str) -> SequenceBatch:
    """Noise in the shape of a batch, ``(B, T, ...)``; the time of an update does not depend on what is in it."""
    settings = config.pretrain if phase == "pretrain" else config.finetune
    shape = settings.batch_size, settings.segment_length
    rng = np.random.default_rng(0)
    is_first = np.zeros(shape, np.bool_)
    is_first[:, 0] = True
    return SequenceBatch(
        rng.integers(0, 256, (*shape, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8),
        rng.uniform(-1, 1, (*shape, ACTION)).astype(np.float32),
        rng.normal(size=shape).astype(np.float32),
        is_first,
        np.zeros(shape, np.bool_),
    )


def make(config: RunConfig, phase: str) -> tuple[Learner, Callable[[], None]]:
    """Return a learner and a function that updates it once on the same batch."""
    batch = synthetic_batch(config, phase)
    if phase == "pretrain":
        pretrain = PretrainLearner(config)
        return pretrain, lambda: pretrain.update(batch.image)
    finetune = FinetuneLearner(config, ACTION)
    return finetune, lambda: finetune.update(batch)


def count(config: RunConfig, phase: str) -> tuple[float, OperatorCount]:
    """TFLOP of one update (matrix products and convolutions, both directions), and its operators, run eagerly."""
    _, update = make(config.model_copy(update={"compile": False}), phase)
    with FlopCounterMode(display=False) as counter, OperatorCount() as operators:
        update()
    return counter.get_total_flops() / 1e12, operators


def measure(name: str, config: RunConfig, phase: str, repeats: int, ceiling: float) -> Row:
    """Time whole updates.

    Args:
        ceiling: FLOP/s of a matrix product in this number format.
    """
    learner, update = make(config, phase)
    device = learner.device
    reset_peak_memory(device)
    began = time.perf_counter()
    update()
    synchronise(device)
    first = time.perf_counter() - began
    timing = timed(update, device, repeats)
    peak = peak_memory(device)
    del learner, update
    tflop, operators = count(config, phase)
    return {
        "name": name,
        **timing.as_row(),
        "first_seconds": first,  # compilation is in here
        "tflop": tflop,
        "tflop_per_s": tflop / timing.median,
        "share_of_ceiling": tflop * 1e12 / timing.median / ceiling,
        "peak_gib": peak,
        "operators": operators.operators,
        "host_syncs": operators.host_syncs,
    }


def parts(learner: Learner, batch: SequenceBatch) -> dict[str, Callable[[], None]]:
    """Parts of an update, each from given inputs to gradients of parameters and inputs, by name.

    They overlap with nothing, but their sum is not quite an update: losses and metrics are left out.
    """
    config, model, noise = learner.config, learner.model, learner.noise
    raw = learner._tensor(batch.image)
    image = preprocess_image(raw, noise.dtype)
    is_first = learner._floats(batch.is_first)

    def both_ways(forward: Callable[[], Tensor], parameters: Iterable[Tensor]) -> Callable[[], None]:
        taught = list(parameters)

        def run() -> None:
            model.train()
            with learner.precision.autocast():
                out = forward()
            out.float().sum().backward()
            model.eval()
            for parameter in taught:
                parameter.grad = None

        return run

    size = config.world_model.latent_action
    if isinstance(learner, FinetuneLearner):
        size = learner.model.action_encoder.size
    latent = torch.zeros(*is_first.shape, size, device=learner.device, requires_grad=True)
    with torch.no_grad():
        embed = model.encoder(image)
        gumbel = noise.gumbel(*is_first.shape, model.rssm.groups, model.rssm.classes)
        posterior, _ = model.rssm.observe(embed, latent, is_first, gumbel=gumbel)
        context = model.context(image, noise)
    start = posterior.detach().flatten()
    embed.requires_grad_()
    feature = posterior.feature.detach().requires_grad_()

    def scan() -> Tensor:
        state, prior = model.rssm.observe(embed, latent, is_first, gumbel=gumbel)
        return state.feature.sum() + prior.sum()

    def data() -> None:
        preprocess_image(learner._tensor(batch.image), noise.dtype)

    found: dict[str, Callable[[], None]] = {
        "data": data,
        "encoder": both_ways(lambda: model.encoder(image), model.encoder.parameters()),
        "scan": both_ways(scan, model.rssm.parameters()),
        "decoder": both_ways(
            lambda: -image_log_prob(model.decoder(feature, context), image).mean(), model.decoder.parameters()
        ),
    }
    if isinstance(learner, PretrainLearner):
        inverse = learner.model.inverse_dynamics
        if inverse is not None:
            found["inverse dynamics"] = both_ways(lambda: inverse(image).sample(noise), inverse.parameters())
        found["optimiser"] = lambda: _step([learner.optimizer])
        return found

    actor_critic = learner.actor_critic
    heads = [head for head in (learner.model.reward, learner.model.aux_reward) if head is not None]
    found["heads"] = both_ways(
        lambda: torch.stack([head(feature).sum() for head in heads]).sum(),
        [parameter for head in heads for parameter in head.parameters()],
    )
    bonus = learner.bonus
    if bonus is not None:
        novelty = embed if config.finetune.bonus.input == "embedding" else feature
        found["bonus"] = lambda: bonus(novelty.detach())

    def imagination() -> None:
        with frozen([learner.model.rssm, learner.model.action_encoder, learner.model.reward]):
            with learner.precision.autocast():
                imagined = imagine(learner.model, actor_critic.actor, start, config.behaviour.horizon, noise)
                value = learner.model.reward(imagined.feature) + actor_critic.slow_critic(imagined.feature)
            value.sum().backward()
        actor_critic.zero_grad()

    found["imagination"] = imagination
    trajectory = torch.randn(config.behaviour.horizon, *start.feature.shape, device=learner.device)
    found["critic"] = both_ways(lambda: actor_critic.critic(trajectory), actor_critic.critic.parameters())
    behaviour = learner.behaviour
    optimizers = [learner.dynamics_optimizer, learner.optimizer]
    found["optimiser"] = lambda: _step([*optimizers, behaviour.actor_optimizer, behaviour.critic_optimizer])
    return found


def _step(optimizers: Iterable[Any]) -> None:
    for optimizer in optimizers:
        for parameter in optimizer.parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()


def main(argv: Sequence[str]) -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks learner", description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["paper"], help="widths and batches (default paper)")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES[:2]))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[0], help="segments per update (0: the preset's)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", action="store_true", help="also time every part of an update")
    report_options(parser)
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    formats = {mode: torch.bfloat16 if _half(mode, device) else torch.float32 for mode in args.modes}
    ceilings = {dtype: matmul_ceiling(device, dtype) for dtype in set(formats.values())}
    machine = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **{f"{str(dtype).removeprefix('torch.')}_tflop_per_s": round(x / 1e12, 3) for dtype, x in ceilings.items()},
        "copy_gb_per_s": round(copy_ceiling(device) / 1e9, 1),
    }
    rows: list[Row] = []
    for preset in args.presets:
        for phase in args.phases:
            for batch_size in args.batch_sizes:
                for mode in args.modes:
                    config = _config(preset, phase, batch_size, mode, args.device, device)
                    name = f"{preset} {phase} {mode}" + (f" batch {batch_size}" if batch_size else "")
                    rows.append(measure(name, config, phase, args.repeats, ceilings[formats[mode]]))
                    if args.parts and mode != "compiled":
                        rows += _measure_parts(config, phase, rows[-1], args.repeats)
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("learner", settings, machine, rows), COLUMNS, args)
    return 0


def _measure_parts(config: RunConfig, phase: str, whole: Row, repeats: int) -> list[Row]:
    learner, _ = make(config, phase)
    rows = []
    for part, run in parts(learner, synthetic_batch(config, phase)).items():
        timing = timed(run, learner.device, repeats)
        share = timing.median / whole["seconds"]
        rows.append({"name": f"  {whole['name']}: {part}", **timing.as_row(), "share_of_update": share})
    return rows


def _half(mode: str, device: torch.device) -> bool:
    return mode == "bfloat16" or (mode == "compiled" and has_bfloat16(device))


def _config(preset: str, phase: str, batch_size: int, mode: str, name: str, device: torch.device) -> RunConfig:
    changes: dict[str, Any] = {
        "device": name,
        "precision": "bfloat16" if _half(mode, device) else "float32",
        "compile": mode == "compiled",
    }
    if batch_size:
        changes[f"{phase}.batch_size"] = batch_size
    # The defaults are the preset "paper"; taking them needs no YAML.
    return load_config(None if preset == "paper" else preset, measured=changes)
