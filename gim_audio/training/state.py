"""Resume exactly: weights, optimizers and step, in a folder that is never overwritten."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gim_audio.config import Config, load
from gim_audio.errors import CheckpointError
from gim_audio.files import new_folder, replace_link
from gim_audio.model.checkpoint import resolve, save_model, write_tensors
from gim_audio.model.gim import GreedyInfoMax
from gim_audio.training.adam import Adam

__all__ = ["check_same", "restore", "save"]


def save(
    experiment: Path,
    config: Config,
    model: GreedyInfoMax,
    optimizers: Sequence[Adam],
    state: dict[str, Any],
) -> Path:
    """Write `step-NNNNNN/` and point `latest` at it.

    Batches, windows and negatives are functions of the seed and the step, so `state` is small: the step, what
    the watch over the losses remembers, and which corpus it was.
    """
    folder = experiment / f"step-{state['step']:06d}"
    with new_folder(folder) as temporary:
        save_model(temporary, config, model)
        write_tensors(_moments(optimizers), temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    replace_link(experiment / "latest", folder.name)
    return folder


def _moments(optimizers: Sequence[Adam]) -> dict[str, Tensor]:
    """By module, parameter and name, as in `optimizer.safetensors`."""
    return {
        f"{number}.{parameter}.{name}": tensor
        for number, optimizer in enumerate(optimizers)
        for parameter, values in enumerate(optimizer.moments)
        for name, tensor in values.items()
    }


def restore(experiment: Path, model: GreedyInfoMax, optimizers: Sequence[Adam]) -> dict[str, Any]:
    """Load the latest checkpoint into a model and its optimizers, in place; returns its state.

    Raises:
        CheckpointError: there is none, or it is damaged or of another model.
    """
    folder = resolve(experiment)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
        moments = load_file(folder / "optimizer.safetensors")
        own = _moments(optimizers)
        if moments.keys() != own.keys():
            raise ValueError(f"optimizer.safetensors lacks or adds {min(moments.keys() ^ own.keys())}")
        for name, tensor in own.items():
            if tensor.shape != moments[name].shape:
                raise ValueError(f"optimizer.safetensors: {name} has shape {tuple(moments[name].shape)}")
            tensor.copy_(moments[name])
        return json.loads((folder / "state.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be resumed: {' '.join(str(error).split())}") from error


def check_same(experiment: Path, config: Config) -> None:
    """A resumed run may train longer or save more often; anything else would be another run.

    Raises:
        CheckpointError: the experiment was trained with other settings; names the first.
    """
    free = {"data.on_device", *(f"training.{key}" for key in ("steps", "checkpoint_every", "diagnose_every", "device"))}
    before = load(resolve(experiment) / "config.yaml").model_dump()
    now = config.model_dump()
    for section, settings in before.items():
        for key, value in settings.items():
            if f"{section}.{key}" not in free and now[section][key] != value:
                raise CheckpointError(
                    f"{experiment}: was trained with {section}.{key}={value}, not {now[section][key]}: "
                    "resume with the same settings, or train in another folder"
                )
