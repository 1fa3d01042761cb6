"""Context networks: causal summaries c_t of the frames z_1 … z_t.

Shapes: B utterances, T frames, C channels, H hidden units.
"""

from abc import ABC, abstractmethod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CausalConvolutions", "Context", "GRUContext", "State"]

State = tuple[Tensor, ...]
"""The memory of a context between two pieces; empty at the beginning of an utterance."""


class Context(nn.Module, ABC):
    """A causal network on frames, which runs on a whole utterance or piece by piece.

    Attributes:
        width: The number of channels H of the contexts.
    """

    width: int

    @abstractmethod
    def forward(self, z: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Return the contexts of some frames, and the state after the last of them.

        Args:
            z: The frames, at least one. Shape: `(B, T, C)`.
            state: The state after the piece before; empty at the beginning.

        Returns:
            Contexts of shape `(B, T, H)`, and the state.
        """


class GRUContext(Context):
    """A GRU. Without `bptt`, each step treats the state before it as a constant."""

    def __init__(self, channels: int, hidden: int, *, bptt: bool) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, hidden, batch_first=True)
        self.width, self.bptt = hidden, bptt

    def forward(self, z: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """See `Context.forward`.

        A recurrence adds up rounding errors: its steps are never in bf16.
        """
        dtype = cast("Tensor", self.gru.weight_hh_l0).dtype
        with torch.autocast(z.device.type, enabled=False):
            frames = z.to(dtype)
            first = state[0].to(dtype) if state else frames.new_zeros(1, len(z), self.width)
            if self.bptt or not torch.is_grad_enabled():
                c, last = self.gru(frames, first)
            else:
                c, last = self._without_bptt(frames, first)
        return c.to(z.dtype), (last,)

    def _without_bptt(self, z: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            states, last = self.gru(z, first)
        previous = torch.cat([first.transpose(0, 1), states[:, :-1]], dim=1)
        # All states are known and constant: every step is one step of a batch of B · T.
        c, _ = self.gru(z.reshape(-1, 1, z.shape[2]), previous.reshape(1, -1, self.width))
        return c.reshape(*z.shape[:2], self.width), last


class CausalConvolutions(Context):
    """A stack of causal convolutions with residuals, a PixelCNN's counterpart in one dimension."""

    def __init__(self, channels: int, hidden: int, *, layers: int, kernel: int) -> None:
        super().__init__()
        self.width, self.kernel = hidden, kernel
        widths = [channels] + [hidden] * (layers - 1)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, hidden, kernel) for width in widths)

    def forward(self, z: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """See `Context.forward`.

        The state is the last `kernel - 1` frames that each layer has seen.
        """
        x = z.transpose(1, 2)  # convolutions take (B, C, T)
        after = []
        for layer, convolution in enumerate(self.convolutions):
            past = state[layer] if state else x.new_zeros(*x.shape[:2], self.kernel - 1)
            seen = torch.cat([past, x], dim=2)
            after.append(seen[:, :, seen.shape[2] - self.kernel + 1 :])
            y = F.relu(convolution(seen))
            x = x + y if layer else y
        return x.transpose(1, 2), tuple(after)
