"""Networks before InfoNCE's linear maps, as in the successors of CPC (Rivière et al. 2020).

Shapes: T frames of the window, from the last to the first, B utterances, H channels.
"""

import torch
from torch import Tensor, nn

__all__ = ["predictor"]


class _Recurrent(nn.Module):
    """A GRU, in float32 as in `GRUContext`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = nn.GRU(width, width)

    def forward(self, contexts: Tensor) -> Tensor:
        """Shape: `(T, B, H)`, which stays."""
        with torch.autocast(contexts.device.type, enabled=False):
            found: Tensor = self.network(contexts.flip(0).float())[0]
        return found.flip(0)


class _Transformer(nn.Module):
    """A causal transformer layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = next(n for n in (8, 4, 2, 1) if width % n == 0)
        self.network = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, norm_first=True
        )

    def forward(self, contexts: Tensor) -> Tensor:
        """Shape: `(T, B, H)`, which stays."""
        mask = nn.Transformer.generate_square_subsequent_mask(
            len(contexts), device=contexts.device, dtype=contexts.dtype
        )
        found: Tensor = self.network(contexts.flip(0), mask, is_causal=True)
        return found.flip(0)


def predictor(kind: str, width: int) -> nn.Module | None:
    """Return a network that keeps the shape `(T, B, H)` of contexts; None where it is linear.

    Args:
        kind: `linear`, `mlp`, `recurrent` or `transformer`, which see no later frame.
        width: The number of channels H.
    """
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    if kind == "recurrent":
        return _Recurrent(width)
    if kind == "transformer":
        return _Transformer(width)
    return None
