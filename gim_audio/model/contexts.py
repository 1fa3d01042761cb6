"""Context networks: summaries c_t of the frames z_1 … z_t, or of some frames after z_t too.

Shapes: B utterances, T frames, C channels, H hidden units.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gim_audio.errors import ConfigError
from gim_audio.model.layers import zero_beyond

__all__ = ["CausalConvolutions", "Context", "GRUContext", "ResidualConvolutions", "State"]

State = tuple[Tensor, ...]
"""The memory of a context between two pieces; empty at the beginning of an utterance."""


class Context(nn.Module, ABC):
    """A network on frames, which runs on a whole utterance or piece by piece.

    Attributes:
        width: The number of channels H of the contexts.
        lookahead: The number of frames after its own that a context depends on; infinite where it
            depends on all, so that there are no pieces.
    """

    width: int
    lookahead: float = 0

    @abstractmethod
    def forward(
        self,
        z: Tensor,
        state: State = (),
        *,
        last: bool = True,
        lengths: Sequence[int] | None = None,
    ) -> tuple[Tensor, State]:
        """Return the contexts that some frames complete, and the state after the last of them.

        Args:
            z: The frames; at least one, unless there is a state. Shape: `(B, T, C)`.
            state: The state after the piece before; empty at the beginning.
            last: True where the utterances end with this piece.
            lengths: The number of frames of each utterance in a padded batch, which has zeros
                beyond them and is one piece; None if all have T.

        Returns:
            Contexts of shape `(B, T', H)`, and the state. T' is T for a whole utterance; before
            the last piece, contexts that look ahead are `lookahead` frames late. Beyond `lengths`
            contexts have no meaning.
        """


class GRUContext(Context):
    """GRUs on one another. Without `bptt`, each step treats the state before it as a constant.

    Args:
        channels: The number of channels C of the frames.
        hidden: The number of channels H of the contexts.
        bptt: True to propagate gradients through time.
        stacked: The number of GRUs.
        bidirectional: True for a second GRU beside each that runs backwards; each has H / 2 units.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        bptt: bool,
        stacked: int = 1,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        units = hidden // 2 if bidirectional else hidden
        self.gru = nn.GRU(channels, units, stacked, batch_first=True, bidirectional=bidirectional)
        self.width, self.bptt = hidden, bptt
        self.lookahead = math.inf if bidirectional else 0

    def forward(
        self,
        z: Tensor,
        state: State = (),
        *,
        last: bool = True,
        lengths: Sequence[int] | None = None,
    ) -> tuple[Tensor, State]:
        """See `Context.forward`.

        A recurrence adds up rounding errors: its steps are never in bf16.

        Raises:
            ValueError: A bidirectional GRU is given a piece.
        """
        if self.gru.bidirectional and (state or not last):
            raise ValueError("a bidirectional context needs whole utterances")
        if not z.shape[1]:
            return z.new_zeros(len(z), 0, self.width), state
        dtype = cast("Tensor", self.gru.weight_hh_l0).dtype
        with torch.autocast(z.device.type, enabled=False):
            frames = z.to(dtype)
            if self.gru.bidirectional and lengths is not None:
                counts = torch.tensor(lengths).clamp(min=1)
                packed = pack_padded_sequence(
                    frames, counts, batch_first=True, enforce_sorted=False
                )
                c, _ = pad_packed_sequence(
                    self.gru(packed)[0], batch_first=True, total_length=z.shape[1]
                )
                return c.to(z.dtype), ()
            directions = self.gru.num_layers * (2 if self.gru.bidirectional else 1)
            first = frames.new_zeros(directions, len(z), self.gru.hidden_size)
            first = state[0].to(dtype) if state else first
            if self.bptt or not torch.is_grad_enabled():
                c, after = self.gru(frames, first)
            else:
                c, after = self._without_bptt(frames, first)
        return c.to(z.dtype), (after,)

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

    def forward(
        self,
        z: Tensor,
        state: State = (),
        *,
        last: bool = True,  # noqa: ARG002 - nothing is held back
        lengths: Sequence[int] | None = None,  # noqa: ARG002 - what follows is not seen
    ) -> tuple[Tensor, State]:
        """See `Context.forward`.

        The state is the last `kernel - 1` frames that each layer has seen.
        """
        if not z.shape[1]:
            return z.new_zeros(len(z), 0, self.width), state
        x = z.transpose(1, 2)  # convolutions take (B, C, T)
        after = []
        for layer, convolution in enumerate(self.convolutions):
            past = state[layer] if state else x.new_zeros(*x.shape[:2], self.kernel - 1)
            seen = torch.cat([past, x], dim=2)
            after.append(seen[:, :, seen.shape[2] - self.kernel + 1 :])
            y = F.relu(convolution(seen))
            x = x + y if layer else y
        return x.transpose(1, 2), tuple(after)


class ResidualConvolutions(Context):
    """Dilated convolutions with residuals, some of whose frames may lie ahead.

    x_0 = V z, and layer l adds GELU(W_l * norm(x_{l-1})), as in WaveNet (van den Oord et al. 2016)
    without gates. The norm is over the channels of a frame, so that a stream gives the same
    features as the whole.

    Args:
        channels: The number of channels C of the frames.
        hidden: The number of channels H of the contexts.
        layers: The number of convolutions.
        kernel: The number of frames that each sees.
        dilations: The distances between these frames, layer by layer, and from the first again.
        lookahead: The frames ahead that contexts may depend on. Layers look as far ahead as back,
            from the bottom up, until these are used up; those above are causal.
        gather: The layers, from 1, whose outputs are the contexts, beside each other; the last is
            one of them, and alone if none are named.

    Raises:
        ConfigError: The layers cannot look so far ahead.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        layers: int,
        kernel: int,
        dilations: Sequence[int],
        lookahead: int,
        gather: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.gather = list(gather) or [layers]
        self.width, self.lookahead = hidden * len(self.gather), lookahead
        self.expand = nn.Linear(channels, hidden)
        convolutions, self.ahead = [], list[int]()
        for layer in range(layers):
            dilation = dilations[layer % len(dilations)]
            convolutions.append(nn.Conv1d(hidden, hidden, kernel, dilation=dilation))
            self.ahead.append(min(lookahead, (kernel - 1) * dilation // 2))
            lookahead -= self.ahead[-1]
        if lookahead:
            raise ConfigError(
                f"model.context.lookahead: these layers look at most {sum(self.ahead)} frames"
                f" ahead, not {self.lookahead}"
            )
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))

    def forward(
        self,
        z: Tensor,
        state: State = (),
        *,
        last: bool = True,
        lengths: Sequence[int] | None = None,
    ) -> tuple[Tensor, State]:
        """See `Context.forward`.

        The state has two tensors for each layer: normalised frames that its next convolution sees,
        and frames that are held back until it has seen enough. What is gathered follows: outputs
        that wait for those of the last layer.
        """
        x, after, outputs = self.expand(z), list[Tensor](), list[Tensor]()
        layers = zip(self.convolutions, self.norms, self.ahead, strict=True)
        for layer, (convolution, norm, ahead) in enumerate(layers):
            conv = cast("nn.Conv1d", convolution)
            reach = (conv.kernel_size[0] - 1) * conv.dilation[0]
            y = zero_beyond(norm(x), lengths).to(x.dtype).transpose(1, 2)  # convolutions: (B, C, T)
            past = state[2 * layer] if state else y.new_zeros(*y.shape[:2], reach - ahead)
            ends = y.new_zeros(*y.shape[:2], ahead if last else 0)
            seen = torch.cat([past, y, ends], dim=2)
            held = torch.cat([state[2 * layer + 1], x], dim=1) if state else x
            count = max(0, seen.shape[2] - reach)
            after += [seen[:, :, count:].clone(), held[:, count:].clone()]
            x = held[:, :count]
            if count:
                x = x + F.gelu(conv(seen)).transpose(1, 2)
            if layer + 1 in self.gather:
                outputs.append(x)
        if len(outputs) > 1:
            waited = state[2 * len(self.ahead) :] or [x[:, :0]] * len(outputs)
            known = [torch.cat(pair, dim=1) for pair in zip(waited, outputs, strict=True)]
            after += [each[:, x.shape[1] :].clone() for each in known]
            x = torch.cat([each[:, : x.shape[1]] for each in known], dim=2)
        return x, () if last else tuple(after)
