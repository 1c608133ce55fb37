from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from prelar_ray.learning.behaviour import BehaviourLearner, imagine
from prelar_ray.models.actor_critic import ActorCritic
from prelar_ray.models.noise import Deterministic, Noise
from prelar_ray.models.rssm import State
from prelar_ray.models.world_model import FinetuneWorldModel
from tests.tiny import ACTION, tiny_config

N = 5


def learner(*overrides: str) -> tuple[BehaviourLearner, FinetuneWorldModel]:
    config = tiny_config(*overrides)
    torch.manual_seed(0)
    model = FinetuneWorldModel(config.world_model, ACTION).eval()
    return BehaviourLearner(config.behaviour, ActorCritic(model.rssm.feature, ACTION, config.behaviour), model), model


def starts(model: FinetuneWorldModel) -> State:
    generator = torch.Generator().manual_seed(1)
    rssm = model.rssm
    logits = torch.randn(N, rssm.stoch, rssm.classes, generator=generator)
    one_hot = torch.nn.functional.one_hot(logits.argmax(-1), rssm.classes).float()
    return State(one_hot, torch.rand(N, rssm.deter, generator=generator), logits)


def step(subject: BehaviourLearner, model: FinetuneWorldModel, noise: Noise) -> dict[str, torch.Tensor]:
    metrics = subject.update(starts(model), noise)
    subject.advance()
    return metrics


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_update_changes_actor_and_critic_and_neither_world_model_nor_slow_critic() -> None:
    subject, model = learner()
    step(subject, model, Noise(0))  # the first one copies the slow critic
    parts = subject.parts
    before = {name: snapshot(part) for name, part in [("model", model), *parts.named_children()]}
    step(subject, model, Noise(1))
    assert same(model, before["model"])
    assert same(parts.slow_critic, before["slow_critic"])
    assert not same(parts.actor, before["actor"])
    assert not same(parts.critic, before["critic"])
    assert all(parameter.grad is None for module in (model, parts) for parameter in module.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters()), "the world model trains on"


def test_slow_critic_is_copied_at_update_0_and_every_so_many_after_it() -> None:
    subject, model = learner("behaviour.slow_critic_every=3")
    parts = subject.parts
    copied = []
    for update in range(8):
        before = snapshot(parts.slow_critic)
        step(subject, model, Noise(update))
        assert same(parts.slow_critic, before) or same(parts.slow_critic, parts.critic.state_dict())
        if not same(parts.slow_critic, before):
            copied.append(update)
    assert copied == [0, 3, 6]


def test_slow_critic_is_copied_every_100_updates_by_default() -> None:
    subject, model = learner()
    step(subject, model, Noise(0))
    kept = snapshot(subject.parts.slow_critic)
    for update, is_copied in ((99, False), (100, True)):
        subject.updates = update
        step(subject, model, Noise(1))
        assert same(subject.parts.slow_critic, kept) != is_copied


def test_slow_critic_moves_by_a_fraction_of_the_way_to_the_critic() -> None:
    """slow <- slow + fraction (critic - slow)."""
    subject, model = learner("behaviour.slow_critic_every=2", "behaviour.slow_critic_fraction=0.25")
    parts = subject.parts
    for update in range(5):
        before = snapshot(parts.slow_critic)
        step(subject, model, Noise(update))
        fraction = 0.25 if update % 2 == 0 else 0.0
        for name, value in parts.slow_critic.state_dict().items():
            expected = before[name] + fraction * (parts.critic.state_dict()[name] - before[name])
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8)
    assert not same(parts.slow_critic, parts.critic.state_dict())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in parts.slow_critic.parameters())


def test_imagination_applies_each_action_to_the_state_before_it() -> None:
    subject, model = learner()
    start, noise = starts(model), Deterministic()
    feature, action, entropy = imagine(model, subject.parts.actor, start, 4, noise)
    assert (feature.shape, action.shape, entropy.shape) == ((5, N, model.rssm.feature), (5, N, ACTION), (4, N))
    assert torch.equal(feature[0], start.feature)
    assert not action[0].any()
    state = start
    for i in range(4):
        policy = subject.parts.actor(state.feature)
        torch.testing.assert_close(action[i + 1], policy.sample(None))
        torch.testing.assert_close(entropy[i], policy.entropy())
        state = model.rssm.prior_step(state, model.action_encoder(action[i + 1]))
        torch.testing.assert_close(feature[i + 1], state.feature)


def test_imagination_repeats_with_the_same_noise_and_differs_with_another() -> None:
    subject, model = learner()
    runs = [imagine(model, subject.parts.actor, starts(model), 3, Noise(seed)).action for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert runs[0].abs().max() < 1


def test_value_gradient_reaches_the_actor_through_the_dynamics_alone() -> None:
    subject, model = learner()
    imagination = imagine(model, subject.parts.actor, starts(model), 3, Deterministic())
    # Feature i depends on the parameters through the actions before it; the policy's own input is cut off.
    first, last = (
        torch.autograd.grad(imagination.feature[i].sum(), subject.parts.actor.mean.weight, retain_graph=True)[0]
        for i in (1, 3)
    )
    assert first.any()
    assert not torch.equal(first, last)
    (through_entropy,) = torch.autograd.grad(
        imagination.entropy[2].sum(), model.rssm.cell.linear.weight, allow_unused=True
    )
    assert through_entropy is None


class Quadratic(nn.Module):
    """Stands in for a reward head: best where the deterministic state is 0.2."""

    def __init__(self, stoch: int) -> None:
        super().__init__()
        self.stoch = stoch

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return -(feature[..., self.stoch :] - 0.2).square().sum(-1)


def test_actor_learns_to_reach_the_states_that_are_rewarded() -> None:
    overrides = [*("behaviour.entropy_weight=0", "behaviour.actor_optimizer.learning_rate=0.02")]
    subject, model = learner(*overrides, "behaviour.horizon=4")
    with torch.no_grad():
        model.action_encoder.hidden.weight.mul_(4)
    subject.model.reward = Quadratic(model.rssm.size)  # type: ignore[assignment]
    with torch.no_grad():
        for parameter in subject.parts.slow_critic.parameters():
            parameter.zero_()
    subject.updates = 1  # no copy of the critic: the reward alone teaches

    def reward() -> float:
        with torch.no_grad():
            imagination = imagine(model, subject.parts.actor, starts(model), 4, Deterministic())
            return float(subject.model.reward(imagination.feature[1:]).mean())

    before = reward()
    for _ in range(60):
        step(subject, model, Deterministic())
    assert reward() > before + 0.01 * abs(before)


def run(*overrides: str, **settings: Any) -> tuple[dict[str, torch.Tensor], BehaviourLearner]:
    subject, model = learner(*overrides)
    for _ in range(settings.get("updates", 1)):
        metrics = step(subject, model, Deterministic())
    return metrics, subject


def test_entropy_weight_keeps_the_policy_random() -> None:
    rate = "behaviour.actor_optimizer.learning_rate=0.01"
    free, paid = (run(f"behaviour.entropy_weight={weight}", rate, updates=30)[0] for weight in (0, 10))
    assert paid["behaviour/entropy"] > free["behaviour/entropy"] + 0.05


def test_critic_regresses_on_the_return_or_as_published_on_return_plus_entropy() -> None:
    paper, first = run("behaviour.entropy_weight=0.5", "behaviour.critic_target=paper")
    published, second = run("behaviour.entropy_weight=0.5", "behaviour.critic_target=published")
    same_for_both = ("behaviour/actor_loss", "behaviour/target", "grad_norm/actor")
    assert all(torch.equal(paper[name], published[name]) for name in same_for_both)
    assert not torch.isclose(paper["behaviour/critic_loss"], published["behaviour/critic_loss"])
    assert same(first.parts.actor, second.parts.actor.state_dict())
    without = [run("behaviour.entropy_weight=0", f"behaviour.critic_target={x}")[0] for x in ("paper", "published")]
    assert torch.equal(without[0]["behaviour/critic_loss"], without[1]["behaviour/critic_loss"])


def test_the_actor_maximises_returns_over_their_range_and_the_critic_regresses_on_them_as_they_are() -> None:
    """Loss of the actor: -mean weight (V / max(1, S) + eta entropy), S the range of returns."""
    on = ("behaviour.entropy_weight=0", "behaviour.return_normalisation=percentiles")
    plain, first = run("behaviour.entropy_weight=0")
    scaled, second = run(*on, "behaviour.return_momentum=0")
    assert plain["behaviour/target"] == scaled["behaviour/target"]
    assert plain["behaviour/critic_loss"] == scaled["behaviour/critic_loss"]
    assert same(first.parts.critic, second.parts.critic.state_dict())
    size = scaled["behaviour/return_range"]
    assert size > 2
    for name in ("behaviour/actor_loss", "grad_norm/actor"):
        torch.testing.assert_close(scaled[name] * size, plain[name].double())
    small, third = run(*on, "behaviour.return_momentum=1")  # the range stays at zero
    assert small["behaviour/return_range"] == 0
    assert small["behaviour/actor_loss"] == plain["behaviour/actor_loss"]
    assert same(third.parts.actor, first.parts.actor.state_dict())


def test_a_two_hot_critic_learns_returns_of_any_scale() -> None:
    subject, model = learner(
        *("behaviour.critic_distribution=two_hot", "behaviour.discount=0.01", "behaviour.horizon=2"),
        *("behaviour.critic_optimizer.learning_rate=0.02", "behaviour.actor_optimizer.learning_rate=1e-9"),
    )
    with torch.no_grad():
        model.reward.out.weight.zero_()
        model.reward.out.bias.fill_(5000.0)
    metrics = step(subject, model, Deterministic())
    assert metrics["behaviour/value"] == 0
    assert 5000 <= metrics["behaviour/target"] < 5100
    for _ in range(80):
        metrics = step(subject, model, Deterministic())
    torch.testing.assert_close(metrics["behaviour/value"], metrics["behaviour/target"], rtol=0.05, atol=0)


def test_critic_loss_falls_towards_a_target_that_stands_still() -> None:
    subject, model = learner(
        "behaviour.critic_optimizer.learning_rate=0.01", "behaviour.actor_optimizer.learning_rate=1e-9"
    )
    subject.updates = 1
    losses = [step(subject, model, Deterministic())["behaviour/critic_loss"] for _ in range(99)]
    assert losses[-1] < 0.1 * losses[0]


def test_later_steps_weigh_less_by_the_discount() -> None:
    subject, _ = learner("behaviour.discount=0.5")
    assert subject._weights(torch.zeros(4, N)).flatten().tolist() == [1.0, 0.5, 0.25, 0.125]


def test_restored_learner_continues_with_moments_normaliser_and_slow_critic_counter() -> None:
    overrides = ("behaviour.slow_critic_every=3", "behaviour.reward_momentum=0.5")
    subject, model = learner(*overrides)
    for update in range(2):
        step(subject, model, Noise(update))
    other, _ = learner(*overrides)
    other.parts.load_state_dict(subject.parts.state_dict())
    state = torch.utils._pytree.tree_map(lambda x: x.clone() if torch.is_tensor(x) else x, subject.state_dict())
    other.load_state_dict(state)
    for update in range(2, 6):
        metrics = [step(each, model, Noise(update)) for each in (subject, other)]
        assert all(torch.equal(metrics[0][name], metrics[1][name]) for name in metrics[0])
    assert same(other.parts, subject.parts.state_dict())


@pytest.mark.parametrize("horizon", [2, 5])
def test_any_horizon_gives_finite_metrics(horizon: int) -> None:
    metrics, _ = run(f"behaviour.horizon={horizon}")
    assert all(value.isfinite() and value.ndim == 0 for value in metrics.values())
