"""A model and its folder: `config.yaml` and `model.safetensors`, never a pickle."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gim_audio.config import Config, load
from gim_audio.errors import CheckpointError, ConfigError
from gim_audio.files import follow, set_mode, umask
from gim_audio.model.build import build_model
from gim_audio.model.stack import GreedyInfoMax

__all__ = [
    "checkpoints",
    "digest",
    "features_only",
    "fingerprint",
    "has_heads",
    "load_for_features",
    "load_model",
    "newest",
    "pretrained",
    "resolve",
    "save_model",
    "seal",
    "trained_steps",
    "verify",
    "weights_of",
    "write_tensors",
]

LINKS = ("latest", "best")
"""Names of links to checkpoints; where a file system has no links, files."""
PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Models that come with the package, by name."""


def pretrained() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(folder.name for folder in PRETRAINED.glob("*/"))


def save_model(folder: Path, config: Config, weights: dict[str, Tensor]) -> None:
    """Write a configuration and a model's state dict into an existing folder."""
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    write_tensors(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
    )


def seal(folder: Path, state: dict[str, Any]) -> None:
    """Write `state.json`, with checksums of what the folder holds."""
    files = {file.name: digest(file) for file in sorted(folder.iterdir())}
    (folder / "state.json").write_text(
        json.dumps({**state, "files": files}, indent=2) + "\n", encoding="utf-8"
    )


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    try:
        save_file(tensors, path)
        set_mode(path, 0o666 & ~umask())  # safetensors lets nobody else read it
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while serializing: ").removeprefix("I/O error: ")
        raise OSError(reason) from error


def load_model(path: Path | str) -> tuple[Config, GreedyInfoMax]:
    """Rebuild a model from an experiment folder or one of its checkpoints, on the CPU.

    Args:
        path: The folder.

    Raises:
        CheckpointError: nothing is found, a file is damaged, or the weights do not fit the
            configuration.
    """
    with _whole(Path(path)) as folder:
        config = load(folder / "config.yaml")
        model = build_model(config.model, config.objectives)
        weights = load_file(folder / "model.safetensors")
        if weights.keys() == features_only(model).keys():
            raise CheckpointError(
                f"{path}: was exported for features alone: it has no prediction heads to train or"
                " test"
            )
        model.load_state_dict(weights)
    return config, model.eval()


def load_for_features(path: Path) -> GreedyInfoMax:
    """The same without its objectives, which hold most of the weights and give no features.

    Raises:
        CheckpointError: see `load_model`.
    """
    with _whole(path) as folder:
        config = load(folder / "config.yaml")
        with torch.device("meta"):  # nothing is allocated that is not kept
            model = build_model(config.model, config.objectives)
        for module in model.stack:
            module.objective = nn.Identity()  # type: ignore[assignment]
        with safe_open(folder / "model.safetensors", "pt") as file:
            names = [name for name in file.keys() if ".objective." not in name]  # noqa: SIM118 - it is no dict
            # Copied: where weights lie may decide in which order a CPU sums, and in a file they lie
            # anywhere.
            weights = {name: file.get_tensor(name).to(torch.float32, copy=True) for name in names}
            model.load_state_dict(weights, assign=True)
    return model.eval()


def features_only(model: GreedyInfoMax) -> dict[str, Tensor]:
    """Return the state dict without the objectives, which features do not need."""
    state = model.state_dict()
    return {name: value for name, value in state.items() if ".objective." not in name}


def weights_of(path: Path) -> tuple[Config, dict[str, Tensor]]:
    """Return the configuration of a checkpoint and its weights in float32.

    Prediction heads are among them where it has some.

    Raises:
        CheckpointError: See `load_model`.
    """
    with _whole(path) as folder:
        return load(folder / "config.yaml"), {
            n: w.float() for n, w in load_file(folder / "model.safetensors").items()
        }


def has_heads(path: Path) -> bool:
    """Return whether a checkpoint holds prediction heads: those exported for features hold none."""
    with safe_open(resolve(path) / "model.safetensors", "pt") as file:
        return any(".objective." in name for name in file.keys())  # noqa: SIM118 - it is no dict


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """The folder that a path stands for, once its checksums are right.

    Errors say that the checkpoint is not whole.
    """
    folder = resolve(path)
    if (folder / "state.json").exists():
        verify(folder)
    try:
        yield folder
    except (ConfigError, SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: not a whole checkpoint: {' '.join(str(error).split())}"
        ) from error


def resolve(path: Path) -> Path:
    """The checkpoint that a path stands for.

    It is the path itself, an experiment's newest, or the one that comes with the package.

    Raises:
        CheckpointError: there is none.
    """
    if (path / "model.safetensors").exists():
        return path
    if path.name in LINKS and path.is_file():
        return follow(path)
    if found := newest(path):
        return found
    if str(path) in pretrained():
        return PRETRAINED / path
    if path.exists():
        raise CheckpointError(f"{path}: holds no checkpoint")
    raise CheckpointError(f"{path}: no such experiment")


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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{folder}/state.json: damaged: it has no checksums of files"
        ) from error


def trained_steps(path: Path) -> int | None:
    """Training steps behind a checkpoint.

    It is None where they are not known, as with imported weights.
    """
    state = resolve(path) / "state.json"
    try:
        step = json.loads(state.read_text(encoding="utf-8"))["step"] if state.exists() else None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{state}: damaged: it has no number of steps") from error
    return step if isinstance(step, int) else None


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def newest(experiment: Path) -> Path | None:
    """The checkpoint with the most steps. Folders appear whole, so that it needs no other mark."""
    return next(iter(checkpoints(experiment)), None)


def checkpoints(experiment: Path) -> list[Path]:
    """All of them, the newest first."""
    found = {
        int(folder.name[5:]): folder
        for folder in experiment.glob("step-*")
        if folder.name[5:].isdecimal()
    }
    return [found[step] for step in sorted(found, reverse=True)]


def fingerprint(model: GreedyInfoMax) -> str:
    """Twelve hexadecimal digits that name the very weights on which features depend."""
    digest = hashlib.sha256()
    for name, tensor in sorted(features_only(model).items()):
        digest.update(name.encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:12]
