"""The input of the modules of a phase: crops of the corpus, or frames from a cache."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gim_audio.config import Config
from gim_audio.devices import send
from gim_audio.errors import ConfigError
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.packed import Crops
from gim_audio.training.augment import Augment
from gim_audio.training.cache import Cache
from gim_audio.training.distribution import Batches
from gim_audio.training.feed import Feed
from gim_audio.training.labels import Targets, targets_for
from gim_audio.training.schedule import Phase
from gim_audio.training.units import UnitsOfRun

__all__ = ["Inputs"]


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run.

    Attributes:
        config: The configuration, with numbers where it said `auto`.
        crops: The crops of each step.
        model: The model.
        device: The device that trains.
    """

    config: Config
    crops: Crops
    model: GreedyInfoMax
    device: torch.device

    def waveforms(self, modules: Sequence[int], part: slice) -> Batches:
        """Return the standardised crops of each step, or a process's part of them.

        With `data.augment` they are changed, and followed by the same ones as they were where one
        of the modules that learn compares with these.
        """
        keep = self.config.data.on_device
        # Made when it is needed: of the processes that share modules, the first alone does.
        feed = functools.cache(lambda: Feed(self.crops, self.device, keep, part))
        given = self.config.data.augment
        if given is None:
            return lambda index: self.model.standardise(feed()(index))
        augment = Augment(given, self.config.model.rate, self.config.training.seed, part)
        paired = self.paired(modules)

        def changed(index: int) -> Tensor:
            waveforms = feed()(index)
            found = augment(waveforms, index, self.crops.batch)
            return self.model.standardise(torch.cat([found, waveforms]) if paired else found)

        return changed

    def paired(self, modules: Sequence[int]) -> bool:
        """Return whether modules learn from crops both changed and as they were.

        Raises:
            ConfigError: They do, and are shared among processes, which send one of both.
        """
        learning = (self.model.stack[module - 1].objective for module in modules)
        both = self.config.data.augment is not None and any(each.compares for each in learning)
        if both and self.config.training.parallel == "modules":
            raise ConfigError(
                "data.augment: an objective that compares frames takes two passes, which"
                " training.parallel=modules does not send: take parallel=data"
            )
        return both

    def targets(self, modules: Sequence[int], part: slice, units: UnitsOfRun) -> Targets:
        """Return the targets of modules in each step, or of a process's part of the batch."""
        return targets_for(
            self.config.objectives,
            self.model,
            self.crops,
            self.device,
            modules=modules,
            part=part,
            units=units.of,
        )

    def caches(self, folder: Path, schedule: Sequence[Phase], phase: Phase) -> list[Cache]:
        """Return the cache of a phase's first module, after those of earlier phases."""
        dtype = torch.bfloat16 if self.config.training.precision == "bf16" else torch.float16
        earlier = {p.first for p in schedule[: phase.number] if p.cache}
        return [
            Cache(folder / f"module-{module}", module, self.model, self.crops, dtype)
            for module in sorted(module for module in earlier if module <= phase.first)
        ]

    def samples(self, utterance: int, start: int, stop: int) -> Tensor:
        """Return a part of an utterance, standardised, as the `ReadFrames` of a cache."""
        pcm = np.empty(stop - start, dtype="<i2")
        self.crops.corpus.fill(pcm, utterance, start)
        samples = send(torch.from_numpy(pcm)[None], self.device).float() / 32768
        return self.model.standardise(samples)
