"""Every module at the last module's frame rate, for evaluations that compare them."""

from collections.abc import Iterator, Sequence

import numpy as np

from gim_audio.audio import Waveform
from gim_audio.errors import DataError
from gim_audio.featurize.encoders import Encoder, Features
from gim_audio.kaldi import DataDir
from gim_audio.model.layers import Geometry

__all__ = ["encode_at_one_rate", "pool_frames", "waveforms"]


def pool_frames(features: Features, own: Geometry, grid: Geometry, count: int) -> Features:
    """Average the frames of a faster module around the centres of a slower one's.

    Args:
        features: Shape: `(frames, channels)`.
        own: their geometry.
        grid: geometry of the slower frames.
        count: how many slower frames there are.
    """
    first, ratio = own.under(grid)
    if ratio == 1:
        return features[:count]
    last = first + ratio * count
    padding = ((max(0, -first), max(0, last - len(features))), (0, 0))
    covered = np.pad(features[max(0, first) : last], padding, mode="edge")  # at the ends, the outermost frame again
    pooled: Features = covered.reshape(count, ratio, -1).mean(axis=1)
    return pooled


def encode_at_one_rate(encoder: Encoder, waveform: Waveform, modules: Sequence[int]) -> list[Features]:
    """Features of some modules (from 1) at the last module's frame rate. Shape: each `(frames, channels)`."""
    last = len(encoder.geometries)
    wanted = sorted({*modules, last})
    features = dict(zip(wanted, encoder.encode(waveform, wanted), strict=True))
    grid, count = encoder.geometries[-1], len(features[last])
    return [pool_frames(features[m], encoder.geometries[m - 1], grid, count) for m in modules]


def waveforms(data: DataDir, encoder: Encoder, *, allow_pipes: bool) -> Iterator[tuple[str, Waveform]]:
    """Decode every utterance; an evaluation cannot do with less than all.

    Raises:
        DataError: one cannot be decoded or is too short.
    """
    for name, waveform in data.waveforms(encoder.rate, allow_pipes=allow_pipes):
        if isinstance(waveform, Exception):
            raise DataError(f"{name}: {waveform}")
        if len(waveform) < encoder.shortest:
            raise DataError(f"{data.path}: {name} has {len(waveform)} samples, {encoder.name} needs {encoder.shortest}")
        yield name, waveform
