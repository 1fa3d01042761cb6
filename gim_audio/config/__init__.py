"""The frozen schema of an experiment, and how it is read."""

from gim_audio.config.model import ContextConfig, ConvolutionConfig, ModelConfig
from gim_audio.config.objectives import (
    HingeConfig,
    InfoNCEConfig,
    NegativesConfig,
    ObjectiveConfig,
    PhonesConfig,
    SpeakersConfig,
    SpectraConfig,
    UnitsConfig,
    VICRegConfig,
    register_kind,
)
from gim_audio.config.reading import count_of, load, read_yaml, short
from gim_audio.config.schema import (
    AugmentConfig,
    Config,
    DataConfig,
    PhaseConfig,
    Precision,
    StopConfig,
    TrainingConfig,
)

__all__ = [
    "AugmentConfig",
    "Config",
    "ContextConfig",
    "ConvolutionConfig",
    "DataConfig",
    "HingeConfig",
    "InfoNCEConfig",
    "ModelConfig",
    "NegativesConfig",
    "ObjectiveConfig",
    "PhaseConfig",
    "PhonesConfig",
    "Precision",
    "SpeakersConfig",
    "SpectraConfig",
    "StopConfig",
    "TrainingConfig",
    "UnitsConfig",
    "VICRegConfig",
    "count_of",
    "load",
    "read_yaml",
    "register_kind",
    "short",
]
