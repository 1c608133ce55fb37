"""Reading a configuration: defaults, then preset, method, file, and ``a.b.c=VALUE`` overrides.

Every mistake becomes one line that starts with the dotted path and says what is allowed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from prelar_ray.config.mistakes import describe, nearest, show
from prelar_ray.config.paths import field_type
from prelar_ray.config.run import RLLIB, RunConfig
from prelar_ray.errors import ConfigError

__all__ = ["json_schema", "load_config", "method_names", "named_value", "native_methods", "preset_names", "to_yaml"]

_PRESETS = resources.files("prelar_ray.config") / "presets"
_METHODS = resources.files("prelar_ray.config") / "methods"


def preset_names() -> list[str]:
    """Return the names that ``--preset`` takes."""
    return _names(_PRESETS)


def method_names() -> list[str]:
    """Return the names that ``--method`` takes."""
    baselines = [f"{RLLIB}{name}" for name in _names(_METHODS / RLLIB.rstrip("/"))]
    return [*_names(_METHODS), *baselines]


def native_methods() -> list[str]:
    """Return the methods that are choices of this package's parts, without RLlib's algorithms."""
    return _names(_METHODS)


def load_config(
    preset: str | None = None,
    file: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    base: RunConfig | None = None,
    measured: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the configuration of base, preset, method, measured, file and overrides, each winning over those before.

    Without a preset the defaults hold, which are the ``paper`` preset. A file may name its own with ``preset: NAME``;
    ``preset`` wins over that. The method is the one that file or overrides name with ``method``. ``measured`` holds
    values by dotted path that the caller knows from elsewhere, such as widths from the shapes in a file.

    Raises:
        ConfigError: unknown preset, method or key, two methods at once, a file that cannot be read, a value of the
            wrong type, out of range or contradicting another; one line per mistake.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides: the text {overrides!r}, expected a list such as ['seed=1']")
    in_file = _read_file(Path(file)) if file is not None else {}
    file_preset = in_file.pop("preset", None)
    tree: dict[str, Any] = base.model_dump() if base else {}
    changes = [in_file, *map(_read_override, overrides)]
    known = [_nest(path.split("."), value) for path, value in (measured or {}).items()]
    for layer in (_read_preset(preset or file_preset), _read_method(base, changes), *known, *changes):
        tree = _merge(tree, layer)
    try:
        return RunConfig.model_validate(tree, strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(map(describe, error.errors()))) from error


def named_value(key: str, file: Path | None, overrides: Sequence[str]) -> Any:
    """Return what a file or overrides give for a dotted ``key``, None where they leave it open.

    Raises:
        ConfigError: the file cannot be read, or an override is malformed.
    """
    layers = [_read_file(file) if file is not None else {}, *map(_read_override, overrides)]
    named: Any = functools.reduce(_merge, layers)
    for part in key.split("."):
        named = named.get(part) if isinstance(named, dict) else None
    return named


def to_yaml(config: BaseModel) -> str:
    """Return ``config`` as YAML with every value stated; :func:`load_config` reads it back unchanged."""
    from prelar_ray.config import yaml_text

    return yaml_text.dump(config.model_dump())


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, for editors that complete YAML."""
    schema = RunConfig.model_json_schema()
    schema["properties"]["method"]["enum"] = method_names()
    preset = {"description": "Preset that the rest of the file changes.", "enum": preset_names(), "title": "Preset"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "prelar-ray configuration",
        "properties": {"preset": preset, **schema["properties"]},
    }


def _read_preset(name: Any) -> dict[str, Any]:
    """Return a preset's tree; its own ``preset`` key names the one it changes."""
    if name is None:
        return {}
    names = preset_names()
    if name not in names:
        raise ConfigError(f"preset={name}: unknown preset{nearest(str(name), names)}; known: {', '.join(names)}")
    tree: dict[str, Any] = _parse((_PRESETS / f"{name}.yaml").read_bytes())
    return _merge(_read_preset(tree.pop("preset", None)), tree)


def _read_method(base: RunConfig | None, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the tree of the one method that ``layers`` name; empty where none does or ``base`` holds it already."""
    names_of_layers = [layer["method"] for layer in layers if isinstance(layer.get("method"), str)]
    named = list(dict.fromkeys([base.method, *names_of_layers] if base else names_of_layers))
    names = method_names()
    for name in named:
        if name not in names:
            raise ConfigError(f"method={name}: unknown method{nearest(name, names)}; known: {', '.join(names)}")
    if len(named) > 1:
        raise ConfigError(
            f"method={named[-1]}: the settings it should change are those of method={named[0]}; "
            "start from a preset instead"
        )
    if base or not named:
        return {}
    tree: dict[str, Any] = _parse((_METHODS / f"{named[0]}.yaml").read_bytes())
    return tree


def _parse(text: str | bytes) -> Any:
    from prelar_ray.config import yaml_text  # the defaults alone need no YAML, nor has every GPU machine PyYAML

    return yaml_text.parse(text)


def _names(folder: Traversable) -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        tree = _parse(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if tree is None:  # nothing but comments
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a mapping of keys such as `seed: 1`, is {show(tree)}")
    return tree


def _read_override(text: str) -> dict[str, Any]:
    """Return the tree that ``a.b.c=VALUE`` describes.

    ``VALUE`` is YAML, except that it is taken as it stands where the key holds text (``env.camera=0``), or may hold
    text and the value is not in brackets or braces (``video.path=[a, b]``).
    """
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{text}: not an override; write KEY=VALUE with a dotted key, for example seed=1")
    if keys == ["preset"]:
        raise ConfigError(f"{text}: a preset is chosen with --preset {raw}")
    try:
        value = raw if _is_text(field_type(keys), raw) else _parse(raw)
    except ValueError as error:
        raise ConfigError(f"{text}: the value is not valid YAML: {error}") from error
    return _nest(keys, value)


def _is_text(kind: Any, raw: str) -> bool:
    """Return whether a value for a field of this type is text as it stands."""
    return kind is str or (
        isinstance(kind, UnionType) and str in get_args(kind) and raw[:1] + raw[-1:] not in ("[]", "{}")
    )


def _nest(keys: Sequence[str], value: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        tree = {key: tree}
    return tree


def _merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``layer`` on top, section by section."""
    merged = dict(base)
    for key, value in layer.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
