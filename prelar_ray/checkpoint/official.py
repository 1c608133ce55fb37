"""Names of parameters in the published code, beside the names here."""

from __future__ import annotations

import re

__all__ = ["official_key"]

_MODULES = {
    "encoder.trunk.": "wm.encoder._cnn_net.",
    "inverse_dynamics.trunk.": "wm.va_encoder.va_encoder._cnn_net.",
    "inverse_dynamics.hidden.": "wm.va_encoder.action_in.0.",
    "inverse_dynamics.out.": "wm.va_encoder.action_in.2.",
    "rssm.input.": "wm.rssm._img_in.0.",
    "rssm.cell.linear.": "wm.rssm._cell._layer.",
    "rssm.cell.norm.": "wm.rssm._cell._norm.",
    "rssm.prior.0.": "wm.rssm._ensemble_out_layers.0.img_out_0.",
    "rssm.prior.2.": "wm.rssm._ensemble_out_layers.0.img_out_head_0.",
    "rssm.posterior.": "wm.rssm._obs_out.0.",
    "rssm.posterior_logits.": "wm.rssm._obs_out.obs_out_head.",
    "decoder.linear_in.": "wm.heads.decoder.convin.0.",
    "decoder.stacks.": "wm.heads.decoder._cnn_nn.stacks.",
    "decoder.conv_out.": "wm.heads.decoder.convout.",
    "action_encoder.hidden.": "wm.action_encoder._encoder.0.",
    "action_encoder.out.": "wm.action_encoder._encoder.2.",
    "reward.": "wm.heads.reward.",
    "aux_reward.": "wm.heads.aux_reward.",
    "actor.": "_task_behavior.actor.",
    "critic.": "_task_behavior.critic.",
    "slow_critic.": "_task_behavior._target_critic.",
    "bonus.projection": "wm.intr_bonus.random_projection_matrix",
    "bonus.queue": "wm.intr_bonus.queue",
    "bonus.normaliser.magnitude": "wm.intr_bonus.intr_rewnorm.mag",
}

_LAYER = {
    "conv1": "res_block.0",
    "norm1": "res_block.1",
    "conv2": "res_block.3",
    "norm2": "res_block.4",
    "skip.0": "identity.0",
    "skip.1": "identity.1",
}


def official_key(key: str) -> str:
    """Return the published name of a parameter or buffer, for example of ``rssm.input.weight``.

    ``key`` starts with the part: a child of the world model, ``actor``, ``critic``, ``slow_critic`` or ``bonus``.

    Raises:
        KeyError: the published code has no such tensor.
    """
    for ours, theirs in _MODULES.items():
        if key.startswith(ours):
            rest = theirs + key.removeprefix(ours)
            break
    else:
        raise KeyError(key)
    rest = re.sub(
        r"\.stacks\.(\d+)\.(\d+)\.(conv1|norm1|conv2|norm2|skip\.[01])\.",
        lambda match: f".res{match[1]}.stack.{match[2]}.{_LAYER[match[3]]}.",
        rest,
    ).replace(".conv_in.", ".convin.")
    # MLPs: every second part of the hidden layers is the activation.
    rest = re.sub(r"\.hidden\.(\d+)\.", lambda match: f"._mlp_nn.dense_{int(match[1]) // 2}.", rest)
    if re.search(r"(reward|actor|critic)\.(out|mean|std)\.", rest):
        rest = re.sub(r"\.(out|mean)\.(weight|bias)$", r"._out_dist._out_nn.\2", rest)
        rest = re.sub(r"\.std\.(weight|bias)$", r"._out_dist._std_nn.\1", rest)
    return rest
