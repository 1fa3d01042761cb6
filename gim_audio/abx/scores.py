"""The groups of tokens that are compared, and the error that comparisons make."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from gim_audio.abx.items import Item
from gim_audio.intervals import Statistic, Weights, estimate

__all__ = ["Group", "GroupScore", "Mode", "Numbers", "groups", "pairs_of", "score"]

Mode = Literal["within", "across"]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Tokens A and X of one phone and B of another, all between the same neighbours.

    Attributes:
        speaker: The speaker of A and B.
        other: The speaker of X; the same within a speaker.
        phones: The phone of A and X, and that of B.
        a: numbers of tokens. Shape: `(n,)`.
        b: the same.
        x: the same; `a` itself within a speaker.
    """

    speaker: str
    other: str
    phones: tuple[str, str]
    a: Numbers
    b: Numbers
    x: Numbers


@dataclass(frozen=True)
class GroupScore:
    """An ABX error.

    Attributes:
        error: share of comparisons in which B is nearer to X than A is; 0.5 is chance.
        interval: 95% interval over speakers; None where there are too few.
        halves: The error on random halves of the speakers, for paired comparisons.
        pair_halves: The error on random halves of the pairs of speakers; empty within speakers.
        groups: The number of groups of tokens that were compared.
        comparisons: A, B, X.
    """

    error: float
    interval: list[float] | None
    halves: list[float | None]
    pair_halves: list[float | None]
    groups: int
    comparisons: int


def groups(
    items: Sequence[Item], mode: Mode, *, most: int, most_speakers: int, seed: int
) -> list[Group]:
    """All groups.

    Args:
        items: The tokens to group.
        mode: Triples of one speaker, or with X by another speaker.
        most: tokens of one phone, context and speaker; of more, this many by chance.
        most_speakers: The most speakers of X for one A, drawn by chance.
        seed: The seed of these draws.
    """
    generator = np.random.default_rng(seed)
    cells: dict[tuple[str, str], dict[str, dict[str, list[int]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for number, item in enumerate(items):
        cells[item.context][item.speaker].setdefault(item.phone, []).append(number)
    found = []
    for context in sorted(cells):
        chosen = {
            speaker: {
                phone: _some(generator, tokens, most) for phone, tokens in sorted(phones.items())
            }
            for speaker, phones in sorted(cells[context].items())
        }
        for speaker, phones in chosen.items():
            for one, a in phones.items():
                if len(phones) > 1:
                    for other, x in _targets(generator, chosen, speaker, one, mode, most_speakers):
                        found += [
                            Group(speaker, other, (one, two), a, b, x)
                            for two, b in phones.items()
                            if two != one
                        ]
    return found


def _some(generator: np.random.Generator, tokens: Sequence[int], most: int) -> Numbers:
    numbers = np.array(tokens, dtype=np.int64)
    return (
        numbers if len(numbers) <= most else np.sort(generator.choice(numbers, most, replace=False))
    )


def _targets(
    generator: np.random.Generator,
    chosen: dict[str, dict[str, Numbers]],
    speaker: str,
    phone: str,
    mode: Mode,
    most_speakers: int,
) -> Iterator[tuple[str, Numbers]]:
    """Yield each speaker of X with the tokens X for tokens A of a phone."""
    if mode == "within":
        if len(chosen[speaker][phone]) > 1:
            yield speaker, chosen[speaker][phone]
        return
    others = [other for other, phones in chosen.items() if other != speaker and phone in phones]
    for index in _some(generator, range(len(others)), most_speakers).tolist():
        yield others[index], chosen[others[index]][phone]


def pairs_of(groups: Sequence[Group]) -> Numbers:
    """Every pair of tokens that the groups compare, once, the lower number first.

    Shape: `(pairs, 2)`.
    """
    base = 1 + max(int(side.max()) for group in groups for side in (group.a, group.b, group.x))
    both = [_keys(group.x, side, base).ravel() for group in groups for side in (group.a, group.b)]
    pairs = np.stack(np.divmod(np.unique(np.concatenate(both)), base), axis=1)
    different: Numbers = pairs[pairs[:, 0] != pairs[:, 1]]
    return different


def _keys(first: Numbers, second: Numbers, base: int) -> Numbers:
    """A number for each pair, whatever its order. Shape: `(n,)`, `(m,)` → `(n, m)`."""
    keys: Numbers = np.minimum(first[:, None], second) * base + np.maximum(first[:, None], second)
    return keys


def score(
    groups: Sequence[Group],
    pairs: Numbers,
    distances: npt.NDArray[np.float32],
    speakers: Sequence[str],
) -> GroupScore:
    """Average over the groups of a speaker and two phones, over speakers, and over pairs.

    A speaker who is left out for the interval is left out as the speaker of A and B and as that of
    X.

    Args:
        groups: The groups of one mode.
        pairs: Pairs of tokens, sorted as `pairs_of` sorts them. Shape: `(pairs, 2)`.
        distances: The distance of each pair. Shape: `(pairs,)`.
        speakers: The speakers of the data, sorted.
    """
    errors, comparisons = errors_of(groups, pairs, distances)
    error = mean_of_means(groups, errors, speakers)
    if any(group.speaker != group.other for group in groups):
        found = estimate(error, len(speakers), pairs=True)
    else:
        found = estimate(lambda weights: error(np.diag(weights)), len(speakers))
    return GroupScore(
        found.value, found.interval, found.halves, found.pair_halves, len(groups), comparisons
    )


def errors_of(
    groups: Sequence[Group], pairs: Numbers, distances: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], int]:
    """Return each group's share of triples whose B is nearer to X than A, and their number.

    Shape: errors `(groups,)`.
    """
    base = int(pairs.max()) + 1
    keys = pairs[:, 0] * base + pairs[:, 1]

    def between(first: Numbers, second: Numbers) -> npt.NDArray[np.float32]:
        places = np.searchsorted(keys, _keys(first, second, base))
        found: npt.NDArray[np.float32] = distances[
            np.minimum(places, len(keys) - 1)
        ]  # of a token and itself: any
        return found

    errors = np.empty(len(groups))
    comparisons = 0
    for number, group in enumerate(groups):
        to_a, to_b = between(group.x, group.a)[:, :, None], between(group.x, group.b)[:, None]
        real = (group.x[:, None] != group.a)[:, :, None]  # a token is not compared with itself
        wrong = ((to_b < to_a) + 0.5 * (to_b == to_a)) * real
        count = int(real.sum()) * len(group.b)
        errors[number] = wrong.sum() / count
        comparisons += count
    return errors, comparisons


def mean_of_means(
    groups: Sequence[Group], errors: npt.NDArray[np.float64], speakers: Sequence[str]
) -> Statistic:
    """Return the error as a function of the pairs of speakers, of A and of X, that count.

    Pairs of phones that none of these has are passed over. Shape: errors `(groups,)`.
    """
    number_of = {speaker: number for number, speaker in enumerate(speakers)}
    phones = sorted({group.phones for group in groups})
    pair_of = {pair: number for number, pair in enumerate(phones)}
    one = np.array([number_of[group.speaker] for group in groups])
    other = np.array([number_of[group.other] for group in groups])
    cell = np.array([pair_of[group.phones] for group in groups]) * len(speakers) + one
    shape = len(phones), len(speakers)

    def error(weights: Weights) -> float:
        chosen = weights[one, other]
        counted = np.bincount(cell, chosen, minlength=math.prod(shape)).reshape(shape)
        sums = np.bincount(cell, chosen * errors, minlength=math.prod(shape)).reshape(shape)
        known = counted > 0
        of_speakers = known.sum(axis=1)
        means = (sums / np.maximum(counted, 1) * known).sum(axis=1)[of_speakers > 0] / of_speakers[
            of_speakers > 0
        ]
        return float(means.mean()) if len(means) else math.nan

    return error
