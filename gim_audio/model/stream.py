"""A model that hears waveforms piece by piece, and gives the frames that it would give of whole ones."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gim_audio.model.gim import GreedyInfoMax, GreedyModule
from gim_audio.model.layers import ConvBlock, State

__all__ = ["Products", "Stream", "products"]


class Products:
    """A convolution and its ReLU, as a product for each stride's length of the kernel.

    Frames lie one after another here, (batch, frames, channels), so that a stride's length of input is a row of a
    matrix and nothing is rearranged: on a CPU that is faster than torch's convolutions, in bfloat16 several times
    (tools/bench_features.md).

    Args:
        block: the convolution.
        dtype: of products.
    """

    def __init__(self, block: ConvBlock, dtype: torch.dtype) -> None:
        convolution = block.convolution
        (kernel,), (self.stride,) = convolution.kernel_size, convolution.stride
        self.block, self.width, self.channels = block, convolution.out_channels, convolution.in_channels
        taps = convolution.weight.detach().permute(2, 1, 0).to(dtype)  # (kernel, channels, width)
        taps = torch.cat([taps, taps.new_zeros(-kernel % self.stride, *taps.shape[1:])])
        self.parts = [part.flatten(0, 1).contiguous() for part in torch.split(taps, self.stride)]
        self.strides = len(self.parts)
        if block.narrow:  # so short a row is cheaper to copy than to add to its product
            self.parts = [torch.cat(self.parts)]
        self.bias = cast("Tensor", convolution.bias).detach().to(dtype)

    def __call__(self, heard: Tensor) -> Tensor:
        """Shape: `(batch, frames, channels)`, with all padding → `(batch, frames', width)`."""
        count = self.block.frames(heard.shape[1] - 2 * int(self.block.convolution.padding[0]))
        if not count:
            return heard.new_empty(len(heard), 0, self.width)
        size = (count + self.strides - 1) * self.stride
        if heard.shape[1] < size:  # what meets the zeros that make the kernel whole strides long
            heard = F.pad(heard, (0, 0, 0, size - heard.shape[1]))
        rows = heard[:, :size].reshape(-1, self.stride * self.channels)
        y = heard.new_empty(len(rows), self.width)
        found = y[: len(rows) - self.strides + 1]  # across the ends of a batch too, which are left out below
        shifted = [rows[place : place + len(found)] for place in range(self.strides)]
        if self.block.narrow:
            shifted = [torch.cat(shifted, dim=1)]
        torch.addmm(self.bias, shifted[0], self.parts[0], out=found)
        for seen, part in zip(shifted[1:], self.parts[1:], strict=True):
            found.addmm_(seen, part)
        return F.relu(y, inplace=True).view(len(heard), -1, self.width)[:, :count]


def products(stack: Iterable[GreedyModule], dtype: torch.dtype) -> list[list[Products]]:
    """Of the convolutions of some modules; they keep the weights that these have now."""
    encoders = (cast("Sequence[ConvBlock]", module.encoder) for module in stack)
    return [[Products(block, dtype) for block in encoder] for encoder in encoders]


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
        for encoder in (shared or products(self._stack, dtype))[: len(self._stack)]:
            layers = []
            for convolution in encoder:
                valid = valid and [convolution.block.frames(length) for length in valid]
                layers.append(_Layer(convolution, valid))
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
            x = x.to(self.dtype)
            for layer in layers:
                x = layer.push(x, last=last)
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

    def __init__(self, convolution: Products, valid: Sequence[int] | None) -> None:
        self.convolution, self.padding = convolution, int(convolution.block.convolution.padding[0])
        self._past: Tensor | None = None
        self._ends = _Ends(valid)

    def push(self, x: Tensor, *, last: bool) -> Tensor:
        """Shape: `(batch, frames, channels)` → `(batch, frames', width)`."""
        edge = x.new_zeros(len(x), self.padding, x.shape[2])
        heard = torch.cat([edge if self._past is None else self._past, x, *([edge] if last else [])], dim=1)
        y = self.convolution(heard)
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
