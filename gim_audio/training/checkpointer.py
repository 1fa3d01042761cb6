"""Checkpoints of a run: written whole, never overwritten, and read to resume exactly."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gim_audio.checkpoints.folders import (
    checkpoints,
    resolve,
    save_model,
    seal,
    verify,
    write_tensors,
)
from gim_audio.config import Config
from gim_audio.errors import CheckpointError, GimAudioError, is_out_of_memory
from gim_audio.files import follow, new_folder, replace_link
from gim_audio.packed import PackedCorpus
from gim_audio.training.metrics_log import Metrics, open_lines, read_lines
from gim_audio.training.optimizers import AdamW, load_moments
from gim_audio.training.position import Position
from gim_audio.training.step import type_of_products
from gim_audio.training.units import UnitsOfRun
from gim_audio.training.validation import validate

__all__ = ["Checkpointer"]


@dataclass
class Checkpointer:
    """The checkpoints of an experiment.

    Attributes:
        experiment: The folder of the experiment.
        config: The configuration of the experiment.
        valid: The corpus that each checkpoint is measured on, and its best one kept as `best`.
        known: The corpus of training, whose speakers are numbered.
        keep: The number of checkpoints that are kept, beside the untrained and the best; None keeps
            all.
        device: The device that measures.
    """

    experiment: Path
    config: Config
    valid: PackedCorpus | None
    known: PackedCorpus
    keep: int | None
    device: torch.device

    @property
    def units(self) -> UnitsOfRun:
        """The units of the experiment."""
        objectives, seed = self.config.objectives, self.config.training.seed
        return UnitsOfRun(self.experiment, objectives, seed, type_of_products(self.config))

    def save(
        self, weights: dict[str, Tensor], optimizers: dict[str, Tensor], position: Position
    ) -> Path:
        """Write `step-NNNNNN/`, point `latest` at it, and measure it on the validation corpus.

        Args:
            weights: The state dict of the model.
            optimizers: The moments of its optimizers: see `moments`.
            position: The position of the run.

        Returns:
            The folder of the checkpoint.
        """
        folder = self.experiment / f"step-{position.step:06d}"
        with new_folder(folder) as temporary:
            save_model(temporary, self.config, weights)
            write_tensors(optimizers, temporary / "optimizer.safetensors")
            seal(temporary, asdict(position))
        replace_link(self.experiment / "latest", folder.name)
        if self.valid is not None and position.step:
            self._validate(folder, self.valid, position)
        if self.keep is not None:
            self._prune(self.keep)
        return folder

    def _validate(self, folder: Path, valid: PackedCorpus, position: Position) -> None:
        path, step = self.experiment / "validation.jsonl", position.step
        before = read_lines(path, step - 1)
        found = validate(folder, valid, self.config, self.device, self.known, self.units)
        begun = [number for number, updates in enumerate(position.updates, start=1) if updates]
        begun = [*range(1, position.trained + 1), *begun]
        with open_lines(path, step - 1) as lines:
            lines.write(json.dumps({"step": step, "modules": begun, **found}) + "\n")

        def loss(line: Metrics) -> float:
            return float(sum(line["loss"][module - 1] for module in begun))

        # Where another module has begun to learn since, the earlier checkpoints hold less.
        earlier = [line for line in before if line.get("modules", begun) == begun]
        if all(loss(found) < loss(line) for line in earlier):
            replace_link(self.experiment / "best", folder.name)

    def _prune(self, keep: int) -> None:
        best = follow(self.experiment / "best").resolve()
        for folder in checkpoints(self.experiment)[keep:]:
            if folder.name != "step-000000" and folder.resolve() != best:
                shutil.rmtree(folder)

    @staticmethod
    def position(experiment: Path) -> Position:
        """Return the position of the latest checkpoint, after checking every byte.

        Raises:
            CheckpointError: There is none, or it is damaged; names the last one that is not.
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
            reason = str(error)
            if not isinstance(error, CheckpointError):
                reason = f"{folder}: cannot be resumed ({error})"
            raise CheckpointError(f"{reason}: {remedy}") from error

    def restore(self, optimizers: Mapping[int, AdamW], learning: set[int]) -> None:
        """Give optimizers the moments of the latest checkpoint.

        Args:
            optimizers: The optimizers of this process, by module.
            learning: The modules that learn in this phase, in all processes.

        Raises:
            CheckpointError: They are of another model, or damaged.
        """
        folder = resolve(self.experiment)
        try:
            load_moments(optimizers, load_file(folder / "optimizer.safetensors"), learning)
        except (CheckpointError, SafetensorError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{folder}: cannot be resumed: {reason}") from error

    @contextmanager
    def naming_the_last(self) -> Iterator[None]:
        """Add the last good checkpoint to errors that end a run."""
        try:
            yield
        except (GimAudioError, OSError, MemoryError, RuntimeError) as error:
            kind = type(error) if isinstance(error, GimAudioError) else GimAudioError
            what = str(error)
            if is_out_of_memory(error):
                what = "the memory is not enough: take a smaller training.batch or data.crop"
            elif not isinstance(error, GimAudioError | OSError):
                raise
            last = f"training stops; the last good checkpoint is {resolve(self.experiment)}"
            raise kind(f"{what}: {last}") from error


def _whole(folder: Path) -> bool:
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True
