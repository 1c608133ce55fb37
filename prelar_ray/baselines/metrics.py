"""The numbers of RLlib's learners under this package's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import Learner
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME, WEIGHTS_SEQ_NO

__all__ = ["learner_metrics", "sampled_steps", "updates"]

NAMES = {
    Learner.TOTAL_LOSS_KEY: "total_loss",
    # PPO and its relatives
    "policy_loss": "policy_loss",
    "vf_loss": "value_loss",
    "vf_explained_var": "value_explained",
    "mean_kl_loss": "kl",
    "entropy": "entropy",
    "gradients_default_optimizer_global_norm": "grad_norm",
    # DreamerV3
    "WORLD_MODEL_L_total": "world_model_loss",
    "WORLD_MODEL_L_decoder": "image_loss",
    "WORLD_MODEL_L_reward": "reward_loss",
    "WORLD_MODEL_L_continue": "continue_loss",
    "WORLD_MODEL_L_dynamics": "dynamics_kl",
    "ACTOR_L_total": "actor_loss",
    "CRITIC_L_total": "critic_loss",
    "ACTOR_action_entropy": "entropy",
    "WORLD_MODEL_gradients_global_norm": "grad_norm_world_model",
    "ACTOR_gradients_global_norm": "grad_norm_actor",
    "CRITIC_gradients_global_norm": "grad_norm_critic",
}
"""RLlib's name of a number to ours in the group ``rllib``; an algorithm has some of them."""


def learner_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return those numbers of an iteration's result that have a documented name."""
    module = result.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
    return {f"rllib/{ours}": float(module[theirs]) for theirs, ours in NAMES.items() if theirs in module}


def updates(result: Mapping[str, Any], before: int) -> int:
    """Return how often the learner was called so far; ``before`` where an iteration did not call it."""
    module = result.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
    return max(before, int(module.get(WEIGHTS_SEQ_NO, before)))


def sampled_steps(result: Mapping[str, Any], before: int) -> int:
    """Return the agent steps of the whole run so far; ``before`` where an iteration did not collect."""
    collected = result.get(ENV_RUNNER_RESULTS, {})
    return max(before, int(collected.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, before)))
