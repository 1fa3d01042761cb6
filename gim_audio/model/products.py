"""Convolutions as matrix products, for features."""

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gim_audio.model.gim import GreedyModule
from gim_audio.model.layers import ConvBlock

__all__ = ["Products", "Scratch", "products"]

MANY = 64
"""Rows from which on the time of a product does not go into reading the weights."""


class Scratch:
    """Memory that is written again and again.

    To ask for large memory anew for each piece of a waveform, and small memory in between, would tear holes into it.
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def take(self, like: Tensor, *shape: int) -> Tensor:
        """Return memory of the type and device of another tensor, with any content; what was taken before is lost."""
        size = math.prod(shape)
        if self._memory is None or self._memory.numel() < size:
            self._memory = None  # before there is another
            self._memory = like.new_empty(size + size // 16)  # the next piece may give a frame more
        return self._memory[:size].view(shape)


class Products:
    """A convolution and its ReLU, as a product for each stride's length of the kernel.

    Frames lie one after another here, (frames, channels), so that a stride's length of input is a row of a matrix and
    nothing is rearranged: on a CPU as fast as torch's convolutions or faster (tools/bench_features.md).

    Args:
        block: the convolution.
        dtype: The type of products.

    Attributes:
        room: The most frames of the past that lie before what is heard, and of padding after.
    """

    def __init__(self, block: ConvBlock, dtype: torch.dtype) -> None:
        convolution = block.convolution
        (kernel,), (self.stride,) = convolution.kernel_size, convolution.stride
        self.block, self.width, self.channels = block, convolution.out_channels, convolution.in_channels
        taps = convolution.weight.detach().permute(2, 1, 0).to(dtype)  # (kernel, channels, width)
        taps = torch.cat([taps, taps.new_zeros(-kernel % self.stride, *taps.shape[1:])])
        self.parts = [part.flatten(0, 1).contiguous() for part in torch.split(taps, self.stride)]
        self.strides = len(self.parts)
        self.joined = block.narrow or self.strides > 2
        if self.joined:  # to copy short rows is cheaper than to add to their product; many sums lose digits in bf16
            self.parts = [torch.cat(self.parts)]
        self.pairs = len(self.parts) == 2 and dtype == torch.float32  # in bfloat16 differences would lose digits
        self.bias = cast("Tensor", convolution.bias).detach().to(dtype, copy=True)
        self.room = kernel - 1, int(convolution.padding[0])

    @cached_property
    def _both(self) -> Tensor:
        return self.parts[0] + self.parts[1]

    def frames(self, heard: int) -> int:
        """Return the number of frames that so many give, with all padding."""
        return self.block.frames(heard - 2 * self.room[1])

    def __call__(
        self, heard: Tensor, *, quick: bool = False, out: Tensor | None = None, scratch: Scratch | None = None
    ) -> Tensor:
        """Frames of what is heard, with all padding.

        Args:
            heard: Shape: `(frames, channels)`.
            quick: True for a quarter fewer products where that is possible, and several times the rounding errors.
            out: The tensor that takes them.
            scratch: The scratch memory.

        Returns:
            Shape: `(frames', width)`.
        """
        count = self.frames(len(heard))
        y = heard.new_empty(count, self.width) if out is None else out
        if not count:
            return y
        size = (count + self.strides - 1) * self.stride
        if len(heard) < size:  # what meets the zeros that make the kernel whole strides long
            heard = F.pad(heard, (0, 0, 0, size - len(heard)))
        rows = heard[:size].reshape(-1, self.stride * self.channels)
        if quick and self.pairs and len(rows) >= MANY:
            self._two_by_two(rows, y, scratch or Scratch())
        else:
            self._one_by_one(rows, y)
        return F.relu(y, inplace=True)

    def _one_by_one(self, rows: Tensor, y: Tensor) -> None:
        shifted = [rows[place : place + len(y)] for place in range(self.strides)]
        if self.joined:
            shifted = [torch.cat(shifted, dim=1)]
        torch.addmm(self.bias, shifted[0], self.parts[0], out=y)
        for seen, part in zip(shifted[1:], self.parts[1:], strict=True):
            y.addmm_(seen, part)

    def _two_by_two(self, rows: Tensor, y: Tensor, scratch: Scratch) -> None:
        """Two frames with three products instead of four, Winograd's F(2, 2) for the two parts A and B.

        y_0 = A x_0 + B x_1 = (A + B) x_1 + A (x_0 - x_1) and y_1 = A x_1 + B x_2 = (A + B) x_1 - B (x_1 - x_2).
        """
        x_0, x_1, x_2 = rows[:-1:2], rows[1::2], rows[2::2]
        shared, pairs = torch.addmm(self.bias, x_1, self._both), len(x_2)
        apart = scratch.take(rows, *x_1.shape)
        torch.addmm(shared, torch.sub(x_0, x_1, out=apart), self.parts[0], out=y[::2])
        apart = torch.sub(x_1[:pairs], x_2, out=apart[:pairs])
        torch.addmm(shared[:pairs], apart, self.parts[1], alpha=-1, out=y[1::2])


def products(stack: Iterable[GreedyModule], dtype: torch.dtype) -> list[list[Products]]:
    """Return the products of the convolutions of some modules, with the weights that these have now."""
    encoders = (cast("Sequence[ConvBlock]", module.encoder) for module in stack)
    return [[Products(block, dtype) for block in encoder] for encoder in encoders]
