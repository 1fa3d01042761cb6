"""The targets of objectives in each step: a function of the step, as the crops are.

They are labels of phones or speakers, units, or the waveforms of the crops.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from gim_audio.config import Config, ObjectiveConfig, PhonesConfig, SpeakersConfig
from gim_audio.devices import send
from gim_audio.errors import ConfigError, DataError
from gim_audio.kaldi import DataDir
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.packed import Crops, PackedCorpus
from gim_audio.phones import PHONES, frame_labels, labels_of, read_ctm
from gim_audio.training.feed import Feed
from gim_audio.training.units import CorpusUnits

__all__ = ["Targets", "counted", "labels_fingerprint", "targets_for"]

Source = Callable[[int], Tensor]
"""Returns the target of the batch of a step, counted from 0."""
Targets = Callable[[int], dict[int, Tensor]]
"""Returns the targets of modules, by number from 1, of the batch of a step."""


def counted(config: Config, corpus: PackedCorpus) -> Config:
    """Return a configuration with the number of classes of phones and speakers.

    Raises:
        ConfigError: Another number was asked for.
        DataError: There is one speaker only.
    """
    if isinstance(config.objective, tuple):
        each = tuple(_counted(objective, corpus) for objective in config.objective)
        return config.model_copy(update={"objective": each})
    return config.model_copy(update={"objective": _counted(config.objective, corpus)})


def _counted(objective: ObjectiveConfig, corpus: PackedCorpus) -> ObjectiveConfig:
    if not isinstance(objective, PhonesConfig | SpeakersConfig):
        return objective
    phones = isinstance(objective, PhonesConfig)
    found = len(PHONES) if phones else len(set(corpus.speakers.values()))
    if found < 2:
        raise DataError(f"{corpus.path}: one speaker only: there is nothing to tell apart")
    if objective.classes not in {None, found}:
        raise ConfigError(
            f"objective.classes: {objective.classes}, but {corpus.path} has {found}"
            f" {objective.kind}"
        )
    return objective.model_copy(update={"classes": found})


def labels_fingerprint(objectives: Sequence[ObjectiveConfig], corpus: PackedCorpus) -> str:
    """Return a digest of the labels that objectives are taught; empty where there are none.

    The corpus has a fingerprint of its audio alone: the same audio may get other labels.

    Raises:
        DataError: The corpus has no `phones.ctm`.
    """
    kinds = {each.kind for each in objectives}
    found = []
    if "speakers" in kinds:
        spoken = sorted(corpus.speakers.items())
        found.append(hashlib.sha256(json.dumps(spoken).encode()).hexdigest())
    if "phones" in kinds:
        known = sorted(
            labels_of(DataDir.read(corpus.path), read_ctm(corpus.path / "phones.ctm")).items()
        )
        digest = hashlib.sha256()
        for name, alignment in known:
            digest.update(name.encode())
            for values in (alignment.starts, alignment.ends, alignment.labels):
                digest.update(np.ascontiguousarray(values).tobytes())
        found.append(digest.hexdigest())
    return " ".join(found)


def targets_for(
    objectives: Sequence[ObjectiveConfig],
    model: GreedyInfoMax,
    crops: Crops,
    device: torch.device,
    *,
    modules: Collection[int] | None = None,
    part: slice = slice(None),
    known: PackedCorpus | None = None,
    units: Callable[[int], CorpusUnits | None] = lambda number: None,
) -> Targets:
    """Return a function of the targets of each batch; of modules that are taught nothing, none.

    Args:
        objectives: The objective of each module.
        model: The model that makes the frames.
        crops: The crops of each step.
        device: The device that takes targets.
        modules: The modules that learn; None is all of them.
        part: The crops of a batch that this process has.
        known: The corpus whose speakers are numbered; that of the crops if it is not given.
        units: A function that returns the units of a module of this number.

    Raises:
        DataError: The corpus has no phones, or speakers that are not known.
    """
    sources: dict[int, Source] = {}
    same: dict[object, Source] = {}  # of modules that are taught the same
    for number, objective in enumerate(objectives, start=1):
        taught = model.stack[number - 1].objective.taught
        if not taught or (modules is not None and number not in modules):
            continue
        key: object = (taught, objective if taught in {"phones", "units"} else None)
        if key not in same:
            if taught == "phones":
                shift = getattr(objective, "shift", 0)
                same[key] = _phones(model, crops, device, part, shift)
            elif taught == "speakers":
                same[key] = _speakers(crops, device, part, known or crops.corpus)
            elif taught == "waveforms":
                same[key] = Feed(crops, device, "never", part)
            else:
                known_units = units(number)
                assert known_units is not None  # noqa: S101 - whoever has such objectives has them
                same[key] = _units(known_units, model, crops, device, part)
        sources[number] = same[key]

    def targets(step: int) -> dict[int, Tensor]:
        found = {source: source(step) for source in set(sources.values())}
        return {number: found[source] for number, source in sources.items()}

    return targets


def _speakers(crops: Crops, device: torch.device, part: slice, known: PackedCorpus) -> Source:
    corpus = crops.corpus
    names = sorted(set(known.speakers.values()))
    if strangers := sorted(set(corpus.speakers.values()) - set(names)):
        raise DataError(
            f"{corpus.path}: speaker {strangers[0]} is not among those that training knows"
        )
    numbers = {name: number for number, name in enumerate(names)}
    spoken = np.array([numbers[corpus.speakers[name]] for name in corpus.utterances])
    return lambda step: send(torch.from_numpy(spoken[crops.where(step)[0, part]]), device)


def _phones(
    model: GreedyInfoMax, crops: Crops, device: torch.device, part: slice, shift: int
) -> Source:
    corpus = crops.corpus
    alignments = labels_of(DataDir.read(corpus.path), read_ctm(corpus.path / "phones.ctm"))
    grid, frames, rate = model.geometries[-1], model.frames(crops.crop)[-1], corpus.rate

    def phones(step: int) -> Tensor:
        found = np.full((crops.batch, frames), -1)[part]
        for row, utterance, start in zip(found, *crops.where(step)[:, part].tolist(), strict=True):
            if alignment := alignments.get(corpus.utterances[utterance]):
                centre = (start + grid.centre) / rate
                row[:] = frame_labels(
                    alignment, frames, centre=centre, hop=grid.hop / rate, shift=shift
                )
        return send(torch.from_numpy(found), device)

    return phones


def _units(
    units: CorpusUnits, model: GreedyInfoMax, crops: Crops, device: torch.device, part: slice
) -> Source:
    hop, frames = model.geometries[-1].hop, model.frames(crops.crop)[-1]

    def named(step: int) -> Tensor:
        rows = [
            units.of(utterance, start // hop, frames)
            for utterance, start in crops.where(step)[:, part].T.tolist()
        ]
        return send(torch.from_numpy(np.stack(rows)), device)

    return named
