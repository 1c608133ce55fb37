"""Algorithm 1 of PreLAR with plain classes: no Ray, no back end, no files; comments name its lines.

``python examples/algorithm1.py VIDEOS`` runs it with the preset ``tiny`` on a store that ``prelar-ray record`` made. A
run with ``collect.synchronous=true`` and one collector computes the same bits.
"""

from __future__ import annotations

import sys

import prelar_ray  # noqa: F401  first: it says how OpenMP's threads wait, before torch loads them
from prelar_ray.acting.collector import Collector
from prelar_ray.config import RunConfig, load_config
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.replay.buffer import ReplayBuffer
from prelar_ray.replay.rate_limiter import RateLimiter
from prelar_ray.seeding import generator
from prelar_ray.video.clips import ClipSampler, held_out_episodes
from prelar_ray.video.mixture import VideoMixture


def pretrain(config: RunConfig) -> PretrainLearner:
    """World model pre-training with learnable action representation (lines 1-8)."""
    settings = config.pretrain
    learner = PretrainLearner(config)  # 2: parameters phi
    videos = VideoMixture.open(config.video, config.env.image_size)  # 3: action-free video data set D
    held_out = held_out_episodes(videos, settings.segment_length, settings.validation_share)
    shape = settings.batch_size, settings.segment_length
    clips = ClipSampler(videos, *shape, generator(config.seed, "clips"), held_out)
    for _ in range(settings.updates):  # 4
        learner.update(clips.sample())  # 6-7: minimise Eq. (14) on a minibatch of clips
    return learner


def finetune(config: RunConfig, pretrained: PretrainLearner) -> FinetuneLearner:
    """World model fine-tuning with real actions, and behaviour learning (lines 9-25)."""
    settings, collect = config.finetune, config.collect
    assert collect.collectors == 1, "one collector acts here"
    collector = Collector(config, index=0, first_numbers=[0] * collect.envs_per_collector)
    learner = FinetuneLearner(config, collector.actions(), terminates=collector.terminates())  # 11-12: theta, psi, xi
    learner.load_pretrained(pretrained.model.state_dict())  # 10: parameters phi
    buffer = ReplayBuffer(config.replay.capacity_steps, settings.segment_length, generator(config.seed, "replay"))
    pace = RateLimiter(settings.random_steps, settings.env_steps_per_update, settings.initial_updates)
    per_step = collect.envs_per_collector * config.env.action_repeat
    while pace.env_steps < settings.env_steps:  # 14
        random = pace.env_steps < settings.random_steps  # 13: the buffer begins with random exploration
        steps = collect.request_steps if random else max(1, settings.env_steps_per_update // per_step)
        weights = learner.policy_weights()
        collected, episodes = collector.collect(steps, random, learner.updates, weights)  # 15-17
        pace.insert(collected.env_steps)
        for episode in sorted(episodes, key=lambda episode: (episode.env_index, episode.number)):
            buffer.add(episode)  # 18
        while pace.updates_due and buffer.can_sample:
            pace.take()
            batch = buffer.sample(settings.batch_size)  # 20
            learner.update(batch)  # 21, 23-24: minimise Eq. (15), then Eq. (16) and (17) in imagination
    collector.close()
    return learner


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    tiny = load_config("tiny", None, [f"video.path={sys.argv[1]}", *sys.argv[2:]])
    model = pretrain(tiny)
    print(model.metrics())
    print(finetune(tiny, model).metrics())
