"""Strided convolutions and contexts, and their geometry, derived once from kernels, strides and paddings."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gim_audio.model.gradients import Recurrence, recur

__all__ = ["CausalConvolutions", "Context", "ConvBlock", "GRUContext", "Geometry"]

NARROW = 32
"""Numbers in a frame's receptive field."""


@dataclass(frozen=True)
class Geometry:
    """The samples that a frame has seen.

    Frame i depends on the samples from `start + i * hop` up to and without `start + i * hop + receptive_field`;
    those before the first and after the last sample are zeros.
    """

    hop: int = 1
    start: int = 0
    receptive_field: int = 1

    @property
    def centre(self) -> float:
        """Sample on which frame 0 is centred; frame i is centred on `centre + i * hop`."""
        return self.start + (self.receptive_field - 1) / 2

    def under(self, slower: "Geometry") -> tuple[int, int]:
        """First and number of those of its frames whose middle lies nearest to the centre of a slower frame 0.

        For frame i of the slower ones, they are as many, from first + i · number on.
        """
        ratio = slower.hop // self.hop
        return round((slower.centre - self.centre) / self.hop - (ratio - 1) / 2), ratio

    def then(self, kernel: int, stride: int, padding: int) -> "Geometry":
        """The geometry after one more convolution."""
        return Geometry(
            hop=self.hop * stride,
            start=self.start - padding * self.hop,
            receptive_field=self.receptive_field + (kernel - 1) * self.hop,
        )


class ConvBlock(nn.Module):
    """Conv1d and ReLU.

    Shape: `(batch, channels, frames)` → `(batch, width, (frames + 2 padding - kernel) // stride + 1)`.
    """

    def __init__(self, channels: int, width: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(channels, width, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.relu(self.convolution(x), inplace=True)

    @property
    def narrow(self) -> bool:
        """True where a frame comes of so few numbers that to compute it again costs less than to keep its gradient."""
        return self.convolution.in_channels * self.convolution.kernel_size[0] <= NARROW

    def at(self, x: Tensor, places: Tensor) -> Tensor:
        """The frames b · frames + t of the whole pass, each from its receptive field alone.

        Shape: x `(batch, channels, frames)`, places `(n,)` → `(n, width)`.
        """
        (kernel,), (stride,) = self.convolution.kernel_size, self.convolution.stride
        padding = int(self.convolution.padding[0])
        fields = F.pad(x, (padding, padding)).unfold(2, kernel, stride)  # (batch, channels, frames, kernel)
        seen = fields.transpose(1, 2).reshape(-1, x.shape[1] * kernel)[places]
        return F.relu(F.linear(seen, self.convolution.weight.flatten(1), self.convolution.bias), inplace=True)

    def geometry(self, below: Geometry) -> Geometry:
        """Return the geometry of its frames, on frames of the geometry `below`."""
        (kernel,), (stride,) = self.convolution.kernel_size, self.convolution.stride
        return below.then(kernel, stride, int(self.convolution.padding[0]))

    def frames(self, length: int) -> int:
        """Return the number of frames that `length` frames (or samples) give; 0 where there are too few."""
        (kernel,), (stride,) = self.convolution.kernel_size, self.convolution.stride
        padded = length + 2 * int(self.convolution.padding[0])
        return (padded - kernel) // stride + 1 if padded >= kernel else 0


State = tuple[Tensor, ...]


class Context(nn.Module, ABC):
    """A causal summary c_t of z_1 … z_t. The state carries it across chunks of one utterance.

    Shape: frames `(batch, frames, channels)` → contexts `(batch, frames, hidden)`.
    """

    width: int

    @abstractmethod
    def forward(self, z: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Contexts and the state after the last frame; an empty state is the beginning."""


class GRUContext(Context):
    """A GRU. Without `bptt`, each step treats the previous state as a constant."""

    def __init__(self, channels: int, hidden: int, *, bptt: bool) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, hidden, batch_first=True)
        self.width, self.bptt = hidden, bptt

    def forward(self, z: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """See `Context.forward`."""
        first = state[0] if state else z.new_zeros(1, len(z), self.width)
        if self.bptt or not torch.is_grad_enabled():
            return self._run(z, first)
        with torch.no_grad():
            states, last = self._run(z, first)
        previous = torch.cat([first.transpose(0, 1), states[:, :-1]], dim=1)
        # All states are known and constant: every step is one step of a batch of (batch · frames).
        with torch.autocast(z.device.type, enabled=False):
            c, _ = self.gru(z.reshape(-1, 1, z.shape[2]).float(), previous.reshape(1, -1, self.width).float())
        return c.reshape(*z.shape[:2], self.width).to(z.dtype), last

    def _run(self, z: Tensor, first: Tensor) -> tuple[Tensor, State]:
        """Run in the type of the weights (float32), though a CPU projects the inputs in autocast's precision."""
        gru, dtype = self.gru, cast("Tensor", self.gru.weight_hh_l0).dtype
        if z.device.type != "cpu" or dtype != torch.float32:
            with torch.autocast(z.device.type, enabled=False):
                c, last = gru(z.to(dtype), first.to(dtype))
            return c.to(z.dtype), (last,)
        projected = F.linear(z, cast("Tensor", gru.weight_ih_l0), cast("Tensor", gru.bias_ih_l0)).float()
        with torch.autocast("cpu", enabled=False):
            inputs, weights = projected.transpose(0, 1), (gru.weight_hh_l0, gru.bias_hh_l0)  # (frames, batch, …)
            given = inputs, first[0].float(), *cast("tuple[Tensor, Tensor]", weights)
            states = Recurrence.apply(*given) if torch.is_grad_enabled() else recur(*given, keep=False)[0]
        return states.transpose(0, 1).to(z.dtype), (states[-1:],)


class CausalConvolutions(Context):
    """A stack of causal convolutions with residuals, the counterpart of a PixelCNN in one dimension."""

    def __init__(self, channels: int, hidden: int, *, layers: int, kernel: int) -> None:
        super().__init__()
        self.width, self.kernel = hidden, kernel
        widths = [channels] + [hidden] * (layers - 1)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, hidden, kernel) for width in widths)

    def forward(self, z: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """See `Context.forward`."""
        x = z.transpose(1, 2)  # convolutions take (batch, channels, frames)
        after = []
        for layer, convolution in enumerate(self.convolutions):
            past = state[layer] if state else x.new_zeros(*x.shape[:2], self.kernel - 1)
            seen = torch.cat([past, x], dim=2)
            after.append(seen[:, :, seen.shape[2] - self.kernel + 1 :])
            y = F.relu(convolution(seen))
            x = x + y if layer else y
        return x.transpose(1, 2), tuple(after)  # back to (batch, frames, hidden)
