"""One job: some utterances, their features, and what became of each."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gim_audio import audio
from gim_audio.audio import Waveform
from gim_audio.errors import AudioError, DataError
from gim_audio.featurize.encoders import Encoder, Features, ModuleName
from gim_audio.featurize.jobs import EncodingJob, batches
from gim_audio.featurize.loading import EncodingPrecision, load_encoder
from gim_audio.featurize.pooling import FRAMES, Pooling
from gim_audio.featurize.work import IndexEntry, Shard
from gim_audio.kaldi import DataDir, locate

__all__ = ["Task", "Worker"]

CLIPPED = 0.999
"""Samples beyond it are at full scale …"""
CLIPPED_SHARE = 0.001
"""… and more of them than this are no accident."""


@dataclass(frozen=True)
class Task:
    """The settings of what is made of each utterance.

    Attributes:
        exp: a model or baseline, as `load_encoder` takes it.
        modules: Numbers or names; none stands for the last one.
        pooling: The pooling of frames.
        dtype: The type of the numbers that are written.
        device: `cuda` is shared out among processes.
        precision: The precision of a network's products.
        allow_pipes: run the commands in `wav.scp`.
    """

    exp: str
    modules: tuple[ModuleName, ...] = ()
    pooling: Pooling = FRAMES
    dtype: Literal["float32", "float16"] = "float32"
    device: str = "cpu"
    precision: EncodingPrecision = "fp32"
    allow_pipes: bool = False

    def encoder(self) -> Encoder:
        """Load it."""
        return load_encoder(self.exp, self.device, self.precision)


class Worker:
    """Appends the features of utterances to a shard.

    Args:
        task: The task, which says what is made of an utterance.
        encoder: the task's.
        modules: numbers from 1.
        shard: The shard that takes the features.
    """

    def __init__(self, task: Task, encoder: Encoder, modules: Sequence[int], shard: Shard) -> None:
        self.task, self.encoder, self.modules, self.shard = task, encoder, modules, shard
        self._encode_batch = encoder.batch_encoder(modules)

    def stream(self, name: str, where: str, blocks: Iterable[Waveform]) -> list[IndexEntry]:
        """An utterance that comes in blocks, in constant memory; not entered yet."""
        stats = _SignalStats(self.encoder.rate)
        pieces = self.encoder.pieces(stats.watch(blocks), self.modules)
        try:
            found = self.shard.append(IndexEntry(name), self._reduced(pieces))
        except (AudioError, DataError) as error:
            return [IndexEntry(name, failed=_named(where, error))]
        return [replace(each, note=stats.note, seconds=stats.seconds) for each in found]

    def run(self, job: EncodingJob) -> None:
        """Encode all utterances of a job, and enter them in the shard."""
        if len(job.data.recordings) == 1 and not job.data.segments:
            ((name, where),) = job.data.recordings.items()
            try:
                blocks = audio.blocks(
                    locate(where, allow_pipes=self.task.allow_pipes), self.encoder.rate, where
                )
            except DataError as error:
                found = [[IndexEntry(name, failed=str(error))]]
            else:
                found = [self.stream(name, where, blocks)]
        else:
            found = self._batches(job.data)
        self.shard.enter(found)

    def _batches(self, data: DataDir) -> list[list[IndexEntry]]:
        """Encode decoded waveforms, grouped by the lengths that they turn out to have.

        The plan knew headers, which may be wrong: one long waveform would make a batch of
        short ones, which are padded to its length, take too much memory.
        """
        rate = self.encoder.rate
        found: list[list[IndexEntry]] = []
        waveforms: dict[str, Waveform] = {}
        for name, waveform in data.waveforms(rate, allow_pipes=self.task.allow_pipes):
            try:
                if isinstance(waveform, Exception):
                    raise waveform
                self.encoder.check_length(len(waveform))
                waveforms[name] = waveform
            except (AudioError, DataError) as error:
                found.append(
                    [IndexEntry(name, failed=_named(data.recordings.get(name, name), error))]
                )
        lengths = {name: len(waveform) / rate for name, waveform in waveforms.items()}
        for names in batches(lengths, self.task.device):
            for name, matrices in zip(
                names, self._encode_batch([waveforms[name] for name in names]), strict=True
            ):
                stats = _SignalStats(rate)
                stats.add(waveforms[name])
                done = IndexEntry(name, note=stats.note, seconds=stats.seconds)
                try:
                    found.append(self.shard.append(done, self._reduced([matrices])))
                except AudioError as error:
                    found.append(
                        [IndexEntry(name, failed=_named(data.recordings.get(name, name), error))]
                    )
        return found

    def _reduced(self, pieces: Iterable[Sequence[Features]]) -> Iterator[Sequence[Features]]:
        reducers = [self.task.pooling.start() for _ in self.modules]
        for matrices in pieces:
            if not all(np.isfinite(matrix).all() for matrix in matrices):
                raise AudioError(
                    "gives features that are not finite numbers: samples are expected in [-1, 1]"
                )
            yield [reducer.push(matrix) for reducer, matrix in zip(reducers, matrices, strict=True)]
        rest = [matrix for reducer in reducers if (matrix := reducer.finish()) is not None]
        if rest:
            yield rest


def _named(where: str, error: Exception) -> str:
    return str(error) if where in str(error) else f"{where}: {error}"


@dataclass
class _SignalStats:
    """Statistics of an utterance's samples, for notes to the user."""

    rate: int
    samples: int = 0
    peak: float = 0.0
    loud: int = 0

    def watch(self, blocks: Iterable[Waveform]) -> Iterator[Waveform]:
        for block in blocks:
            self.add(block)
            yield block

    def add(self, block: Waveform) -> None:
        level = np.abs(block)
        self.samples += len(block)
        self.peak = max(self.peak, float(level.max(initial=0)))
        self.loud += int((level >= CLIPPED).sum())

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    @property
    def note(self) -> str:
        if not self.peak:
            return "is silent: every sample is zero"
        if self.loud > CLIPPED_SHARE * self.samples:
            return f"is clipped: {self.loud / self.samples:.1%} of the samples are at full scale"
        return ""
