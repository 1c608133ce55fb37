"""APV's fine-tuning dynamics: an RSSM with actions on top of a pre-trained one without."""

from __future__ import annotations

from torch import Tensor, nn

from prelar_ray.config import RSSMConfig
from prelar_ray.models.rssm import RSSM, State

__all__ = ["StackedRSSM"]


class StackedRSSM(nn.Module):
    """Two stacked RSSMs with the interface of :class:`~prelar_ray.models.rssm.RSSM`.

    The upper one observes the feature of the lower one. Imagination uses only the upper one. The latent actions of the
    lower one are zeros, as in its pre-training.
    """

    def __init__(self, config: RSSMConfig, embed: int, below_latent_action: int, latent_action: int) -> None:
        super().__init__()
        self.below = RSSM(config, embed, below_latent_action)
        self.above = RSSM(config, self.below.feature, latent_action)
        self.below_latent_action = below_latent_action
        self.stoch, self.classes, self.deter = config.stoch, config.classes, config.deter
        self.groups = 2 * config.stoch
        self.size, self.feature = self.above.size, self.above.feature

    def initial(self, n: int) -> State:
        """All-zero state for ``n`` rows."""
        return self.above.initial(n)._replace(below=self.below.initial(n))

    def observe(
        self,
        embed: Tensor,
        latent_action: Tensor,
        is_first: Tensor,
        state: State | None = None,
        gumbel: Tensor | None = None,
    ) -> tuple[State, Tensor]:
        """Return the posterior states of :meth:`filter` and the prior logits of the upper RSSM."""
        posterior = self.filter(embed, latent_action, is_first, state, gumbel)
        return posterior, self.above.prior_logits(posterior.deter)

    def filter(
        self,
        embed: Tensor,
        latent_action: Tensor,
        is_first: Tensor,
        state: State | None = None,
        gumbel: Tensor | None = None,
    ) -> State:
        """Infer the posterior states of both RSSMs; see :meth:`prelar_ray.models.rssm.RSSM.filter`.

        Args:
            gumbel: noise ``(B, T, 2*S, K)``, the lower one's groups first.

        Returns:
            Posterior states of the upper RSSM, which carry those of the lower one in ``below``.
        """
        state = state or self.initial(len(is_first))
        lower, upper = (None, None) if gumbel is None else gumbel.split(self.stoch, dim=-2)
        zeros = embed.new_zeros(*embed.shape[:2], self.below_latent_action)
        below = self.below.filter(embed, zeros, is_first, state.below, lower)
        return self.above.filter(below.feature, latent_action, is_first, state, upper)._replace(below=below)

    def prior_step(self, state: State, latent_action: Tensor, gumbel: Tensor | None = None) -> State:
        """One step of the upper RSSM without an observation: ``(N, ...), (N, L) -> (N, ...)``."""
        return self.above.prior_step(state, latent_action, gumbel)

    def imagine(self, state: State, latent_action: Tensor, gumbel: Tensor | None = None) -> State:
        """Roll the upper prior from ``state`` ``(N, ...)`` under latent actions ``(N, T, L)``."""
        return self.above.imagine(state, latent_action, gumbel)
