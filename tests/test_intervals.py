"""Intervals against known truths, closed forms and what a person can count."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from scipy.stats import t

from gim_audio.intervals import SAMPLES, difference, estimate
from gim_audio.probes.tally import Tally, share_of


@pytest.fixture(scope="module")
def simulation():
    sys.path.insert(0, str(ROOT / "tools"))
    import bench_coverage

    yield bench_coverage
    sys.path.remove(str(ROOT / "tools"))


@pytest.mark.parametrize(
    ("case", "speakers", "runs"),
    [
        ("accuracy near 50%", 14, 150),
        ("accuracy near 93%", 14, 150),
        ("phone error rate near 66%", 14, 150),
        ("PNMI, 20 units, 12 phones, 400 frames a speaker", 14, 50),
        ("EER near 4%, three utterances a speaker", 20, 50),
        ("ABX near 22%", 14, 80),
    ],
)
def test_intervals_cover_the_truth(simulation, monkeypatch, case, speakers, runs):
    """95% of the intervals do; the limits are three standard errors away."""
    monkeypatch.setattr("gim_audio.intervals.SAMPLES", 100)
    found = simulation.coverage(simulation.CASES[case][0], speakers, runs)
    lowest = 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)
    assert found["covered"] > lowest
    assert found["paired"] > lowest
    assert found["paired width"] < 1.5 * found["width"]
    assert 0.7 < found["width"] / found["width by the spread of runs"] < 1.5


def test_a_plain_mean_has_the_t_interval():
    """The standard error of a mean is S / sqrt(n), and near 50% the logit is straight."""
    values = np.random.default_rng(0).uniform(0.45, 0.55, 40)
    found = estimate(share_of(values, np.ones(40)), 40)
    reach = t.ppf(0.975, 39) * values.std(ddof=1) / np.sqrt(40)
    low, high = found.interval
    assert found.value == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(reach, rel=0.1)
    other = values + np.random.default_rng(1).normal(0, 0.001, 40)
    apart = difference(found, estimate(share_of(other, np.ones(40)), 40), 40)
    own = t.ppf(0.975, 39) * (values - other).std(ddof=1) / np.sqrt(40)
    assert apart == pytest.approx(own, rel=0.1)
    assert apart < reach / 10


def test_an_odd_number_of_speakers_is_not_treated_as_even():
    """Three speakers have halves of one.

    Single values deviate √2 times as much as the mean of three.
    """
    values = np.array([0.4, 0.5, 0.6])
    found = estimate(share_of(values, np.ones(3)), 3)
    assert set(found.halves) == {0.4, 0.5, 0.6}
    reach = t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    logit = np.log(found.interval[1] / (1 - found.interval[1]))
    assert logit == pytest.approx(reach / 0.25, rel=0.05)


def test_speakers_without_errors_are_no_proof():
    """With 20 speakers all right, a share of 1 - 0.05^(1/20) may still be wrong."""
    found = estimate(share_of(np.full(20, 7.0), np.full(20, 7.0)), 20)
    assert found.interval == pytest.approx([0.05 ** (1 / 20), 1])
    found = estimate(share_of(np.zeros(20), np.full(20, 7.0)), 20)
    assert found.interval == pytest.approx([0, 1 - 0.05 ** (1 / 20)])


@pytest.mark.parametrize("value", [0.66, 0.99, 0.999, 1.0, 1.2])
def test_a_rate_of_errors_may_exceed_one(value):
    """The interval has about the width of a t interval, at any rate.

    All phones missed is no upper bound.
    """
    errors = value + np.linspace(-0.1, 0.1, 14)
    low, high = estimate(share_of(errors, np.ones(14)), 14, most=np.inf).interval
    reach = t.ppf(0.975, 13) * errors.std(ddof=1) / np.sqrt(14)
    assert high - low == pytest.approx(2 * reach, rel=0.15)
    assert low < value < high


def test_a_figure_at_its_end_differs_by_no_less_than_its_interval():
    """Two systems without errors are not shown to be equal to the last digit."""
    perfect = estimate(share_of(np.ones(20), np.ones(20)), 20)
    nearly = estimate(share_of(np.repeat([1, 0.99], 10), np.ones(20)), 20)
    assert difference(perfect, nearly, 20) > perfect.interval[1] - perfect.interval[0]


def test_one_speaker_has_no_interval():
    found = estimate(share_of(np.ones(1), np.full(1, 2.0)), 1)
    assert (found.value, found.interval, found.halves) == (0.5, None, [])


def test_a_figure_that_falls_with_the_amount_of_data_is_corrected():
    """A statistic that is exactly a parabola in 1 / n is extrapolated to its constant."""
    found = estimate(
        lambda weights: 0.3 + 0.8 / weights.sum() + 2 / weights.sum() ** 2, 40, biased=True
    )
    assert found.value == pytest.approx(0.3)
    assert found.uncorrected == pytest.approx(0.3 + 0.02 + 2 / 1600)
    assert found.interval[0] < 0.3 - 1.9 * found.slack < found.interval[1]


def _mean_of_pairs(values):
    """The mean of what pairs of different speakers have. Shape: `(speakers, speakers)`."""
    apart = ~np.eye(len(values), dtype=bool)
    return lambda weights: (weights * values)[apart].sum() / weights[apart].sum()


def test_the_noise_of_pairs_counts_once(monkeypatch):
    """A mean over n (n - 1) / 2 independent pairs has the error σ / sqrt(n (n - 1) / 2)."""
    monkeypatch.setattr("gim_audio.intervals.SAMPLES", 100)
    widths, reaches = [], []
    for seed in range(20):
        values = np.triu(np.random.default_rng(seed).normal(0.5, 0.05, (2, 30, 30)), 1)
        found, other = (estimate(_mean_of_pairs(each + each.T), 30, pairs=True) for each in values)
        widths.append(found.interval[1] - found.interval[0])
        reaches.append(difference(found, other, 30))
    reach = t.ppf(0.975, 29) * 0.05 / np.sqrt(435)
    assert np.mean(widths) / 2 == pytest.approx(reach, rel=0.2)
    assert np.mean(reaches) == pytest.approx(np.sqrt(2) * reach, rel=0.2)


@pytest.mark.parametrize("speakers", [8, 14])
def test_speakers_and_pairs_are_told_apart(monkeypatch, speakers):
    """A mean of a_i + a_j + b_ij has the variance 4 S_a² / n + S_b² / N, N pairs of n speakers."""
    monkeypatch.setattr("gim_audio.intervals.SAMPLES", 200)
    variances = []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        own, noise = (
            generator.normal(0, 0.02, speakers),
            np.triu(generator.normal(0, 0.06, (speakers, speakers)), 1),
        )
        values = 0.5 + own[:, None] + own + noise + noise.T
        found = estimate(_mean_of_pairs(values), speakers, pairs=True)
        low, high = np.log(np.array(found.interval) / (1 - np.array(found.interval)))
        # The logit is 4 times as steep at 1/2.
        variances.append(((high - low) / 8 / t.ppf(0.975, speakers - 1)) ** 2)
    expected = 4 * 0.02**2 / speakers + 0.06**2 / (speakers * (speakers - 1) / 2)
    assert np.mean(variances) == pytest.approx(expected, rel=0.25)


def test_results_without_halves_of_pairs_are_compared():
    """Results of older versions have none.

    The noise of pairs is then counted too often, never too rarely.
    """
    values = np.triu(np.random.default_rng(0).normal(0.5, 0.05, (2, 20, 20)), 1)
    new, other = (estimate(_mean_of_pairs(each + each.T), 20, pairs=True) for each in values)
    old = replace(new, pair_halves=[])
    assert difference(old, other, 20) > difference(new, other, 20)


def test_no_share_is_less_than_nothing():
    found = estimate(lambda weights: 0.02 + 0.5 / weights.sum() ** 2, 8, biased=True)
    assert found.interval[0] == 0


def test_speakers_count_in_a_mean_over_their_pairs():
    """A mean of a_i + a_j has the standard error of two times the mean of a."""
    own = np.random.default_rng(3).uniform(0.2, 0.3, 30)
    found = estimate(_mean_of_pairs(own[:, None] + own), 30, pairs=True)
    reach = t.ppf(0.975, 29) * 2 * own.std(ddof=1) / np.sqrt(30)
    assert (found.interval[1] - found.interval[0]) / 2 == pytest.approx(reach, rel=0.15)


def test_the_order_of_speakers_is_their_names(simulation):
    """Halves hold the same speakers whatever the order of utterances: systems can be paired."""
    counts = {f"s{n}": (n, 20) for n in range(15)}
    rows = []
    for names in (sorted(counts), sorted(counts, reverse=True)):
        tally = Tally()
        for name in names:
            tally.add(name, [counts[name][0]], counts[name][1])
        rows.append(tally.rows([1], ["x"], [{}])[0])
    assert rows[0] == rows[1]
    assert len(rows[0]["halves"]) == SAMPLES
