"""Features of waveforms that come in pieces, and of several waveforms at once.

Shapes: T samples of a waveform, T' frames, C channels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gim_audio.model.module import ModuleState
from gim_audio.model.stack import GreedyInfoMax, autocast

__all__ = ["Stream", "encode_batch"]


class Stream:
    """Frames of some modules, as soon as all that they depend on has been received.

    Each layer keeps the end of its input, which its next frame needs: a piece may have any length,
    nothing is computed twice, and memory does not grow. Only what sees the whole utterance, as a
    bidirectional GRU does, waits for its end.

    Args:
        model: The model.
        modules: The numbers of the modules, from 1, in the order in which they are wanted.
        dtype: The type of products.

    Example:
        >>> from gim_audio.config import InfoNCEConfig, ModelConfig
        >>> from gim_audio.model.build import build_model
        >>> stream = Stream(build_model(ModelConfig(), InfoNCEConfig()), [6])
        >>> pieces = [stream.push(torch.zeros(8000), last=last) for last in (False, True)]
        >>> [len(frames) for (frames,) in pieces]
        [49, 51]
    """

    def __init__(
        self, model: GreedyInfoMax, modules: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> None:
        self.model, self.modules, self.dtype = model, list(modules), dtype
        self._states: list[ModuleState] | None = None
        self._waits = any(math.isinf(model.geometries[n - 1].lookahead) for n in self.modules)
        self._waiting: list[Tensor] = []

    @torch.no_grad()
    def push(self, waveform: Tensor, *, last: bool = False) -> list[Tensor]:
        """Return the frames that are new; none where too little has been received.

        Args:
            waveform: The next samples, in [-1, 1]. Shape: `(T,)`.
            last: True where the waveform ends; what is pushed next is another one.

        Returns:
            The frames of each wanted module, in float32. Shape: each `(T', C)`.
        """
        if self._waits:
            self._waiting.append(waveform)
            if not last:
                widths = [self.model.stack[n - 1].width for n in self.modules]
                return [waveform.new_zeros(0, width) for width in widths]
            waveform, self._waiting = torch.cat(self._waiting), []
        with autocast(waveform, self.dtype):
            found, states = self.model(
                waveform[None], self._states, last=last, modules=self.modules
            )
        self._states = None if last else states
        return [features[0].float() for features in found]


@torch.no_grad()
def encode_batch(
    model: GreedyInfoMax,
    waveforms: Sequence[Tensor],
    modules: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> list[list[Tensor]]:
    """Return the features of several waveforms, each as if it were alone.

    Args:
        model: The model.
        waveforms: The samples in [-1, 1], each waveform long enough for a frame of every module.
            Shape of each: `(T,)`.
        modules: The numbers of the modules, from 1, in the order in which they are wanted.
        dtype: The type of products.

    Returns:
        The features of each waveform, of each wanted module, on the device of the waveforms. Shape:
        each `(T', C)`.

    Example:
        >>> from gim_audio.config import InfoNCEConfig, ModelConfig
        >>> from gim_audio.model.build import build_model
        >>> model = build_model(ModelConfig(), InfoNCEConfig())
        >>> found = encode_batch(model, [torch.zeros(8000), torch.zeros(200)], [1, 6])
        >>> [[len(frames) for frames in each] for each in found]
        [[1599, 50], [39, 1]]
    """
    lengths = [len(waveform) for waveform in waveforms]
    padded = pad_sequence(list(waveforms), batch_first=True).to(model.mean.device)
    # oneDNN keeps a program for each shape: 2,000 short files take 0.66 GB by tenths of a second,
    # and 0.88 GB by samples.
    padded = F.pad(padded, (0, -max(lengths) % (model.rate // 10)))
    with autocast(padded, dtype):
        found, _ = model(padded, lengths=lengths, modules=modules)
    on_device = [features.float().to(waveforms[0].device) for features in found]
    counts = [model.frames(length) for length in lengths]
    return [
        [
            features[row, : count[module - 1]]
            for features, module in zip(on_device, modules, strict=True)
        ]
        for row, count in enumerate(counts)
    ]
