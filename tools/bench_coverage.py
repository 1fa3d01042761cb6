"""Measure how often 95% intervals over speakers cover a known truth, on simulated speakers.

    python tools/bench_coverage.py [--runs 150] [--out tools/bench_coverage.md]

Every simulation draws new speakers from a population whose figure is known in closed form, and two
systems that are measured on the same speakers. The intervals are made by the code that evaluations
use.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench import table, write_page
from scipy.stats import norm, t

from gim_audio.abx.scores import Group, mean_of_means
from gim_audio.intervals import Statistic, difference, estimate
from gim_audio.probes.tally import share_of
from gim_audio.probes.units import pnmi, pnmi_of
from gim_audio.probes.verification import error_of

Generator = np.random.Generator


@dataclass(frozen=True)
class Drawn:
    """Two systems on the same speakers.

    Attributes:
        statistics: The figure of each as a function of the speakers that count.
        truths: The figure of each in the population.
        biased: True for a figure that is corrected for bias.
        most: The largest value that the figure can take.
        pairs: True for a figure of pairs of speakers.
    """

    statistics: tuple[Statistic, Statistic]
    truths: tuple[float, float]
    biased: bool = False
    most: float = 1.0
    pairs: bool = False


def rates(
    first: float, second: float, spread: float, length: float, most: float = 1.0
) -> Callable[[int, Generator], Drawn]:
    """Simulate shares of frames or phones.

    Each speaker has a rate of its own, uniform around the population's.
    """

    def draw(speakers: int, generator: Generator) -> Drawn:
        total = np.exp(generator.normal(np.log(length), 0.5, speakers)).round().astype(int) + 1
        own = generator.uniform(-spread, spread, speakers)
        parts = [generator.binomial(total, rate + own) for rate in (first, second)]
        return Drawn(
            tuple(share_of(part.astype(float), total.astype(float)) for part in parts),
            (first, second),
            most=most,
        )

    return draw


def units(tokens: int, count: int, phones: int) -> Callable[[int, Generator], Drawn]:
    """Simulate k-means units.

    A phone has some likely units, and every speaker another table of them.

    A token is four frames of one phone and one unit: neighbouring frames repeat each other.
    """
    population = np.random.default_rng(5)
    share = population.dirichlet(np.full(phones, 3.0))
    tables = []
    for spread in (2, 4):
        centres = np.arange(phones) * count / phones
        near = np.abs((np.arange(count)[:, None] - centres + count / 2) % count - count / 2)
        likely = np.exp(-near / spread) + 0.002
        tables.append(likely / likely.sum(axis=0) * share)

    def draw(speakers: int, generator: Generator) -> Drawn:
        counts = []
        for table_ in tables:
            own = generator.gamma(
                np.broadcast_to(10 * table_.size * table_, (speakers, count, phones))
            )
            own /= own.sum(axis=(1, 2), keepdims=True)
            drawn = generator.multinomial(tokens, own.reshape(speakers, -1)).reshape(own.shape)
            counts.append(4.0 * drawn)
        statistics = tuple((lambda weights, c=c: pnmi_of(c, weights)) for c in counts)
        return Drawn(statistics, tuple(pnmi(own) for own in tables), biased=True)

    return draw


def trials(utterances: int, first: float, second: float) -> Callable[[int, Generator], Drawn]:
    """Simulate verification.

    Scores are normal, with an effect of the test speaker and of the voice.
    """
    of_true, of_speaker, of_voice = 0.5, 0.4, 0.4

    def draw(speakers: int, generator: Generator) -> Drawn:
        spoken, voiced = np.repeat(np.arange(speakers), utterances), np.arange(speakers)
        own, theirs, voice = (
            generator.normal(0, s, speakers) for s in (of_true, of_speaker, of_voice)
        )
        noise = generator.normal(0, 1, (len(spoken), speakers))
        statistics = []
        for gap in (first, second):
            scores = theirs[spoken][:, None] + voice + noise
            same = spoken[:, None] == voiced
            scores[same] = gap + own[spoken] + noise[same]
            statistics.append(error_of(scores, spoken, voiced, speakers))
        width = np.hypot(of_true, 1) + np.sqrt(of_speaker**2 + of_voice**2 + 1)
        return Drawn(
            tuple(statistics),
            tuple(float(norm.cdf(-gap / width)) for gap in (first, second)),
            pairs=True,
        )

    return draw


def triples(pairs: int, per_pair: int) -> Callable[[int, Generator], Drawn]:
    """Simulate ABX across speakers.

    How hard a comparison is depends on the pair of phones and on both speakers.
    """
    of_one, of_other, comparisons = 0.4, 0.3, 4
    hardness = np.linspace(-0.4, 0.4, pairs)
    means = (0.9, 0.8)

    def draw(speakers: int, generator: Generator) -> Drawn:
        names = [f"s{number:03d}" for number in range(speakers)]
        one, other = generator.normal(0, of_one, speakers), generator.normal(0, of_other, speakers)
        groups, effects = [], []
        nothing = np.empty(0, dtype=np.int64)
        for pair in range(pairs):
            for _ in range(per_pair):
                a, x = generator.choice(speakers, 2, replace=False)
                groups.append(
                    Group(names[a], names[x], (str(pair), "b"), nothing, nothing, nothing)
                )
                effects.append(hardness[pair] + one[a] + other[x])
        noise = generator.normal(0, 1, (len(groups), comparisons))
        statistics = []
        for mean in means:
            errors = (noise > mean + np.array(effects)[:, None]).mean(axis=1)
            statistics.append(mean_of_means(groups, errors, names))
        width = np.sqrt(1 + of_one**2 + of_other**2)
        return Drawn(
            tuple(statistics),
            tuple(float(norm.cdf(-(mean + hardness) / width).mean()) for mean in means),
            pairs=True,
        )

    return draw


CASES: dict[str, tuple[Callable[[int, Generator], Drawn], tuple[int, ...]]] = {
    "accuracy near 50%": (rates(0.5, 0.52, 0.15, 1000), (8, 14, 53)),
    "accuracy near 93%": (rates(0.93, 0.92, 0.06, 1000), (8, 14, 53)),
    "phone error rate near 66%": (rates(0.66, 0.64, 0.15, 150, np.inf), (14, 53)),
    "ABX near 22%": (triples(60, 20), (8, 14, 53)),
    "PNMI, 20 units, 12 phones, 400 frames a speaker": (units(100, 20, 12), (14, 53)),
    "PNMI, 100 units, 40 phones, 4,000 frames a speaker": (units(1000, 100, 40), (14, 53)),
    "EER near 9%": (trials(1, 3.0, 3.1), (20, 53)),
    "EER near 4%, three utterances a speaker": (trials(3, 4.0, 4.1), (20, 53)),
}
CHEAP = 10
"""Rows of accuracies, phone errors and ABX have this many times as many runs."""


def coverage(
    draw: Callable[[int, Generator], Drawn], speakers: int, runs: int, seed: int = 0
) -> dict[str, float]:
    """Return how often the intervals of a figure and a difference cover the truth.

    Their mean widths are beside it.
    """
    generator = np.random.default_rng((seed, speakers))
    covered, paired, widths, reaches, values = [], [], [], [], []
    for _ in range(runs):
        drawn = draw(speakers, generator)
        first, second = (
            estimate(statistic, speakers, biased=drawn.biased, most=drawn.most, pairs=drawn.pairs)
            for statistic in drawn.statistics
        )
        low, high = first.interval or (np.nan, np.nan)
        covered.append(low <= drawn.truths[0] <= high)
        widths.append(high - low)
        values.append(first.value)
        reach = difference(first, second, speakers)
        change = drawn.truths[0] - drawn.truths[1]
        paired.append(abs(first.value - second.value - change) <= reach)
        reaches.append(2 * reach)
    means = [float(np.mean(each)) for each in (covered, widths, paired, reaches)]
    found = dict(zip(("covered", "width", "paired", "paired width"), means, strict=True))
    # An interval that knew the spread of the figure over new speakers would have this width.
    return found | {
        "width by the spread of runs": float(2 * t.ppf(0.975, speakers - 1) * np.std(values))
    }


def main() -> None:
    """Simulate every case and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("tools/bench_coverage.md"))
    options = parser.parse_args()
    rows = []
    for name, (draw, counts) in CASES.items():
        for speakers in counts:
            runs = options.runs * (1 if name.startswith(("PNMI", "EER")) else CHEAP)
            found = coverage(draw, speakers, runs)
            rows.append(
                [
                    name,
                    str(speakers),
                    str(runs),
                    f"{100 * draw(speakers, np.random.default_rng(0)).truths[0]:.1f}",
                ]
                + [
                    f"{100 * found[key]:.1f}"
                    for key in ("covered", "width", "paired", "paired width")
                ]
            )
            print(*rows[-1], sep=" | ", flush=True)
    write_page(
        options.out,
        "How often 95% intervals cover the truth",
        "Every run has new speakers; all in per cent. The standard error of a coverage of 95% is"
        f" {100 * np.sqrt(0.95 * 0.05 / options.runs):.1f} with {options.runs} runs. The"
        " differences are of two systems on the same speakers. Units that most speakers never use,"
        " as in the row of 14 speakers and 100 units, leave a bias that no correction finds; the"
        " lower edge of the interval allows for it.\n",
        table(
            [
                "figure",
                "speakers",
                "runs",
                "truth",
                "covered",
                "mean width",
                "difference covered",
                "mean width of it",
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
