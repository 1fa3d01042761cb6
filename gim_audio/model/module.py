"""A gradient-isolated module: convolutions, a context where it has one, and its own objective.

Shapes: B utterances, T frames or samples of the input, T' frames of the output, C channels.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, nn

from gim_audio.model.contexts import Context
from gim_audio.model.layers import ConvBlock, zero_beyond
from gim_audio.model.norms import RunningNorm, UtteranceNorm
from gim_audio.model.objectives import Objective

__all__ = ["GreedyModule", "ModuleOutput", "ModuleState", "Output", "stop_gradient"]

Output = Literal["frames", "contexts"]
"""The tensor of a module that the module above takes."""

ModuleState = list[Any]
"""The states of a module's layers, of its norm and of its context, between two pieces."""


class ModuleOutput(NamedTuple):
    """The frames and contexts of a module.

    Attributes:
        frames: The output z of the convolutions. Shape: `(B, T', C')`.
        contexts: The output c of the context, or the frames if there is none. Shape: `(B, T', H)`.
        output: The one of both that the module above takes.
        state: The state after the last frame.
    """

    frames: Tensor
    contexts: Tensor
    output: Tensor
    state: ModuleState


class GreedyModule(nn.Module):
    """One module of the stack.

    Args:
        encoder: The convolutions; none where the module is a context on the module below.
        context: The context network; None makes the frames their own contexts.
        objective: The objective that trains the module.
        channels: The number of channels of the frames.
        output: The kind of tensor that the module above takes. Convolutions take frames, and so
            does a first context above them; a context on another one takes that one's contexts.
        norm: The normalisation of the frames before the context.
    """

    def __init__(
        self,
        encoder: Sequence[ConvBlock],
        context: Context | None,
        objective: Objective,
        channels: int,
        output: Output = "frames",
        norm: UtteranceNorm | RunningNorm | None = None,
    ) -> None:
        super().__init__()
        self.encoder = cast("Sequence[ConvBlock]", nn.ModuleList(encoder))
        self.context, self.objective, self.norm = context, objective, norm
        self.channels = channels
        self.gives_contexts = output == "contexts"

    def forward(
        self,
        x: Tensor,
        state: ModuleState | None = None,
        *,
        last: bool = True,
        lengths: Sequence[int] | None = None,
        features: bool = True,
        hide: Callable[[Tensor], Tensor] | None = None,
    ) -> ModuleOutput:
        """Run the convolutions and the context, on a whole waveform or on its next piece.

        Args:
            x: The output of the module below, or standardised samples. Shape: `(B, T, C)`.
            state: The state after the piece before; None at the beginning.
            last: True where the waveform ends with this piece.
            lengths: The number of frames of each utterance in a padded batch; None if all have T.
            features: False leaves out a context that nobody above needs: frames are given instead.
            hide: A function that replaces frames which the context must not see.
        """
        *before, norm_state, context_state = state or [*(None for _ in self.encoder), (), ()]
        after: ModuleState = []
        for block, past in zip(self.encoder, before, strict=True):
            x, state_after = block(x, past, last=last)
            after.append(state_after)
            if lengths is not None:
                lengths = [block.frames(length) for length in lengths]
                x = zero_beyond(x, lengths)
        contexts = x
        if self.context is not None and (features or self.gives_contexts):
            contexts = x.new_empty(len(x), 0, self.context.width)
            if x.shape[1] or context_state:
                seen = x
                if self.norm is not None:
                    seen, norm_state = self.norm(x, norm_state, last=last, lengths=lengths)
                seen = seen if hide is None else hide(seen)
                contexts, context_state = self.context(
                    seen, context_state, last=last, lengths=lengths
                )
            contexts = zero_beyond(contexts, lengths)
        output = contexts if self.gives_contexts else x
        return ModuleOutput(x, contexts, output, [*after, norm_state, context_state])

    @property
    def width(self) -> int:
        """The number of channels of the contexts, which are the module's features."""
        return self.channels if self.context is None else self.context.width

    @property
    def output_width(self) -> int:
        """The number of channels of the output."""
        return self.width if self.gives_contexts else self.channels

    def frames(self, length: int) -> int:
        """Return the number of frames that `length` frames or samples give, 0 if too few."""
        for block in self.encoder:
            length = block.frames(length)
        return length


def stop_gradient(output: Tensor) -> Tensor:
    """Return a module's output for the module above, through which no gradient flows back.

    It is the paper's GradientBlock, and all that makes training greedy. The shape stays.
    """
    return output.detach()
