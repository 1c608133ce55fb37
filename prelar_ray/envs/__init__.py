"""Environments behind one interface: Meta-World, DeepMind Control and the built-in point-reach, all as images."""

from prelar_ray.envs.pixel_env import PixelEnv
from prelar_ray.envs.registry import action_space, check_task, known_tasks, make_env, register_gymnasium

__all__ = ["PixelEnv", "action_space", "check_task", "known_tasks", "make_env", "register_gymnasium"]

register_gymnasium()  # importing the package registers its ids, as users of gymnasium expect
