"""The agreement of two alignments of the same utterances."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

import numpy as np

from gim_audio.errors import DataError
from gim_audio.phones import LABEL_SECONDS, Alignment

__all__ = ["TOLERANCES", "Agreement", "agreement"]

TOLERANCES = (0.010, 0.020, 0.030, 0.050)
"""Seconds."""


@dataclass(frozen=True)
class Agreement:
    """The agreement of a second alignment with a first.

    Attributes:
        utterances: The number of utterances that both have.
        frames: share of the first's time, on a grid of 10 ms, for which both say the same phone.
        frames_moved: the same, once the second is moved by the median difference of their
            boundaries: aligners disagree on the moment that a window stands for.
        phones: share of the first's phones that the second has too, by difflib's matching of the
            two sequences.
        boundaries: The shares, for each of `TOLERANCES`, of the first's boundaries that the second
            puts so near; a boundary lies between two phones that follow each other, and both have
            to be there.
        met: the same, of the boundaries that both have.
        later: seconds by which the second's boundaries are later, at the median.
    """

    utterances: int
    frames: float
    frames_moved: float
    phones: float
    boundaries: list[float]
    met: list[float]
    later: float


def agreement(first: Mapping[str, Alignment], second: Mapping[str, Alignment]) -> Agreement:
    """Compare what both have.

    Raises:
        DataError: that is nothing.
    """
    names = sorted(first.keys() & second.keys())
    if not names:
        raise DataError("no utterance is in both alignments")
    pairs = {
        name: _pairs(first[name].labels.tolist(), second[name].labels.tolist()) for name in names
    }
    differences = [
        float(second[name].starts[j] - first[name].starts[i])
        for name in names
        for (before, k), (i, j) in pairwise(pairs[name])
        if (before + 1, k + 1) == (i, j)
    ]
    later = float(np.median(differences)) if differences else 0.0
    phones = sum(len(first[name].labels) for name in names)
    boundaries = phones - len(names)
    apart = np.abs(np.array(differences or [np.inf]))
    near = [int((apart <= tolerance + 1e-6).sum()) for tolerance in TOLERANCES]
    return Agreement(
        utterances=len(names),
        frames=_share([first[name] for name in names], [second[name] for name in names], 0.0),
        frames_moved=_share(
            [first[name] for name in names], [second[name] for name in names], later
        ),
        phones=sum(len(found) for found in pairs.values()) / phones,
        boundaries=[count / max(1, boundaries) for count in near],
        met=[count / max(1, len(differences)) for count in near],
        later=later,
    )


def _share(first: Sequence[Alignment], second: Sequence[Alignment], later: float) -> float:
    """Return the share of the first's grid that the second has too, once it is moved by `later`."""
    same = total = 0
    for one, other in zip(first, second, strict=True):
        moments = np.arange(one.starts[0] + LABEL_SECONDS / 2, one.ends[-1], LABEL_SECONDS)
        same += int((one.at(moments) == other.at(moments + later)).sum())
        total += len(moments)
    return same / total


def _pairs(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """Places of the phones that two sequences have in common, in order."""
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    return [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]
