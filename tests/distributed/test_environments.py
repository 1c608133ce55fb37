from ray.tune.registry import ENV_CREATOR, _global_registry

from prelar_ray.distributed.environments import register_with_ray


def test_rllib_finds_every_family_by_name() -> None:
    register_with_ray()
    for family in ("point-reach", "arena", "metaworld", "dmc"):
        assert _global_registry.contains(ENV_CREATOR, f"prelar_ray/{family}")


def test_env_config_becomes_the_environment_s_arguments() -> None:
    register_with_ray()
    make = _global_registry.get(ENV_CREATOR, "prelar_ray/point-reach")
    env = make({"action_repeat": 4})
    observation, _ = env.reset(seed=0)
    assert observation["image"].shape == (64, 64, 3)
    steps, ended = 0, False
    while not ended:
        _, _, terminated, ended, _ = env.step(env.action_space.sample())
        assert not terminated
        steps += 1
    assert steps == 25  # 100 environment steps
