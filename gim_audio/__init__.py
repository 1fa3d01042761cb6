"""gim-audio: speech representations by greedy, gradient-isolated learning."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "Config",
    "DataDir",
    "Featurizer",
    "GreedyInfoMax",
    "PackedCorpus",
    "load_config",
    "load_model",
    "pack",
    "train",
]

_HOMES = {
    "Config": "config",
    "DataDir": "kaldi",
    "Featurizer": "featurize",
    "GreedyInfoMax": "model.gim",
    "PackedCorpus": "packed",
    "load_model": "model.checkpoint",
    "pack": "packed",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import gim_audio` costs nothing."""
    if name == "load_config":
        return import_module("gim_audio.config").load
    if name in _HOMES:
        return getattr(import_module(f"gim_audio.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gim_audio' has no attribute '{name}'")
