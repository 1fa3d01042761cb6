"""The model of a configuration."""

from collections.abc import Sequence
from itertools import pairwise

from gim_audio.config import ContextConfig, ConvolutionConfig, ModelConfig, ObjectiveConfig
from gim_audio.model.contexts import (
    CausalConvolutions,
    Context,
    GRUContext,
    ResidualConvolutions,
)
from gim_audio.model.geometry import Geometry
from gim_audio.model.layers import ConvBlock
from gim_audio.model.module import GreedyModule, Output
from gim_audio.model.norms import RunningNorm, UtteranceNorm
from gim_audio.model.objectives import Place, build_objective
from gim_audio.model.stack import GreedyInfoMax

__all__ = ["build_model"]

Part = tuple[list[ConvBlock], ContextConfig | None] | ConvolutionConfig | ContextConfig
"""A module: convolutions and a context, or one of the two that is added on top."""


def build_model(
    model: ModelConfig, objective: ObjectiveConfig | Sequence[ObjectiveConfig]
) -> GreedyInfoMax:
    """Build a model, initialised by torch's global generator.

    Args:
        model: The shape of the model. Its mean and deviation are numbers, not `auto`.
        objective: The objective of every module, or one for each. Classes have been counted where
            they are phones or speakers.

    Raises:
        ConfigError: An objective or a context does not fit its place.
        ValueError: Mean, deviation or classes are missing.
    """
    if model.mean == "auto" or model.deviation == "auto":
        raise ValueError("mean and deviation must be measured before a model is built")
    if isinstance(objective, ObjectiveConfig):
        objective = [objective] * model.num_modules
    grid = Geometry()  # of the last convolution, at whose rate phones are labelled
    for layer in model.convolutions:
        grid = grid.then(*layer)
    parts = _parts(model)
    modules: list[GreedyModule] = []
    geometries, geometry = [], Geometry()
    for part, above, wanted in zip(parts, [*parts[1:], None], objective, strict=True):
        channels = modules[-1].output_width if modules else 1
        blocks: list[ConvBlock] = []
        context: ContextConfig | None = None
        if isinstance(part, tuple):
            blocks, context = part
        elif isinstance(part, ContextConfig):
            context = part
        else:
            shape = channels, part.channels, part.kernel, part.stride, part.padding
            blocks = [ConvBlock(*shape, model.norm, model.activation)]
        for block in blocks:
            geometry, channels = block.geometry(geometry), block.width
        summary = _context(context, channels, geometry.hop / model.rate) if context else None
        width = summary.width if summary else channels
        norm = _norm(context, channels) if context and summary else None
        own = geometry.with_context(norm.lookahead) if norm else geometry
        own = own.with_context(summary.lookahead) if summary else own
        place = Place(width, channels, own, grid, model.rate, summary is not None)
        scorer = build_objective(wanted, place)
        on_a_context = summary is not None and not blocks and isinstance(above, ContextConfig)
        output: Output = "contexts" if on_a_context else "frames"
        modules.append(GreedyModule(blocks, summary, scorer, channels, output, norm))
        geometries.append(own)
        geometry = own if on_a_context else geometry
    return GreedyInfoMax(
        modules, geometries, model.rate, model.mean, model.deviation, reach=model.reach
    )


def _parts(model: ModelConfig) -> list[Part]:
    """Cut the convolutions into modules where gradients are to stop, and add what comes on top."""
    widths = model.widths
    shapes = zip((1, *widths), widths, model.kernels, model.strides, model.paddings, strict=False)
    blocks = [ConvBlock(*shape, model.norm, model.activation) for shape in shapes]
    cuts = [0, *model.isolate_after]
    if cuts[-1] != len(blocks):
        cuts.append(len(blocks))
    each = model.context if model.context.at == "each" else None
    groups = [blocks[start:stop] for start, stop in pairwise(cuts)]
    parts: list[Part] = [(group, each) for group in groups]
    if model.isolate_after and model.isolate_after[-1] == len(blocks):
        parts.append(model.context)  # the context is a module of its own
    else:
        parts[-1] = groups[-1], model.context
    return [*parts, *model.added]


def _norm(config: ContextConfig, channels: int) -> UtteranceNorm | RunningNorm | None:
    """Return the normalisation of the frames before a context."""
    if config.norm == "none":
        return None
    return UtteranceNorm() if config.norm == "utterance" else RunningNorm(channels)


def _context(config: ContextConfig, channels: int, seconds: float) -> Context | None:
    """Return a context on frames; `seconds` is the time from one to the next."""
    if config.kind == "gru":
        return GRUContext(
            channels,
            config.hidden,
            bptt=config.bptt,
            stacked=config.stacked,
            bidirectional=config.bidirectional,
        )
    if config.kind == "conv":
        return CausalConvolutions(
            channels, config.hidden, layers=config.layers, kernel=config.kernel
        )
    if config.kind == "residual":
        return ResidualConvolutions(
            channels,
            config.hidden,
            layers=config.layers,
            kernel=config.kernel,
            dilations=config.dilations,
            gather=config.gather,
            lookahead=int(config.lookahead / 1000 / seconds + 1e-6),
        )
    return None
