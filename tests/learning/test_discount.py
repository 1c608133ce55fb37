"""Termination ends discounting: the discount head, and what imagination makes of it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from prelar_ray.action_space import ActionSpace
from prelar_ray.checkpoint.store import snapshot
from prelar_ray.learning.behaviour import BehaviourLearner
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus, windows_in_episodes
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.learning.world_model_loss import Experience, finetune_loss
from prelar_ray.models.actor_critic import ActorCritic
from prelar_ray.models.discount_head import DiscountHead
from prelar_ray.models.noise import Deterministic, Noise
from prelar_ray.models.rssm import State
from prelar_ray.models.world_model import FinetuneWorldModel
from prelar_ray.types import SequenceBatch
from tests.tiny import ACTION, tiny_batch, tiny_config

N, GAMMA = 5, 0.9


def ending(seed: int = 0) -> SequenceBatch:
    """A batch whose rows end with a termination, which shows in the picture."""
    batch = tiny_batch(seed)
    is_terminal, image = np.zeros_like(batch.is_first), batch.image.copy()
    is_terminal[:, -1], image[:, -1] = True, 255
    return replace(batch, is_terminal=is_terminal, image=image)


def behaviour(head: bool = True, *overrides: str) -> BehaviourLearner:
    config = tiny_config(f"behaviour.discount={GAMMA}", *overrides)
    torch.manual_seed(0)
    model = FinetuneWorldModel(config.world_model, ACTION, discount=head).eval()
    return BehaviourLearner(config.behaviour, ActorCritic(model.rssm.feature, ACTION, config.behaviour), model)


def say(subject: BehaviourLearner, probability: float) -> None:
    """Let the head predict this probability everywhere."""
    head = subject.model.discount
    assert head is not None
    with torch.no_grad():
        head.out.weight.zero_()
        head.out.bias.fill_(torch.logit(torch.tensor(probability)))


def starts(subject: BehaviourLearner) -> State:
    rssm = subject.model.rssm
    return rssm.initial(N)


def test_the_head_is_a_bernoulli_of_continuing() -> None:
    head = DiscountHead(4, tiny_config().world_model.reward_head)
    feature, target = torch.randn(2, 3, 4), torch.tensor([[1.0, 1, 0], [0, 1, 1]])
    loss, probability = head.loss(feature, target)
    p = head(feature)
    torch.testing.assert_close(probability, p.detach())
    torch.testing.assert_close(loss, -(target * p.log() + (1 - target) * (1 - p).log()))


def test_it_learns_from_terminal_flags_at_their_step() -> None:
    config = tiny_config()
    model = FinetuneWorldModel(config.world_model, ACTION, discount=True)
    batch = ending()
    arrays = [torch.from_numpy(x).float() for x in (batch.action, batch.reward, batch.is_first)]
    image = torch.from_numpy(batch.image).float().movedim(-1, 2) / 255 - 0.5
    flags = torch.from_numpy(batch.is_terminal).float()
    loss = finetune_loss(model, config.loss, None, Experience(image, *arrays, flags), Deterministic())
    assert model.discount is not None
    expected = model.discount.loss(loss.posterior.feature, 1 - flags)[0].mean()
    torch.testing.assert_close(loss.metrics["loss/discount"], expected.detach())
    (gradient,) = torch.autograd.grad(loss.total, model.discount.out.bias, retain_graph=True)
    (own,) = torch.autograd.grad(expected, model.discount.out.bias)
    torch.testing.assert_close(gradient, own)
    heavier = tiny_config("loss.discount_weight=3").loss
    again = finetune_loss(model, heavier, None, Experience(image, *arrays, flags), Deterministic())
    torch.testing.assert_close(again.total - loss.total, 2 * expected, atol=1e-3, rtol=0)


def test_rewards_of_last_steps_are_learnt_with_the_bonus_where_the_episode_terminates() -> None:
    """Without a whole window a step has no bonus; a reward that comes with the end would never reach imagination."""
    config = tiny_config("finetune.bonus.window=3")
    model = FinetuneWorldModel(config.world_model, ACTION, discount=True)
    bonus = IntrinsicBonus(model.encoder.size, config.finetune.bonus)
    batch = tiny_batch(0)  # six steps; in the second row an episode ends with the third
    action, reward, is_first = (torch.from_numpy(x).float() for x in (batch.action, batch.reward, batch.is_first))
    image = torch.from_numpy(batch.image).float().movedim(-1, 2) / 255 - 0.5
    flags = torch.zeros_like(is_first)
    flags[0, -1] = flags[1, 2] = 1
    counts = torch.ones(3, 6)
    counts[1:, 4:] = 0  # cut by the end of the segment: the episode may continue
    experience = Experience(image, action, reward, is_first, flags)
    copy = deepcopy(bonus)
    loss = finetune_loss(model, config.loss, bonus, experience, Deterministic())
    intrinsic, _ = copy(model.encoder(image), windows_in_episodes(is_first, 3))
    each = model.reward.loss(loss.posterior.feature, reward + intrinsic)[0]
    torch.testing.assert_close(loss.metrics["loss/reward"], ((each * counts).sum() / counts.sum()).detach())


def test_a_learner_tells_terminal_states_from_others() -> None:
    rates = (f"finetune.{part}.learning_rate=0.01" for part in ("optimizer", "dynamics_optimizer"))
    learner = FinetuneLearner(tiny_config(*rates, "loss.image_weight=0.001"), ACTION, terminates=True)
    losses = []
    for _ in range(50):
        learner.update(ending())
        losses.append(learner.metrics()["loss/discount"])
    assert losses[-1] < 0.3 < 0.4 < losses[0]  # a constant 5/6 has 0.45


def test_weights_and_returns_use_the_discount_times_the_probability_of_continuing() -> None:
    """weight_i = prod_{j<i} gamma c_j; V_i = r_i + gamma c_i ((1 - lambda) v_{i+1} + lambda V_{i+1})."""
    subject = behaviour(True, "behaviour.horizon=4", "behaviour.return_lambda=0.5")
    say(subject, 0.5)
    goes_on = torch.full((4, N), 0.5)
    goes_on[0, 0] = 0.0
    weights = subject._weights(torch.zeros(4, N), goes_on)
    torch.testing.assert_close(weights[:, 1], torch.tensor([(GAMMA * 0.5) ** i for i in range(4)]))
    assert weights[:, 0].tolist() == [1, 0, 0, 0]
    with torch.no_grad():
        subject.model.reward.out.weight.zero_()
        subject.model.reward.out.bias.fill_(1.0)
        for critic in (subject.parts.critic, subject.parts.slow_critic):
            critic.out.weight.zero_()
            critic.out.bias.fill_(2.0)
    terminal = torch.zeros(N)
    terminal[0] = 1
    metrics = subject.update(starts(subject), Deterministic(), terminal)
    value, returns = 2.0, []
    for goes_on_after in (0.5, 0.5, 0.5, 1.0):  # the start is known to continue
        value = 1 + GAMMA * goes_on_after * (0.5 * 2.0 + 0.5 * value)
        returns.append(value)
    ended = [*returns[:3], 1.0]  # of a start that is terminal: the reward received on arrival, and no future
    expected = (4 * sum(returns) + sum(ended)) / (4 * N)
    assert metrics["behaviour/target"].item() == pytest.approx(expected, rel=1e-5)
    assert metrics["behaviour/continue"].item() == pytest.approx((0.5 * 15 + 4) / 20, rel=1e-5)


def test_a_head_that_always_says_go_on_changes_nothing() -> None:
    plain, twin = behaviour(False), behaviour(True)
    with torch.no_grad():
        for mine, theirs in zip(twin.parts.parameters(), plain.parts.parameters(), strict=True):
            mine.copy_(theirs)
        for part in ("rssm", "action_encoder", "reward"):
            getattr(twin.model, part).load_state_dict(getattr(plain.model, part).state_dict())
    say(twin, 0.5)
    with torch.no_grad():
        assert twin.model.discount is not None
        twin.model.discount.out.bias.fill_(100.0)  # a probability of 1
    metrics = [subject.update(starts(subject), Noise(3), torch.zeros(N)) for subject in (plain, twin)]
    assert "behaviour/continue" not in metrics[0]
    for name, value in metrics[0].items():
        torch.testing.assert_close(value, metrics[1][name])


def test_the_head_is_built_where_the_task_terminates_or_it_is_asked_for() -> None:
    def has_head(setting: str, terminates: bool) -> bool:
        config = tiny_config(f"behaviour.discount_head={setting}")
        return FinetuneWorldModel.of_run(config, ACTION, terminates).discount is not None

    found = {(setting, ends): has_head(setting, ends) for setting in ("auto", "always", "never") for ends in (0, 1)}
    assert [key for key, built in found.items() if built] == [("auto", 1), ("always", 0), ("always", 1)]


def test_without_a_head_terminal_flags_change_nothing() -> None:
    learners = [FinetuneLearner(tiny_config(), ACTION) for _ in range(2)]
    for learner, batch in zip(learners, (replace(ending(), is_terminal=ending().is_first), ending()), strict=True):
        learner.update(batch)
    one, other = (learner.model.state_dict() for learner in learners)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_rewards_are_learnt_scaled() -> None:
    """Scaling by 3 is learning from rewards three times as large."""
    large = replace(tiny_batch(0), reward=3 * tiny_batch(0).reward)
    metrics = []
    for scale, batch in ((1, large), (3, tiny_batch(0))):
        learner = FinetuneLearner(tiny_config(f"env.reward_scale={scale}"), ACTION)
        learner.update(batch)
        metrics.append(learner.metrics())
    assert metrics[0] == pytest.approx(metrics[1])


@pytest.mark.parametrize("sizes", [(3,), (2, 3)])
def test_discrete_actions_are_learnt_and_resumed(sizes: tuple[int, ...]) -> None:
    space = ActionSpace.discrete(*sizes)

    def batch(seed: int) -> SequenceBatch:
        plain = ending(seed)
        uniform = np.random.default_rng(seed).random((*plain.shape, space.size), dtype=np.float32)
        return replace(plain, action=space.random(uniform) * ~plain.is_first[..., None])

    learners = [FinetuneLearner(tiny_config(f"seed={seed}"), space, terminates=True) for seed in (0, 5)]
    learners[0].update(batch(0))
    assert learners[0].metrics()["grad_norm/actor"] > 0
    learners[1].load_state_dict(snapshot(learners[0].state_dict()))
    for learner in learners:
        learner.update(batch(1))
    one, other = (learner.actor_critic.state_dict() for learner in learners)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert learners[0].metrics() == learners[1].metrics()
