"""Norms of frames in an ONNX graph: see `gim_audio.model.norms`."""

from typing import TYPE_CHECKING, cast

import numpy as np
from onnx import TensorProto, numpy_helper
from torch import nn

from gim_audio.model.norms import LEAST, RunningNorm, UtteranceNorm

if TYPE_CHECKING:
    from gim_audio.inference.onnx import Graph

__all__ = ["standardised"]


def standardised(graph: "Graph", z: str, norm: nn.Module | None) -> str:
    """Shape: `(batch, frames, channels)`, which stays."""
    if norm is None:
        return z
    least = graph.initializer(np.array(LEAST))
    x = _double(graph, z)
    if isinstance(norm, UtteranceNorm):
        mean, square = (graph.node("ReduceMean", y, axes=[1]) for y in (x, graph.node("Mul", x, x)))
    else:
        mean, square = _so_far(graph, x, cast("RunningNorm", norm))
    variance = graph.node("Sub", square, graph.node("Mul", mean, mean))
    variance = graph.node("Max", variance, graph.initializer(np.array(0.0)))
    deviation = graph.node("Sqrt", graph.node("Add", variance, least))
    found = graph.node("Div", graph.node("Sub", x, mean), deviation)
    return graph.node("Cast", found, to=TensorProto.FLOAT)


def _so_far(graph: "Graph", x: str, norm: RunningNorm) -> tuple[str, str]:
    """Return the mean of the frames so far, and of their squares. Shape: that of the frames.

    States begin as zeros: they are what there is beyond the learnt moments.
    """
    count = prior = graph.initializer(np.array(float(norm.PRIOR)))
    if graph.stream:
        known, knows = graph.state([1, 1, 1])
        count = graph.node("Add", count, _double(graph, known))
    # Ones, as many as frames, are counted.
    size = graph.node("Concat", graph.length(x, 1), graph.constant([1]), axis=0)
    ones = graph.node("ConstantOfShape", size, value=numpy_helper.from_array(np.ones(1)))
    counts = graph.node("Add", count, graph.node("CumSum", ones, graph.constant([0])))
    newest = graph.constant([-1]), graph.constant([2**31]), graph.constant([1])
    if graph.stream:
        seen = graph.node("Sub", graph.node("Slice", counts, *newest), prior)
        graph.node("Cast", seen, to=TensorProto.FLOAT, out=knows)
    found = []
    for first, values in zip(norm.moments(), (x, graph.node("Mul", x, x)), strict=True):
        learnt = before = _double(graph, graph.weight(first))
        if graph.stream:
            state, after = graph.state([1, len(first), 1])
            state = _double(graph, graph.node("Transpose", state, perm=[0, 2, 1]))
            before = graph.node("Add", before, state)
        total = graph.node("CumSum", values, graph.constant([1]))
        total = graph.node("Add", graph.node("Mul", before, count), total)
        found.append(graph.node("Div", total, counts))
        if graph.stream:
            beyond = graph.node("Sub", graph.node("Slice", found[-1], *newest), learnt)
            beyond = graph.node("Cast", beyond, to=TensorProto.FLOAT)
            graph.node("Transpose", beyond, perm=[0, 2, 1], out=after)
    return found[0], found[1]


def _double(graph: "Graph", x: str) -> str:
    return graph.node("Cast", x, to=TensorProto.DOUBLE)
