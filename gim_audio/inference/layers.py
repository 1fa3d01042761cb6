"""The layers of a trained model: their names, and each of them as a module."""

from gim_audio.model.contexts import Context, GRUContext, ResidualConvolutions
from gim_audio.model.geometry import Geometry
from gim_audio.model.module import GreedyModule, Output
from gim_audio.model.stack import GreedyInfoMax

__all__ = ["by_layer", "module_names"]


def by_layer(model: GreedyInfoMax) -> GreedyInfoMax:
    """Return the same weights with every convolution and context as a module, to look inside.

    The objectives are those of the modules that the layers are from: they fit the top layers alone.
    """
    modules: list[GreedyModule] = []
    geometries, geometry, channels = [], Geometry(), 1
    for module in model.stack:
        for block in module.encoder:
            geometry, channels = block.geometry(geometry), block.width
            modules.append(GreedyModule([block], None, module.objective, channels))
            geometries.append(geometry)
        if module.context is not None:
            if module.norm is not None:
                geometry = geometry.with_context(module.norm.lookahead)
            geometry = geometry.with_context(module.context.lookahead)
            output: Output = "contexts" if module.gives_contexts else "frames"
            modules.append(
                GreedyModule(
                    [], module.context, module.objective, module.channels, output, module.norm
                )
            )
            geometries.append(geometry)
    return GreedyInfoMax(modules, geometries, model.rate, float(model.mean), float(model.deviation))


def module_names(model: GreedyInfoMax) -> list[str]:
    """Return the names of the modules, such as `conv1`, `conv2-4` or `conv5+gru`."""
    names, seen = [], 0
    for module in model.stack:
        parts: list[str] = []
        if count := len(module.encoder):
            parts.append(f"conv{seen + 1}" if count == 1 else f"conv{seen + 1}-{seen + count}")
            seen += count
        if module.context is not None:
            parts.append(_name(module.context))
        names.append("+".join(parts))
    return names


def _name(context: Context) -> str:
    if isinstance(context, GRUContext):
        return "bigru" if context.gru.bidirectional else "gru"
    return "residual" if isinstance(context, ResidualConvolutions) else "causal"
