"""Units: clusters of frames, which modules learn to name (Hsu et al. 2021).

Shapes: T frames of the last convolution's rate, D numbers a frame, K units.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from gim_audio.config import ObjectiveConfig, UnitsConfig
from gim_audio.errors import CheckpointError, ConfigError
from gim_audio.files import new_file
from gim_audio.inference.pieces import Stream
from gim_audio.model.mel import mfcc
from gim_audio.model.objectives import to_grid
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.packed import PackedCorpus

__all__ = ["CorpusUnits", "UnitsOfRun", "learn_units", "name_units"]

FRAMES = 200_000
"""The most frames that k-means sees, spread evenly over the corpus."""
BLOCK_SECONDS = 20
"""Waveforms are encoded in blocks of this length."""

Numbers = npt.NDArray[np.float32]
Describe = Callable[[Numbers], Tensor]
"""Takes the samples of an utterance, in [-1, 1], and returns numbers of its frames. Shape: `(S,)`
→ `(T, D)`."""


@dataclass(frozen=True)
class CorpusUnits:
    """The unit of each frame of a corpus.

    Attributes:
        names: The units, from 0, of one utterance after the other. Shape: `(frames,)`.
        ends: The end of each utterance in `names`. Shape: `(utterances,)`.
    """

    names: npt.NDArray[np.int16]
    ends: npt.NDArray[np.int64]

    def of(self, utterance: int, first: int, frames: int) -> npt.NDArray[np.int64]:
        """Return the units of some frames, -1 beyond the end. Shape: `(frames,)`."""
        begin = self.ends[utterance - 1] if utterance else 0
        some = self.names[begin + first : min(self.ends[utterance], begin + first + frames)]
        found = np.full(frames, -1, np.int64)
        found[: len(some)] = some
        return found


def describe(config: UnitsConfig, model: GreedyInfoMax, dtype: torch.dtype) -> Describe:
    """Return the function whose numbers are clustered.

    They are MFCC with deltas, each standardised over the utterance, or the features of a module as
    they are, which has to be on the device of `model.mean`.
    """
    grid = model.geometries[-1]

    def of_mfcc(samples: Numbers) -> Tensor:
        frames = model.frames(len(samples))[-1]
        found = mfcc(torch.from_numpy(samples)[None], model.rate, grid, frames)[0]
        return (found - found.mean(0)) / found.std(0, correction=0).clamp(min=1e-3)

    def of_module(samples: Numbers) -> Tensor:
        assert config.of != "mfcc"  # noqa: S101 - see below
        frames, own = model.frames(len(samples))[-1], model.geometries[config.of - 1]
        stream = Stream(model, [config.of], dtype)
        waveform = torch.from_numpy(samples).to(model.mean.device)
        blocks = torch.split(waveform, BLOCK_SECONDS * model.rate)
        pieces = [
            stream.push(block, last=number == len(blocks))[0]
            for number, block in enumerate(blocks, start=1)
        ]
        return to_grid(torch.cat(pieces)[None], own, grid, frames)[0].cpu()

    return of_mfcc if config.of == "mfcc" else of_module


def waveforms(corpus: PackedCorpus, model: GreedyInfoMax) -> Iterator[Numbers]:
    """Yield the samples of each utterance; of one too short for a frame, none."""
    for index in range(len(corpus)):
        samples = corpus.read(index).astype(np.float32) / np.float32(32768)
        yield samples if len(samples) >= model.shortest else samples[:0]


def learn_units(
    config: UnitsConfig, corpus: PackedCorpus, model: GreedyInfoMax, seed: int, dtype: torch.dtype
) -> dict[str, Numbers]:
    """Learn the units of a corpus by k-means.

    Args:
        config: The features that are clustered, and the number of units.
        corpus: The corpus.
        model: The model, which has the modules up to the one whose features are clustered.
        seed: The seed of k-means.
        dtype: The type of products.

    Returns:
        `centres` of shape `(K, D)`, and the `scale` that features are divided by, `(D,)`.

    Raises:
        ConfigError: There are fewer frames than units.
    """
    from sklearn.cluster import MiniBatchKMeans

    numbers = describe(config, model, dtype)
    total = sum(model.frames(int(samples))[-1] for samples in corpus.samples)
    every = -(-total // FRAMES)
    some, begun = [], 0
    for samples in waveforms(corpus, model):
        if len(samples):
            frames = numbers(samples)
            some.append(frames[-begun % every :: every].numpy())
            begun += len(frames)
    found = np.concatenate(some)
    if len(found) < config.number:
        raise ConfigError(
            f"objective.number: {config.number} units of {len(found)} frames, which is all that"
            f" {corpus.path} has"
        )
    scale = found.std(0).clip(1e-6)
    clusters = MiniBatchKMeans(
        config.number, batch_size=8192, n_init=3, max_iter=60, random_state=seed
    ).fit(found / scale)
    return {"centres": clusters.cluster_centers_.astype(np.float32), "scale": scale}


def name_units(
    config: UnitsConfig,
    corpus: PackedCorpus,
    model: GreedyInfoMax,
    learnt: dict[str, Numbers],
    dtype: torch.dtype,
) -> CorpusUnits:
    """Return the nearest unit of each frame of a corpus: see `learn_units`."""
    numbers = describe(config, model, dtype)
    centres, scale = (torch.from_numpy(learnt[name]) for name in ("centres", "scale"))
    names, ends, end = [], [], 0
    for samples in waveforms(corpus, model):
        if len(samples):
            near = torch.cdist(numbers(samples) / scale, centres).argmin(1)
            names.append(near.numpy().astype(np.int16))
            end += len(near)
        ends.append(end)
    return CorpusUnits(np.concatenate(names), np.array(ends))


@dataclass(frozen=True)
class UnitsOfRun:
    """The units of an experiment, which are learnt once and kept in its folder.

    Attributes:
        folder: The folder of the experiment.
        objectives: The objective of each module.
        seed: The seed of k-means.
        dtype: The type of products.
    """

    folder: Path
    objectives: Sequence[ObjectiveConfig]
    seed: int
    dtype: torch.dtype

    def path(self, number: int) -> Path:
        """Return the file with the units that a module learns to name."""
        return self.folder / "units" / f"module-{number}.safetensors"

    def learn(
        self,
        numbers: Iterable[int],
        model: GreedyInfoMax,
        corpus: PackedCorpus,
        say: Callable[[str], None],
    ) -> None:
        """Learn the units of modules, where they are not there yet."""
        for number in numbers:
            config, path = self.objectives[number - 1], self.path(number)
            if not isinstance(config, UnitsConfig) or path.exists():
                continue
            source = "MFCC" if config.of == "mfcc" else f"the features of module {config.of}"
            model.eval()  # a batch norm's statistics stay as they are
            say(f"clustering {source} into {config.number} units for module {number}")
            learnt = learn_units(config, corpus, model, self.seed, self.dtype)
            units = name_units(config, corpus, model, learnt, self.dtype)
            path.parent.mkdir(exist_ok=True)
            with new_file(path) as temporary:
                save_file({**learnt, "names": units.names, "ends": units.ends}, temporary)

    def of(self, number: int) -> CorpusUnits:
        """Return the units of the corpus of training that a module learns to name.

        Raises:
            CheckpointError: They are damaged.
        """
        found = self._read(number)
        return CorpusUnits(found["names"], found["ends"])

    def of_others(self, number: int, model: GreedyInfoMax, corpus: PackedCorpus) -> CorpusUnits:
        """Return the same units of another corpus."""
        config = self.objectives[number - 1]
        assert isinstance(config, UnitsConfig)  # noqa: S101 - the caller has looked
        return name_units(config, corpus, model, self._read(number), self.dtype)

    def _read(self, number: int) -> dict[str, Any]:
        path = self.path(number)
        try:
            found = load_file(path)
            return {name: found[name] for name in ("centres", "scale", "names", "ends")}
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(
                f"{path}: damaged: delete it, and the same units are learnt again"
            ) from error
