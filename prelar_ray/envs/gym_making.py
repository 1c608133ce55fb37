"""Making an environment of gymnasium, and what to say where that fails: the cause, then what helps against it."""

from __future__ import annotations

import re
import warnings
from typing import Any

import gymnasium

from prelar_ray.config import EnvConfig
from prelar_ray.envs.opengl import configure_gl, configured_for_mujoco
from prelar_ray.errors import ConfigError, PrelarError

__all__ = ["make_gym"]

NO_CONSTRUCTOR = "() takes no arguments"
"""What Python says of arguments for a class that has no constructor of its own."""


def make_gym(identifier: str, env: EnvConfig) -> gymnasium.Env[Any, Any]:
    """Make the environment, with ``render_mode="rgb_array"`` where an image may have to be rendered.

    One whose constructor takes no ``render_mode`` is made without; its observations may have an image.

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
        with configured_for_mujoco(), warnings.catch_warnings():
            # What this warns of is said by an error where no image is found, and is no matter where one is.
            warnings.filterwarnings("ignore", message=".*is being initialised with render_mode=")
            try:
                made = gymnasium.make(identifier, disable_env_checker=True, **settings)
            except TypeError as error:
                refused = _refused_keyword(error) == "render_mode" or NO_CONSTRUCTOR in str(error)
                if not refused or "render_mode" in env.kwargs:
                    raise
                del settings["render_mode"]
                made = gymnasium.make(identifier, disable_env_checker=True, **settings)
        if _is_of_mujoco(made):  # another one may have imported it before
            configure_gl()
        return made
    except PrelarError:
        raise
    except Exception as error:  # the environment's own code
        raise ConfigError(f"env.task=gym/{identifier}: {_explained(identifier, env, error)}") from error


def _is_of_mujoco(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment has a model or data of MuJoCo."""
    held = getattr(env.unwrapped, "__dict__", {}).values()
    return any(type(value).__module__.partition(".")[0] == "mujoco" for value in held)


def _refused_keyword(error: BaseException) -> str:
    """Return the keyword that a constructor does not take, empty where it failed for another reason."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error)) if isinstance(error, TypeError) else None
    return found[1] if found else ""


def _explained(identifier: str, env: EnvConfig, error: Exception) -> str:
    """Return why it cannot be made, and what to do about that."""
    module, _, name = identifier.rpartition(":")
    if isinstance(error, ModuleNotFoundError):
        return _missing_module(module, error)
    said = " ".join(str(error).split())
    if isinstance(error, gymnasium.error.DependencyNotInstalled):
        return said  # it names what to install
    if isinstance(error, gymnasium.error.UnregisteredEnv | gymnasium.error.DeprecatedEnv):
        return f"{module or 'gymnasium'} registers no {name} ({said}); correct the id, or name the module that does"
    said = said.partition(" was raised from the environment creator")[0]  # gymnasium's addition
    cause = f"cannot be made ({type(error).__name__}: {said})".replace(": )", ")")
    if (keyword := _refused_keyword(error)) in env.kwargs:
        return f"{cause}; leave env.kwargs.{keyword} out, or correct it"
    if isinstance(error, gymnasium.error.Error):
        return f"{cause}; correct env.task or env.kwargs"
    return f"{cause}; mend the environment, or correct env.kwargs"


def _missing_module(module: str, error: ModuleNotFoundError) -> str:
    """Return what is missing: the module that a task names, empty where it names none, or one that it imports."""
    first = error.__cause__ if isinstance(error.__cause__, ModuleNotFoundError) else error  # gymnasium raises its own
    missing = first.name or str(first)
    if missing == module.partition(".")[0]:
        return (
            f"no module {missing} is found; put the folder that holds it on PYTHONPATH, pip install -e its package, "
            "or correct the name"
        )
    if f"{module}.".startswith(f"{missing}."):
        return f"{missing.rpartition('.')[0]} has no module {missing}; correct the name"
    return f"it imports {missing}, which is not found; install that, or correct the import"
