"""A model that hears waveforms piece by piece, and gives the frames that it would give of whole ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gim_audio.model.gim import GreedyInfoMax
from gim_audio.model.products import Products, products

if TYPE_CHECKING:
    from gim_audio.model.layers import State

__all__ = ["Stream"]


class Stream:
    """Frames of some modules, as soon as all that they depend on has been heard.

    Each convolution keeps the end of its input, which its next frame needs, and each context its state: a piece may
    have any length, nothing is computed twice, and memory does not grow.

    Args:
        model: whose frames.
        modules: numbers from 1, in the order in which they are wanted.
        lengths: samples of each waveform of a batch, where they differ; what is beyond counts as not there.
        dtype: of products.
        shared: `products` of its modules in that type, where there are several streams.

    Example:
        >>> from gim_audio.config import ModelConfig, ObjectiveConfig
        >>> stream = Stream(GreedyInfoMax.build(ModelConfig(), ObjectiveConfig()), [6])
        >>> pieces = [stream.push(torch.zeros(1, 8000), last=last) for last in (False, True)]
        >>> [frames.shape[1] for (frames,) in pieces]
        [49, 51]
    """

    def __init__(
        self,
        model: GreedyInfoMax,
        modules: Sequence[int],
        lengths: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        shared: list[list[Products]] | None = None,
    ) -> None:
        self.model, self.modules, self.dtype = model, list(modules), dtype
        self._stack = list(model.stack)[: max(modules)]
        self._states: list[State] = [()] * len(self._stack)
        self._layers: list[list[_Layer]] = []
        valid = list(lengths) if lengths is not None and len(set(lengths)) > 1 else None
        self._samples = _Ends(valid)
        for number, encoder in enumerate((shared or products(self._stack, dtype))[: len(self._stack)]):
            # What a quick product loses, the layers above make little of; features would show it.
            shown = encoder[-1:] if number + 1 in self.modules and self._stack[number].context is None else []
            layers = []
            for convolution in encoder:
                valid = valid and [convolution.block.frames(length) for length in valid]
                layers.append(_Layer(convolution, valid, quick=convolution not in shown))
            self._layers.append(layers)

    @torch.no_grad()
    def push(self, waveform: Tensor, *, last: bool = False) -> list[Tensor]:
        """The frames that are new; none where too little has been heard.

        Args:
            waveform: in [-1, 1]. Shape: `(batch, samples)`.
            last: nothing follows; the stream is over then.

        Returns:
            Of each wanted module. Shape: `(batch, frames, channels)`.
        """
        x = self.model.standardise(waveform).transpose(1, 2)  # (batch, samples, 1): frames come first here
        x = self._samples.cut(x)  # a padding of zeros is no silence until here
        found: dict[int, Tensor] = {}
        for number, (module, layers) in enumerate(zip(self._stack, self._layers, strict=True)):
            wanted = number + 1 in self.modules
            for layer in layers:
                x = layer.push(x.to(self.dtype), last=last)
            if not wanted and (module.context is None or module.hands_up == "frames"):
                continue
            c = x.float()
            if module.context is not None:
                if c.shape[1]:
                    c, self._states[number] = module.context(c, self._states[number])
                else:
                    c = c.new_empty(len(c), 0, module.context.width)
                if module.hands_up == "contexts":
                    x = c
            found[number + 1] = c
        return [found[number] for number in self.modules]


class _Layer:
    """A convolution, and as much of what it has heard as its next frame needs."""

    def __init__(self, convolution: Products, valid: Sequence[int] | None, *, quick: bool) -> None:
        self.convolution, self.quick = convolution, quick
        self.padding = int(convolution.block.convolution.padding[0])
        self._past: Tensor | None = None
        self._ends = _Ends(valid)

    def push(self, x: Tensor, *, last: bool) -> Tensor:
        """Shape: `(batch, frames, channels)` → `(batch, frames', width)`."""
        edge = x.new_zeros(len(x), self.padding, x.shape[2])
        heard = torch.cat([edge if self._past is None else self._past, x, *([edge] if last else [])], dim=1)
        y = self.convolution(heard, quick=self.quick)
        self._past = heard[:, y.shape[1] * self.convolution.stride :].clone()
        return self._ends.cut(y)


class _Ends:
    """Where the waveforms of a batch end, in the frames of one layer."""

    def __init__(self, valid: Sequence[int] | None) -> None:
        self._valid = torch.tensor(valid) if valid else None
        self._given = 0

    def cut(self, x: Tensor) -> Tensor:
        """The next frames, in place, with zeros after the ends. Shape: `(batch, frames, channels)`."""
        first, self._given = self._given, self._given + x.shape[1]
        if self._valid is not None and (shortest := int(self._valid.min())) < self._given:
            begin = max(first, shortest)
            beyond = torch.arange(begin, self._given) >= self._valid[:, None]
            x[:, begin - first :].masked_fill_(beyond[:, :, None].to(x.device), 0)
        return x
