"""Networks before InfoNCE's linear maps, as in the successors of CPC (Rivière et al. 2020).

Shapes: T frames of the window, from the last to the first, B utterances, H channels.
"""

import torch
from torch import Tensor, nn

__all__ = ["predictor"]


class _Forward(nn.Module):
    """A sequence model on a window whose frames run back in time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, contexts: Tensor) -> Tensor:
        """Shape: `(T, B, H)`, which stays."""
        return self._run(contexts.flip(0)).flip(0)

    def _run(self, contexts: Tensor) -> Tensor:
        raise NotImplementedError


class _Recurrent(_Forward):
    def _run(self, contexts: Tensor) -> Tensor:
        with torch.autocast(contexts.device.type, enabled=False):  # as in `GRUContext`
            found: Tensor = self.network(contexts.float())[0]
        return found


class _Transformer(_Forward):
    def _run(self, contexts: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(
            len(contexts), device=contexts.device, dtype=contexts.dtype
        )
        found: Tensor = self.network(contexts, mask, is_causal=True)
        return found


def predictor(kind: str, width: int) -> nn.Module | None:
    """Return a network that keeps the shape `(T, B, H)` of contexts; None where it is linear.

    Args:
        kind: `linear`, `mlp`, `recurrent` or `transformer`, which see no later frame.
        width: The number of channels H.
    """
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    if kind == "recurrent":
        return _Recurrent(nn.GRU(width, width))
    if kind == "transformer":
        heads = next(n for n in (8, 4, 2, 1) if width % n == 0)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, norm_first=True)
        return _Transformer(layer)
    return None
