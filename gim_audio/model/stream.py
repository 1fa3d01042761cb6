"""A model that hears waveforms piece by piece, and gives the frames that it would give of whole ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from gim_audio.model.gim import GreedyInfoMax
from gim_audio.model.products import Products, Scratch, products

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
        encoders = (shared or products(self._stack, dtype))[: len(self._stack)]
        scratch = Scratch()
        rooms = iter([*(convolution.room for encoder in encoders for convolution in encoder), (0, 0)])
        self._rooms = [next(rooms)]  # below each module and above it: what the next convolution wants
        for number, encoder in enumerate(encoders):
            shown = encoder[-1:] if number + 1 in self.modules and self._stack[number].context is None else []
            layers, room = [], self._rooms[-1]
            for convolution in encoder:
                valid, room = valid and [convolution.block.frames(length) for length in valid], next(rooms)
                layers.append(_Layer(convolution, valid, room, scratch, shown=convolution in shown))
            self._layers.append(layers)
            self._rooms.append(room)

    @torch.inference_mode(mode=False)  # what it made could not be written again outside
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
        x = F.pad(x, (0, 0, *self._rooms[0])).to(self.dtype)
        self._samples.cut(_inside(x, self._rooms[0]))  # a padding of zeros is no silence until here
        found: dict[int, Tensor] = {}
        for number, (module, layers) in enumerate(zip(self._stack, self._layers, strict=True)):
            wanted, room = number + 1 in self.modules, self._rooms[number + 1]
            for layer in layers:
                x = layer.push(x, last=last)
            if not wanted and (module.context is None or module.hands_up == "frames"):
                continue
            c = _inside(x, room).float()
            if module.context is not None:
                if c.shape[1]:
                    c, self._states[number] = module.context(c, self._states[number])
                else:
                    c = c.new_empty(len(c), 0, module.context.width)
                if module.hands_up == "contexts":
                    x = F.pad(c, (0, 0, *room)).to(self.dtype)
            found[number + 1] = c
        return [found[number] for number in self.modules]


class _Layer:
    """A convolution, and as much of what it has heard as its next frame needs.

    What it hears has been written where there is room for that, and for padding, so that nothing large is copied.

    Args:
        convolution: its products.
        valid: frames of each waveform of a batch, where they differ.
        room: for what the layer above needs, before its own frames and after.
        scratch: of all layers.
        shown: whether these are given out.
    """

    def __init__(
        self,
        convolution: Products,
        valid: Sequence[int] | None,
        room: tuple[int, int],
        scratch: Scratch,
        *,
        shown: bool,
    ) -> None:
        self.convolution, self.room, self.shown = convolution, room, shown
        self._past: Tensor | None = None
        self._written, self._scratch = Scratch(), scratch
        self._ends = _Ends(valid)

    def push(self, x: Tensor, *, last: bool) -> Tensor:
        """Shape: `(batch, before + frames + after, channels)` → `(batch, before' + frames' + after', width)`."""
        before, padding = self.convolution.room
        end = x.shape[1] - padding
        if end == before and not last:  # nothing is new
            return x.new_empty(len(x), sum(self.room), self.convolution.width)
        past = x.new_zeros(len(x), padding, x.shape[2]) if self._past is None else self._past
        begin = before - past.shape[1]
        x[:, begin:before] = past
        x[:, end:] = 0
        heard = x[:, begin:] if last else x[:, begin:end]
        count = self.convolution.frames(heard.shape[1])
        shape = len(x), sum(self.room) + count, self.convolution.width
        y = x.new_empty(shape) if self.shown else self._written.take(x, *shape)
        # What a quick product loses, the layers above make little of; features would show it.
        out = _inside(y, self.room)
        self._ends.cut(self.convolution(heard, quick=not self.shown, out=out, scratch=self._scratch))
        self._past = heard[:, count * self.convolution.stride :].clone()
        return y


def _inside(x: Tensor, room: tuple[int, int]) -> Tensor:
    return x[:, room[0] : x.shape[1] - room[1]]


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
