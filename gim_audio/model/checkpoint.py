"""A model and its folder: `config.yaml` and `model.safetensors`, never a pickle."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gim_audio.config import Config, load
from gim_audio.errors import CheckpointError, ConfigError
from gim_audio.model.gim import GreedyInfoMax

__all__ = ["fingerprint", "load_model", "newest", "resolve", "save_model", "write_tensors"]


def save_model(folder: Path, config: Config, model: GreedyInfoMax) -> None:
    """Write the configuration and the weights into an existing folder."""
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(tensors, folder / "model.safetensors")


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while serializing: ").removeprefix("I/O error: ")
        raise OSError(reason) from error


def load_model(path: Path) -> tuple[Config, GreedyInfoMax]:
    """Rebuild a model from an experiment folder or one of its checkpoints, on the CPU.

    Raises:
        CheckpointError: nothing is there, a file is damaged, or the weights do not fit the configuration.
    """
    folder = resolve(path)
    try:
        config = load(folder / "config.yaml")
        model = GreedyInfoMax.build(config.model, config.objective)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (ConfigError, SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: not a whole checkpoint: {' '.join(str(error).split())}") from error
    return config, model.eval()


def resolve(path: Path) -> Path:
    """The checkpoint that a path stands for: itself, or an experiment's newest.

    Raises:
        CheckpointError: there is none.
    """
    if (path / "model.safetensors").exists():
        return path
    if found := newest(path):
        return found
    if not path.exists():
        raise CheckpointError(f"{path}: no such experiment (nor is it mfcc, fbank or random)")
    raise CheckpointError(f"{path}: holds no checkpoint")


def newest(experiment: Path) -> Path | None:
    """The checkpoint with the most steps. Folders appear whole, so that it needs no other mark."""
    steps = {int(folder.name.removeprefix("step-")): folder for folder in experiment.glob("step-[0-9]*")}
    return steps[max(steps)] if steps else None


def fingerprint(model: GreedyInfoMax) -> str:
    """Twelve hexadecimal digits that name these very weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
