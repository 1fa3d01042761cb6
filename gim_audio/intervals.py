"""Intervals over speakers, and whether two systems differ on the same speakers.

Frames and utterances of one speaker resemble each other, so speakers are the independent units. A
figure is computed again on random halves of the speakers, drawn without replacement (the
delete-half jackknife: McCarthy 1966, Shao and Wu 1989). The spread of these values estimates the
standard error of the figure on all n speakers: given the n, the mean of m of them has the variance
S² (1/m - 1/n), the mean of all has S²/n, so the deviation of the values is multiplied by √(m / (n -
m)). Unlike the delete-one jackknife this holds for statistics that are not smooth, such as an equal
error rate; unlike in the bootstrap no speaker is drawn twice, which by itself raises mutual
information.

A mean over pairs of n speakers has a variance A + B: A of the speakers, B of what belongs to a pair
alone. Half of the speakers have about a quarter of the pairs, so their halves give A + k B with a k
of about 3: (N / M - 1) m / (n - m), where m speakers have M of the N pairs. The figure is therefore
computed on random halves of the pairs of different speakers too, which give A / (n + 1) + B, and B
follows from both.

`tools/bench_coverage.py` measures how often these intervals cover a known truth.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Estimate", "Statistic", "Weights", "difference", "estimate"]

SAMPLES = 400
"""Number of random halves: the standard error is then known to 4%."""
LEVEL = 0.95
TOO_FEW = 5
"""The number of speakers that do not tell A from B: k is as large as n + 1."""

Weights = npt.NDArray[np.float64]
"""1 for each speaker that counts and 0 for the others. Shape: `(speakers,)`; for a figure of pairs
of speakers, 1 for each pair that counts, `(speakers, speakers)`, with what a speaker is alone on
the diagonal."""

Statistic = Callable[[Weights], float]
"""The figure of the speakers or pairs that count; NaN where these do not determine it."""


@dataclass(frozen=True)
class Estimate:
    """A figure and how sure it is.

    Attributes:
        value: The figure on all speakers, corrected for bias where that was asked for.
        uncorrected: The figure on all speakers as it was computed.
        interval: 95% interval, lower edge first; None where there are too few speakers.
        halves: The figure on each random half, for paired comparisons, with None where a half does
            not determine it; empty where there is no interval.
        slack: Twice the last step of a correction: half of the bias that may be left, and by how
            much the biases of two systems may differ; 0 without one.
        pair_halves: The figure on random halves of the pairs; empty for a figure that is not of
            pairs.
    """

    value: float
    uncorrected: float
    interval: list[float] | None
    halves: list[float | None]
    slack: float = 0.0
    pair_halves: list[float | None] = field(default_factory=list)


def estimate(
    statistic: Statistic,
    speakers: int,
    *,
    biased: bool = False,
    most: float = 1.0,
    pairs: bool = False,
) -> Estimate:
    """Return a figure with its 95% interval.

    It is a t interval on a scale that keeps it in the range of the figure: logit for shares (Korn
    and Graubard 1998), logarithmic for rates without an upper bound, plain outside of the range. At
    an end of the range the values do not vary; there it is the exact one-sided bound for n speakers
    of whom none was otherwise, which is wider than that of figures near the end.

    Args:
        statistic: The figure as a function of the speakers that count.
        speakers: The number of speakers n.
        biased: True for a figure that falls with the amount of data, as mutual information of
            counts does. Its values for n, n/2 and n/4 speakers are then extrapolated to infinitely
            many by a parabola in 1/n (Strong et al. 1998). The lower edge of the interval is
            lowered by four times the last step of the extrapolation: so much bias is left where
            there are few frames.
        most: The largest value that the figure can take; infinite for a rate of errors, of which
            there may be more than phones.
        pairs: True for a figure of pairs of speakers, a function of the pairs that count.
    """
    of_speakers: Statistic = (
        (lambda weights: statistic(np.outer(weights, weights))) if pairs else statistic
    )
    uncorrected = float(of_speakers(np.ones(speakers)))
    if speakers < 2:
        return Estimate(uncorrected, uncorrected, None, [])
    values = _on_parts(of_speakers, speakers, speakers // 2)
    of_pairs = _on_pairs(statistic, speakers) if pairs else np.empty(0)
    known = np.isfinite(values)
    if 2 * known.sum() < len(values):
        return Estimate(uncorrected, uncorrected, None, [])
    value, slack = uncorrected, 0.0
    if biased:
        value, slack = _extrapolated(of_speakers, speakers, uncorrected, float(np.nanmean(values)))
    low, high = _interval(value, _deviation(values, of_pairs, speakers), speakers, most)
    return Estimate(
        value,
        uncorrected,
        [max(low - 2 * slack, min(low, 0)), high],
        _kept(values),
        slack,
        _kept(of_pairs),
    )


def difference(first: Estimate, second: Estimate, speakers: int) -> float:
    """Return half the width of the 95% interval of the difference of two figures.

    Args:
        first: The figure of one system.
        second: The figure of another system on the same speakers in the same order.
        speakers: The number of speakers.
    """
    apart = np.array(first.halves, dtype=float) - np.array(second.halves, dtype=float)
    # Without those of both, as in results of older versions, the noise of pairs is kept.
    pairs_apart = np.empty(0)
    if len(first.pair_halves) == len(second.pair_halves):
        pairs_apart = np.array(first.pair_halves, dtype=float) - np.array(
            second.pair_halves, dtype=float
        )
    reach = _quantile(speakers) * _deviation(apart, pairs_apart, speakers)
    for found in (first, second):
        # Its values do not vary, but the truth may differ.
        if found.value in {0.0, 1.0} and found.interval:
            reach += found.interval[1] - found.interval[0]
    return reach + max(first.slack, second.slack)  # the biases that are left need not be alike


def _on_parts(statistic: Statistic, speakers: int, size: int) -> npt.NDArray[np.float64]:
    """Return the figure on random parts of the speakers, the same ones for every statistic."""
    order = np.random.default_rng((speakers, size)).random((SAMPLES, speakers)).argsort(axis=1)
    return np.array([statistic(weights) for weights in (order < size).astype(np.float64)])


def _on_pairs(statistic: Statistic, speakers: int) -> npt.NDArray[np.float64]:
    """Return the figure on random halves of the pairs of different speakers.

    They are the same halves for every statistic.
    """
    generator = np.random.default_rng((speakers, speakers))
    one, other = np.triu_indices(speakers, 1)
    values = []
    for _ in range(SAMPLES):
        weights = np.eye(speakers)
        chosen = generator.permutation(len(one))[: (len(one) + 1) // 2]
        weights[one[chosen], other[chosen]] = weights[other[chosen], one[chosen]] = 1
        values.append(statistic(weights))
    return np.array(values)


def _kept(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [round(value, 6) if np.isfinite(value) else None for value in values.tolist()]


def _extrapolated(
    statistic: Statistic, speakers: int, whole: float, half: float
) -> tuple[float, float]:
    """Return the figure of infinitely many speakers.

    Beside it is twice the change by the parabola's last term.
    """
    sizes = sorted({speakers, speakers // 2, max(1, speakers // 4)}, reverse=True)
    values = [
        whole,
        half,
        *(float(np.nanmean(_on_parts(statistic, speakers, size))) for size in sizes[2:]),
    ]
    orders = [
        np.linalg.solve(np.vander(1 / np.array(sizes[:count]), increasing=True), values[:count])[0]
        for count in range(1, len(sizes) + 1)
    ]
    return float(orders[-1]), float(2 * abs(orders[-1] - orders[-2]))


def _deviation(
    values: npt.NDArray[np.float64], of_pairs: npt.NDArray[np.float64], speakers: int
) -> float:
    """Return the standard error of the figure on all speakers from its values on halves."""
    size = speakers // 2
    variance = np.nanvar(values, ddof=1) * size / (speakers - size)
    pairs = speakers * (speakers - 1) // 2
    if speakers > TOO_FEW and np.isfinite(of_pairs).sum() > 1:
        half = (pairs + 1) // 2
        times = (2 * pairs / (size * (size - 1)) - 1) * size / (speakers - size)  # k
        noise = np.nanvar(of_pairs, ddof=1) * half / (pairs - half)
        of_a_pair = (noise - variance / (speakers + 1)) / (1 - times / (speakers + 1))  # B
        variance -= (times - 1) * np.clip(of_a_pair, 0, variance / times)
    return float(np.sqrt(variance))


def _quantile(speakers: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, speakers - 1))


def _interval(value: float, deviation: float, speakers: int, most: float) -> tuple[float, float]:
    from scipy.special import expit, logit

    bound, reach = (1 - LEVEL) ** (1 / speakers), _quantile(speakers) * deviation
    if not deviation and value == 0:
        return 0.0, 1 - bound
    if not deviation and value == most:
        return bound, 1.0
    if not 0 < value < most:
        return value - reach, value + reach
    if most == 1:
        centre, reach = logit(value), reach / (value * (1 - value))
        return float(expit(centre - reach)), float(expit(centre + reach))
    return float(value * np.exp(-reach / value)), float(value * np.exp(reach / value))
