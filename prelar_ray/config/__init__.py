"""Configuration: the typed tree of a run, its presets, and reading it from YAML and the command line."""

from prelar_ray.config.load import (
    json_schema,
    load_config,
    method_names,
    named_value,
    native_methods,
    preset_names,
    to_yaml,
)
from prelar_ray.config.schema import RunConfig

__all__ = [
    "RunConfig",
    "json_schema",
    "load_config",
    "method_names",
    "named_value",
    "native_methods",
    "preset_names",
    "to_yaml",
]
