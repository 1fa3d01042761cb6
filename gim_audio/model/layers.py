"""Strided convolutions that run on a whole waveform or piece by piece.

Shapes: B utterances, T frames or samples of the input, T' frames of the output, C channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gim_audio.model.geometry import Geometry

__all__ = ["ConvBlock", "zero_beyond"]

FEW = 16
"""The number of frames up to which a matrix product is faster than a convolution, which begins by
rearranging its weights: by convolutions alone 10 ms of a stream take 1.2 times as long
(tools/bench_featurize.md)."""


class ConvBlock(nn.Module):
    """A convolution and a ReLU: z = max(0, w * x + b); a normalisation between them, or a GELU.

    Args:
        channels: The number of channels of the input.
        width: The number of channels of the output.
        kernel: The number of frames of the input that a frame of the output sees.
        stride: The distance between two such kernels, at most `kernel`.
        padding: The number of zeros before the first and after the last frame of the input.
        norm: `channel` normalises each frame over its channels (as CPC's successors, Rivière et al.
            2020), `batch` each channel over the frames of a batch.
        activation: `relu`, `gelu`, or `log` for log(1 + max(0, x)).
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        stride: int,
        padding: int,
        norm: str = "none",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(channels, width, kernel, stride, padding)
        self.channels, self.width = channels, width
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.norm: nn.LayerNorm | nn.BatchNorm1d | None = None
        if norm == "channel":
            self.norm = nn.LayerNorm(width)
        elif norm == "batch":
            self.norm = nn.BatchNorm1d(width)
        self.activation = activation

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, last: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Return the frames that the input completes, and the state that the next piece needs.

        Args:
            x: A whole waveform's frames, or the next piece of them. Shape: `(B, T, C)`.
            state: The state after the piece before; None at the beginning of a waveform.
            last: True where the waveform ends with this piece.

        Returns:
            Frames of shape `(B, T', width)`, and the state: the end of the input, which the next
            frame needs. For a whole waveform T' = (T + 2 padding - kernel) // stride + 1 and the
            state is None.
        """
        x = x.transpose(1, 2)  # convolutions take (B, C, T)
        if x.shape[1] == 1 and x.device.type == "cpu":
            # Of strides (T, 1, 1) torch makes frames that the layers above take longer on.
            x = x.reshape(x.shape)
        if state is None and last:
            return self._frames(x, self.padding).transpose(1, 2), None
        before = x.new_zeros(*x.shape[:2], self.padding) if state is None else state
        after = x.new_zeros(*x.shape[:2], self.padding if last else 0)
        x = torch.cat([before, x, after], dim=2)
        z = self._frames(x, padding=0)
        seen = x[:, :, z.shape[2] * self.stride :].clone()  # a view would keep all of the piece
        return z.transpose(1, 2), None if last else seen

    def _frames(self, x: Tensor, padding: int) -> Tensor:
        """Shape: `(B, C, T)` → `(B, width, T')`."""
        weight, bias = self.convolution.weight, self.convolution.bias
        count = (x.shape[2] + 2 * padding - self.kernel) // self.stride + 1
        if count < 1:
            return x.new_empty(len(x), self.width, 0)
        if x.device.type != "cpu" and self.channels > 1:
            # As images of one line, whose memory stays in order of time, then of channels: on an
            # H100 at batch 256 the convolutions of a bf16 step take 0.79 of the time.
            x, weight = x.unsqueeze(2), weight.unsqueeze(2)
            z = F.conv2d(x, weight, bias, (1, self.stride), (0, padding))
            if self.norm is not None:
                z = self._normalised(z.squeeze(2)).unsqueeze(2)
            return self._activated(z).squeeze(2)
        if x.device.type == "cpu" and len(x) * count > FEW:
            z = F.conv1d(x, weight, bias, self.stride, padding)
            return self._activated(self._normalised(z))
        x = F.pad(x, (padding, padding)) if padding else x
        fields = x.unfold(2, self.kernel, self.stride)  # (B, C, T', kernel)
        flat = fields.transpose(1, 2).flatten(2)  # (B, T', C · kernel)
        z = F.linear(flat, weight.flatten(1), bias)
        if self.norm is not None:
            z = self._normalised(z.transpose(1, 2)).transpose(1, 2)
        return self._activated(z).transpose(1, 2)

    def _normalised(self, z: Tensor) -> Tensor:
        """Shape: `(B, width, T')`, which stays."""
        if isinstance(self.norm, nn.LayerNorm):
            normalised: Tensor = self.norm(z.transpose(1, 2))  # (B, T', width)
            return normalised.to(z.dtype).transpose(1, 2)
        return z if self.norm is None else self.norm(z).to(z.dtype)

    def _activated(self, z: Tensor) -> Tensor:
        """Any shape, which stays; a convolution's own output is changed in place."""
        if self.activation == "gelu":
            return F.gelu(z)
        z = F.relu(z, inplace=self.norm is None)
        return z.log1p() if self.activation == "log" else z

    def geometry(self, below: Geometry) -> Geometry:
        """Return the geometry of the frames, given that of the input."""
        return below.then(self.kernel, self.stride, self.padding)

    def frames(self, length: int) -> int:
        """Return the number of frames that `length` frames or samples give, 0 if too few."""
        return max(0, (length + 2 * self.padding - self.kernel) // self.stride + 1)


def zero_beyond(x: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """Return a batch with zeros beyond the end of each of its rows; None means that all are full.

    What follows a waveform in a batch then looks to the next convolution like its own padding.

    Shape: `(B, T, C)` → `(B, T, C)`.
    """
    if lengths is None or min(lengths) >= x.shape[1]:
        return x
    ends = torch.tensor(lengths, device=x.device)
    inside = torch.arange(x.shape[1], device=x.device) < ends[:, None]
    return torch.where(inside[:, :, None], x, 0)
