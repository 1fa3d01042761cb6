"""Probes that train no classifier: units and verification, against counting and formulas."""

import itertools
import json
import math

import numpy as np
import pytest
from conftest import make_data
from test_probes import Loudness, noisy_data

from gim_audio.errors import DataError
from gim_audio.phones import Alignment
from gim_audio.probes import FrameSample, Subject, UnitProbe, VerificationProbe, evaluate
from gim_audio.probes.units import pnmi
from gim_audio.probes.verification import error_of, error_rate


def probe_units(encoder, train, test, *, units, shift, modules):
    subject = Subject(encoder, modules)
    sample = FrameSample(subject, train, shifts=[shift], most_frames=400_000, seed=0)
    return evaluate(subject, [sample, UnitProbe(sample, test, units)]).results[0]


def probe_verification(encoder, train, test, *, modules):
    subject = Subject(encoder, modules)
    return evaluate(subject, [VerificationProbe(subject, train, test)]).results[0]


def test_pnmi_by_its_definition():
    counts = np.array([[30.0, 5, 0], [2, 20, 3]])
    total, information = counts.sum(), 0.0
    for unit in range(2):
        for phone in range(3):
            if counts[unit, phone]:
                joint = counts[unit, phone] / total
                information += joint * math.log(
                    joint * total**2 / counts[unit].sum() / counts[:, phone].sum()
                )
    entropy = -sum(p * math.log(p) for p in counts.sum(axis=0) / total)
    assert pnmi(counts) == pytest.approx(information / entropy)
    assert pnmi(np.diag([3.0, 5, 2])) == pytest.approx(1)
    assert pnmi(np.ones((2, 3))) == pytest.approx(0, abs=1e-12)


def test_units_of_what_loudness_tells_apart(tmp_path):
    train, test = noisy_data(tmp_path / "a", "ab"), noisy_data(tmp_path / "b", "ab")
    result = probe_units(Loudness(), train, test, units=2, shift=0, modules=[1, 2])
    level, nothing = result.modules
    assert level["phone_purity"] > 0.95
    assert level["pnmi"] > 0.7
    assert nothing["pnmi"] == 0
    assert nothing["phone_purity"] == 0.5
    assert nothing["cluster_purity"] == 1
    assert result.counts["test_frames"] == 8 * 50
    again = probe_units(Loudness(), train, test, units=2, shift=0, modules=[1, 2])
    assert again == result
    alone = {name: alignment for name, alignment in test[1].items() if name.startswith("a")}
    one = probe_units(Loudness(), train, (test[0], alone), units=2, shift=0, modules=[1])
    assert one.counts["test_speakers"] == 1
    assert one.modules[0]["interval"] is None
    with pytest.raises(DataError, match="400 labelled frames are too few for 401 units"):
        probe_units(Loudness(), train, test, units=401, shift=0, modules=[1])


def test_units_that_say_nothing_have_no_information(tmp_path):
    """Levels of noise are no phones: what counts say all the same is bias, and is taken off."""
    data = make_data(tmp_path / "noise", {f"s{n:02d}-1": 16000 for n in range(16)})
    generator, edges = np.random.default_rng(0), np.arange(101) / 100
    alignments = {
        name: Alignment(edges[:-1], edges[1:], generator.integers(2, 12, 100))
        for name in data.utterances
    }
    labelled = data, alignments
    row = probe_units(Loudness(), labelled, labelled, units=20, shift=0, modules=[1]).modules[0]
    assert row["pnmi_uncorrected"] > 0.02
    assert abs(row["pnmi"]) < row["pnmi_uncorrected"] / 2
    assert row["interval"][0] == 0 < row["interval"][1]


def slow_rate(scores, true, weights):
    """The crossing of two step functions, joined by straight lines at every threshold."""
    points = []
    for threshold in [np.inf, *sorted(set(scores), reverse=True)]:
        taken = scores >= threshold
        refused = weights[true & ~taken].sum() / weights[true].sum()
        accepted = weights[~true & taken].sum() / weights[~true].sum()
        points.append((accepted, refused))
    for (a, r), (b, s) in itertools.pairwise(points):
        if b >= s:
            share = (r - a) / (r - a + b - s)
            return a + share * (b - a)
    return None


def test_the_equal_error_rate():
    generator = np.random.default_rng(0)
    for number in range(20):
        true = generator.random(60) < 0.3
        scores = (generator.standard_normal(60) + true).round(number % 3).astype(np.float32)
        weights = generator.integers(0, 3, 60).astype(float)
        assert error_rate(scores, true)(weights) == pytest.approx(slow_rate(scores, true, weights))
    assert error_rate(np.array([0.1, 0.9]), np.array([False, True]))(np.ones(2)) == 0
    assert error_rate(np.array([0.9, 0.1]), np.array([False, True]))(np.ones(2)) == 1
    assert math.isnan(error_rate(np.array([0.9, 0.1]), np.array([False, True]))(np.array([1.0, 0])))


def test_a_speaker_who_is_left_out_is_no_voice_either():
    """The figure of some speakers is that of the trials between them alone."""
    generator = np.random.default_rng(0)
    spoken, voiced = np.repeat(np.arange(8), 2), np.arange(8)
    scores = generator.standard_normal((16, 8)).astype(np.float32) + 1.5 * (
        spoken[:, None] == voiced
    )
    error = error_of(scores, spoken, voiced, 8)
    for kept in ([0, 1, 2, 3, 4, 5, 6, 7], [1, 4, 6], [0, 2, 3, 5, 7]):
        weights = np.isin(np.arange(8), kept).astype(float)
        part = scores[np.isin(spoken, kept)][:, kept]
        true = spoken[np.isin(spoken, kept)][:, None] == np.array(kept)
        assert error(np.outer(weights, weights)) == pytest.approx(
            slow_rate(part.ravel(), true.ravel(), np.ones(part.size))
        )


def test_strangers_count_in_every_half(tmp_path):
    """Intervals resample those who are enrolled and tested.

    Others are false trials alone, and always there.
    """
    train, test = noisy_data(tmp_path / "a", "ab")[0], noisy_data(tmp_path / "b", "ac")[0]
    subject = Subject(Loudness(), [1])
    (result,) = evaluate(subject, [VerificationProbe(subject, train, test)]).results
    assert result.speakers == ["a"]
    assert result.modules[0]["interval"] is None
    generator = np.random.default_rng(0)
    spoken, voiced = np.array([0, 1, 2, 4]), np.array([0, 1, 2, 3])
    scores = generator.standard_normal((4, 4)).astype(np.float32)
    part = scores[[0, 2, 3]][:, [0, 2, 3]]
    true = np.diag([True, True, False])
    found = error_of(scores, spoken, voiced, 3)(np.outer([1.0, 0, 1], [1.0, 0, 1]))
    assert found == pytest.approx(slow_rate(part.ravel(), true.ravel(), np.ones(9)))


def test_voices_that_loudness_tells_apart(tmp_path):
    train, test = noisy_data(tmp_path / "a", "ac")[0], noisy_data(tmp_path / "b", "ac")[0]
    result = probe_verification(Loudness(), train, test, modules=[1, 2])
    level, nothing = result.modules
    assert level["eer"] == 0
    assert nothing["eer"] == 0.5
    assert (result.counts["true_trials"], result.counts["false_trials"]) == (8, 8)
    with pytest.raises(DataError, match="none of its speakers is in"):
        probe_verification(Loudness(), train, noisy_data(tmp_path / "c", "b")[0], modules=[1])
    with pytest.raises(DataError, match="one speaker only"):
        probe_verification(Loudness(), train.select(["a-0", "a-1"]), test, modules=[1])


def test_the_commands(spoken, tmp_path, run):
    run("data", "split", spoken, tmp_path / "a", tmp_path / "b", "--by", "time", "--share", 0.6)
    arguments = ["--train", tmp_path / "a", "--test", tmp_path / "b"]
    for task, key in (("units", "pnmi"), ("verification", "eer")):
        out = tmp_path / f"{task}.json"
        status, printed, err = run("probe", task, "mfcc", *arguments, "--out", out, "--units", 20)
        assert status == 0, err
        row = json.loads(out.read_text())["modules"][0]
        assert row["interval"][0] <= row[key] <= row["interval"][1]
        assert len(row["halves"]) == 400
        assert f"{row[key]:.1%}" in printed
    assert "phone purity" not in printed
    assert row["eer"] < 0.3
