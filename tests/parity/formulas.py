"""This project's side of ``dists.npz`` and ``misc.npz``: what has no network."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus
from prelar_ray.learning.lambda_return import lambda_return
from prelar_ray.learning.optimizers import Optimizer
from prelar_ray.learning.running_magnitude import RunningMagnitude
from prelar_ray.models.distributions import TruncatedNormal
from tests.parity.folder import Arrays, ParityError, ParityFolder
from tests.parity.options import run_config
from tests.parity.recording import recording
from tests.parity.subjects import to_arrays


def distributions(folder: ParityFolder) -> Arrays:
    """``dists.npz``."""
    loc, scale, values, p = (folder.tensor("dists", f"truncnorm/{name}") for name in ("loc", "scale", "values", "p"))

    def grid(dtype: torch.dtype) -> TruncatedNormal:
        return TruncatedNormal(loc.to(dtype).requires_grad_(), scale.to(dtype).requires_grad_())

    def each(policy: TruncatedNormal) -> TruncatedNormal:
        """Independent policies of one action dimension."""
        return TruncatedNormal(policy.loc.unsqueeze(-1), policy.scale.unsqueeze(-1))

    formulas: dict[str, Callable[[TruncatedNormal], Tensor]] = {
        "mean": lambda policy: policy.mean,
        "entropy": lambda policy: each(policy).entropy(),
        "log_prob": lambda policy: each(policy).log_prob(values.to(policy.loc.dtype)[:, None, None]),
        "icdf": lambda policy: policy.icdf(p.to(policy.loc.dtype)[:, None].expand(-1, len(policy.loc))),
    }
    result = {
        # The grid and the points on it are inputs.
        "truncnorm/loc": loc,
        "truncnorm/scale": scale,
        "truncnorm/values": values,
        "truncnorm/p": p,
        "truncnorm/mode": grid(torch.float32).mode,
        "truncnorm/variance": grid(torch.float32).variance,
    }
    for name, formula in formulas.items():
        result[f"truncnorm/{name}"] = formula(grid(torch.float32))
        result[f"truncnorm/f64/{name}"] = formula(grid(torch.float64))
    for name in ("icdf", "entropy"):
        policy = grid(torch.float32)
        value = formulas[name](policy)
        rows = value.reshape(-1, len(loc))
        for argument in ("loc", "scale"):
            given = getattr(policy, argument)
            gradients = [torch.autograd.grad(row.sum(), given, retain_graph=True)[0] for row in rows]
            result[f"truncnorm/{name}_grad_{argument}"] = torch.stack(gradients).reshape(value.shape)

    clipped = folder.tensor("dists", "truncnorm/sample_clip/loc").requires_grad_()
    sample = TruncatedNormal(clipped, torch.full_like(clipped, 0.3)).sample(None)
    weights = torch.arange(1.0, len(clipped) + 1)
    result["truncnorm/sample_clip/loc"] = clipped
    result["truncnorm/sample_clip/sample"] = sample
    result["truncnorm/sample_clip/grad"] = torch.autograd.grad((weights * sample).sum(), clipped)[0]
    return to_arrays(result)


def formulas(folder: ParityFolder) -> Arrays:
    """``misc.npz``."""
    return to_arrays(_returns(folder) | _normalisers(folder) | _bonus(folder) | _learning_rates(folder))


def _variants(folder: ParityFolder, prefix: str) -> dict[str, float]:
    """Names in ``misc.npz`` of the form prefix and number, with that number."""
    matches = {key: re.fullmatch(re.escape(prefix) + r"(\d+(?:\.\d+)?)", key) for key in folder.arrays["misc"]}
    numbers = {key: float(match[1]) for key, match in matches.items() if match}
    if not numbers:
        raise ParityError(f"misc.npz: {prefix}(number) is missing")
    return numbers


def _returns(folder: ParityFolder) -> dict[str, Tensor]:
    reward, value, discount, bootstrap = (
        folder.tensor("inputs", f"module_inputs/lambda/{name}") for name in ("reward", "value", "pcont", "bootstrap")
    )
    result = {
        key: lambda_return(reward, value, discount, bootstrap, mix)
        for key, mix in _variants(folder, "lambda_return/lambda").items()
    }
    return result | {"lambda_return/scalar_pcont": lambda_return(reward, value, 0.99, bootstrap, 0.95)}


def _normalisers(folder: ParityFolder) -> dict[str, Tensor]:
    config = run_config(folder, "finetune")
    normalisers = {
        "default": RunningMagnitude(config.finetune.bonus.momentum),
        "m09s05": RunningMagnitude(0.9, scale=0.5),
        "m1": RunningMagnitude(1.0),
    }
    result: dict[str, Tensor] = {}
    for name, normaliser in normalisers.items():
        outputs, magnitudes = [], []
        for x in folder.tensor("inputs", "module_inputs/streamnorm/x"):
            outputs.append(normaliser(x))
            magnitudes.append(normaliser.magnitude.clone())
        result |= {
            f"streamnorm/{name}/out": torch.stack(outputs),
            f"streamnorm/{name}/mag": torch.stack(magnitudes),
        }
    return result


def _bonus(folder: ParityFolder) -> dict[str, Tensor]:
    config = run_config(folder, "finetune").finetune.bonus
    projection = folder.tensor("inputs", "module_inputs/intr/projection")
    bonus = IntrinsicBonus(len(projection), config)
    bonus.projection.copy_(projection)
    # Option beta_type=rel scales the bonus by the magnitude of the plain reward. Not offered by this project, which
    # holds the parts of it.
    reward_scale = RunningMagnitude(config.momentum)
    result: dict[str, Tensor] = {}
    feats, rewards = (folder.tensor("inputs", f"module_inputs/intr/{name}") for name in ("feat", "reward"))
    if feats.shape[2] < config.window:
        shape = tuple(feats.shape)
        raise ParityError(f"inputs.npz: module_inputs/intr/feat has shape {shape}, shorter than window {config.window}")
    for i, (embed, reward) in enumerate(zip(feats, rewards, strict=True)):
        with recording((RunningMagnitude, "__call__")) as seen:
            intrinsic, raw = bonus(embed)
        (normalised,) = seen.results("__call__", bonus.normaliser)
        reward_scale(reward)
        valid = raw.shape[1]
        call = {
            "queue": bonus.queue.clone(),
            "queue_len": bonus.filled.clone(),
            "raw": raw,
            "normalised": normalised,
            "mag": bonus.normaliser.magnitude.clone(),
            "valid_len": torch.tensor(valid),
            "reward": reward[:, :valid] + intrinsic,
        }
        result |= {f"intr_bonus/call{i}/{name}": value for name, value in call.items()}
        result[f"intr_bonus/rel/call{i}/reward"] = reward[:, :valid] + reward_scale.magnitude.float() * intrinsic
    return result


def _learning_rates(folder: ParityFolder) -> dict[str, Tensor]:
    """Learning rates of encoder and RSSM, which are frozen for some updates."""
    config = run_config(folder, "finetune").finetune.dynamics_optimizer
    result = {}
    for key, frozen in _variants(folder, "enc_lr_schedule/pretrain").items():
        updates = folder.arrays["misc"][key].size
        layer = nn.Linear(1, 1)
        # As published, "0 updates" freezes for ever; here that takes as many frozen updates as there are.
        optimizer = Optimizer([layer], config, int(frozen) or updates)
        rates = []
        for _ in range(updates):
            layer(torch.ones(1)).sum().backward()
            optimizer.step()
            rates.append(float(optimizer.adam.param_groups[0]["lr"]))
            optimizer.advance()
        result[key] = torch.tensor(rates, dtype=torch.float64)
    return result
