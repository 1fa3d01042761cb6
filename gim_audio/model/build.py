"""The model of a configuration."""

from itertools import pairwise

from gim_audio.config import ContextConfig, ConvolutionConfig, ModelConfig, ObjectiveConfig
from gim_audio.model.contexts import CausalConvolutions, Context, GRUContext
from gim_audio.model.geometry import Geometry
from gim_audio.model.layers import ConvBlock
from gim_audio.model.module import GreedyModule, Output
from gim_audio.model.objectives import Classify, InfoNCE, Objective
from gim_audio.model.sampling import Sampler
from gim_audio.model.stack import GreedyInfoMax

__all__ = ["build_model"]

Part = tuple[list[ConvBlock], ContextConfig | None] | ConvolutionConfig | ContextConfig
"""A module: convolutions and a context, or one of the two that is added on top."""


def build_model(model: ModelConfig, objective: ObjectiveConfig) -> GreedyInfoMax:
    """Build a model, initialised by torch's global generator.

    Args:
        model: The shape of the model. Its mean and deviation are numbers, not `auto`.
        objective: The objective of every module. Classes have been counted if it is supervised.

    Raises:
        ValueError: Mean, deviation or classes are missing.
    """
    if model.mean == "auto" or model.deviation == "auto":
        raise ValueError("mean and deviation must be measured before a model is built")
    grid = Geometry()  # of the last convolution, at whose rate phones are labelled
    for layer in model.convolutions:
        grid = grid.then(*layer)
    parts = _parts(model)
    modules: list[GreedyModule] = []
    geometries, geometry = [], Geometry()
    for part, above in zip(parts, [*parts[1:], None], strict=True):
        channels = modules[-1].output_width if modules else 1
        blocks: list[ConvBlock] = []
        context: ContextConfig | None = None
        if isinstance(part, tuple):
            blocks, context = part
        elif isinstance(part, ContextConfig):
            context = part
        else:
            blocks = [ConvBlock(channels, part.channels, part.kernel, part.stride, part.padding)]
        for block in blocks:
            geometry, channels = block.geometry(geometry), block.width
        summary = _context(context, channels) if context else None
        width = summary.width if summary else channels
        scorer = _objective(width, channels, objective, geometry, grid)
        on_a_context = summary is not None and not blocks and isinstance(above, ContextConfig)
        output: Output = "contexts" if on_a_context else "frames"
        modules.append(GreedyModule(blocks, summary, scorer, channels, output))
        geometries.append(geometry)
    return GreedyInfoMax(modules, geometries, model.rate, model.mean, model.deviation)


def _parts(model: ModelConfig) -> list[Part]:
    """Cut the convolutions into modules where gradients are to stop, and add what comes on top."""
    widths = model.widths
    shapes = zip((1, *widths), widths, model.kernels, model.strides, model.paddings, strict=False)
    blocks = [ConvBlock(*shape) for shape in shapes]
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


def _context(config: ContextConfig, channels: int) -> Context | None:
    if config.kind == "gru":
        return GRUContext(channels, config.hidden, bptt=config.bptt)
    if config.kind == "conv":
        return CausalConvolutions(
            channels, config.hidden, layers=config.layers, kernel=config.kernel
        )
    return None


def _objective(
    width: int, channels: int, objective: ObjectiveConfig, own: Geometry, grid: Geometry
) -> Objective:
    if objective.kind != "infonce":
        if objective.classes is None:
            raise ValueError("classes must be counted before a model is built")
        return Classify(width, objective.classes, own, grid)
    negatives = objective.negatives
    kind, number = negatives.kind, negatives.number
    sampler = Sampler(kind, number, objective.window, objective.steps_ahead)
    return InfoNCE(width, channels, sampler)
