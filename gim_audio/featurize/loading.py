"""The encoder of a name that a user gives as EXP."""

from pathlib import Path
from typing import Literal, cast

import torch

from gim_audio.checkpoints.folders import pretrained
from gim_audio.config import Config
from gim_audio.devices import decide_precision
from gim_audio.errors import CheckpointError, ConfigError
from gim_audio.featurize.baselines import BASELINES, KaldiFeatures
from gim_audio.featurize.encoders import Encoder, Featurizer
from gim_audio.featurize.normalised import Normalised
from gim_audio.featurize.torch_model import BaselineModel, FeatureModel, GimModel, Trained

__all__ = ["EncodingPrecision", "load", "load_encoder"]

EncodingPrecision = Literal["auto", "fp32", "bf16", "bf16-emulated"]
"""The values of `TrainingConfig.precision` but TF32."""


def load_encoder(
    name: str, device: torch.device | str = "cpu", precision: EncodingPrecision = "fp32"
) -> Encoder:
    """Return the encoder of a name.

    It is a baseline (one of `BASELINES`, or `random`), an experiment, a checkpoint, or a model of
    the package.

    A folder with the name of a baseline is `./mfcc`; one with the name of a model of the package
    goes before it.

    Raises:
        ConfigError: `bf16` for a baseline that is not a network, or on a processor that has to
            emulate it.
        CheckpointError: there is no such thing, or it is damaged.
    """
    if name in BASELINES:
        if precision not in {"fp32", "auto"}:
            raise ConfigError(f"--precision {precision}: {name} is computed in fp32")
        return baseline(name)
    # TF32 cannot be asked for
    decided = cast("Literal['fp32', 'bf16']", decide_precision(precision, torch.device(device)))
    if name == "random":
        return Featurizer.random(Config(), device, decided)
    if name not in pretrained() and not Path(name).exists():
        others = ", ".join((*pretrained(), "mfcc", "mfcc+cmvn", "mfcc13", "fbank", "fbank+cmvn"))
        raise CheckpointError(f"{name}: no such experiment (nor is it {others} or random)")
    return Featurizer.load(name, device, decided)


def load(
    name: str | Path,
    train: Trained | None = None,
    *,
    device: torch.device | str = "cpu",
    precision: EncodingPrecision = "fp32",
) -> FeatureModel:
    """Return a model as a module of torch.

    Args:
        name: An experiment, a checkpoint, a model of the package such as `gim-small`, or a baseline
            such as `mfcc`.
        train: `last` or `all` to fine-tune these modules of a network; None freezes all.
        device: The device that computes; `to` moves a network.
        precision: The precision of `featurize` and `stream`; `forward` computes in the type of the
            weights, or as torch's autocast says.

    Raises:
        ConfigError: A baseline is to be trained, or a precision is not available.
        CheckpointError: There is no such model, or it is damaged.
    """
    encoder = load_encoder(str(name), device, precision)
    if isinstance(encoder, Featurizer):
        return GimModel(encoder, train)
    if train is not None:
        raise ConfigError(f"{name}: has no weights to train")
    return BaselineModel(encoder)


def baseline(name: str) -> Encoder:
    """Return computed features by their name in `BASELINES`."""
    kind, _, normalised = name.partition("+")
    features = KaldiFeatures(kind)
    if not normalised:
        return features
    return Normalised(features, "speaker" if normalised.endswith("-speaker") else "utterance", name)
