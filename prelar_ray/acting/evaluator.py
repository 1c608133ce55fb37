"""The evaluator role: complete episodes with the policy's mode, in separate environments."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prelar_ray.acting.collector import FAILURES_IN_A_ROW
from prelar_ray.acting.policy import Policy, PolicyWeights, acting_device
from prelar_ray.acting.redrawing import redrawn
from prelar_ray.acting.rollout import Acts, Rollout
from prelar_ray.action_space import ActionSpace
from prelar_ray.config import RunConfig
from prelar_ray.envs.registry import make_env
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.types import Episode, Frames

__all__ = ["EvaluationResult", "Evaluator", "evaluate_policy"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    """Results of one evaluation, episode by episode."""

    returns: tuple[float, ...]
    successes: tuple[bool, ...]  # any step of the episode succeeded; none where the task has no success
    lengths: tuple[int, ...]  # agent steps
    frames: tuple[Frames, ...]  # of the first `keep_frames` episodes
    replaced: int = 0  # more episodes that failed, and count in none of these


class Evaluator:
    """Plain class; a Ray actor may own one. Its episodes never share a seed with training."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def evaluate(
        self,
        weights: PolicyWeights | None,
        episodes: int,
        round_: int = 0,
        keep_frames: int = 0,
        frame_size: int = 0,
    ) -> EvaluationResult:
        """Run ``episodes`` episodes.

        Args:
            weights: policy to evaluate; None acts uniformly at random.
            round_: seeds of the episodes; equal rounds play equal episodes, different rounds different ones.
            keep_frames: number of episodes whose frames are returned.
            frame_size: height and width of those frames, pixels; 0: as the policy sees them.

        Raises:
            DataError: frames of another size were asked for, and the environment does not repeat an episode.
            EnvironmentFailure: an environment failed more often in a row than is tolerated; until then a failed
                episode is replaced by another.
        """

        def policy(actions: ActionSpace) -> Policy:
            made = Policy(self.config, actions).to(acting_device(self.config.evaluation.gpus))
            if weights is not None:
                made.load_weights(weights, 0)
            return made

        return evaluate_policy(
            self.config, policy, episodes, round_, keep_frames, random=weights is None, frame_size=frame_size
        )


def evaluate_policy(
    config: RunConfig,
    make_policy: Callable[[ActionSpace], Acts],
    episodes: int,
    round_: int = 0,
    keep_frames: int = 0,
    random: bool = False,
    frame_size: int = 0,
) -> EvaluationResult:
    """Run ``episodes`` episodes by the evaluation protocol of every method.

    Args:
        make_policy: builds the policy for the actions of the task; called once the environments exist.
        random: act uniformly at random instead.

    ``round_``, ``keep_frames``, ``frame_size`` and errors are those of :meth:`Evaluator.evaluate`.
    """
    parallel = min(config.evaluation.envs, episodes)

    def seeds(env_index: int, number: int) -> tuple[int, np.random.Generator]:
        # By position in the order of episodes below, so that seeds are the same for any number of environments.
        key = (round_, number * parallel + env_index)
        return derive_seed(config.seed, "evaluation", *key), generator(config.seed, "evaluating", *key)

    rollout = Rollout(
        make_env,
        config.env,
        list(range(parallel)),
        [0] * parallel,
        seeds,
        failures_allowed=FAILURES_IN_A_ROW,
        timeout=config.env.timeout,
        workers=config.evaluation.workers,
    )
    try:
        policy = make_policy(rollout.actions)
        # Each environment runs its share to the end: stopping at the first N to finish would favour short ones.
        shares = [len(range(i, episodes, parallel)) for i in range(parallel)]
        done: list[Episode] = []
        while len(done) < episodes:
            for position, episode in rollout.step(policy, random=random, sample=False):
                done.append(episode)
                shares[position] -= 1
                if not shares[position]:
                    rollout.stop(position)
        for failure in rollout.failures:
            log.warning("evaluation: %s; another episode replaces it", failure)
        has_success, replaced = rollout.has_success, len(rollout.failures)
    finally:
        rollout.close()
    done.sort(key=lambda episode: (episode.number, episode.env_index))

    def frames(episode: Episode) -> Frames:
        if not frame_size:
            return episode.image
        return redrawn(config.env, seeds(episode.env_index, episode.number)[0], episode, frame_size)

    return EvaluationResult(
        returns=tuple(episode.episode_return for episode in done),
        successes=tuple(episode.succeeded for episode in done) if has_success else (),
        lengths=tuple(episode.steps for episode in done),
        frames=tuple(frames(episode) for episode in done[:keep_frames]),
        replaced=replaced,
    )
