"""Cepstral mean normalisation.

They are features less their mean over an utterance or over a speaker's utterances.

Whoever uses MFCC or log mel energies subtracts such a mean, which takes out the channel and much of
the voice. Variances stay as they are, as in Kaldi's `apply-cmvn` by default.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from gim_audio.audio import Waveform
from gim_audio.errors import ConfigError
from gim_audio.featurize.encoders import BatchEncoder, Encoder, Features
from gim_audio.featurize.one_rate import waveforms
from gim_audio.kaldi import DataDir

__all__ = ["By", "Normalised", "encoders_of"]

By = Literal["utterance", "speaker"]


class Normalised(Encoder):
    """Another encoder's features less a mean.

    An utterance's features are held until it ends. By speaker, utterances can be encoded only by
    `encoders_of`, which knows who speaks.

    Args:
        encoder: The encoder whose features are normalised.
        by: The unit whose mean is subtracted.
        name: The name in results and files.
        means: The mean of each module, where it is known; by default an utterance's own. Shape:
            each `(channels,)`.
    """

    def __init__(
        self, encoder: Encoder, by: By, name: str, means: Sequence[Features] | None = None
    ) -> None:
        self.encoder, self.by, self.name, self.means = encoder, by, name, means
        self.module_names, self.geometries = encoder.module_names, encoder.geometries
        self.rate, self.shortest, self.precision = encoder.rate, encoder.shortest, encoder.precision
        self.block = encoder.block

    def encode(self, waveform: Waveform, modules: Sequence[int] | None = None) -> list[Features]:
        """See `Encoder.encode`."""
        wanted = list(modules or range(1, len(self.module_names) + 1))
        return self._less_the_mean(self.encoder.encode(waveform, wanted), wanted)

    def pieces(
        self, blocks: Iterable[Waveform], modules: Sequence[int]
    ) -> Iterator[list[Features]]:
        """See `Encoder.pieces`; there is one piece."""
        found = zip(*self.encoder.pieces(blocks, modules), strict=True)
        yield self._less_the_mean([np.concatenate(pieces) for pieces in found], modules)

    def batch_encoder(self, modules: Sequence[int]) -> BatchEncoder:
        """See `Encoder.batch_encoder`."""
        self._check()
        return super().batch_encoder(modules)

    def _less_the_mean(self, features: list[Features], modules: Sequence[int]) -> list[Features]:
        self._check()
        if self.means is None:
            return [f - f.mean(axis=0, dtype=np.float64).astype(np.float32) for f in features]
        return [f - self.means[module - 1] for f, module in zip(features, modules, strict=True)]

    def _check(self) -> None:
        if self.by == "speaker" and self.means is None:
            raise ConfigError(
                f"{self.name}: the mean of a speaker is known where a data directory says who"
                f" speaks (probe, evaluate, abx): use {self.name.removesuffix('-speaker')} here"
            )


def encoders_of(encoder: Encoder, data: DataDir, *, allow_pipes: bool) -> Callable[[str], Encoder]:
    """Return what encodes each utterance of a data directory, by the utterance's name.

    With normalisation by speaker, all utterances are encoded once here for the speakers' means.

    Raises:
        DataError: An utterance cannot be decoded or is too short.
    """
    if not (isinstance(encoder, Normalised) and encoder.by == "speaker"):
        return lambda name: encoder
    inner, names = encoder.encoder, encoder.name
    sums: dict[str, list[Features]] = {}
    frames: dict[str, list[int]] = {}
    for name, waveform in waveforms(data, inner, allow_pipes=allow_pipes):
        found, speaker = inner.encode(waveform), data.speakers[name]
        totals = [f.sum(axis=0, dtype=np.float64) for f in found]
        sums[speaker] = (
            [a + b for a, b in zip(sums[speaker], totals, strict=True)]
            if speaker in sums
            else totals
        )
        counts = frames.setdefault(speaker, [0] * len(found))
        frames[speaker] = [count + len(f) for count, f in zip(counts, found, strict=True)]
    normalised = {
        speaker: Normalised(
            inner,
            "speaker",
            names,
            [
                (total / count).astype(np.float32)
                for total, count in zip(totals, frames[speaker], strict=True)
            ],
        )
        for speaker, totals in sums.items()
    }
    return lambda name: normalised[data.speakers[name]]
