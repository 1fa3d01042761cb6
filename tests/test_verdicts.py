"""Sentences of a report that compare systems."""

import json
import re

import numpy as np
from test_report import result

from gim_audio.intervals import estimate
from gim_audio.probes.tally import Tally, figure, share_of
from gim_audio.report import write_report
from gim_audio.report.results import read_experiments
from gim_audio.report.verdicts import verdicts

SPEAKERS = [f"s{n:02d}" for n in range(20)]


def counted(steps, rights, model="exp 123", held_out=None, **more):
    """A result of modules, each with a share of right answers for each of twenty speakers."""
    rows = []
    for number, right in enumerate(rights, 1):
        tally = Tally()
        for speaker, share in zip(SPEAKERS, right, strict=True):
            tally.add(speaker, [round(1000 * share)], 1000)
        note = {"held_out": held_out[number - 1]} if held_out else {}
        rows += [tally.rows([number], ["conv1", "conv2", "gru"], [note])[0]]
    return result("phones", steps, [], model) | {"modules": rows, "speakers": SPEAKERS} | more


def shares(mean, spread=0.1, noise=0.0):
    """Twenty speakers around a mean, the same ones for every system but for noise of its own."""
    own = (
        np.random.default_rng(int(1e6 * (mean + noise))).normal(0, noise, 20)
        if noise
        else np.zeros(20)
    )
    return mean + np.linspace(-spread, spread, 20) + own - own.mean()


def sentences(folder, **records):
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for file in (folder / "results").iterdir():
        file.unlink()
    for name, record in records.items():
        (folder / f"results/{name}.json").write_text(json.dumps(record))
    return verdicts(read_experiments([folder])[0])


def test_results_without_a_training_have_their_section(tmp_path):
    """A model that came with the package or was imported has results alone."""
    sentences(
        tmp_path / "e", a=counted(6, [shares(0.5)]), b=counted(None, [shares(0.48)], "mfcc+cmvn")
    )
    (tmp_path / "baselines/results").mkdir(parents=True)
    (tmp_path / "baselines/results/c.json").write_text(
        json.dumps(counted(None, [shares(0.47)], "fbank"))
    )
    write_report(
        [tmp_path / "e", tmp_path / "baselines"], tmp_path / "r.html", tmp_path / "R.md", "t"
    )
    text = (tmp_path / "R.md").read_text()
    assert "is better than MFCC with deltas, CMVN by utterance" in text
    assert re.search(r"\| module 1: conv1 \| 50\.0 \| \d\d\.\d to \d\d\.\d \|", text)
    assert re.search(r"\| MFCC with deltas, CMVN by utterance \| 48\.0 \|", text)
    assert re.search(r"\| 80 log mel energies \| 47\.0 \|", text)


def test_verdicts_rest_on_a_paired_test(tmp_path):
    """Overlapping intervals say nothing where two systems differ alike for every speaker."""
    ours, apart = counted(6, [shares(0.50)]), counted(None, [shares(0.48)], "mfcc")
    assert ours["modules"][0]["interval"][0] < apart["modules"][0]["interval"][1]  # they overlap
    (better,) = sentences(tmp_path / "e", a=ours, b=apart)
    assert better.startswith(
        "Phones: module 1 (conv1) is better than MFCC with deltas (50.0%, 48.0%: +2.0 points, 95%"
    )
    assert better.endswith("; delete-half jackknife, paired over 20 speakers).")
    (worse,) = sentences(tmp_path / "e", a=counted(6, [shares(0.46)]), b=apart)
    assert "is worse than MFCC with deltas (46.0%, 48.0%: -2.0 points" in worse
    (level,) = sentences(tmp_path / "e", a=counted(6, [shares(0.49, noise=0.05)]), b=apart)
    assert (
        "is not shown to differ from MFCC with deltas (49.0%, 48.0%: +1.0 points, 95% interval -"
        in level
    )


def test_the_test_set_chooses_no_module_and_the_best_baseline(tmp_path):
    """The module is the one that was best on what training held out.

    The baseline is the one that is hardest to beat.
    """
    records = {
        "a": counted(6, [shares(0.50), shares(0.55), shares(0.52)], held_out=[0.4, 0.45, 0.48]),
        "b": counted(None, [shares(0.48)], "mfcc"),
        "c": counted(None, [shares(0.51)], "mfcc+cmvn"),
        "d": counted(None, [shares(0.40)], "fbank+cmvn-speaker"),
        "e": counted(0, [shares(0.30), shares(0.31), shares(0.32)], held_out=[0.3, 0.2, 0.1]),
    }
    against_random, against_mfcc = sentences(tmp_path / "e", **records)
    assert (
        "module 3 (gru, the best on held-out training speakers) is better than its own"
        " initialisation, " in against_random
    )
    assert (
        "module 1 (conv1, the best on held-out training speakers) (52.0%, 30.0%: +22.0"
        in against_random
    )
    assert (
        "MFCC with deltas, CMVN by utterance, the best of 3 baselines on the test set (52.0%,"
        " 51.0%: +1.0" in against_mfcc
    )


def test_what_cannot_be_tested_says_why(tmp_path):
    ours, theirs = counted(6, [shares(0.50)]), counted(None, [shares(0.48)], "mfcc")
    (others,) = sentences(tmp_path / "e", a=ours, b=theirs | {"speakers": SPEAKERS[::-1]})
    assert (
        "is not compared with MFCC with deltas (50.0%, 48.0%: +2.0 points; no test: the test"
        " speakers differ)" in others
    )
    old = json.loads(json.dumps(theirs))
    del old["modules"][0]["halves"], old["speakers"]
    (older,) = sentences(tmp_path / "e", a=ours, b=old)
    assert "no test: results of an older version" in older
    weaker = counted(None, [shares(0.45)], "mfcc+cmvn")  # can be tested, and so stands for both
    (better,) = sentences(tmp_path / "e", a=ours, b=old, c=weaker)
    assert "is better than MFCC with deltas, CMVN by utterance, the best of 2" in better
    few = json.loads(json.dumps(theirs))
    few["modules"][0] |= {"halves": [], "interval": None}
    (alone,) = sentences(tmp_path / "e", a=ours, b=few)
    assert "no test: too few speakers" in alone
    relabelled = theirs | {"corpora": {"b/phones.ctm": "other"}}
    # Of other labels: nothing to compare with.
    assert sentences(tmp_path / "e", a=ours, b=relabelled) == []
    unsure = counted(6, [shares(0.5)])
    unsure["modules"][0] |= {
        "converged": False,
        "not_chosen": "no speaker or utterance could be held out",
    }
    other = json.loads(json.dumps(theirs))
    other["modules"][0]["converged"] = False
    _, slow, default, baseline = sentences(tmp_path / "e", a=unsure, b=other)
    assert (
        baseline
        == "Phones: MFCC with deltas, the regression on modules 1 stopped before it converged."
    )
    assert slow == "Phones: the regression on modules 1 stopped before it converged."
    assert default.endswith(
        "module 1 was not chosen but is the default: no speaker or utterance could be held out."
    )


def test_other_settings_are_not_compared(tmp_path):
    """Half the training frames, or another search, give other accuracies of the same features."""
    ours, theirs = counted(6, [shares(0.50)]), counted(None, [shares(0.48)], "mfcc")
    ours["settings"] = {"shift": 1, "most_frames": 30000, "tolerance": 1e-5}
    theirs["settings"] = {"shift": 1, "most_frames": 60000, "tolerance": 1e-5}
    assert sentences(tmp_path / "e", a=ours, b=theirs) == []
    theirs["settings"]["most_frames"] = 30000
    assert len(sentences(tmp_path / "e", a=ours, b=theirs)) == 1


def test_normalised_features_are_no_baseline_for_speakers(tmp_path):
    """Their mean over an utterance, which speakers are recognised by, is zero."""
    records = {"a": counted(6, [shares(0.5)]), "b": counted(None, [shares(0.4)], "mfcc"),
               "c": counted(None, [shares(0.6)], "mfcc+cmvn")}  # fmt: skip
    (sentence,) = sentences(
        tmp_path / "e", **{name: record | {"task": "speakers"} for name, record in records.items()}
    )
    assert "is better than MFCC with deltas (50.0%, 40.0%" in sentence


def test_fewer_errors_are_better(tmp_path):
    def errors(steps, share, model="exp 123"):
        found = estimate(share_of(1000 * share, np.full(20, 1000.0)), 20)
        row = {"module": 1, "name": "gru", **figure("per", found)}
        return result("per", steps, [], model) | {
            "modules": [row],
            "speakers": SPEAKERS,
            "protocol": "ctc",
        }

    def abx_(steps, share, model="exp 123"):
        found = estimate(share_of(1000 * share, np.full(20, 1000.0)), 20)
        score = {"error": found.value, "interval": found.interval, "halves": found.halves}
        row = {"module": 1, "name": "gru", "within": None, "across": score}
        return result("abx", steps, [], model) | {
            "modules": [row],
            "speakers": SPEAKERS,
            "protocol": "triphone",
        }

    per, across = sentences(
        tmp_path / "e", a=errors(6, shares(0.60)), b=errors(None, shares(0.65), "mfcc"),
        c=abx_(6, shares(0.30)), d=abx_(None, shares(0.25), "mfcc"),
    )  # fmt: skip
    assert (
        "Phone error rate: module 1 (gru) is better than MFCC with deltas (60.0%, 65.0%: -5.0"
        in per
    )
    assert (
        "ABX error across speakers: module 1 (gru) is worse than MFCC with deltas (30.0%, 25.0%:"
        " +5.0" in across
    )
