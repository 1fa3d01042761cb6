"""Features that are computed, not learnt, by Kaldi's definitions."""

from collections.abc import Sequence

import numpy as np
import torch

from gim_audio.audio import Waveform
from gim_audio.featurize.encoders import Encoder, Features
from gim_audio.model.layers import Geometry

__all__ = ["BASELINES", "KaldiFeatures"]

BASELINES = ("mfcc", "mfcc13", "fbank")


class KaldiFeatures(Encoder):
    """13 MFCC, alone or with their first and second differences, or 80 log mel energies, as Kaldi computes them."""

    def __init__(self, kind: str, rate: int = 16000) -> None:
        self.kind, self.name, self.rate, self.precision = kind, kind, rate, "fp32"
        self.modules = [kind]
        self.shortest = rate * 25 // 1000
        self.geometries: Sequence[Geometry] = [Geometry(hop=rate // 100, start=0, receptive_field=self.shortest)]

    def encode(self, waveform: Waveform, modules: Sequence[int] | None = None) -> list[Features]:  # noqa: ARG002 - one module
        """See `Encoder.encode`."""
        from torchaudio.compliance import kaldi
        from torchaudio.functional import compute_deltas

        self.hears(len(waveform))
        pcm = torch.from_numpy(np.ascontiguousarray(waveform))[None] * 32768  # Kaldi's scale
        if self.kind == "fbank":
            energies = kaldi.fbank(pcm, num_mel_bins=80, sample_frequency=self.rate)
            return [energies.numpy()]
        cepstra = kaldi.mfcc(pcm, sample_frequency=self.rate).T
        if self.kind == "mfcc13":
            return [cepstra.T.contiguous().numpy()]
        first = compute_deltas(cepstra)
        return [torch.cat([cepstra, first, compute_deltas(first)]).T.contiguous().numpy()]
