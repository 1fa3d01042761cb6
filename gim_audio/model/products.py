"""Convolutions as matrix products, for features."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gim_audio.model.gim import GreedyModule
from gim_audio.model.layers import ConvBlock

__all__ = ["Products", "products"]

MANY = 64
"""Rows from which on the time of a product does not go into reading the weights."""


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
        self.joined = block.narrow or self.strides > 2
        if self.joined:  # to copy short rows is cheaper than to add to their product; many sums lose digits in bf16
            self.parts = [torch.cat(self.parts)]
        self.pairs = len(self.parts) == 2 and dtype == torch.float32  # in bfloat16 differences would lose digits
        self.bias = cast("Tensor", convolution.bias).detach().to(dtype, copy=True)

    @cached_property
    def _both(self) -> Tensor:
        return self.parts[0] + self.parts[1]

    def __call__(self, heard: Tensor, *, quick: bool = False) -> Tensor:
        """Frames of what is heard, with all padding.

        Args:
            heard: Shape: `(batch, frames, channels)`.
            quick: with a quarter fewer products where that is possible, and several times the rounding errors.

        Returns:
            Shape: `(batch, frames', width)`.
        """
        count = self.block.frames(heard.shape[1] - 2 * int(self.block.convolution.padding[0]))
        if not count:
            return heard.new_empty(len(heard), 0, self.width)
        size = (count + self.strides - 1) * self.stride
        if heard.shape[1] < size:  # what meets the zeros that make the kernel whole strides long
            heard = F.pad(heard, (0, 0, 0, size - heard.shape[1]))
        rows = heard[:, :size].reshape(-1, self.stride * self.channels)
        y = heard.new_empty(len(rows), self.width)  # across the ends of a batch too, which are left out below
        if quick and self.pairs and len(rows) >= MANY:
            self._two_by_two(rows, y[:-1])
        else:
            self._one_by_one(rows, y[: len(rows) - self.strides + 1])
        return F.relu(y, inplace=True).view(len(heard), -1, self.width)[:, :count]

    def _one_by_one(self, rows: Tensor, y: Tensor) -> None:
        shifted = [rows[place : place + len(y)] for place in range(self.strides)]
        if self.joined:
            shifted = [torch.cat(shifted, dim=1)]
        torch.addmm(self.bias, shifted[0], self.parts[0], out=y)
        for seen, part in zip(shifted[1:], self.parts[1:], strict=True):
            y.addmm_(seen, part)

    def _two_by_two(self, rows: Tensor, y: Tensor) -> None:
        """Two frames with three products instead of four, Winograd's F(2, 2) for the two parts A and B.

        y_0 = A x_0 + B x_1 = (A + B) x_1 + A (x_0 - x_1) and y_1 = A x_1 + B x_2 = (A + B) x_1 - B (x_1 - x_2).
        """
        x_0, x_1, x_2 = rows[:-1:2], rows[1::2], rows[2::2]
        shared, pairs = torch.addmm(self.bias, x_1, self._both), len(x_2)
        torch.addmm(shared, x_0 - x_1, self.parts[0], out=y[::2])
        torch.addmm(shared[:pairs], x_1[:pairs] - x_2, self.parts[1], alpha=-1, out=y[1::2])


def products(stack: Iterable[GreedyModule], dtype: torch.dtype) -> list[list[Products]]:
    """Of the convolutions of some modules; they keep the weights that these have now."""
    encoders = (cast("Sequence[ConvBlock]", module.encoder) for module in stack)
    return [[Products(block, dtype) for block in encoder] for encoder in encoders]
