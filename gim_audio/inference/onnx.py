"""The model as an ONNX graph: of whole waveforms, or of a stream whose state goes in and out."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from gim_audio.errors import ConfigError
from gim_audio.inference.onnx_norms import standardised
from gim_audio.model.contexts import (
    CausalConvolutions,
    Context,
    GRUContext,
    ResidualConvolutions,
)
from gim_audio.model.layers import ConvBlock
from gim_audio.model.stack import GreedyInfoMax

__all__ = ["OPSET", "to_onnx"]

OPSET = 17
Array = npt.NDArray[Any]


def to_onnx(
    model: GreedyInfoMax,
    module: int,
    file: Path,
    *,
    stream: bool,
    half: bool,
    notes: Mapping[str, object],
) -> None:
    """Write a graph `waveform` (batch, samples) → `features` (batch, frames, width).

    Batch, samples and frames may have any size.

    With `stream`, `state_0`, `state_1`, … go in as well, and come out as `next_0`, … for the
    samples that follow. They begin as zeros of the shapes in the graph's metadata,
    `initial_states`. `last` is 1 with the last samples, else 0. Each run takes at least
    `least_samples`, so that there is a frame in every layer.

    Args:
        model: The model to write.
        module: number, from 1, whose features come out.
        file: The file to write.
        stream: True for a graph with states.
        half: weights in float16; products are in float32 all the same.
        notes: Metadata of the graph.

    Raises:
        ConfigError: A stream is asked for of a module that sees the whole utterance.
    """
    graph = Graph(stream=stream, half=half)
    x = graph.node(
        "Div",
        graph.node("Sub", "waveform", graph.weight(model.mean)),
        graph.weight(model.deviation),
    )
    x = graph.node("Unsqueeze", x, graph.constant([1]))
    features = x
    for part in list(model.stack)[:module]:
        for block in part.encoder:
            x = graph.activation(graph.normalised(graph.convolution(x, block), block.norm), block)
        features = graph.node("Transpose", x, perm=[0, 2, 1])
        wanted = part is model.stack[module - 1]
        if part.context is not None and (wanted or part.gives_contexts):
            features = graph.context(standardised(graph, features, part.norm), part.context)
            if part.gives_contexts:
                x = graph.node("Transpose", features, perm=[0, 2, 1])
    graph.node("Identity", features, out="features")
    if stream:
        top = model.geometries[module - 1]
        if math.isinf(top.lookahead):
            raise ConfigError(f"module {module} sees the whole utterance: it cannot stream")
        least = max(top.hop, top.start + top.receptive_field + int(top.lookahead))
        notes = {**notes, "initial_states": graph.states, "least_samples": least}
    onnx.save(graph.build(notes), file)


class Graph:
    """Nodes, weights and states, in the order in which they are met."""

    def __init__(self, *, stream: bool, half: bool) -> None:
        self.stream, self.half = stream, half
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.states: list[list[int]] = []

    def node(
        self, kind: str, *inputs: str, out: str = "", outputs: int = 1, **attributes: Any
    ) -> str:
        """Add an operation; the name of its first output, after which the others are called."""
        name = out or f"{kind.lower()}_{len(self.nodes)}"
        names = [name, *(f"{name}.{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return name

    def constant(self, values: Sequence[int]) -> str:
        """Integers."""
        return self.initializer(np.array(values, np.int64))

    def weight(self, value: Any) -> str:
        """A tensor of the model."""
        array = np.asarray(value.detach().cpu().numpy(), np.float32)
        if not self.half or array.ndim < 2:
            return self.initializer(array)
        return self.node("Cast", self.initializer(array.astype(np.float16)), to=TensorProto.FLOAT)

    def initializer(self, array: Array) -> str:
        """Any values, as they are."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def state(self, shape: Sequence[int]) -> tuple[str, str]:
        """Return the inputs and outputs, of a shape whose batch is 1 here and any later."""
        self.states.append(list(shape))
        number = len(self.states) - 1
        return f"state_{number}", f"next_{number}"

    def convolution(self, x: str, block: ConvBlock) -> str:
        """Shape: `(batch, channels, frames)`, as the result."""
        convolution = block.convolution
        (kernel,), (stride,) = convolution.kernel_size, convolution.stride
        padding = int(convolution.padding[0])
        weights = self.weight(convolution.weight), self.weight(convolution.bias)
        if not self.stream:
            return self.node("Conv", x, *weights, strides=[stride], pads=[padding, padding])
        before, after = self.state([1, convolution.in_channels, padding])
        heard = self.node("Concat", before, x, axis=2)
        heard = self._padded(heard, padding)
        length = self.length(heard, 2)
        steps = self.node(
            "Div", self.node("Sub", length, self.constant([kernel])), self.constant([stride])
        )
        begin = self.node(
            "Mul", self.node("Add", steps, self.constant([1])), self.constant([stride])
        )
        end = self.constant([2**31])
        self.node("Slice", heard, begin, end, self.constant([2]), out=after)
        return self.node("Conv", heard, *weights, strides=[stride])

    def normalised(self, x: str, norm: nn.Module | None) -> str:
        """Shape: `(batch, channels, frames)`, which stays."""
        if isinstance(norm, nn.LayerNorm):
            y = self._layer_norm(self.node("Transpose", x, perm=[0, 2, 1]), norm)
            return self.node("Transpose", y, perm=[0, 2, 1])
        if isinstance(norm, nn.BatchNorm1d):
            values = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            return self.node(
                "BatchNormalization", x, *map(self.weight, values), epsilon=float(norm.eps)
            )
        return x

    def activation(self, x: str, block: ConvBlock) -> str:
        """Any shape, which stays."""
        if block.activation == "gelu":
            return self._gelu(x)
        y = self.node("Relu", x)
        if block.activation == "log":
            y = self.node("Log", self.node("Add", y, self.weight(torch.tensor(1.0))))
        return y

    def _layer_norm(self, x: str, norm: nn.LayerNorm) -> str:
        """Shape: `(…, channels)`, which stays."""
        weights = self.weight(norm.weight), self.weight(norm.bias)
        return self.node("LayerNormalization", x, *weights, axis=-1, epsilon=float(norm.eps))

    def _gelu(self, x: str) -> str:
        half, one, root = (self.weight(torch.tensor(v)) for v in (0.5, 1.0, 2**0.5))
        share = self.node("Add", self.node("Erf", self.node("Div", x, root)), one)
        return self.node("Mul", self.node("Mul", x, share), half)

    def context(self, z: str, context: Context) -> str:
        """Shape: `(batch, frames, channels)` → `(batch, frames, width)`."""
        if isinstance(context, GRUContext):
            return self._gru(z, context)
        if isinstance(context, ResidualConvolutions):
            return self._residual(z, context)
        return self._causal(z, cast("CausalConvolutions", context))

    def _gru(self, z: str, context: GRUContext) -> str:
        x = self.node("Transpose", z, perm=[1, 0, 2])
        for layer in range(context.gru.num_layers):
            x = self._gru_layer(x, context.gru, layer)
        return self.node("Transpose", x, perm=[1, 0, 2])

    def _gru_layer(self, x: str, gru: nn.GRU, layer: int) -> str:
        """Shape: `(frames, batch, channels)` → `(frames, batch, width)`."""
        ends = [f"l{layer}", f"l{layer}_reverse"] if gru.bidirectional else [f"l{layer}"]

        def gates(name: str) -> Any:
            # torch has reset, update, candidate; ONNX update, reset, candidate.
            found = []
            for end in ends:
                reset, update, candidate = getattr(gru, f"{name}_{end}").detach().chunk(3)
                found.append(torch.cat([update, reset, candidate]))
            return torch.stack(found)

        biases = torch.cat([gates("bias_ih"), gates("bias_hh")], dim=1)
        weights = [self.weight(each) for each in (gates("weight_ih"), gates("weight_hh"), biases)]
        before, after = [], ""
        if self.stream:
            first, after = self.state([1, 1, gru.hidden_size])
            before = ["", self.node("Transpose", first, perm=[1, 0, 2])]
        y = self.node(
            "GRU",
            x,
            *weights,
            *before,
            outputs=2,
            hidden_size=gru.hidden_size,
            linear_before_reset=1,
            direction="bidirectional" if gru.bidirectional else "forward",
        )
        if self.stream:
            # The batch comes first, as in all states.
            self.node("Transpose", f"{y}.1", perm=[1, 0, 2], out=after)
        # (frames, directions, batch, units): the directions lie beside each other.
        y = self.node("Transpose", y, perm=[0, 2, 1, 3])
        return self.node("Reshape", y, self.constant([0, 0, -1]))

    def _residual(self, z: str, context: ResidualConvolutions) -> str:
        x = self.node("MatMul", z, self.weight(context.expand.weight.T))
        x = self.node("Add", x, self.weight(context.expand.bias))
        layers, outputs = zip(context.convolutions, context.norms, context.ahead, strict=True), []
        for number, (layer, norm, ahead) in enumerate(layers, start=1):
            convolution = cast("nn.Conv1d", layer)
            dilation = convolution.dilation[0]
            past = (convolution.kernel_size[0] - 1) * dilation - ahead
            y = self._layer_norm(x, cast("nn.LayerNorm", norm))
            y = self.node("Transpose", y, perm=[0, 2, 1])
            weights = self.weight(convolution.weight), self.weight(convolution.bias)
            if self.stream:
                x, y = self._held(x, y, convolution.out_channels, past, ahead)
                y = self.node("Conv", y, *weights, dilations=[dilation])
            else:
                y = self.node("Conv", y, *weights, dilations=[dilation], pads=[past, ahead])
            x = self.node("Add", x, self.node("Transpose", self._gelu(y), perm=[0, 2, 1]))
            outputs += [x] if number in context.gather else []
        if len(outputs) == 1:
            return x
        if self.stream:
            outputs = [
                self._waited(y, self.length(x, 1), context.expand.out_features) for y in outputs
            ]
        return self.node("Concat", *outputs, axis=2)

    def _waited(self, x: str, count: str, channels: int) -> str:
        """Return the first `count` frames; the others wait. Shape: `(batch, frames, channels)`."""
        late, later = self.state([1, channels, 0])
        known = self.node("Concat", self.node("Transpose", late, perm=[0, 2, 1]), x, axis=1)
        rest = self.node("Slice", known, count, self.constant([2**31]), self.constant([1]))
        self.node("Transpose", rest, perm=[0, 2, 1], out=later)
        return self.node("Slice", known, self.constant([0]), count, self.constant([1]))

    def _held(self, x: str, y: str, channels: int, past: int, ahead: int) -> tuple[str, str]:
        """Return the frames whose convolution can be computed, and what it sees for them.

        Shape: `(batch, frames, channels)` and `(batch, channels, frames)`, as given.
        """
        before, after = self.state([1, channels, past])
        heard = self._padded(self.node("Concat", before, y, axis=2), ahead)
        count = self.node("Sub", self.length(heard, 2), self.constant([past + ahead]))
        end = self.constant([2**31])
        self.node("Slice", heard, count, end, self.constant([2]), out=after)
        if not ahead:
            return x, heard
        return self._waited(x, count, channels), heard

    def length(self, x: str, axis: int) -> str:
        """Return the size of an axis. Shape: `(1,)`."""
        shape = self.node("Shape", x)
        return self.node("Slice", shape, self.constant([axis]), self.constant([axis + 1]))

    def _padded(self, x: str, zeros: int) -> str:
        """Return frames with zeros after the last samples. Shape: `(batch, channels, frames)`."""
        if not zeros:
            return x
        size = self.node("Mul", "last", self.constant([zeros]))
        # Before and after each axis.
        return self.node("Pad", x, self.node("Concat", self.constant([0] * 5), size, axis=0))

    def _causal(self, z: str, context: CausalConvolutions) -> str:
        x = self.node("Transpose", z, perm=[0, 2, 1])
        past = context.kernel - 1
        for number, layer in enumerate(context.convolutions):
            convolution = cast("Any", layer)
            weights = self.weight(convolution.weight), self.weight(convolution.bias)
            if self.stream:
                before, after = self.state([1, convolution.in_channels, past])
                heard = self.node("Concat", before, x, axis=2)
                ends = self.constant([-past]), self.constant([2**31]), self.constant([2])
                self.node("Slice", heard, *ends, out=after)
                y = self.node("Relu", self.node("Conv", heard, *weights))
            else:
                y = self.node("Relu", self.node("Conv", x, *weights, pads=[past, 0]))
            x = self.node("Add", x, y) if number else y
        return self.node("Transpose", x, perm=[0, 2, 1])

    def build(self, notes: Mapping[str, object]) -> onnx.ModelProto:
        """The whole."""
        inputs = [
            helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"])
        ]
        outputs = [
            helper.make_tensor_value_info(
                "features", TensorProto.FLOAT, ["batch", "frames", "width"]
            )
        ]
        for number, (_, channels, *_) in enumerate(self.states):
            for values, name, length in ((inputs, "state", "before"), (outputs, "next", "after")):
                shape: list[str | int | None] = ["batch", channels, f"{length}_{number}"]
                values.append(
                    helper.make_tensor_value_info(f"{name}_{number}", TensorProto.FLOAT, shape)
                )
        if self.stream:
            inputs.append(helper.make_tensor_value_info("last", TensorProto.INT64, [1]))
        graph = helper.make_graph(self.nodes, "gim-audio", inputs, outputs, self.weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        helper.set_model_props(model, {key: str(value) for key, value in notes.items()})
        onnx.checker.check_model(model)
        return model
