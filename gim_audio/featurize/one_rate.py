"""Every module at the last module's frame rate, for evaluations that compare them."""

from collections.abc import Iterator, Sequence

import numpy as np

from gim_audio.audio import Waveform
from gim_audio.errors import DataError
from gim_audio.featurize.encoders import Encoder, Features, cut
from gim_audio.kaldi import DataDir
from gim_audio.model.geometry import Geometry

__all__ = ["ToSlowerRate", "encode_at_one_rate", "waveforms"]


class ToSlowerRate:
    """Averages the frames of a faster module around the centres of a slower one's, piece by piece.

    Args:
        own: geometry of the frames.
        grid: The geometry of the slower frames.
    """

    def __init__(self, own: Geometry, grid: Geometry) -> None:
        first, self._ratio = own.under(grid)
        self._skip, self._repeat = (max(0, first), max(0, -first)) if self._ratio > 1 else (0, 0)
        self._pooled: list[Features] = []
        self._held: Features | None = None

    def push(self, features: Features) -> None:
        """The next frames. Shape: `(frames, channels)`."""
        if not len(features):
            return
        if self._held is None:
            self._held = features[:0]
            features = np.concatenate([np.repeat(features[:1], self._repeat, axis=0), features])
        skipped = min(self._skip, len(features))
        self._skip -= skipped
        held = np.concatenate([self._held, features[skipped:]])
        whole = len(held) // self._ratio
        self._pooled.append(
            held[: whole * self._ratio].reshape(whole, self._ratio, features.shape[1]).mean(axis=1)
        )
        self._last, self._held = features[-1:], held[whole * self._ratio :]

    def finish(self, count: int) -> Features:
        """Return slower frames.

        At the ends, the outermost faster frame stands again for those that are not there.
        """
        missing = count - sum(map(len, self._pooled))
        if missing > 0 and self._held is not None:
            self.push(
                np.repeat(self._last, missing * self._ratio - len(self._held) + self._skip, axis=0)
            )
        return np.concatenate(self._pooled)[:count]


def encode_at_one_rate(
    encoder: Encoder, waveform: Waveform, modules: Sequence[int]
) -> list[Features]:
    """Features of some modules (from 1) at the last module's frame rate.

    Shape: each `(frames, channels)`.

    Of more than a block, nothing is held but what is returned.
    """
    last = len(encoder.geometries)
    wanted = sorted({*modules, last})
    pools = {
        module: ToSlowerRate(encoder.geometries[module - 1], encoder.geometries[-1])
        for module in wanted
    }
    count = 0
    for pieces in encoder.pieces(cut(waveform, encoder.block), wanted):
        for module, piece in zip(wanted, pieces, strict=True):
            pools[module].push(piece)
        count += len(pieces[-1])
    return [pools[module].finish(count) for module in modules]


def waveforms(
    data: DataDir, encoder: Encoder, *, allow_pipes: bool
) -> Iterator[tuple[str, Waveform]]:
    """Decode every utterance; an evaluation cannot do with less than all.

    Raises:
        DataError: one cannot be decoded or is too short.
    """
    for name, waveform in data.waveforms(encoder.rate, allow_pipes=allow_pipes):
        if isinstance(waveform, Exception):
            raise DataError(f"{name}: {waveform}")
        if len(waveform) < encoder.shortest:
            raise DataError(
                f"{data.path}: {name} has {len(waveform)} samples, {encoder.name} needs"
                f" {encoder.shortest}"
            )
        yield name, waveform
