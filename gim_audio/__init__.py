"""gim-audio: speech representations by greedy, gradient-isolated learning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gim_audio import audio
    from gim_audio.checkpoints.folders import load_model
    from gim_audio.config import Config
    from gim_audio.config import load as load_config
    from gim_audio.featurize import Featurizer, load
    from gim_audio.featurize.torch_model import GimModel
    from gim_audio.featurize.transformer import GimFeatures
    from gim_audio.kaldi import DataDir
    from gim_audio.model.build import build_model
    from gim_audio.model.stack import GreedyInfoMax
    from gim_audio.packed import PackedCorpus, pack
    from gim_audio.training import train

__version__ = "0.1.0"
__all__ = [
    "Config",
    "DataDir",
    "Featurizer",
    "GimFeatures",
    "GimModel",
    "GreedyInfoMax",
    "PackedCorpus",
    "audio",
    "build_model",
    "load",
    "load_config",
    "load_model",
    "pack",
    "train",
]

_HOMES = {
    "Config": ("config", "Config"),
    "DataDir": ("kaldi", "DataDir"),
    "Featurizer": ("featurize", "Featurizer"),
    "GimModel": ("featurize.torch_model", "GimModel"),
    "GimFeatures": ("featurize.transformer", "GimFeatures"),
    "GreedyInfoMax": ("model.stack", "GreedyInfoMax"),
    "PackedCorpus": ("packed", "PackedCorpus"),
    "build_model": ("model.build", "build_model"),
    "load": ("featurize", "load"),
    "load_config": ("config", "load"),
    "load_model": ("checkpoints.folders", "load_model"),
    "pack": ("packed", "pack"),
    "train": ("training", "train"),
}


def __dir__() -> list[str]:
    """Return the public names, though most are not imported yet."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import gim_audio` costs nothing."""
    if name == "audio":
        return import_module("gim_audio.audio")
    if name not in _HOMES:
        raise AttributeError(f"module 'gim_audio' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"gim_audio.{module}"), attribute)
