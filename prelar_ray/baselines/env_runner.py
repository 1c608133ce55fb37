"""The processes that step environments for an RLlib algorithm."""

from __future__ import annotations

from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

__all__ = ["FrameEnvRunner"]


class FrameEnvRunner(SingleAgentEnvRunner):
    """RLlib's own, under a name of this package.

    A process that becomes one imports this package before anything of RLlib, and with that chooses the back end that
    draws; see :mod:`prelar_ray.baselines`.
    """
