"""Resume exactly: weights, optimizers and position, in a folder that is never overwritten."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gim_audio.checkpoints.folders import checkpoints, resolve, save_model, seal, verify, write_tensors
from gim_audio.config import Config, load
from gim_audio.errors import CheckpointError
from gim_audio.files import follow, new_folder, replace_link
from gim_audio.training.adam import Adam
from gim_audio.training.schedule import phases

__all__ = ["Position", "check_decay", "check_same", "load_position", "moments", "prune", "restore", "save"]


@dataclass
class Position:
    """The position of a run. Batches, windows and negatives are functions of it, so there are no generators to keep.

    Attributes:
        corpus: fingerprint of what it trains on.
        batch: crops a step, of all processes together.
        trained: The number of modules that are from another experiment.
        step: updates so far.
        phase: The number of the present phase, from 1.
        phase_step: steps of that phase.
        updates: The number of updates of each module; a phase goes on in the order of batches where its modules are.
        recent_losses: The memory of the watch over the losses.
        labels: Fingerprint of the labels that it is taught; empty where it is taught none, or where the checkpoint is
            older than this entry.
    """

    corpus: str
    batch: int
    trained: int = 0
    step: int = 0
    phase: int = 1
    phase_step: int = 0
    updates: list[int] = field(default_factory=list)
    recent_losses: list[float] = field(default_factory=list)
    labels: str = ""


def moments(optimizers: Mapping[int, Adam]) -> dict[str, Tensor]:
    """Return moments by module (from 0, as weights are named), parameter and name, as in `optimizer.safetensors`."""
    return {
        f"{number - 1}.{parameter}.{name}": tensor
        for number, optimizer in optimizers.items()
        for parameter, values in enumerate(optimizer.moments)
        for name, tensor in values.items()
    }


def save(
    experiment: Path, config: Config, weights: dict[str, Tensor], optimizers: dict[str, Tensor], position: Position
) -> Path:
    """Write `step-NNNNNN/` and point `latest` at it."""
    folder = experiment / f"step-{position.step:06d}"
    with new_folder(folder) as temporary:
        save_model(temporary, config, weights)
        write_tensors(optimizers, temporary / "optimizer.safetensors")
        seal(temporary, asdict(position))
    replace_link(experiment / "latest", folder.name)
    return folder


def load_position(experiment: Path) -> Position:
    """Return the position of the latest checkpoint, after a look at every byte of it.

    Raises:
        CheckpointError: there is none, or it is damaged; names the last one that is not.
    """
    folder = resolve(experiment)
    try:
        verify(folder)
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        state.pop("files")
        return Position(**state)
    except (CheckpointError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        good = next((older for older in checkpoints(experiment)[1:] if _whole(older)), None)
        remedy = f"remove it to go on from {good}" if good else "train again"
        reason = f"{folder}: cannot be resumed ({error})" if not isinstance(error, CheckpointError) else str(error)
        raise CheckpointError(f"{reason}: {remedy}") from error


def _whole(folder: Path) -> bool:
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def restore(experiment: Path, optimizers: Mapping[int, Adam], learning: set[int]) -> None:
    """Load the moments of the latest checkpoint, in place.

    Args:
        experiment: a folder.
        optimizers: The optimizers of this process, by module.
        learning: modules that learn in this phase, in all processes.

    Raises:
        CheckpointError: they are of another model.
    """
    folder = resolve(experiment)
    try:
        found, own = load_file(folder / "optimizer.safetensors"), moments(optimizers)
        others = {name for name in found if int(name.split(".")[0]) + 1 in learning - optimizers.keys()}
        if found.keys() - others != own.keys():
            raise ValueError(f"optimizer.safetensors lacks or adds {min((found.keys() - others) ^ own.keys())}")
        for name, tensor in own.items():
            if tensor.shape != found[name].shape:
                raise ValueError(f"optimizer.safetensors: {name} has shape {tuple(found[name].shape)}")
            tensor.copy_(found[name])
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be resumed: {' '.join(str(error).split())}") from error


def check_same(experiment: Path, config: Config) -> None:
    """A resumed run may train longer, save more often or run elsewhere; anything else would be another run.

    Raises:
        CheckpointError: the experiment was trained with other settings; names the first.
    """
    free = {"data.on_device", "data.short"}
    free |= {f"training.{key}" for key in ("checkpoint_every", "diagnose_every", "device", "parallel", "batch")}
    if config.training.schedule == "joint":
        free.add("training.steps")
    before, now = _fixed(load(resolve(experiment) / "config.yaml")), _fixed(config)
    for section, settings in before.items():
        for key, value in settings.items():
            if f"{section}.{key}" not in free and now[section][key] != value:
                raise CheckpointError(
                    f"{experiment}: was trained with {section}.{key}={value}, not {now[section][key]}: "
                    "resume with the same settings, or train in another folder"
                )


def check_decay(experiment: Path, config: Config, position: Position) -> None:
    """Refuse another length for a phase whose learning rate decays and that has begun: the rate would jump.

    Raises:
        CheckpointError: That is so; names the length.
    """
    if not position.phase_step:
        return
    before, now = (
        phases(c, position.batch, position.trained)[position.phase - 1]
        for c in (load(resolve(experiment) / "config.yaml"), config)
    )
    if now.decay != "none" and now.steps != before.steps:
        where = "training.steps" if isinstance(config.training.schedule, str) else f"phase {position.phase}: steps"
        raise CheckpointError(
            f"{experiment}: {where}={now.steps}, but the learning rate decays over {before.steps} steps, of which "
            f"{position.phase_step} are done, and would jump: resume with {before.steps}, or train in another folder"
        )


def _fixed(config: Config) -> dict[str, dict[str, Any]]:
    """The settings, without how long each phase lasts: it may be made longer or shorter until it is over."""
    settings = config.model_dump()
    if not isinstance(config.training.schedule, str):
        phases = settings["training"]["schedule"]
        settings["training"]["schedule"] = [{key: phase[key] for key in phase if key != "steps"} for phase in phases]
    return settings


def prune(experiment: Path, keep: int) -> None:
    """Remove all checkpoints but the newest `keep`, the untrained one, and the one that `best` points at."""
    best = follow(experiment / "best").resolve()
    for folder in checkpoints(experiment)[keep:]:
        if folder.name != "step-000000" and folder.resolve() != best:
            shutil.rmtree(folder)
