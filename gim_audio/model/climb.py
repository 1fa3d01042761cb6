"""Samples climb the layers of a model, and frames come out where they are wanted."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gim_audio.model.gim import GreedyInfoMax
from gim_audio.model.layers import Context
from gim_audio.model.products import Products, Scratch, products

__all__ = ["Climb"]


class Climb(ABC):
    """A model, prepared to give features of some modules; its large memory is kept from one piece to the next.

    Args:
        model: The model.
        modules: numbers from 1, in the order in which they are wanted.
        dtype: The type of products.
        shared: `products` of its modules in that type, where they are there already.
    """

    def __init__(
        self,
        model: GreedyInfoMax,
        modules: Sequence[int],
        dtype: torch.dtype = torch.float32,
        shared: list[list[Products]] | None = None,
    ) -> None:
        self.model, self.modules, self.dtype = model, list(modules), dtype
        self.stack = list(model.stack)[: max(modules)]
        self.encoders = (shared or products(self.stack, dtype))[: len(self.stack)]
        scratch = Scratch()
        rooms = iter([*(convolution.room for encoder in self.encoders for convolution in encoder), (0, 0)])
        self._rooms = [next(rooms)]  # below each module and above it: what the next convolution wants
        self._layers: list[list[_Layer]] = []
        for number, (module, encoder) in enumerate(zip(self.stack, self.encoders, strict=True), start=1):
            shown = encoder[-1:] if number in self.modules and module.context is None else []
            room, layers = self._rooms[-1], []
            for convolution in encoder:
                room = next(rooms)
                layers.append(_Layer(convolution, room, scratch, shown=convolution in shown))
            self._layers.append(layers)
            self._rooms.append(room)

    @torch.inference_mode(mode=False)  # what it made could not be written again outside
    @torch.no_grad()
    def _climb(self, waveform: Tensor, *, last: bool) -> list[Tensor]:
        """The frames that are new, of each wanted module. Shape: `(samples,)` → each `(frames, channels)`."""
        x = self.model.standardise(waveform[None])[0].T  # (samples, 1): frames come first here
        x = F.pad(x, (0, 0, *self._rooms[0])).to(self.dtype)
        self._ends(0, _inside(x, self._rooms[0]))
        found: dict[int, Tensor] = {}
        level = 0  # convolutions below
        for number, (module, layers, room) in enumerate(zip(self.stack, self._layers, self._rooms[1:], strict=True)):
            for layer in layers:
                x, level = layer.push(x, last=last), level + 1
                self._ends(level, _inside(x, layer.room))
            wanted = number + 1 in self.modules
            if not wanted and (module.context is None or module.hands_up == "frames"):
                continue
            c = _inside(x, room).float()
            if module.context is not None:
                c = self._contexts(module.context, level, c)
                if module.hands_up == "contexts":
                    x = F.pad(c, (0, 0, *room)).to(self.dtype)
            found[number + 1] = c
        return [found[number] for number in self.modules]

    @abstractmethod
    def _ends(self, level: int, frames: Tensor) -> None:
        """Zeros, in place, for what is no frame of a waveform, above so many convolutions."""

    @abstractmethod
    def _contexts(self, context: Context, level: int, frames: Tensor) -> Tensor:
        """Return what a module adds to its frames. Shape: `(frames, channels)` → `(frames, width)`."""


class _Layer:
    """A convolution, and as much of what it has heard as its next frame needs.

    What it hears has been written where there is room for that, and for padding, so that nothing large is copied.

    Args:
        convolution: The products of the convolution.
        room: The frames that the layer above needs before its own frames and after.
        scratch: The scratch memory of all layers.
        shown: True where these frames are given out.
    """

    def __init__(self, convolution: Products, room: tuple[int, int], scratch: Scratch, *, shown: bool) -> None:
        self.convolution, self.room, self.shown = convolution, room, shown
        self._past: Tensor | None = None
        self._written, self._scratch = Scratch(), scratch

    def push(self, x: Tensor, *, last: bool) -> Tensor:
        """Shape: `(before + frames + after, channels)` → `(before' + frames' + after', width)`."""
        before, padding = self.convolution.room
        end = len(x) - padding
        if end == before and not last:  # nothing is new
            return x.new_empty(sum(self.room), self.convolution.width)
        past = x.new_zeros(padding, x.shape[1]) if self._past is None else self._past
        begin = before - len(past)
        x[begin:before] = past
        x[end:] = 0
        heard = x[begin:] if last else x[begin:end]
        count = self.convolution.frames(len(heard))
        shape = sum(self.room) + count, self.convolution.width
        y = x.new_empty(shape) if self.shown else self._written.take(x, *shape)
        # What a quick product loses, the layers above make little of; features would show it.
        self.convolution(heard, quick=not self.shown, out=_inside(y, self.room), scratch=self._scratch)
        self._past = None if last else heard[count * self.convolution.stride :].clone()
        return y


def _inside(x: Tensor, room: tuple[int, int]) -> Tensor:
    return x[room[0] : len(x) - room[1]]
