"""Convolutions as matrix products, for features."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gim_audio.model.gim import GreedyModule
from gim_audio.model.layers import ConvBlock

__all__ = ["Products", "products"]


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
        self.bias = cast("Tensor", convolution.bias).detach().to(dtype, copy=True)

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
        if self.joined:
            shifted = [torch.cat(shifted, dim=1)]
        torch.addmm(self.bias, shifted[0], self.parts[0], out=found)
        for seen, part in zip(shifted[1:], self.parts[1:], strict=True):
            found.addmm_(seen, part)
        return F.relu(y, inplace=True).view(len(heard), -1, self.width)[:, :count]


def products(stack: Iterable[GreedyModule], dtype: torch.dtype) -> list[list[Products]]:
    """Of the convolutions of some modules; they keep the weights that these have now."""
    encoders = (cast("Sequence[ConvBlock]", module.encoder) for module in stack)
    return [[Products(block, dtype) for block in encoder] for encoder in encoders]
