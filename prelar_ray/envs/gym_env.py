"""Any environment of gymnasium: ``gym/ID`` or ``gym/MODULE:ID``, seen as the others are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from prelar_ray.config import EnvConfig
from prelar_ray.envs.family import Family, check_task_name
from prelar_ray.envs.gym_actions import gym_actions
from prelar_ray.envs.gym_making import make_gym
from prelar_ray.envs.opengl import configure_gl
from prelar_ray.envs.pixel_env import Action, Image, PixelEnv
from prelar_ray.errors import (
    ConfigError,
    EnvironmentFailure,
    FrameFailure,
    NoImageError,
    RewardFailure,
    SuccessFailure,
    VectorFailure,
)
from prelar_ray.fitting import fitted
from prelar_ray.wording import printable

__all__ = ["GymEnv", "GymFamily"]

EVERYTHING: Final = "observation"
"""Value of ``env.image_key`` for an observation that is the image itself."""
SUCCESS_KEYS: Final = ("success", "is_success")
"""Keys of ``info`` that are looked for where ``env.success_key`` names none."""
PICTURE: Final = "uint8 (H, W, 3)"
"""What an image has to be, in messages; one channel or four are taken too, and channels first."""


class GymFamily(Family):
    """Environments of gymnasium, by the id that :func:`gymnasium.make` takes."""

    def task_names(self) -> Sequence[str]:
        """Return the ids that are registered; ``MODULE:ID`` imports a module that registers more."""
        return sorted(gymnasium.registry)

    def check(self, family: str, task: str, path: str) -> None:
        """See :class:`Family`; an id with a module is known to whoever imports it."""
        if ":" not in task:
            known = [f"{family}/{name}" for name in self.task_names()]
            check_task_name(path, f"{family}/{task}", known, f"{family}/MODULE:{task}, where MODULE registers it")
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
        self._env = make_gym(identifier, env)
        try:
            self._key = _image_key(self._name, self._env, env) if env.image_size else None
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
        self._drawn_shape: tuple[int, ...] = ()
        self.image_source = _image_source(self._env, self._key) if env.image_size else ""
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
        answer: Any = self._env.reset(seed=int(self.np_random.integers(2**31)))
        if not isinstance(answer, tuple) or len(answer) != 2:
            found = f"{len(answer)} values" if isinstance(answer, tuple) else type(answer).__name__
            raise EnvironmentFailure(f"reset returned {found}, must be (observation, info)")
        self._observation, _ = answer

    def _advance(self, action: Action) -> tuple[float, bool, bool]:
        self._observation, reward, terminated, self._cut, info = self._env.step(self._given(action))
        return _number(reward), self._succeeded(info), bool(terminated)

    def _succeeded(self, info: Any) -> bool:
        if not isinstance(info, Mapping):
            raise EnvironmentFailure(f"info is {printable(repr(info))}, must be a dict")
        chosen = self._config.success_key
        if chosen and chosen not in info:
            raise EnvironmentFailure(
                f"info has no {chosen}, only {', '.join(sorted(info)) or 'nothing'}; correct env.success_key, or leave "
                "it empty"
            )
        key = next((key for key in ((chosen,) if chosen else SUCCESS_KEYS) if key in info), None)
        self.has_success |= key is not None
        return key is not None and _truth(key, info[key])

    def _times_out(self) -> bool:
        return self._cut or super()._times_out()

    def _vector(self) -> npt.NDArray[Any]:
        seen = self._observation if self._vector_key == EVERYTHING else self._observation[self._vector_key]
        vector = np.asarray(seen)
        if vector.size != self.vector_size:
            place = "the observation" if self._vector_key == EVERYTHING else self._vector_key
            raise VectorFailure(
                f"the space of {place} declares {self.vector_size} numbers, the observation has {vector.size}; correct "
                "the space"
            )
        return vector

    def _draw(self) -> Image:
        image: Any
        if self._key is None:
            image = self._env.render()
        else:
            image = self._observation if self._key == EVERYTHING else self._observation[self._key]
        pixels = _coloured(image, _place(self._key))
        before, self._drawn_shape = self._drawn_shape or np.shape(image), np.shape(image)
        if self._drawn_shape != before:
            raise FrameFailure(
                f"{_place(self._key)} has shape {self._drawn_shape}, and {before} before; draw all frames of one shape"
            )
        return fitted(pixels, self._config.fit, self.image_size)


def _number(reward: Any) -> float:
    """Return a reward of any type of number.

    Raises:
        RewardFailure: it is none.
    """
    if getattr(reward, "ndim", 0) == 0 and not isinstance(reward, str | bytes):
        with suppress(TypeError, ValueError):
            return float(reward)
    raise RewardFailure(f"the reward is {printable(repr(reward))}, must be a number")


def _truth(key: str, said: Any) -> bool:
    """Return what ``info[key]`` says of success: a bool of any type, or 0 or 1.

    Raises:
        SuccessFailure: it is something else, such as a word, which Python would take for true.
    """
    if getattr(said, "ndim", 0) or said not in (0, 1):
        raise SuccessFailure(
            f'info["{key}"] is {printable(repr(said))}, must be a bool; correct it, or name another in env.success_key'
        )
    return bool(said)


def _time_limit(name: str, env: gymnasium.Env[Any, Any]) -> int:
    """Return the longest episode, steps.

    Raises:
        ConfigError: there is none.
    """
    limit = env.spec.max_episode_steps if env.spec else None
    if not limit:
        raise ConfigError(f"env.task={name}: its episodes have no time limit; set env.time_limit")
    return limit


def _image_key(name: str, env: gymnasium.Env[Any, Any], config: EnvConfig) -> str | None:
    """Return the key of the image in observations, :data:`EVERYTHING`, or None for :meth:`render`.

    Raises:
        ConfigError: no such key, or it is no image; NoImageError: there is no image at all.
    """
    found, chosen = _by_key(env.observation_space), config.image_key
    images = [key for key, space in found.items() if _is_image(space)]
    if chosen and chosen not in images:
        seen = f"{_place(chosen)} of {name}"
        if chosen in found:
            wrong = f"{seen} is {_short(found[chosen])}, must be {PICTURE}"
        elif chosen == EVERYTHING:
            wrong = f"{seen} is a Dict of {', '.join(found)}"
        else:
            wrong = f"there is no {seen}"
        remedy = f"use {' or '.join(images)}" if images else "leave it empty to see render()"
        raise ConfigError(f"env.image_key={chosen}: {wrong}; {remedy}")
    if chosen or len(images) == 1:
        return chosen or images[0]
    if env.render_mode == "rgb_array":
        return None
    if images:
        raise ConfigError(
            f"env.task={name}: its observations have {len(images)} images, {', '.join(images)}; name one with "
            "env.image_key"
        )
    raise _no_image(name, env, config, found)


def _no_image(
    name: str, env: gymnasium.Env[Any, Any], config: EnvConfig, found: dict[str, spaces.Space[Any]]
) -> NoImageError:
    """Return the error of an environment without an image in its observations that renders no arrays either."""
    if "render_mode" in config.kwargs:
        cause = f"env.kwargs.render_mode={config.kwargs['render_mode']} renders no arrays"
        remedy = "leave that out"
    elif "render_mode" in env.unwrapped.spec.kwargs:  # type: ignore[union-attr]  # of one that was made by its id
        cause, remedy = "it does not keep its render_mode", "set self.render_mode = render_mode in its constructor"
    else:
        cause, remedy = "its constructor takes no render_mode", "have it take one and render rgb_array"
    unfit = f" ({_listed(pictures)})" if (pictures := _unfit_pictures(found)) else ""
    if pictures:
        remedy += ", or return uint8 in [0, 255]"
    error = NoImageError(f"env.task={name}: no uint8 image is in its observations{unfit}, and {cause}; {remedy}")
    sizes = {key: math.prod(space.shape) for key, space in found.items() if isinstance(space, spaces.Box)}
    if vectors := [key for key in sizes if key not in pictures]:
        error.vector_settings = f"env.image_size=0 env.vector_key={vectors[0]} env.vector_size={sizes[vectors[0]]}"
    return error


def _image_source(env: gymnasium.Env[Any, Any], key: str | None) -> str:
    """Return where images come from; for those of ``render()`` also what in the observations is not taken, and why."""
    if key is not None:
        return _place(key)
    found = _by_key(env.observation_space)
    images = [key for key, space in found.items() if _is_image(space)]
    several = f"; of {', '.join(images)} env.image_key would choose one" if images else ""
    unfit = f"; {_listed(pictures)}, an image must be uint8" if (pictures := _unfit_pictures(found)) else ""
    return f"render(){several}{unfit}"


def _place(key: str | None) -> str:
    """Return the name of where an image lies, for messages."""
    return {None: "render()", EVERYTHING: "the observation"}.get(key, f"observation {key}")


def _by_key(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """Return the parts of an observation."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {EVERYTHING: space}


def _vector_size(name: str, space: spaces.Space[Any], chosen: str, image: str | None) -> int:
    """Return the numbers of the vector in observations, 0 where none is chosen.

    Raises:
        ConfigError: no such key, or it holds no numbers beside the image.
    """
    found = _by_key(space)
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


def _unfit_pictures(found: dict[str, spaces.Space[Any]]) -> dict[str, spaces.Space[Any]]:
    """Return the parts of an observation that have the shape of an image, and another type."""
    return {
        key: space
        for key, space in found.items()
        if isinstance(space, spaces.Box) and space.dtype != np.uint8 and len(space.shape) in (2, 3)
    }


def _listed(found: dict[str, spaces.Space[Any]]) -> str:
    return ", ".join(f"{_place(key)} is {_short(space)}" for key, space in found.items())


def _short(space: spaces.Space[Any]) -> str:
    """Return type and shape of a Box, without its bounds."""
    return f"{space.dtype} {space.shape}" if isinstance(space, spaces.Box) else str(space)


def _coloured(image: Any, where: str) -> npt.NDArray[np.uint8]:
    """Return pixels as ``(H, W, 3)``.

    Raises:
        FrameFailure: other pixels, or none.
    """
    pixels = np.asarray(image)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)  # channels first
    if pixels.dtype == np.uint8 and pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        found = "None" if image is None else f"{pixels.dtype} {pixels.shape}"
        raise FrameFailure(f"{where} is {found}, must be {PICTURE}")
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
