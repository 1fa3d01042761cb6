"""Several waveforms at once: one after another in a line, so that nothing is padded to the longest."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gim_audio.model.climb import Climb
from gim_audio.model.layers import Context

__all__ = ["Batch"]


class Batch(Climb):
    """Frames of waveforms of any lengths, each as if it were alone.

    In the line each begins at a multiple of the modules' hop, so that every frame falls where it falls in the waveform
    alone. Between two of them is what the widest padding needs, and at each layer it is set to zero again.

    Args: see `Climb`.

    Example:
        >>> from gim_audio.config import ModelConfig, ObjectiveConfig
        >>> from gim_audio.model.gim import GreedyInfoMax
        >>> batch = Batch(GreedyInfoMax.build(ModelConfig(), ObjectiveConfig()), [1, 6])
        >>> [[len(frames) for frames in each] for each in batch([torch.zeros(8000), torch.zeros(200)])]
        [[1599, 50], [39, 1]]
    """

    _places: list[list[tuple[int, int]]]
    """Above each number of convolutions: where the frames of each waveform begin in the line, and end."""

    def __call__(self, waveforms: Sequence[Tensor]) -> list[list[Tensor]]:
        """Features, on the device of the waveforms.

        Args:
            waveforms: The samples in [-1, 1], each waveform long enough for a frame of every module. Shape: each
                `(samples,)`.

        Returns:
            Of each waveform, of each wanted module. Shape: `(frames, channels)`.
        """
        size = self._lay_out([len(waveform) for waveform in waveforms])
        line = waveforms[0].new_zeros(size)
        for waveform, (begin, end) in zip(waveforms, self._places[0], strict=True):
            line[begin:end] = waveform
        found = self._climb(line.to(self.model.mean.device), last=True)
        found = [features.to(line.device) for features in found]
        levels = list(accumulate(len(encoder) for encoder in self.encoders))
        places = [self._places[levels[module - 1]] for module in self.modules]
        return [
            [features[begin:end] for features, (begin, end) in zip(found, of_it, strict=True)]
            for of_it in zip(*places, strict=True)
        ]

    def _lay_out(self, lengths: list[int]) -> int:
        """Find places for waveforms of these lengths; the samples of the line."""
        hop, counts, hops = 1, [lengths], [1]
        needed = [0] * len(lengths)
        for convolution in (convolution for encoder in self.encoders for convolution in encoder):
            padding = convolution.room[1]
            needed = [max(n, (count + padding) * hop) for n, count in zip(needed, counts[-1], strict=True)]
            hop *= convolution.stride
            hops.append(hop)
            counts.append([convolution.block.frames(count) for count in counts[-1]])
        *begins, size = accumulate((-(-n // hop) * hop for n in needed), initial=0)
        self._places = [
            [(begin // hop, begin // hop + count) for begin, count in zip(begins, above, strict=True)]
            for hop, above in zip(hops, counts, strict=True)
        ]
        return size

    def _ends(self, level: int, frames: Tensor) -> None:
        between = torch.ones(len(frames), dtype=torch.bool)
        for begin, end in self._places[level]:
            between[begin:end] = False
        frames.index_fill_(0, between.nonzero()[:, 0].to(frames.device), 0)

    def _contexts(self, context: Context, level: int, frames: Tensor) -> Tensor:
        places = self._places[level]
        together = pad_sequence([frames[begin:end] for begin, end in places], batch_first=True)
        contexts, _ = context(together)
        line = frames.new_zeros(len(frames), context.width)
        for row, (begin, end) in zip(contexts, places, strict=True):
            line[begin:end] = row[: end - begin]
        return line
