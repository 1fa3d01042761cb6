"""Features that are computed, not learnt, by Kaldi's definitions."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from gim_audio.audio import Waveform
from gim_audio.featurize.encoders import Encoder, Features, with_the_last
from gim_audio.model.geometry import Geometry

__all__ = ["BASELINES", "KaldiFeatures"]

WIDTHS = {"mfcc": 13, "mfcc13": 13, "fbank": 80}
"""The geometry of a window alone."""
BASELINES = tuple(f"{kind}{suffix}" for kind in WIDTHS for suffix in ("", "+cmvn", "+cmvn-speaker"))
"""Names that stand for computed features: as they are, less the mean of an utterance, less the mean
of a speaker."""
REACH = 4
"""Frames to either side that second differences look at."""


class KaldiFeatures(Encoder):
    """MFCC or log mel energies, as Kaldi computes them.

    There are 13 MFCC, alone or with their first and second differences, or 80 log mel energies.
    """

    def __init__(self, kind: str, rate: int = 16000) -> None:
        self.kind, self.name, self.rate, self.precision = kind, kind, rate, "fp32"
        self.module_names = [kind]
        self.shortest = rate * 25 // 1000
        self.hop = rate // 100
        self.geometries: Sequence[Geometry] = [
            Geometry(hop=self.hop, start=0, receptive_field=self.shortest)
        ]

    def encode(self, waveform: Waveform, modules: Sequence[int] | None = None) -> list[Features]:  # noqa: ARG002 - one module
        """See `Encoder.encode`."""
        return [np.concatenate([features for (features,) in self.pieces([waveform], [1])])]

    def pieces(
        self,
        blocks: Iterable[Waveform],
        modules: Sequence[int],  # noqa: ARG002 - there is one
    ) -> Iterator[list[Features]]:
        """See `Encoder.pieces`."""
        heard, samples, differences = 0, np.empty(0, np.float32), _Differences(WIDTHS[self.kind])
        for block, last in with_the_last(blocks):
            heard += len(block)
            if last:
                self.check_length(heard)
            samples = np.concatenate([samples, block])
            static = self._static(samples)
            samples = samples[len(static) * self.hop :]
            yield [differences.push(static, last=last) if self.kind == "mfcc" else static.numpy()]

    def _static(self, samples: Waveform) -> Tensor:
        """Return the features of each window alone. Shape: `(samples,)` → `(frames, width)`."""
        from torchaudio.compliance import kaldi

        if len(samples) < self.shortest:
            return torch.empty(0, WIDTHS[self.kind])
        pcm = torch.from_numpy(np.ascontiguousarray(samples))[None] * 32768  # Kaldi's scale
        found: Tensor
        if self.kind == "fbank":
            found = kaldi.fbank(pcm, num_mel_bins=WIDTHS["fbank"], sample_frequency=self.rate)
        else:
            found = kaldi.mfcc(pcm, num_ceps=WIDTHS[self.kind], sample_frequency=self.rate)
        return found


class _Differences:
    """Frames with their first and second differences, which wait for the frames that follow."""

    def __init__(self, width: int) -> None:
        self._frames = torch.empty(0, width)
        self._given = 0  # of them, which stay for the differences of those that follow

    def push(self, frames: Tensor, *, last: bool) -> Features:
        """Shape: `(frames, width)` → `(frames that are sure, 3 * width)`."""
        from torchaudio.functional import compute_deltas

        known = torch.cat([self._frames, frames])
        if not len(known):
            return np.empty((0, 3 * known.shape[1]), np.float32)
        sure = len(known) if last else max(self._given, len(known) - REACH)
        first = compute_deltas(known.T)
        found = torch.cat([known.T, first, compute_deltas(first)]).T[self._given : sure]
        dropped = max(0, sure - REACH)
        self._frames, self._given = known[dropped:], sure - dropped
        return found.contiguous().numpy()
