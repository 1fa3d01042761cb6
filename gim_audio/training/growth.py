"""A stack that grows on another experiment, or begins with its weights."""

from collections.abc import Iterable
from pathlib import Path

import torch

from gim_audio.checkpoints.folders import load_model, weights_of
from gim_audio.config import Config
from gim_audio.errors import ConfigError
from gim_audio.model.stack import GreedyInfoMax

__all__ = ["begin_as_below", "begin_with", "graft"]

ANY = {"rate", "mean", "deviation"}
"""Settings of the waveforms, on which no shape depends."""


def graft(config: Config, model: GreedyInfoMax, base: Path) -> int:
    """Copy a trained stack into the bottom of a new one; returns how many modules it has.

    Raises:
        ConfigError: the new model does not begin with the old one, or adds nothing to it.
    """
    old, trained = load_model(base)
    count = len(trained.stack)
    before, now = (c.model.model_dump() for c in (old, config))
    for key, value in before.items():
        if key != "added" and now[key] != value:
            raise ConfigError(
                f"model.{key}: {base} has {value}, not {now[key]}: a stack grows by model.added"
            )
    for number, (own, given) in enumerate(
        zip(old.objectives, config.objectives, strict=False), start=1
    ):
        if own != given:
            raise ConfigError(
                f"objective: module {number} of {base} learnt by {own}, not by {given}: what is"
                " trained already keeps its objective"
            )
    if config.model.added[: len(old.model.added)] != old.model.added:
        raise ConfigError(
            f"model.added: it must begin with the {len(old.model.added)} that {base} has"
        )
    if len(model.stack) == count:
        raise ConfigError(f"model.added: nothing is added to {base}, which has {count} modules")
    model.load_state_dict(trained.state_dict(), strict=False)
    return count


def begin_with(config: Config, model: GreedyInfoMax, init: Path) -> list[int]:
    """Give a model the weights of another one of the same shape, which all learn on.

    Args:
        config: The configuration of `model`.
        model: The model; its standardisation stays as it is.
        init: An experiment, a checkpoint or a model of the package.

    Returns:
        The modules, from 1, whose prediction heads are new: `init` has none, or some of other
        shapes.

    Raises:
        ConfigError: The models have other shapes; names the first setting.
        CheckpointError: There is no such model, or it is damaged.
    """
    old, weights = weights_of(init)
    before, now = old.model.model_dump(), config.model.model_dump()
    for key, value in before.items():
        if key not in ANY | {"reach"} and now[key] != value:
            raise ConfigError(
                f"model.{key}: {init} has {value}, not {now[key]}: its weights fit no other shape"
            )
    own = model.state_dict()
    found = {
        name: tensor
        for name, tensor in weights.items()
        if name in own
        and name not in ANY
        and (".objective." not in name or tensor.shape == own[name].shape)
    }
    model.load_state_dict(found, strict=False)
    missing = own.keys() - found.keys() - ANY
    return sorted({int(name.split(".")[1]) + 1 for name in missing})


@torch.no_grad()
def begin_as_below(model: GreedyInfoMax, modules: Iterable[int]) -> None:
    """Give modules, numbered from 1, the weights of the ones below.

    Raises:
        ConfigError: the shapes differ.
    """
    for number in modules:
        module, below = model.stack[number - 1], model.stack[number - 2]
        own, theirs = module.state_dict(), below.state_dict()
        if {name: t.shape for name, t in own.items()} != {
            name: t.shape for name, t in theirs.items()
        }:
            raise ConfigError(
                f"warm_start: module {number} has not the shapes of module {number - 1}"
            )
        module.load_state_dict(theirs)
