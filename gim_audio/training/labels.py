"""Labels of a step's crops, where modules learn to name phones or speakers.

They are functions of the step, as the crops are.
"""

import hashlib
import json
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gim_audio.config import ObjectiveConfig
from gim_audio.devices import send
from gim_audio.errors import ConfigError, DataError
from gim_audio.kaldi import DataDir
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.packed import Crops, PackedCorpus
from gim_audio.phones import PHONES, frame_labels, labels_of, read_ctm

__all__ = ["Labels", "counted", "labels_fingerprint", "labels_for"]

Labels = Callable[[int], Tensor | None]
"""Return the labels of the batch of a step, counted from 0."""


def counted(objective: ObjectiveConfig, corpus: PackedCorpus) -> ObjectiveConfig:
    """Return an objective with the number of classes.

    Raises:
        ConfigError: another number was asked for.
        DataError: there is one speaker only.
    """
    if objective.kind == "infonce":
        return objective
    found = len(PHONES) if objective.kind == "phones" else len(set(corpus.speakers.values()))
    if found < 2:
        raise DataError(f"{corpus.path}: one speaker only: there is nothing to tell apart")
    if objective.classes not in {None, found}:
        raise ConfigError(
            f"objective.classes: {objective.classes}, but {corpus.path} has {found}"
            f" {objective.kind}"
        )
    return objective.model_copy(update={"classes": found})


def labels_fingerprint(objective: ObjectiveConfig, corpus: PackedCorpus) -> str:
    """Return a digest of the labels that an objective is taught.

    It is empty for InfoNCE, which is taught none.

    The corpus has a fingerprint of its audio alone: the same audio may get other labels.

    Raises:
        DataError: The corpus has no `phones.ctm`.
    """
    if objective.kind == "infonce":
        return ""
    if objective.kind == "speakers":
        spoken = sorted(corpus.speakers.items())
        return hashlib.sha256(json.dumps(spoken).encode()).hexdigest()
    known = sorted(
        labels_of(DataDir.read(corpus.path), read_ctm(corpus.path / "phones.ctm")).items()
    )
    digest = hashlib.sha256()
    for name, alignment in known:
        digest.update(name.encode())
        for values in (alignment.starts, alignment.ends, alignment.labels):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def labels_for(
    objective: ObjectiveConfig,
    model: GreedyInfoMax,
    crops: Crops,
    device: torch.device,
    part: slice = slice(None),
    known: PackedCorpus | None = None,
) -> Labels:
    """Return a function of the labels of each batch.

    Nothing, phones `(batch, frames)` or speakers `(batch,)`.

    Phones are those of the last module's frames; -1 is a frame without one.

    Args:
        objective: The objective of the modules.
        model: The model that makes the frames.
        crops: The crops of each step.
        device: The device that takes labels.
        part: The crops of a batch that this process has.
        known: the corpus whose speakers are numbered; that of the crops if it is not given.

    Raises:
        DataError: the corpus has no phones, or speakers that are not known.
    """
    corpus = crops.corpus
    if objective.kind == "infonce":
        return lambda step: None
    if objective.kind == "speakers":
        names = sorted(set((known or corpus).speakers.values()))
        if strangers := sorted(set(corpus.speakers.values()) - set(names)):
            raise DataError(
                f"{corpus.path}: speaker {strangers[0]} is not among those that training knows"
            )
        numbers = {name: number for number, name in enumerate(names)}
        spoken = np.array([numbers[corpus.speakers[name]] for name in corpus.utterances])
        return lambda step: send(torch.from_numpy(spoken[crops.where(step)[0, part]]), device)
    alignments = labels_of(DataDir.read(corpus.path), read_ctm(corpus.path / "phones.ctm"))
    grid, frames, rate = model.geometries[-1], model.frames(crops.crop)[-1], corpus.rate

    def phones(step: int) -> Tensor:
        found = np.full((crops.batch, frames), -1)[part]
        for row, utterance, start in zip(found, *crops.where(step)[:, part].tolist(), strict=True):
            if alignment := alignments.get(corpus.utterances[utterance]):
                centre = (start + grid.centre) / rate
                row[:] = frame_labels(
                    alignment, frames, centre=centre, hop=grid.hop / rate, shift=objective.shift
                )
        return send(torch.from_numpy(found), device)

    return phones
