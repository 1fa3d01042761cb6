"""Waveforms as other voices and rooms might have them, for what predicts (Kharitonov et al. 2020).

What is predicted stays as it was. The changes of a step are a function of (seed, step), like its
crops, and keep the timing of the speech. Babble mixes crops that the process has.

Shapes: B utterances, S samples, T windows, F frequencies.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gim_audio.config import AugmentConfig
from gim_audio.devices import send

__all__ = ["Augment"]

Numbers = npt.NDArray[np.float64]
"""A number for each utterance. Shape: `(B,)`."""

POINTS, HOP = 512, 128
"""The window and hop of the Fourier transform that moves and removes frequencies."""
VOICES = 3
"""The number of other crops that babble mixes."""


class Augment:
    """Changes the waveforms of steps.

    Args:
        config: The changes, and how strong they are.
        rate: The sampling rate in Hz.
        seed: The seed of the run.
        part: The utterances of a batch that this process has.
    """

    def __init__(
        self, config: AugmentConfig, rate: int, seed: int, part: slice = slice(None)
    ) -> None:
        self.config, self.rate, self.seed, self.part = config, rate, seed, part

    def __call__(self, waveforms: Tensor, step: int, batch: int) -> Tensor:
        """Return changed waveforms.

        Args:
            waveforms: Samples in [-1, 1] of this process's utterances. Shape: `(B, S)`.
            step: The number of the step, from 0.
            batch: The number of utterances of all processes.

        Returns:
            Samples of the same shape, which may leave [-1, 1].
        """
        config, found = self.config, waveforms
        draws = np.random.default_rng((self.seed, step, 0xA06))
        # Every change draws for all utterances, be it used or not: none depends on another.
        chosen = draws.random((5, batch))[:, self.part] < config.share
        sizes = draws.random((5, batch))[:, self.part]
        noise = draws.integers(2**63)
        if config.warp or config.reject:
            factors = 1 + config.warp * (2 * sizes[0] - 1) * chosen[0]
            holes = config.reject * chosen[1]
            changed = self._in_frequency(found, factors, sizes[1], holes)
            either = (factors != 1) | (holes > 0)
            moved = send(torch.from_numpy(either), found.device)
            found = torch.where(moved[:, None], changed, found)
        if config.reverb:
            decays = np.where(chosen[2], config.reverb * sizes[2], 0)
            tails = self._random(int(noise), batch, round(config.reverb * self.rate))
            found = self._in_rooms(found, decays, tails)
        if config.babble is not None and len(waveforms) > 1:
            voices = [waveforms.roll(1 + voice, 0) for voice in range(VOICES)]
            others = torch.stack(voices).sum(0)
            found = _mixed(found, others, _levels(config.babble, sizes[3], chosen[3]))
        if config.noise is not None:
            white = send(self._random(int(noise) + 1, batch, found.shape[1]), found.device)
            found = _mixed(found, white, _levels(config.noise, sizes[4], chosen[4]))
        return found

    def _random(self, seed: int, batch: int, samples: int) -> Tensor:
        """Return noise for this process's utterances, drawn for all. Shape: `(B, samples)`."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, samples, generator=generator)[self.part]

    def _in_frequency(
        self,
        waveforms: Tensor,
        factors: Numbers,
        places: Numbers,
        widths: Numbers,
    ) -> Tensor:
        """Stretch the frequency axis of magnitudes, and remove a band. Shape: `(B, S)`."""
        window = torch.hann_window(POINTS, device=waveforms.device)
        spectra = torch.stft(waveforms, POINTS, HOP, window=window, return_complex=True)
        bins = np.arange(spectra.shape[1])
        # The magnitude at f / α is moved to f, between two neighbouring frequencies.
        sources = np.minimum(bins / factors[:, None], len(bins) - 1)
        low = np.minimum(sources.astype(np.int64), len(bins) - 2)
        share = send(torch.from_numpy((sources - low).astype(np.float32)), waveforms.device)
        index = send(torch.from_numpy(low), waveforms.device)[:, :, None].expand_as(spectra)
        size = spectra.abs()
        moved = size.gather(1, index).lerp(size.gather(1, index + 1), share[:, :, None])
        hertz = bins * self.rate / POINTS
        first = places[:, None] * (self.rate / 2 - widths[:, None])
        kept = (hertz < first) | (hertz >= first + widths[:, None])
        moved = moved * send(torch.from_numpy(kept), waveforms.device)[:, :, None]
        spectra = spectra * (moved / size.clamp(min=1e-8))
        length = waveforms.shape[1]
        found: Tensor = torch.istft(spectra, POINTS, HOP, window=window, length=length)
        return found

    def _in_rooms(self, waveforms: Tensor, decays: Numbers, tail: Tensor) -> Tensor:
        """Add reverberation: noise that falls by 60 dB in `decays` seconds.

        Shape: `(B, S)`, `(B,)`, `(B, longest)` → `(B, S)`.
        """
        length = tail.shape[1]
        times = torch.arange(length) / self.rate
        seconds = torch.from_numpy(decays.astype(np.float32))[:, None]
        tail = tail * torch.exp(-3 * math.log(10) * times / seconds.clamp(min=1e-3))
        # The tail has as much energy as the direct sound, which comes first and keeps its time.
        tail = tail / tail.square().sum(1, keepdim=True).sqrt()
        tail = torch.where(seconds > 0, tail, torch.zeros(()))
        points = waveforms.shape[1] + length
        response = torch.fft.rfft(send(tail, waveforms.device), points)
        wet: Tensor = torch.fft.irfft(torch.fft.rfft(waveforms, points) * response, points)
        return waveforms + wet[:, : waveforms.shape[1]]


def _levels(
    range_: tuple[float, float],
    sizes: Numbers,
    chosen: npt.NDArray[np.bool_],
) -> Tensor:
    """Return how loud what is added is beside the speech, 0 for nothing. Shape: `(B,)`."""
    low, high = range_
    ratio = 10 ** (-(low + (high - low) * sizes) / 20)
    return torch.from_numpy(np.where(chosen, ratio, 0).astype(np.float32))


def _mixed(waveforms: Tensor, others: Tensor, levels: Tensor) -> Tensor:
    """Add something at a level relative to the speech. Shape: `(B, S)`, `(B, S)`, `(B,)`."""
    power = waveforms.square().mean(1, keepdim=True)
    other = others.square().mean(1, keepdim=True).clamp(min=1e-12)
    return waveforms + others * (power / other).sqrt() * send(levels, waveforms.device)[:, None]
