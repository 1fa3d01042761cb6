"""A model and its folder: `config.yaml` and `model.safetensors`, never a pickle."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gim_audio.config import Config, load
from gim_audio.errors import CheckpointError, ConfigError
from gim_audio.model.gim import GreedyInfoMax

__all__ = [
    "checkpoints",
    "digest",
    "fingerprint",
    "load_model",
    "newest",
    "resolve",
    "save_model",
    "verify",
    "write_tensors",
]


def save_model(folder: Path, config: Config, weights: dict[str, Tensor]) -> None:
    """Write a configuration and a model's state dict into an existing folder."""
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    write_tensors({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")


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
    if (folder / "state.json").exists():
        verify(folder)
    try:
        config = load(folder / "config.yaml")
        model = GreedyInfoMax.build(config.model, config.objective)
        weights = load_file(folder / "model.safetensors")
        if weights.keys() == model.features_only().keys():  # exported for features: the objectives are nothing
            weights |= {name: torch.zeros_like(w) for name, w in model.state_dict().items() if name not in weights}
        model.load_state_dict(weights)
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
        raise CheckpointError(f"{path}: no such experiment (nor is it mfcc, mfcc13, fbank or random)")
    raise CheckpointError(f"{path}: holds no checkpoint")


def verify(folder: Path) -> None:
    """Compare a checkpoint's files with the checksums in its `state.json`.

    Raises:
        CheckpointError: one is damaged or missing; names it.
    """
    try:
        files = json.loads((folder / "state.json").read_text(encoding="utf-8"))["files"]
        for name, checksum in files.items():
            if digest(folder / name) != checksum:
                raise CheckpointError(f"{folder}/{name}: damaged: it is not what was written")
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: missing: not a whole checkpoint") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}/state.json: damaged: it has no checksums of files") from error


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def newest(experiment: Path) -> Path | None:
    """The checkpoint with the most steps. Folders appear whole, so that it needs no other mark."""
    return next(iter(checkpoints(experiment)), None)


def checkpoints(experiment: Path) -> list[Path]:
    """All of them, the newest first."""
    return sorted(experiment.glob("step-[0-9]*"), key=lambda f: int(f.name.removeprefix("step-")), reverse=True)


def fingerprint(model: GreedyInfoMax) -> str:
    """Twelve hexadecimal digits that name these very weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
