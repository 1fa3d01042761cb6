"""Other people's checkpoints.

They are those of the published Greedy InfoMax code, and of CPC_audio where it is the same network.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gim_audio.config import Config
from gim_audio.errors import CheckpointError
from gim_audio.model.build import build_model

__all__ = ["read_published"]

KERNELS = (10, 8, 4, 4, 4)
"""Shapes show them; strides, which nothing shows, are the published ones."""
GRU = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

Weights = dict[str, Tensor]


def read_published(file: Path) -> tuple[Config, Weights]:
    """A configuration and a state dict of `GreedyInfoMax`, from a `.ckpt` or `.pt` file.

    No pickled code is run.

    Raises:
        CheckpointError: the file is missing or is neither, or a key or shape does not fit, which is
            named.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file") from error
    except Exception as error:
        # torch's unpickler stumbles over strange bytes in many ways
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise CheckpointError(f"{file}: not a file of weights alone: {reason}") from error
    if isinstance(content, Mapping) and isinstance(content.get("gEncoder"), Mapping):
        return _build(file, *_cpc_audio(file, _tensors(file, content["gEncoder"])))
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: not a state dict of tensors, nor a checkpoint of CPC_audio")
    return _build(file, *_greedy_infomax(file, _tensors(file, content)))


def _tensors(file: Path, state: Mapping[Any, Any]) -> Mapping[str, Tensor]:
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{file}: {key}: not a state dict of tensors, nor a checkpoint of CPC_audio"
            )
    return state


def _greedy_infomax(file: Path, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Weights]:
    """`fullmodel.I.encoder.model.layer J.0.weight` and so on.

    A module I has one convolution, or all, or none.
    """
    pattern = re.compile(
        r"(?:module\.)?fullmodel\.(?P<module>\d+)\."
        r"(?:encoder\.model\.layer (?P<layer>\d+)\.0\.(?P<convolution>weight|bias)"
        rf"|autoregressor\.gru\.(?P<gru>{'|'.join(GRU)})_l0"
        r"|loss\.(?P<heads>predictor)\.weight)"
    )
    layers: dict[int, list[int]] = {}
    contexts: set[int] = set()
    weights: Weights = {}
    for key, value in state.items():
        if not (found := pattern.fullmatch(key)):
            raise CheckpointError(
                f"{file}: {key}: not a key of the published audio model trained by InfoNCE"
            )
        number = int(found["module"])
        of_module = layers.setdefault(number, [])
        if found["convolution"]:
            of_module.append(int(found["layer"]))
            weights[
                f"stack.{number}.encoder.{found['layer']}.convolution.{found['convolution']}"
            ] = value
        elif found["gru"]:
            contexts.add(number)
            weights[f"stack.{number}.context.gru.{found['gru']}_l0"] = value
        else:
            weights[f"stack.{number}.objective.heads"] = value
    count, last = len(layers), max(layers, default=0)
    split = {1: [5], 5: [1] * 5, 6: [1] * 5 + [0]}.get(count)
    if split != [len(set(layers.get(number, []))) for number in range(last + 1)]:
        raise CheckpointError(
            f"{file}: {last + 1} modules with {sum(len(set(v)) for v in layers.values())}"
            " convolutions"
        )
    each = contexts == set(layers) and count == 5
    if contexts != {last} and not each:
        raise CheckpointError(
            f"{file}: fullmodel.{last}.autoregressor.gru: expected in the last module, or in all"
        )
    steps = set()
    first = weights.get("stack.0.encoder.0.convolution.weight")
    channels = len(first) if first is not None and first.ndim else 1
    for number in range(count):
        name = f"stack.{number}.objective.heads"
        if name not in weights:
            raise CheckpointError(f"{file}: fullmodel.{number}.loss.predictor.weight: missing")
        heads = weights[name]
        if heads.ndim != 2 or len(heads) % channels:
            key = f"fullmodel.{number}.loss.predictor.weight"
            raise CheckpointError(
                f"{file}: {key}: shape {tuple(heads.shape)} with {channels} channels"
            )
        weights[name] = heads.reshape(-1, channels, heads.shape[1])  # step after step
        steps.add(len(weights[name]))
    model = {
        "paddings": (2, 2, 2, 2, 1),
        "context": {"kind": "gru", "at": "each" if each else "last"},
        "isolate_after": list(range(1, count)),
    }
    return {"model": model, "objective": {"steps_ahead": max(steps)}}, weights


def _cpc_audio(file: Path, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Weights]:
    """A CPCModel with convolutions alone (`--normMode ID`) and a GRU.

    Its criterion has no counterpart here.
    """
    weights: Weights = {}
    for key, value in state.items():
        convolution = re.fullmatch(r"gEncoder\.conv([0-4])\.(weight|bias)", key)
        gru = re.fullmatch(rf"gAR\.baseNet\.({'|'.join(GRU)})_l0", key)
        if convolution:
            weights[f"stack.0.encoder.{convolution[1]}.convolution.{convolution[2]}"] = value
        elif gru:
            weights[f"stack.0.context.gru.{gru[1]}_l0"] = value
        elif ".batchNorm" in key:
            raise CheckpointError(
                f"{file}: {key}: it normalises each frame between convolution and ReLU, which no"
                " weights of this model can: only checkpoints of CPC_audio with --normMode ID can"
                " be imported"
            )
        else:
            raise CheckpointError(
                f"{file}: {key}: not a key of CPC_audio's convolutions with one GRU"
            )
    hidden = weights.get("stack.0.context.gru.weight_hh_l0")
    if hidden is not None and hidden.ndim == 2 and hidden.shape[0] == 4 * hidden.shape[1]:
        raise CheckpointError(
            f"{file}: gAR.baseNet.weight_hh_l0: shape {tuple(hidden.shape)} is an LSTM's, not a"
            " GRU's"
        )
    model = {
        "paddings": (3, 2, 1, 1, 1),
        "context": {"kind": "gru"},
        "isolate_after": [],
        "mean": 0.0,
        "deviation": 1.0,
    }
    return {"model": model, "objective": {}}, weights


def _build(file: Path, settings: dict[str, Any], weights: Weights) -> tuple[Config, Weights]:
    """The settings that shapes tell, and the weights, once they are known to fit.

    Heads that are not there are new.
    """
    widths: list[int] = []
    for number, kernel in enumerate(KERNELS):
        name = next((key for key in _places(number) if key in weights), _places(number)[0])
        shape = tuple(_there(file, weights, name).shape)
        if len(shape) != 3 or shape[2] != kernel:
            raise CheckpointError(f"{file}: {name}: shape {shape}, expected a kernel of {kernel}")
        widths.append(shape[0])
    last = settings["model"]["isolate_after"]
    hidden = tuple(_there(file, weights, f"stack.{len(last)}.context.gru.weight_hh_l0").shape)
    if len(hidden) != 2:
        raise CheckpointError(f"{file}: stack.{len(last)}.context.gru.weight_hh_l0: shape {hidden}")
    settings["model"] |= {"channels": tuple(widths)}
    settings["model"]["context"]["hidden"] = hidden[1]
    config = Config.model_validate(settings)
    expected = build_model(config.model, config.objectives).state_dict()
    for key in sorted((set(expected) | set(weights)) - {"mean", "deviation"}):
        if key not in expected:
            raise CheckpointError(
                f"{file}: {key}: has no place in a model of {len(last) + 1} modules"
            )
        if not key.endswith("heads"):
            _there(file, weights, key)
        if key in weights and expected[key].shape != weights[key].shape:
            shapes = tuple(weights[key].shape), tuple(expected[key].shape)
            raise CheckpointError(f"{file}: {key}: shape {shapes[0]}, expected {shapes[1]}")
    return config, expected | {key: value.float() for key, value in weights.items()}


def _there(file: Path, weights: Weights, key: str) -> Tensor:
    if key not in weights:
        raise CheckpointError(f"{file}: {key}: missing")
    return weights[key]


def _places(convolution: int) -> tuple[str, str]:
    """Return the names of its weights where it is a module, and where it is one of several."""
    return (
        f"stack.{convolution}.encoder.0.convolution.weight",
        f"stack.0.encoder.{convolution}.convolution.weight",
    )
