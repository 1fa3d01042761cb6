"""Which tokens are compared, and how comparisons become one error."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from gim_audio.abx.items import Item

__all__ = ["Group", "Mode", "Numbers", "Score", "groups", "pairs_of", "score"]

Mode = Literal["within", "across"]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Tokens A and X of one phone and B of another, all between the same neighbours.

    Attributes:
        speaker: of A and B.
        phones: of A (and X) and of B.
        a: numbers of tokens. Shape: `(n,)`.
        b: the same.
        x: the same; `a` itself within a speaker.
    """

    speaker: str
    phones: tuple[str, str]
    a: Numbers
    b: Numbers
    x: Numbers


@dataclass(frozen=True)
class Score:
    """An ABX error.

    Attributes:
        error: share of comparisons in which B is nearer to X than A is; 0.5 is chance.
        interval: of 95%, by bootstrap over speakers; None for one speaker.
        groups: of tokens that were compared.
        comparisons: A, B, X.
    """

    error: float
    interval: list[float] | None
    groups: int
    comparisons: int


def groups(items: Sequence[Item], mode: Mode, *, most: int, most_speakers: int, seed: int) -> list[Group]:
    """All groups.

    Args:
        items: tokens.
        mode: of one speaker, or with X by another.
        most: tokens of one phone, context and speaker; of more, this many by chance.
        most_speakers: of X for one A, likewise.
        seed: of these choices.
    """
    generator = np.random.default_rng(seed)
    cells: dict[tuple[str, str], dict[str, dict[str, list[int]]]] = defaultdict(lambda: defaultdict(dict))
    for number, item in enumerate(items):
        cells[item.context][item.speaker].setdefault(item.phone, []).append(number)
    found = []
    for context in sorted(cells):
        chosen = {
            speaker: {phone: _some(generator, tokens, most) for phone, tokens in sorted(phones.items())}
            for speaker, phones in sorted(cells[context].items())
        }
        for speaker, phones in chosen.items():
            for one, a in phones.items():
                if len(phones) > 1:
                    for x in _targets(generator, chosen, speaker, one, mode, most_speakers):
                        found += [Group(speaker, (one, two), a, b, x) for two, b in phones.items() if two != one]
    return found


def _some(generator: np.random.Generator, tokens: Sequence[int], most: int) -> Numbers:
    numbers = np.array(tokens, dtype=np.int64)
    return numbers if len(numbers) <= most else np.sort(generator.choice(numbers, most, replace=False))


def _targets(
    generator: np.random.Generator,
    chosen: dict[str, dict[str, Numbers]],
    speaker: str,
    phone: str,
    mode: Mode,
    most_speakers: int,
) -> Iterator[Numbers]:
    """The tokens X for tokens A of a phone."""
    if mode == "within":
        if len(chosen[speaker][phone]) > 1:
            yield chosen[speaker][phone]
        return
    others = [other for other, phones in chosen.items() if other != speaker and phone in phones]
    for index in _some(generator, range(len(others)), most_speakers).tolist():
        yield chosen[others[index]][phone]


def pairs_of(groups: Sequence[Group]) -> Numbers:
    """Every pair of tokens that the groups compare, once, the lower number first. Shape: `(pairs, 2)`."""
    base = 1 + max(int(side.max()) for group in groups for side in (group.a, group.b, group.x))
    both = [_keys(group.x, side, base).ravel() for group in groups for side in (group.a, group.b)]
    pairs = np.stack(np.divmod(np.unique(np.concatenate(both)), base), axis=1)
    different: Numbers = pairs[pairs[:, 0] != pairs[:, 1]]
    return different


def _keys(first: Numbers, second: Numbers, base: int) -> Numbers:
    """A number for each pair, whatever its order. Shape: `(n,)`, `(m,)` → `(n, m)`."""
    keys: Numbers = np.minimum(first[:, None], second) * base + np.maximum(first[:, None], second)
    return keys


def score(groups: Sequence[Group], pairs: Numbers, distances: npt.NDArray[np.float32]) -> Score:
    """The mean over groups of a speaker and two phones, then over speakers, then over ordered pairs of phones.

    Args:
        groups: of one mode.
        pairs: as `pairs_of` sorts them.
        distances: of the pairs.
    """
    base = int(pairs.max()) + 1
    keys = pairs[:, 0] * base + pairs[:, 1]

    def between(first: Numbers, second: Numbers) -> npt.NDArray[np.float32]:
        places = np.searchsorted(keys, _keys(first, second, base))
        found: npt.NDArray[np.float32] = distances[np.minimum(places, len(keys) - 1)]  # of a token and itself: any
        return found

    errors: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    comparisons = 0
    for group in groups:
        to_a, to_b = between(group.x, group.a)[:, :, None], between(group.x, group.b)[:, None]
        real = (group.x[:, None] != group.a)[:, :, None]  # a token is not compared with itself
        wrong = ((to_b < to_a) + 0.5 * (to_b == to_a)) * real
        count = int(real.sum()) * len(group.b)
        errors[group.phones][group.speaker].append(float(wrong.sum()) / count)
        comparisons += count
    speakers = sorted({group.speaker for group in groups})
    table = np.full((len(speakers), len(errors)), np.nan)
    for column, phones in enumerate(sorted(errors)):
        for speaker, values in errors[phones].items():
            table[speakers.index(speaker), column] = np.mean(values)
    return Score(
        error=float(np.nanmean(table, axis=0).mean()),
        interval=_interval(table) if len(speakers) > 1 else None,
        groups=len(groups),
        comparisons=comparisons,
    )


def _interval(table: npt.NDArray[np.float64]) -> list[float]:
    """Of the mean over phones of the mean over speakers: 1,000 samples of the speakers, seed 0."""
    known = ~np.isnan(table)
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(len(table), np.full(len(table), 1 / len(table)), size=1000)
    counts = drawn @ known
    sums = drawn @ np.where(known, table, 0)
    seen = counts > 0  # pairs of phones that none of the drawn speakers has
    means = (sums / np.maximum(counts, 1) * seen).sum(axis=1) / seen.sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return [float(low), float(high)]
