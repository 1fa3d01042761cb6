"""Greedy InfoMax: a stack of modules, each trained by its own loss, none by another's."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from gim_audio.config import ContextConfig, ModelConfig, ObjectiveConfig
from gim_audio.model.layers import (
    CausalConvolutions,
    Context,
    ConvBlock,
    Geometry,
    GRUContext,
    State,
    receptive_fields,
)
from gim_audio.model.objectives import InfoNCE, Score

__all__ = ["GreedyInfoMax", "GreedyModule", "module_names"]


class GreedyModule(nn.Module):
    """Some convolutions, a context where it has one, and the objective that trains them.

    Args:
        encoder: convolutions; none where the module is a context on the frames below.
        context: or None, and then the frames are their own context.
        objective: scores frames and contexts.
    """

    def __init__(self, encoder: Sequence[ConvBlock], context: Context | None, objective: InfoNCE) -> None:
        super().__init__()
        self.encoder, self.context, self.objective = nn.Sequential(*encoder), context, objective

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, Tensor, State]:
        """Frames z, contexts c and the context's state after them.

        Shape: x `(batch, channels, frames)` → z `(batch, frames', channels')`, c `(batch, frames', width)`.
        """
        z = self.encoder(x).transpose(1, 2)  # convolutions give (batch, channels, frames)
        if self.context is None:
            return z, z, state
        c, state = self.context(z, state)
        return z, c, state

    def score(self, x: Tensor, generator: torch.Generator, dtype: torch.dtype) -> tuple[Score, Tensor]:
        """How well the module predicts its frames; and the frames, without a gradient, for the next module.

        Shape: x `(batch, channels, frames)` → `(batch, frames', channels')`.
        """
        autocast = partial(torch.autocast, x.device.type, dtype=dtype, enabled=dtype != torch.float32)
        first = cast("ConvBlock", self.encoder[0]) if self.encoder else None
        if first is None or not first.narrow or len(self.encoder) > 1 or self.context is not None:
            with autocast():
                z, c, _ = self(x)
            return self.objective(z, c, generator), z.detach()

        def frames_at(places: Tensor) -> Tensor:
            with autocast():
                return first.at(x, places)

        with autocast(), torch.no_grad():  # the next module needs all frames, the loss a part of them
            z, c, _ = self(x)
        return self.objective(z, c, generator, frames_at), z

    def frames(self, length: int) -> int:
        """How many frames come of `length` frames (or samples)."""
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
        groups = [blocks[start:stop] for start, stop in pairwise(cuts)]
        contexts = [model.context.at == "each"] * len(groups)
        if model.isolate_after and model.isolate_after[-1] == len(blocks):
            groups.append([])  # the context is a module of its own
            contexts.append(True)
        contexts[-1] = True
        after = receptive_fields(model.kernels, model.strides, model.paddings)
        modules, geometries, seen = [], [], 0
        for group, has_context in zip(groups, contexts, strict=True):
            seen += len(group)
            width = widths[seen - 1]
            context = _context(model.context, width) if has_context else None
            scorer = InfoNCE(
                context.width if context else width,
                width,
                steps_ahead=objective.steps_ahead,
                kind=objective.negatives.kind,
                number=objective.negatives.number,
                window=objective.window,
            )
            modules.append(GreedyModule(group, context, scorer))
            geometries.append(after[seen - 1])
        return cls(modules, geometries, model.rate, model.mean, model.deviation)

    def standardise(self, waveform: Tensor) -> Tensor:
        """Shape: samples in [-1, 1] `(batch, samples)` → `(batch, 1, samples)`."""
        return ((waveform - self.mean) / self.deviation)[:, None]

    def forward(self, waveform: Tensor, states: Sequence[State] = ()) -> tuple[list[Tensor], list[State]]:
        """The features of every module: its contexts where it has them, else its frames.

        Args:
            waveform: Shape: `(batch, samples)`.
            states: of each module's context, from the chunk before.
        """
        x, features, after = self.standardise(waveform), [], []
        for module, state in zip(self.stack, states or [()] * len(self.stack), strict=True):
            z, c, state_after = module(x, state)
            features.append(c)
            after.append(state_after)
            x = z.detach().transpose(1, 2)
        return features, after

    def scores(
        self, waveform: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Iterator[Score]:
        """The score of each module in turn; the next one runs when it is asked for.

        Going backward in between frees a module's activations before the next one needs memory.

        Args:
            waveform: Shape: `(batch, samples)`.
            generator: of the CPU; draws windows and negatives.
            dtype: of convolutions, contexts and predictions. Scores are always computed in float32: they have no
                scale of their own, and in bfloat16 training diverges.
        """
        x = self.standardise(waveform)
        for module in self.stack:
            score, z = module.score(x, generator, dtype)
            yield score
            x = z.transpose(1, 2)  # the next module's convolutions take (batch, channels, frames)

    def frames(self, samples: int) -> list[int]:
        """How many frames each module makes of `samples` samples."""
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


def module_names(model: GreedyInfoMax) -> list[str]:
    """What each module is made of, such as `conv1`, `conv2-4` or `conv5+gru`."""
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


def _context(config: ContextConfig, channels: int) -> Context | None:
    if config.kind == "gru":
        return GRUContext(channels, config.hidden, bptt=config.bptt)
    if config.kind == "conv":
        return CausalConvolutions(channels, config.hidden, layers=config.layers, kernel=config.kernel)
    return None
