"""Configuration: the typed tree of a run, its presets, and reading it from YAML and the command line."""

from prelar_ray.config.camera import CameraPose
from prelar_ray.config.component import Component
from prelar_ray.config.load import (
    json_schema,
    load_config,
    method_names,
    named_value,
    native_methods,
    preset_names,
    to_yaml,
)
from prelar_ray.config.model import (
    ContextConfig,
    ConvConfig,
    HeadConfig,
    LossConfig,
    MLPConfig,
    RSSMConfig,
    ScalarDistribution,
    WorldModelConfig,
)
from prelar_ray.config.run import RLLIB, EnvConfig, RecordConfig, RunConfig, VideoConfig
from prelar_ray.config.training import (
    BehaviourConfig,
    BonusConfig,
    FinetuneConfig,
    LearnerConfig,
    OptimizerConfig,
    PretrainConfig,
)

__all__ = [
    "RLLIB",
    "BehaviourConfig",
    "BonusConfig",
    "CameraPose",
    "Component",
    "ContextConfig",
    "ConvConfig",
    "EnvConfig",
    "FinetuneConfig",
    "HeadConfig",
    "LearnerConfig",
    "LossConfig",
    "MLPConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "RSSMConfig",
    "RecordConfig",
    "RunConfig",
    "ScalarDistribution",
    "VideoConfig",
    "WorldModelConfig",
    "json_schema",
    "load_config",
    "method_names",
    "named_value",
    "native_methods",
    "preset_names",
    "to_yaml",
]
