"""The position of a run, and the settings with which it may be resumed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gim_audio.checkpoints.folders import resolve
from gim_audio.config import Config, ObjectiveConfig, load
from gim_audio.errors import CheckpointError, DataError
from gim_audio.packed import Crops, PackedCorpus
from gim_audio.training.schedule import phases

__all__ = ["Position", "check_corpus", "check_decay", "check_labels", "check_same"]


@dataclass
class Position:
    """The position of a run. Batches, windows and negatives follow from it.

    Attributes:
        corpus: The fingerprint of the corpus.
        batch: The number of crops in a step, of all processes together.
        trained: The number of modules that are from another experiment.
        step: The number of updates so far.
        phase: The number of the present phase, from 1.
        phase_step: The number of steps of that phase.
        updates: The number of updates of each module; a phase continues in the order of batches
            where its modules are.
        recent_losses: The memory of the watch over the losses.
        labels: The fingerprint of the labels of a supervised objective; empty for InfoNCE, and in
            checkpoints older than this entry.
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


def check_same(experiment: Path, config: Config) -> None:
    """Refuse to resume with settings that would make another run.

    A resumed run may train longer, save more often or run elsewhere.

    Raises:
        CheckpointError: The experiment was trained with other settings; names the first.
    """
    free = {"data.on_device", "data.short"}
    keys = (
        "checkpoint_every",
        "diagnose_every",
        "device",
        "cuda_graph",
        "cache",
        "parallel",
        "batch",
    )
    free |= {f"training.{key}" for key in keys}
    if config.training.schedule == "joint":
        free.add("training.steps")
    before, now = _fixed(load(resolve(experiment) / "config.yaml")), _fixed(config)
    if before.pop("objective") != now.pop("objective"):
        raise CheckpointError(
            f"{experiment}: was trained with other objectives: resume with the same settings, or"
            " train in another folder"
        )
    for section, settings in before.items():
        for key, value in settings.items():
            if f"{section}.{key}" not in free and now[section][key] != value:
                raise CheckpointError(
                    f"{experiment}: was trained with {section}.{key}={value}, not"
                    f" {now[section][key]}: resume with the same settings, or train in another"
                    " folder"
                )


def check_corpus(experiment: Path, position: Position, crops: Crops) -> None:
    """Refuse to resume on another corpus, or with another number of crops in a step.

    Raises:
        CheckpointError: The number of crops in a step is another.
        DataError: The corpus is another.
    """
    if position.corpus != crops.corpus.fingerprint:
        raise DataError(f"{crops.corpus.path}: not the corpus that {experiment} was trained on")
    if position.batch != crops.batch:
        raise CheckpointError(
            f"{experiment}: was trained with {position.batch} crops a step, not {crops.batch}"
        )


def check_labels(
    experiment: Path,
    position: Position,
    corpus: PackedCorpus,
    objectives: Sequence[ObjectiveConfig],
    labels: str,
) -> None:
    """Refuse to resume with other labels.

    Args:
        experiment: The folder of the experiment.
        position: The position of the run.
        corpus: The corpus.
        objectives: The objective of each module.
        labels: The fingerprint of the labels of the corpus.

    Raises:
        DataError: The labels are others.
    """
    if position.labels and position.labels != labels:
        phones = any(each.kind == "phones" for each in objectives)
        file = "phones.ctm" if phones else "utt2spk"
        raise DataError(
            f"{corpus.path}: {file} has other labels than those {experiment} was trained on"
        )


def check_decay(experiment: Path, config: Config, position: Position) -> None:
    """Refuse another length for a phase that has begun and whose learning rate decays.

    Raises:
        CheckpointError: The learning rate would jump; names the length.
    """
    if not position.phase_step:
        return
    before, now = (
        phases(c, position.batch, position.trained)[position.phase - 1]
        for c in (load(resolve(experiment) / "config.yaml"), config)
    )
    ended = config.training.average is not None and position.phase_step >= before.steps
    if ended and now.steps != before.steps:
        raise CheckpointError(
            f"{experiment}: phase {position.phase} has ended, and its weights are averages: train"
            " in another folder, with --init to begin with them"
        )
    if now.decay != "none" and now.steps != before.steps:
        joint = isinstance(config.training.schedule, str)
        where = "training.steps" if joint else f"phase {position.phase}: steps"
        raise CheckpointError(
            f"{experiment}: {where}={now.steps}, but the learning rate decays over {before.steps} "
            f"steps, of which {position.phase_step} are done, and would jump: resume with "
            f"{before.steps}, or train in another folder"
        )


def _fixed(config: Config) -> dict[str, dict[str, Any]]:
    """Return the settings that may not change.

    The lengths of phases may until they end, and whether there are caches depends on the device.
    """
    settings = config.model_dump()
    if not isinstance(config.training.schedule, str):
        settings["training"]["schedule"] = [
            {key: phase[key] for key in phase if key not in {"steps", "cache"}}
            for phase in settings["training"]["schedule"]
        ]
    return settings
