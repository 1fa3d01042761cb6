"""Distances of many pairs of tokens at once.

They are angles between frames, by dynamic time warping between tokens.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Tokens", "distances", "warp"]

CELLS = 2_000_000
"""Pairs of frames that are compared at a time."""


class Tokens:
    """Stretches of frames.

    Args:
        frames: The frames of all utterances, one after another; they may be mapped from disk.
            Shape: `(frames, channels)`.
        starts: The first frame of each token.
        lengths: The number of frames of each token, at least 1.
        device: The device that computes distances.
    """

    def __init__(
        self,
        frames: npt.NDArray[np.float32],
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        device: torch.device,
    ) -> None:
        self.frames, self.starts, self.lengths, self.device = frames, starts, lengths, device

    def padded(self, tokens: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Directions of some tokens' frames, and how many each has.

        Shape: `(n, longest, channels + 1)`, `(n,)`.
        """
        lengths = self.lengths[tokens]
        places = self.starts[tokens, None] + np.minimum(
            np.arange(lengths.max()), lengths[:, None] - 1
        )
        given = torch.from_numpy(self.frames[places]).to(self.device)
        norms = given.norm(dim=2, keepdim=True)
        # A frame of zeros has no direction: it is at a right angle to all others, and like every
        # other of its kind.
        directions = torch.cat([given / norms.clamp(min=1e-12), (norms == 0).float()], dim=2)
        return directions, torch.from_numpy(lengths).to(self.device)


def distances(tokens: Tokens, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the mean angle of each pair, as a share of 180°.

    It is taken along the path on which the sum of angles is least.

    Args:
        tokens: The tokens that make the pairs.
        pairs: numbers of tokens. Shape: `(pairs, 2)`.

    Returns:
        Shape: `(pairs,)`.
    """
    found = np.empty(len(pairs), dtype=np.float32)
    longest = tokens.lengths[pairs].max(axis=1)
    order = np.argsort(-longest, kind="stable")  # pairs of like sizes waste no padding
    start = 0
    while start < len(order):
        chosen = order[start : start + max(1, CELLS // int(longest[order[start]]) ** 2)]
        (x, n), (y, m) = (tokens.padded(pairs[chosen, side]) for side in (0, 1))
        angles = torch.bmm(x, y.transpose(1, 2)).clamp_(-1, 1).acos_() / math.pi
        found[chosen] = warp(angles, n, m).cpu().numpy()
        start += len(chosen)
    return found


def warp(costs: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """Return the mean cost of a cell along the cheapest path from corner to corner.

    All tables are done at once.

    A path goes down, right or diagonally; where these cost the same, diagonally first, then right
    (as libri-light's). All tables go through their antidiagonals together: a cell needs the two
    antidiagonals before its own.

    Shape: costs `(tables, rows, columns)`, used rows n and columns m `(tables,)` → `(tables,)`.
    """
    tables, rows, columns = costs.shape
    diagonals, width = rows + columns - 1, rows + columns
    # Read with one number less a row, a padded table has its antidiagonals in its columns;
    # (diagonals, rows, tables).
    padded = F.pad(costs, (0, rows), value=math.inf)
    skewed = (
        padded.as_strided((tables, rows, diagonals), (rows * width, width - 1, 1))
        .permute(2, 1, 0)
        .contiguous()
    )
    # Totals and lengths of the paths to each cell of an antidiagonal, by row, from row -1.
    total, before = (costs.new_full((rows + 1, tables), math.inf) for _ in range(2))
    steps, steps_before = (costs.new_zeros(rows + 1, tables) for _ in range(2))
    before[0] = 0  # the path that has not begun
    last, table = n + m - 2, torch.arange(tables, device=costs.device)
    mean = torch.empty_like(total[0])
    for diagonal in range(diagonals):
        corner, up, left = before[:-1], total[:-1], total[1:]
        sideways = left <= up
        cheaper = torch.where(sideways, left, up)
        diagonally = corner <= cheaper
        cells = skewed[diagonal] + torch.where(diagonally, corner, cheaper)
        taken = 1 + torch.where(
            diagonally, steps_before[:-1], torch.where(sideways, steps[1:], steps[:-1])
        )
        before, steps_before = total, steps
        total, steps = F.pad(cells, (0, 0, 1, 0), value=math.inf), F.pad(taken, (0, 0, 1, 0))
        mean = torch.where(last == diagonal, total[n, table] / steps[n, table], mean)
    return mean
