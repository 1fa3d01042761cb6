"""Greedy InfoMax: a stack of modules, each trained by its own loss, none by another's."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn

from gim_audio.config import ContextConfig, ConvolutionConfig, ModelConfig, ObjectiveConfig
from gim_audio.model.layers import (
    CausalConvolutions,
    Context,
    ConvBlock,
    Geometry,
    GRUContext,
    State,
)
from gim_audio.model.objectives import Classify, InfoNCE, Score
from gim_audio.model.ranks import ALONE, Ranks

__all__ = ["GreedyInfoMax", "GreedyModule", "module_names"]


class GreedyModule(nn.Module):
    """Some convolutions, a context where it has one, and the objective that trains them.

    Args:
        encoder: convolutions; none where the module is a context on what the module below hands up.
        context: The context network; None makes the frames their own context.
        objective: scores frames and contexts, or contexts and labels.
        channels: The number of channels of its frames.

    Attributes:
        hands_up: what the module above takes: the frames; the contexts if both are contexts without convolutions.
    """

    def __init__(
        self, encoder: Sequence[ConvBlock], context: Context | None, objective: InfoNCE | Classify, channels: int
    ) -> None:
        super().__init__()
        self.encoder, self.context, self.objective = nn.Sequential(*encoder), context, objective
        self.channels = channels
        self.hands_up: Literal["frames", "contexts"] = "frames"

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, Tensor, State]:
        """Frames z, contexts c and the context's state after them.

        Shape: x `(batch, channels, frames)` → z `(batch, frames', channels')`, c `(batch, frames', width)`.
        """
        z = self.encoder(x).transpose(1, 2)  # convolutions give (batch, channels, frames)
        if self.context is None:
            return z, z, state
        c, state = self.context(z, state)
        return z, c, state

    @property
    def computes_again(self) -> bool:
        """True where the loss computes the frames that it scores again, instead of keeping a gradient of all."""
        if isinstance(self.objective, Classify) or self.context is not None:
            return False
        return len(self.encoder) == 1 and cast("ConvBlock", self.encoder[0]).narrow

    @property
    def width_up(self) -> int:
        """Channels of what the module above takes."""
        if self.hands_up == "contexts" and self.context is not None:
            return self.context.width
        return self.channels

    def up(self, z: Tensor, c: Tensor) -> Tensor:
        """Return the input of the module above, without a gradient.

        Shape: `(batch, frames, channels)` → `(batch, channels, frames)`, as convolutions want it.
        """
        return (c if self.hands_up == "contexts" else z).detach().transpose(1, 2)

    def pass_on(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the input of the module above, where this one does not learn. Shape: as `score`."""
        with torch.no_grad(), _autocast(x, dtype):
            return self.up(*self(x)[:2]) if self.hands_up == "contexts" else self.encoder(x)

    def score(
        self,
        x: Tensor,
        generator: torch.Generator,
        dtype: torch.dtype,
        ranks: Ranks = ALONE,
        labels: Tensor | None = None,
    ) -> tuple[Score, Tensor]:
        """Return the score of the module's predictions, and the input of the module above.

        Shape: x `(batch, channels, frames)` → `(batch, channels', frames')`.
        """
        if not self.computes_again:
            with _autocast(x, dtype):
                z, c, _ = self(x)
            given = (c, labels, ranks) if isinstance(self.objective, Classify) else (z, c, generator, None, ranks)
            return self.objective(*given), self.up(z, c)
        first = cast("ConvBlock", self.encoder[0])

        def frames_at(places: Tensor) -> Tensor:
            with _autocast(x, dtype):
                return first.at(x, places)

        with _autocast(x, dtype), torch.no_grad():  # the next module needs all frames, the loss a part of them
            z, c, _ = self(x)
        return self.objective(z, c, generator, frames_at, ranks), self.up(z, c)

    def frames(self, length: int) -> int:
        """Return the number of frames that `length` frames (or samples) give."""
        for block in self.encoder:
            length = cast("ConvBlock", block).frames(length)
        return length


class GreedyInfoMax(nn.Module):
    """Standardised waveform → module → module → …, with no gradient from one module to the one below.

    Example:
        >>> model = GreedyInfoMax.build(ModelConfig(), ObjectiveConfig())
        >>> sum(p.numel() for p in model.parameters())
        23143424
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        modules: Sequence[GreedyModule],
        geometries: Sequence[Geometry],
        rate: int,
        mean: float,
        deviation: float,
    ) -> None:
        super().__init__()
        self.stack = cast("Sequence[GreedyModule]", nn.ModuleList(modules))
        self.geometries = tuple(geometries)
        self.rate = rate
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("deviation", torch.tensor(deviation))

    @classmethod
    def build(cls, model: ModelConfig, objective: ObjectiveConfig) -> "GreedyInfoMax":
        """The model of a configuration, initialised by torch's global generator."""
        if model.mean == "auto" or model.deviation == "auto":
            raise ValueError("mean and deviation must be measured before a model is built")
        widths = model.widths
        blocks = [
            ConvBlock(*setting)
            for setting in zip((1, *widths), widths, model.kernels, model.strides, model.paddings, strict=False)
        ]
        cuts = [0, *model.isolate_after]
        if cuts[-1] != len(blocks):
            cuts.append(len(blocks))
        each = model.context if model.context.at == "each" else None
        parts: list[tuple[Sequence[ConvBlock], ContextConfig | None]] = [
            (blocks[start:stop], each) for start, stop in pairwise(cuts)
        ]
        if model.isolate_after and model.isolate_after[-1] == len(blocks):
            parts.append(([], model.context))  # the context is a module of its own
        else:
            parts[-1] = (parts[-1][0], model.context)
        modules: list[GreedyModule] = []
        geometries, geometry, width, grid = [], Geometry(), 1, Geometry()
        for layer in model.convolutions:
            grid = grid.then(*layer)
        for part in (*parts, *model.added):
            group: Sequence[ConvBlock]
            if isinstance(part, ConvolutionConfig):
                group, context = [ConvBlock(width, part.channels, part.kernel, part.stride, part.padding)], None
            else:
                group, context = ([], part) if isinstance(part, ContextConfig) else part
            for block in group:
                geometry, width = block.geometry(geometry), block.convolution.out_channels
            taken = width
            if not group and not modules[-1].encoder and (below := modules[-1].context):
                modules[-1].hands_up, taken = "contexts", below.width
            summary = _context(context, taken) if context else None
            own = summary.width if summary else taken
            scorer = _objective(own, taken, objective, geometry, grid)
            modules.append(GreedyModule(group, summary, scorer, taken))
            geometries.append(geometry)
        return cls(modules, geometries, model.rate, model.mean, model.deviation)

    def standardise(self, waveform: Tensor) -> Tensor:
        """Shape: samples in [-1, 1] `(batch, samples)` → `(batch, 1, samples)`."""
        return ((waveform - self.mean) / self.deviation)[:, None]

    def forward(self, waveform: Tensor, states: Sequence[State] = ()) -> tuple[list[Tensor], list[State]]:
        """The features of every module: its contexts where it has them, else its frames.

        Args:
            waveform: Shape: `(batch, samples)`.
            states: The states of the contexts after the chunk before.
        """
        x, features, after = self.standardise(waveform), [], []
        for module, state in zip(self.stack, states or [()] * len(self.stack), strict=True):
            z, c, state_after = module(x, state)
            features.append(c)
            after.append(state_after)
            x = module.up(z, c)
        return features, after

    def scores(
        self,
        x: Tensor,
        generator: Callable[[int], torch.Generator],
        dtype: torch.dtype = torch.float32,
        *,
        first: int = 1,
        last: int | None = None,
        frozen: Collection[int] = (),
        ranks: Ranks = ALONE,
        labels: Tensor | None = None,
    ) -> Iterator[tuple[int, Score | None, Tensor]]:
        """Number, score and output of each module in turn; the next one runs when it is asked for.

        Going backward in between frees a module's activations before the next one needs memory.

        Args:
            x: The input of module `first`: standardised waveforms, or what the module below hands up.
                Shape: `(batch, channels, frames)`, as the outputs.
            generator: A function of a module's number that returns the generator of its window and negatives.
            dtype: The type of convolutions, contexts and predictions. Scores are always computed in float32: they
                have no scale of their own, and in bfloat16 training diverges.
            first: module, counted from 1.
            last: module; the top one if it is not given.
            frozen: modules that are not scored.
            ranks: The processes that share the batch.
            labels: The labels of supervised objectives: see `Classify`.
        """
        for number, module in enumerate(self.stack[first - 1 : last], start=first):
            score = None
            if number in frozen:
                x = module.pass_on(x, dtype)
            else:
                score, x = module.score(x, generator(number), dtype, ranks, labels)
            yield number, score, x

    def by_layer(self) -> "GreedyInfoMax":
        """The same weights, with every convolution and every context as a module: to look inside modules.

        The objectives are those of the modules that they are from, and fit their top layers alone.
        """
        modules: list[GreedyModule] = []
        geometries, geometry = [], Geometry()
        for module in self.stack:
            channels = module.channels
            for block in cast("Iterable[ConvBlock]", module.encoder):
                geometry, channels = block.geometry(geometry), block.convolution.out_channels
                modules.append(GreedyModule([block], None, module.objective, channels))
                geometries.append(geometry)
            if module.context is not None:
                modules.append(GreedyModule([], module.context, module.objective, channels))
                modules[-1].hands_up = module.hands_up
                geometries.append(geometry)
        return GreedyInfoMax(modules, geometries, self.rate, float(self.mean), float(self.deviation))

    def features_only(self) -> dict[str, Tensor]:
        """The state dict without the objectives, which features do not need."""
        return {name: value for name, value in self.state_dict().items() if ".objective." not in name}

    def frames(self, samples: int) -> list[int]:
        """Return the number of frames that each module makes of `samples` samples."""
        counts = []
        for module in self.stack:
            samples = module.frames(samples)
            counts.append(samples)
        return counts

    @property
    def shortest(self) -> int:
        """The fewest samples of which every module makes a frame."""
        samples = 1
        while not self.frames(samples)[-1]:
            samples += 1
        return samples


def _autocast(x: Tensor, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32)


def module_names(model: GreedyInfoMax) -> list[str]:
    """Return the names of the modules, such as `conv1`, `conv2-4` or `conv5+gru`."""
    names, seen = [], 0
    for module in model.stack:
        parts = []
        if count := len(module.encoder):
            parts.append(f"conv{seen + 1}" if count == 1 else f"conv{seen + 1}-{seen + count}")
            seen += count
        if module.context is not None:
            parts.append("gru" if isinstance(module.context, GRUContext) else "causal")
        names.append("+".join(parts))
    return names


def _objective(
    width: int, channels: int, objective: ObjectiveConfig, own: Geometry, grid: Geometry
) -> InfoNCE | Classify:
    if objective.kind != "infonce":
        if objective.classes is None:
            raise ValueError("classes must be counted before a model is built")
        return Classify(width, objective.classes, own, grid)
    return InfoNCE(
        width,
        channels,
        steps_ahead=objective.steps_ahead,
        kind=objective.negatives.kind,
        number=objective.negatives.number,
        window=objective.window,
    )


def _context(config: ContextConfig, channels: int) -> Context | None:
    if config.kind == "gru":
        return GRUContext(channels, config.hidden, bptt=config.bptt)
    if config.kind == "conv":
        return CausalConvolutions(channels, config.hidden, layers=config.layers, kernel=config.kernel)
    return None
