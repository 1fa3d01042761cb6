"""Forced alignment against times that are known, and agreement against counting by hand."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from gim_audio.alignment import agreement, align
from gim_audio.alignment.aligner import Aligner, words_of
from gim_audio.errors import DataError
from gim_audio.kaldi import DataDir
from gim_audio.phones import PHONES, Alignment, read_alignments, read_ctm


def phones(*pieces):
    """Return an alignment of `(name, seconds)` one after another."""
    edges = np.cumsum([0.0, *(seconds for _, seconds in pieces)])
    return Alignment(edges[:-1], edges[1:], np.array([PHONES.index(name) for name, _ in pieces]))


def test_agreement_by_hand():
    first = {
        "u": phones(("SIL", 0.10), ("k", 0.10), ("ae", 0.10), ("t", 0.10)),
        "only-here": phones(("s", 1)),
    }
    second = {"u": phones(("SIL", 0.11), ("k", 0.11), ("aa", 0.06), ("t", 0.12))}
    found = agreement(first, second)
    assert found.utterances == 1
    assert found.phones == 3 / 4
    assert found.frames == pytest.approx((10 + 9 + 0 + 10) / 40)
    assert found.later == pytest.approx(0.01)  # SIL to k is the one boundary that both have
    assert found.frames_moved == pytest.approx((10 + 10 + 0 + 9) / 40)
    assert found.boundaries == pytest.approx([1 / 3] * 4)
    assert found.met == pytest.approx([1] * 4)
    assert agreement(second, second).frames == 1
    with pytest.raises(DataError, match="no utterance is in both"):
        agreement(first, {})


def test_words():
    assert words_of("Don’t -- SAY “it's 3 o'clock”!") == ["don't", "say", "it's", "3", "o'clock"]
    assert words_of("- ... _") == []


def test_the_built_in_corpus(spoken, tmp_path, run):
    """A corpus of the voices that sound most like people; nobody is left out."""
    status, _, said = run("data", "align", spoken, "--out", tmp_path / "found.ctm", "--nj", 2)
    assert status == 0, said
    found = agreement(read_ctm(spoken / "phones.ctm"), read_ctm(tmp_path / "found.ctm"))
    assert found.utterances == len(DataDir.read(spoken).utterances)
    assert found.met[2] > 0.85  # within 30 ms
    assert abs(found.later) < 0.005
    assert found.phones > 0.85
    status, printed, _ = run("data", "agreement", spoken / "phones.ctm", tmp_path / "found.ctm")
    assert status == 0
    assert f"{found.met[2]:.1%} of those in both" in printed


def test_real_speech(sample, tmp_path):
    """Nearly the labels that a patched aligner gives.

    Those are on a grid of windows, 7.8 ms earlier.
    """
    names = ["118-121721-0000", "1034-121119-0000", "1183-124566-0000"]
    text = dict(line.split(maxsplit=1) for line in (sample / "text").read_text().splitlines())
    files = {file.stem: str(file) for file in sample.rglob("*.flac")}
    data = DataDir(
        {name: files[name] for name in sorted(names)},
        {name: name.split("-")[0] for name in sorted(names)},
        text={name: text[name] for name in sorted(names)},
    )
    assert align(data, tmp_path / "found.ctm") == {}
    found = agreement(read_ctm(sample / "phones.ctm"), read_ctm(tmp_path / "found.ctm"))
    assert found.later == pytest.approx(0.0078, abs=1e-3)
    assert found.frames_moved > 0.95


def test_it_goes_on_where_it_was(spoken, tmp_path):
    data = DataDir.read(spoken)
    data = data.select(data.utterances[:10])
    align(data, tmp_path / "whole.ctm")

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        align(data, tmp_path / "cut.ctm", progress=stop)
    partial = tmp_path / ".cut.ctm.partial"
    with partial.open("a") as file:
        file.write('{"utterance": "half')
    rows = partial.read_text()
    assert rows.count('"labels"') == 8
    seen = []
    align(data, tmp_path / "cut.ctm", progress=seen.append)
    assert seen == [10]  # the last two alone
    assert (tmp_path / "cut.ctm").read_text() == (tmp_path / "whole.ctm").read_text()
    assert not partial.exists()


def test_a_failure_does_not_change_the_next(spoken):
    data = DataDir.read(spoken)
    (name, waveform), *_ = data.select(data.utterances[:1]).waveforms(16000)
    aligner = Aligner()
    first = aligner.align(waveform, data.text[name])
    for audio, text in (
        (waveform, "EVERY YELLOW JUNGLE " * 200),
        (waveform[:1000], data.text[name]),
    ):
        with pytest.raises(DataError, match="does not fit"):
            aligner.align(audio, text)
        again = aligner.align(waveform, data.text[name])
        np.testing.assert_array_equal(again.starts, first.starts)
        np.testing.assert_array_equal(again.labels, first.labels)


def test_another_transcript_or_sound_is_aligned_anew(spoken, tmp_path):
    data = DataDir.read(spoken)
    two = data.select(data.utterances[:2])
    first, second = two.utterances

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        align(two, tmp_path / "a.ctm", progress=stop)
    sound = tmp_path / "sound.wav"
    shutil.copy(two.recordings[second], sound)
    changed = replace(
        two, text=two.text | {first: "..."}, recordings=two.recordings | {second: str(sound)}
    )
    seen = []
    assert align(changed, tmp_path / "a.ctm", progress=seen.append) == {
        first: "no words in its transcript"
    }
    assert seen == [2]


def test_what_cannot_be_aligned_is_listed(spoken, tmp_path, run):
    data = DataDir.read(spoken)
    three = data.select(data.utterances[:3])
    first, second, third = three.utterances
    long = " ".join(["EVERY YELLOW JUNGLE"] * 200)
    wrong = replace(three, text={first: three.text[first], second: "...", third: long})
    wrong.write(tmp_path / "data")
    status, _, said = run("data", "align", tmp_path / "data")
    assert status == 0
    assert f"left out {second}: no words in its transcript" in said
    assert f"left out {third}: its transcript does not fit the audio" in said
    assert "1 of 3 utterances are aligned" in said
    assert list(read_ctm(tmp_path / "data/phones.ctm")) == [first]
    status, _, said = run("data", "align", tmp_path / "data")
    assert status == 2
    assert (
        said == f"gim-audio: {tmp_path}/data/phones.ctm exists already: remove it or choose another"
        " name\n"
    )


def test_wrong_inputs(spoken, tmp_path, run):
    data = DataDir.read(spoken)
    one = data.select(data.utterances[:1])
    replace(one, text={}).write(tmp_path / "silent")
    status, _, said = run("data", "align", tmp_path / "silent")
    assert status == 2
    assert said.startswith(f"gim-audio: {tmp_path}/silent/text: no transcripts there")
    replace(one, text={one.utterances[0]: "!"}).write(tmp_path / "nothing")
    status, _, said = run("data", "align", tmp_path / "nothing")
    assert status == 2
    assert "no utterance can be aligned; the first is" in said
    assert not list((tmp_path / "nothing").glob("*phones*"))


def test_textgrids_of_the_montreal_forced_aligner(tmp_path, run, noise):
    from praatio import textgrid

    for name, tier in (("a-1", "phones"), ("a-2", "a - phones")):
        grid = textgrid.Textgrid()
        grid.addTier(textgrid.IntervalTier("words", [(0.1, 0.4, "hi")], 0, 0.5))
        grid.addTier(
            textgrid.IntervalTier(
                tier, [(0.1, 0.2, "HH"), (0.2, 0.4, "AY1"), (0.4, 0.5, "spn")], 0, 0.5
            )
        )
        (tmp_path / "grids" / name[0]).mkdir(parents=True, exist_ok=True)
        grid.save(
            str(tmp_path / f"grids/a/{name}.TextGrid"), "long_textgrid", includeBlankSpaces=True
        )
    status, _, said = run("data", "labels", noise.path, tmp_path / "grids")
    assert status == 0, said
    found = read_ctm(noise.path / "phones.ctm")
    assert list(found) == ["a-1", "a-2"]
    for alignment in found.values():
        assert [PHONES[label] for label in alignment.labels] == ["SIL", "hh", "ay", "SPN"]
        np.testing.assert_allclose(alignment.starts, [0, 0.1, 0.2, 0.4])
    (tmp_path / "grids/b.TextGrid").write_text("rubbish")
    status, _, said = run("data", "labels", noise.path, tmp_path / "grids")
    assert (status, said) == (2, f"gim-audio: {tmp_path}/grids/b.TextGrid: not a TextGrid\n")
    shutil.rmtree(tmp_path / "grids")
    (tmp_path / "grids").mkdir()
    with pytest.raises(DataError, match="no .TextGrid with phones in it"):
        read_alignments(tmp_path / "grids")
