"""The frozen schema of an experiment, and how it is read."""

from gim_audio.config.reading import count_of, load, read_yaml, short
from gim_audio.config.schema import (
    Config,
    ContextConfig,
    ConvolutionConfig,
    DataConfig,
    ModelConfig,
    NegativesConfig,
    ObjectiveConfig,
    PhaseConfig,
    Precision,
    StopConfig,
    TrainingConfig,
)

__all__ = [
    "Config",
    "ContextConfig",
    "ConvolutionConfig",
    "DataConfig",
    "ModelConfig",
    "NegativesConfig",
    "ObjectiveConfig",
    "PhaseConfig",
    "Precision",
    "StopConfig",
    "TrainingConfig",
    "count_of",
    "load",
    "read_yaml",
    "short",
]
