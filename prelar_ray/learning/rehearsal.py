"""Rehearsal: clips of the pre-training videos beside replay, so that fine-tuning does not forget what it saw in them.

A clip has neither actions nor rewards. Its latent actions are inferred from its frames as in pre-training, and it takes
part in what needs no more: image, dynamics KL, and the two losses of inferred latent actions, Eq. (14). With B segments
of replay and V clips in a batch, a clip counts as a segment:

    L = B/(B+V) E_replay [ image + beta KL_dyn ] + V/(B+V) E_clips [ image + beta KL_dyn + beta_a KL_act + beta_r L_r ]
        + E_replay [ reward + aux_reward ]

Both go through encoder, dynamics and decoder as one batch: the cost is that of B+V rows, and batch norm has the
statistics of both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["with_clips"]


def with_clips(latent_action: Tensor, is_first: Tensor, inferred: Tensor) -> tuple[Tensor, Tensor]:
    """Add the rows of clips to what replay gives the dynamics.

    Args:
        latent_action: of replay, ``(B, T, L)``.
        is_first: of replay, ``(B, T)``.
        inferred: latent actions of clips, ``(V, T-1, L)``; row ``t-1`` led to frame t.

    Returns:
        Latent actions ``(B + V, T, L)`` and first steps ``(B + V, T)``: a clip begins with its first frame.
    """
    begins = torch.zeros_like(inferred[:, :, 0])
    first = F.pad(begins, (1, 0), value=1.0).to(is_first.dtype)
    return torch.cat([latent_action, F.pad(inferred, (0, 0, 1, 0))]), torch.cat([is_first, first])
