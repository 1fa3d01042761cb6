"""The schema of a model: convolutions, contexts, and the cuts between modules."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gim_audio.config.section import Positive, Section

__all__ = ["ContextConfig", "ConvolutionConfig", "ModelConfig"]


class ContextConfig(Section):
    """The context network, which summarises frames as c_t.

    It is a GRU, causal convolutions, residual dilated convolutions that may look ahead, or nothing.
    """

    kind: Literal["gru", "conv", "residual", "none"] = "gru"
    hidden: Positive = 256
    bptt: bool = True
    """True to propagate a GRU's gradients through time; without it, the previous state is a
    constant."""
    stacked: Positive = 1
    """The number of GRUs on one another."""
    bidirectional: bool = False
    """True adds a GRU that runs backwards, to half of `hidden` each: the context sees the whole
    utterance, and cannot stream."""
    layers: Positive = 4
    """The number of convolutions, for `conv` and `residual`."""
    kernel: Annotated[int, Field(ge=2)] = 5
    """The frames that each convolution sees, the present one included."""
    dilations: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4, 8)
    """The distances between the frames that residual convolutions see, from the bottom up, and
    then from the first again."""
    lookahead: Annotated[float, Field(ge=0)] = 0.0
    """The milliseconds of frames after its own that a residual context may see."""
    gather: tuple[Positive, ...] = ()
    """The layers of a residual context, from 1, whose outputs lie beside each other in its
    contexts; none is the last alone."""
    norm: Literal["none", "running", "utterance"] = "none"
    """The normalisation of each channel of the frames before the context: by mean and deviation of
    the utterance's frames so far, or of the whole utterance, after which nothing can stream."""
    at: Literal["last", "each"] = "last"
    """The place of contexts: one on the last convolution, or one in each module."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.bidirectional and (self.kind != "gru" or not self.bptt or self.hidden % 2):
            raise ValueError("bidirectional is for a gru with bptt and an even number of hidden")
        if self.lookahead and self.kind != "residual":
            raise ValueError(f"lookahead is for a residual context, not for {self.kind}")
        if self.norm != "none" and self.kind == "none":
            raise ValueError("norm is for a context, and there is none")
        if self.gather and self.kind != "residual":
            raise ValueError(f"gather is for a residual context, not for {self.kind}")
        rises = list(self.gather) == sorted(set(self.gather))
        if self.gather and not (rises and self.gather[-1] == self.layers):
            raise ValueError(
                f"gather must rise and end with the last layer, {self.layers}: {list(self.gather)}"
            )
        if self.stacked > 1 and (self.kind != "gru" or not self.bptt):
            raise ValueError("stacked is for a gru with bptt; `added` stacks modules")
        return self


class ConvolutionConfig(Section):
    """A convolution that is added to a trained stack as a module of its own."""

    kernel: Positive
    stride: Positive = 1
    padding: Annotated[int, Field(ge=0)] = 0
    channels: Positive = 512


class ModelConfig(Section):
    """The encoder, the context, the cuts between modules, and modules added to a trained stack."""

    kernels: tuple[Positive, ...] = (10, 8, 4, 4, 4)
    strides: tuple[Positive, ...] = (5, 4, 2, 2, 2)
    paddings: tuple[Annotated[int, Field(ge=0)], ...] = (2, 2, 2, 2, 1)
    channels: Positive | tuple[Positive, ...] = 512
    norm: Literal["none", "channel", "batch"] = "none"
    """The normalisation after each convolution: over the channels of a frame, or over the frames of
    a batch."""
    activation: Literal["relu", "gelu", "log"] = "relu"
    """The function after the norm: max(0, x), a GELU, or log(1 + max(0, x)), which compresses as
    the logarithm of mel energies does."""
    context: ContextConfig = ContextConfig()
    isolate_after: tuple[Positive, ...] = (1, 2, 3, 4, 5)
    reach: Positive = 1
    """The number of modules that a loss trains: its own, and those below it (Xiong et al. 2020). 1
    isolates gradients; more keeps the activations of all modules, as end-to-end training does."""
    added: tuple[ConvolutionConfig | ContextConfig, ...] = ()
    """Modules on top of a trained stack. A convolution takes the frames of the module below; a
    context takes them too, or the contexts of a module that is a context alone."""
    rate: Annotated[int, Field(ge=1, le=2_000_000)] = 16000
    mean: float | Literal["auto"] = -0.000678111
    deviation: Annotated[float, Field(gt=0)] | Literal["auto"] = 0.0630056

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of channels of each convolution."""
        return (
            (self.channels,) * len(self.kernels)
            if isinstance(self.channels, int)
            else self.channels
        )

    @property
    def num_modules(self) -> int:
        """The number of modules."""
        return (
            len({*self.isolate_after, len(self.kernels)})
            + self.context_is_a_module
            + len(self.added)
        )

    @property
    def context_is_a_module(self) -> bool:
        """True where the context is a module without convolutions."""
        return bool(self.isolate_after) and self.isolate_after[-1] == len(self.kernels)

    @property
    def hop(self) -> int:
        """The number of samples from one frame of the last convolution to the next."""
        return math.prod(stride for _, stride, _ in self.convolutions)

    @property
    def convolutions(self) -> list[tuple[int, int, int]]:
        """The kernel, stride and padding of every convolution, from the bottom up."""
        added = [
            (a.kernel, a.stride, a.padding) for a in self.added if isinstance(a, ConvolutionConfig)
        ]
        return [*zip(self.kernels, self.strides, self.paddings, strict=True), *added]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        convolutions = len(self.kernels)
        if not convolutions:
            raise ValueError("kernels: at least one convolution is needed")
        for name in ("strides", "paddings", "channels"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != convolutions:
                raise ValueError(f"{name} has {len(value)} values for {convolutions} kernels")
        for layer, (kernel, stride, padding) in enumerate(self.convolutions, start=1):
            if stride > kernel or padding >= kernel:
                raise ValueError(
                    f"convolution {layer}: kernel {kernel} must be at least the stride ({stride}) "
                    f"and more than the padding ({padding})"
                )
        lone_context = self.context.kind != "none" and self.context.at == "last"
        last = convolutions if lone_context else convolutions - 1
        if list(self.isolate_after) != sorted(set(self.isolate_after)) or any(
            n > last for n in self.isolate_after
        ):
            raise ValueError(
                f"isolate_after must rise and name convolutions from 1 to {last}, not"
                f" {list(self.isolate_after)}"
            )
        kinds = ["context" if self.context_is_a_module else "convolution"]
        for part in self.added:
            kinds.append("context" if isinstance(part, ContextConfig) else "convolution")
            if isinstance(part, ContextConfig) and part.kind == "none":
                raise ValueError("added: a context of kind none has nothing to learn")
            if kinds[-3:] == ["context", "context", "convolution"]:
                raise ValueError(
                    "added: a convolution cannot follow a context on a context: put it below them"
                )
        return self
