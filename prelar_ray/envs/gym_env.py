"""Any environment of gymnasium: ``gym/ID`` or ``gym/MODULE:ID``, seen as the others are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from prelar_ray.config import EnvConfig
from prelar_ray.envs.family import Family
from prelar_ray.envs.gym_actions import gym_actions
from prelar_ray.envs.opengl import configure_gl, configured_for_mujoco
from prelar_ray.envs.pixel_env import Action, Image, PixelEnv
from prelar_ray.errors import ConfigError, EnvironmentFailure, PrelarError
from prelar_ray.fitting import fitted

__all__ = ["GymEnv", "GymFamily"]

EVERYTHING: Final = "observation"
"""Value of ``env.image_key`` for an observation that is the image itself."""
SUCCESS_KEYS: Final = ("success", "is_success")
"""Keys of ``info`` that are looked for where ``env.success_key`` names none."""


class GymFamily(Family):
    """Environments of gymnasium, by the id that :func:`gymnasium.make` takes."""

    def task_names(self) -> Sequence[str]:
        """Return the ids that are registered; ``MODULE:ID`` imports a module that registers more."""
        return sorted(gymnasium.registry)

    def check(self, family: str, task: str, path: str) -> None:
        """See :class:`Family`; an id with a module is known to whoever imports it."""
        if ":" not in task:
            super().check(family, task, path)
            if ".mujoco" in str(gymnasium.registry[task].entry_point):  # gymnasium's own, by the path of their module
                configure_gl()

    def make(self, task: str, env: EnvConfig, seed: int) -> GymEnv:
        """See :class:`Family`."""
        return GymEnv(task, env, seed)


class GymEnv(PixelEnv):
    """An environment of gymnasium with images in its observation, or that renders arrays; or one seen as a vector.

    Its actions are a bounded Box of any shape, scaled to [-1, 1] and flat, or choices (Discrete, MultiDiscrete) as
    one-hot vectors. The images, of any size, are brought to ``env.image_size`` as ``env.fit`` says; at 0 it needs none,
    and nothing is rendered. Success is ``info[env.success_key]``; without one there is no success. Nothing says whether
    it ever terminates: it may.

    Args:
        identifier: as :func:`gymnasium.make` takes it.
        env: settings; the keywords in ``env.kwargs`` go to the environment.
        seed: seed of the stream of episodes.

    Raises:
        ConfigError: it cannot be made, or has not what is needed; names the setting that helps.
        RenderingError: it is a scene of MuJoCo, and headless rendering does not work.
    """

    has_expert = False
    terminates = True

    def __init__(self, identifier: str, env: EnvConfig, seed: int | None = None) -> None:
        self._name, self._config = f"gym/{identifier}", env
        if env.camera != "default":
            raise ConfigError(f"env.camera={env.camera}: {self._name} has no cameras known here; use env.kwargs")
        self._env = _make(identifier, env)
        try:
            self._key = _image_key(self._name, self._env, env.image_key) if env.image_size else None
            self._given = gym_actions(self._name, self._env.action_space)
            self._vector_key = env.vector_key
            size = _vector_size(self._name, self._env.observation_space, env.vector_key, self._key)
            limit = _time_limit(self._name, self._env)
        except ConfigError:
            self._env.close()
            raise
        super().__init__(self._given.space, limit, env.action_repeat, seed, None, size, env.image_size)
        self.wrapped = self._env.unwrapped
        self._observation: Any = None
        self._cut = False
        self.has_success = bool(env.success_key)  # or once a key is seen

    @property
    def render_attributes(self) -> dict[str, Any]:
        """Package, versions, where images come from, and protocol."""
        spec = self._env.spec
        return {
            "simulator": "gymnasium",
            "versions": {"gymnasium": version("gymnasium")},
            "id": spec.id if spec else self._name,
            "kwargs": self._config.kwargs,
            "images": (self._key or "render()") if self._config.image_size else "none",
            "fit": self._config.fit,
            "reward_version": "as made",
            "action_repeat": self._action_repeat,
            "episode_steps": self._episode_steps,
        }

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _begin(self) -> None:
        self._cut = False
        self._observation, _ = self._env.reset(seed=int(self.np_random.integers(2**31)))

    def _advance(self, action: Action) -> tuple[float, bool, bool]:
        self._observation, reward, terminated, self._cut, info = self._env.step(self._given(action))
        return float(reward), self._succeeded(info), bool(terminated)

    def _succeeded(self, info: dict[str, Any]) -> bool:
        chosen = self._config.success_key
        if chosen and chosen not in info:
            raise EnvironmentFailure(
                f"{self._name}: info has no {chosen}, only {', '.join(sorted(info)) or 'nothing'}; correct "
                "env.success_key, or leave it empty"
            )
        key = next((key for key in ((chosen,) if chosen else SUCCESS_KEYS) if key in info), None)
        self.has_success |= key is not None
        return key is not None and bool(info[key])

    def _times_out(self) -> bool:
        return self._cut or super()._times_out()

    def _vector(self) -> npt.NDArray[Any]:
        seen = self._observation if self._vector_key == EVERYTHING else self._observation[self._vector_key]
        return np.asarray(seen)

    def _draw(self) -> Image:
        image: Any
        if self._key is None:
            image = self._env.render()
        else:
            image = self._observation if self._key == EVERYTHING else self._observation[self._key]
        pixels = _coloured(np.asarray(image), f"{self._name}: {self._key or 'render()'}")
        return fitted(pixels, self._config.fit, self.image_size)


def _make(identifier: str, env: EnvConfig) -> gymnasium.Env[Any, Any]:
    """Make the environment, with ``render_mode="rgb_array"`` where images are seen that its observations do not have.

    Raises:
        ConfigError: it cannot be made, with what gymnasium or the environment said.
        RenderingError: it is a scene of MuJoCo, which cannot be drawn here.
    """
    settings: dict[str, Any] = dict(env.kwargs)
    if env.image_size and not env.image_key:
        settings.setdefault("render_mode", "rgb_array")
    if env.time_limit:
        settings["max_episode_steps"] = env.time_limit
    try:
        with configured_for_mujoco():
            made = gymnasium.make(identifier, disable_env_checker=True, **settings)
        if _is_of_mujoco(made):  # another one may have imported it before
            configure_gl()
        return made
    except PrelarError:
        raise
    except ModuleNotFoundError as error:
        said = str(error).split(". ")[0]
        raise ConfigError(f"env.task=gym/{identifier}: {said}; install the package, or correct the name") from error
    except Exception as error:  # the environment's own code
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"env.task=gym/{identifier}: cannot be made ({said}); correct the id or env.kwargs, or name "
            "the image of its observations with env.image_key if it cannot render, or observe a vector alone with "
            "env.image_size=0"
        ) from error


def _is_of_mujoco(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment has a model or data of MuJoCo."""
    held = getattr(env.unwrapped, "__dict__", {}).values()
    return any(type(value).__module__.partition(".")[0] == "mujoco" for value in held)


def _time_limit(name: str, env: gymnasium.Env[Any, Any]) -> int:
    """Return the longest episode, steps.

    Raises:
        ConfigError: there is none.
    """
    limit = env.spec.max_episode_steps if env.spec else None
    if not limit:
        raise ConfigError(f"env.task={name}: its episodes have no time limit; set env.time_limit")
    return limit


def _image_key(name: str, env: gymnasium.Env[Any, Any], chosen: str) -> str | None:
    """Return the key of the image in observations, :data:`EVERYTHING`, or None for :meth:`render`.

    Raises:
        ConfigError: no such key, it is no image, or there is no image at all.
    """
    space = env.observation_space
    found = dict(space.spaces) if isinstance(space, spaces.Dict) else {EVERYTHING: space}
    if chosen:
        if chosen in found and _is_image(found[chosen]):
            return chosen
        images = [key for key, inner in found.items() if _is_image(inner)]
        raise ConfigError(
            f"env.image_key={chosen}: not an image in the observations of {name}; they have "
            f"{', '.join(f'{key} ({inner})' for key, inner in found.items())}; images are "
            f"{', '.join(images) or 'none: leave it empty to render'}"
        )
    images = [key for key, inner in found.items() if _is_image(inner)]
    if len(images) == 1:
        return images[0]
    if env.render_mode != "rgb_array":
        raise ConfigError(
            f"env.task={name}: its observations have {len(images)} images and it renders {env.render_mode}, no arrays; "
            "name the image with env.image_key, have it render with env.kwargs.render_mode, or observe a vector alone "
            "with env.image_size=0"
        )
    return None


def _vector_size(name: str, space: spaces.Space[Any], chosen: str, image: str | None) -> int:
    """Return the numbers of the vector in observations, 0 where none is chosen.

    Raises:
        ConfigError: no such key, or it holds no numbers beside the image.
    """
    found = dict(space.spaces) if isinstance(space, spaces.Dict) else {EVERYTHING: space}
    vectors = {key: inner for key, inner in found.items() if isinstance(inner, spaces.Box) and key != image}
    if not chosen:
        return 0
    if chosen not in vectors:
        raise ConfigError(
            f"env.vector_key={chosen}: no vector in the observations of {name}; there are "
            f"{', '.join(f'{key} ({inner})' for key, inner in vectors.items()) or 'none: leave it empty'}"
        )
    return math.prod(vectors[chosen].shape)


def _is_image(space: spaces.Space[Any]) -> bool:
    """Whether it is of pixels ``(H, W)`` or ``(H, W, C)`` of 8 bits."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _coloured(image: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    """Return pixels as ``(H, W, 3)``.

    Raises:
        EnvironmentFailure: other pixels.
    """
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3, 4):
        image = image.transpose(1, 2, 0)  # channels first
    if image.dtype == np.uint8 and image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise EnvironmentFailure(f"{where} returned {image.dtype} {image.shape}; expected uint8 (H, W, 3)")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
