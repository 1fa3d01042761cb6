"""Log mel energies of windows that are centred on the frames of a model.

Shapes: B utterances, S samples, T frames, M mel bands.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from gim_audio.model.geometry import Geometry

__all__ = ["log_mel", "mfcc"]

WINDOW = 0.025
"""Seconds of a window, as in Kaldi."""
FLOOR = 1e-6
"""The energy that is added before the logarithm, about that of 16-bit rounding."""


def log_mel(waveforms: Tensor, rate: int, grid: Geometry, frames: int, bands: int = 80) -> Tensor:
    """Return the log mel energies around frames.

    Args:
        waveforms: Samples in [-1, 1]. Shape: `(B, S)`.
        rate: Their rate in Hz.
        grid: The geometry of the frames; the middle of window i is `grid.centre + i * grid.hop`.
        frames: The number T of frames.
        bands: The number M of triangular filters, from 20 Hz to nearly half the rate.

    Returns:
        Natural logarithms of shape `(B, T, M)`, in float32.
    """
    window = round(WINDOW * rate)
    points = 2 ** (window - 1).bit_length()  # torch puts the window into the middle of them
    first = round(grid.centre + 0.5 - points / 2)
    last = first + (frames - 1) * grid.hop + points
    padded = F.pad(waveforms.float(), (-first, last - waveforms.shape[1]))
    spectrogram = _spectrogram(rate, points, window, grid.hop, bands, waveforms.device)
    energies: Tensor = spectrogram(padded)
    return (energies.transpose(1, 2) + FLOOR).log()


def mfcc(waveforms: Tensor, rate: int, grid: Geometry, frames: int) -> Tensor:
    """Return 13 MFCC with their first and second differences, of windows as in `log_mel`.

    Shape: `(B, S)` → `(B, T, 39)`.
    """
    from torchaudio.functional import compute_deltas, create_dct

    energies = log_mel(waveforms, rate, grid, frames)
    cepstra = energies @ create_dct(13, energies.shape[2], "ortho").to(energies.device)
    still = cepstra.transpose(1, 2)  # differences are of the last axis
    first = compute_deltas(still, 9)
    return torch.cat([still, first, compute_deltas(first, 9)], dim=1).transpose(1, 2)


@functools.cache
def _spectrogram(
    rate: int, points: int, window: int, hop: int, bands: int, device: torch.device
) -> torch.nn.Module:
    from torchaudio.transforms import MelSpectrogram

    found: torch.nn.Module = MelSpectrogram(
        rate,
        n_fft=points,
        win_length=window,
        hop_length=hop,
        f_min=20.0,
        f_max=0.475 * rate,
        n_mels=bands,
        center=False,
    )
    return found.to(device)
