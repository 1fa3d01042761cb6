"""One unit of work: some utterances, their features, and what became of each."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gim_audio import audio
from gim_audio.audio import Waveform
from gim_audio.errors import AudioError, DataError
from gim_audio.featurize.encoders import Encoder, Features
from gim_audio.featurize.load import load_encoder
from gim_audio.featurize.pooling import FRAMES, Pooling
from gim_audio.featurize.units import Unit, batches
from gim_audio.featurize.work import Done, Shard
from gim_audio.kaldi import DataDir, locate

__all__ = ["Task", "encode_stream", "encode_unit"]

CLIPPED = 0.999
"""Samples beyond it are at full scale …"""
CLIPPED_SHARE = 0.001
"""… and more of them than this are no accident."""


@dataclass(frozen=True)
class Task:
    """What is made of each utterance.

    Attributes:
        exp: a model or baseline, as `load_encoder` takes it.
        modules: numbers, from 1; none stands for the last one.
        pooling: of its frames.
        dtype: of the numbers.
        device: `cuda` is shared out among processes.
        precision: of products.
        allow_pipes: run the commands in `wav.scp`.
    """

    exp: str
    modules: tuple[int, ...] = ()
    pooling: Pooling = FRAMES
    dtype: Literal["float32", "float16"] = "float32"
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    allow_pipes: bool = False

    def encoder(self) -> Encoder:
        """Load it."""
        return load_encoder(self.exp, self.device, self.precision)


def encode_stream(
    encoder: Encoder,
    task: Task,
    modules: Sequence[int],
    name: str,
    where: str,
    blocks: Iterable[Waveform],
    shard: Shard,
) -> list[Done]:
    """An utterance that comes in blocks, in constant memory; not entered yet."""
    ear = _Ear(encoder.rate)
    pieces = encoder.pieces(ear.listen(blocks), modules)
    try:
        found = shard.append(Done(name), _reduced(pieces, task.pooling, modules))
    except (AudioError, DataError) as error:
        return [Done(name, failed=_named(where, error))]
    return [replace(each, note=ear.note, seconds=ear.seconds) for each in found]


def encode_unit(encoder: Encoder, task: Task, modules: Sequence[int], unit: Unit, shard: Shard) -> None:
    """All utterances of a unit, entered in the shard."""
    if len(unit.names) == 1 and not unit.segments:
        ((name, where),) = unit.recordings.items()
        try:
            blocks = audio.blocks(locate(where, allow_pipes=task.allow_pipes), encoder.rate, where)
        except DataError as error:
            found = [[Done(name, failed=str(error))]]
        else:
            found = [encode_stream(encoder, task, modules, name, where, blocks, shard)]
    else:
        found = _encode_batches(encoder, task, modules, unit, shard)
    shard.enter(found)


def _encode_batches(encoder: Encoder, task: Task, modules: Sequence[int], unit: Unit, shard: Shard) -> list[list[Done]]:
    data = DataDir(unit.recordings, {name: name for name in unit.names}, unit.segments)
    found: list[list[Done]] = []
    waveforms: dict[str, Waveform] = {}
    for name, waveform in data.waveforms(encoder.rate, allow_pipes=task.allow_pipes):
        try:
            if isinstance(waveform, Exception):
                raise waveform
            encoder.hears(len(waveform))
            waveforms[name] = waveform
        except (AudioError, DataError) as error:
            found.append([Done(name, failed=_named(unit.recordings.get(name, name), error))])
    for names in batches({name: len(waveform) / encoder.rate for name, waveform in waveforms.items()}, task.device):
        together = encoder.encode_batch([waveforms[name] for name in names], modules)
        for name, matrices in zip(names, together, strict=True):
            ear = _Ear(encoder.rate)
            ear.hear(waveforms[name])
            done = Done(name, note=ear.note, seconds=ear.seconds)
            try:
                found.append(shard.append(done, _reduced([matrices], task.pooling, modules)))
            except AudioError as error:
                found.append([Done(name, failed=_named(unit.recordings.get(name, name), error))])
    return found


def _reduced(
    pieces: Iterable[Sequence[Features]], pooling: Pooling, modules: Sequence[int]
) -> Iterator[Sequence[Features]]:
    reducers = [pooling.start() for _ in modules]
    for matrices in pieces:
        if not all(np.isfinite(matrix).all() for matrix in matrices):
            raise AudioError("gives features that are not finite numbers: samples are expected in [-1, 1]")
        yield [reducer.push(matrix) for reducer, matrix in zip(reducers, matrices, strict=True)]
    rest = [matrix for reducer in reducers if (matrix := reducer.finish()) is not None]
    if rest:
        yield rest


def _named(where: str, error: Exception) -> str:
    return str(error) if where in str(error) else f"{where}: {error}"


@dataclass
class _Ear:
    """Hears an utterance go by, for what a person might want to know of it."""

    rate: int
    samples: int = 0
    peak: float = 0.0
    loud: int = 0

    def listen(self, blocks: Iterable[Waveform]) -> Iterator[Waveform]:
        for block in blocks:
            self.hear(block)
            yield block

    def hear(self, block: Waveform) -> None:
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
