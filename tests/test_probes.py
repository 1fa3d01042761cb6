import json

import numpy as np
import pytest
from conftest import make_data

from gim_audio.config import load
from gim_audio.errors import DataError
from gim_audio.featurize import Encoder, Featurizer, ToSlowerRate
from gim_audio.model.geometry import Geometry
from gim_audio.phones import Alignment
from gim_audio.probes import FrameSample, PhoneProbe, SpeakerProbe, Subject, evaluate
from gim_audio.probes.frames import held_out
from gim_audio.probes.solvers import Published
from gim_audio.probes.tally import Tally


class Loudness(Encoder):
    """An encoder whose only feature is the level of each 10 ms: enough to tell loud from quiet."""

    name, module_names, rate, shortest = "loudness", ["level", "nothing"], 16000, 160
    geometries = (Geometry(160, 0, 160), Geometry(160, 0, 160))

    def encode(self, waveform, modules=None):
        frames = waveform[: len(waveform) // 160 * 160].reshape(-1, 160)
        level = np.sqrt((frames**2).mean(axis=1, keepdims=True)).astype(np.float32)
        return [level, np.zeros_like(level)]

    def pieces(self, blocks, modules):
        yield self.encode(np.concatenate(list(blocks)))


def probe_phones(
    encoder, train, test, *, modules, protocol="strict", shift=1, most_frames=400_000, stack=0
):
    subject = Subject(encoder, modules, stack)
    sample = FrameSample(subject, train, shifts=[shift], most_frames=most_frames, seed=0)
    return evaluate(subject, [sample, PhoneProbe(sample, test, [protocol])]).results[0]


def probe_speakers(encoder, train, test, *, modules, protocol="strict"):
    subject = Subject(encoder, modules)
    probe = SpeakerProbe(subject, train, test, protocols=[protocol], seed=0)
    return evaluate(subject, [probe]).results[0]


def none_chosen(examples):
    return np.zeros(len(examples), dtype=bool)


def noisy_data(folder, speakers, utterances=4):
    """Utterances that are quiet at first and loud in their second half.

    They are louder for later speakers.
    """
    import soundfile

    data = make_data(folder, {f"{s}-{u}": 8000 for s in speakers for u in range(utterances)})
    alignments = {}
    for name, file in data.recordings.items():
        samples, _ = soundfile.read(file)
        samples[:4000] *= 0.1
        soundfile.write(file, samples * (1 + "abc".index(name[0])) * 0.5, 16000)
        alignments[name] = Alignment(np.array([0.0, 0.25]), np.array([0.25, 0.5]), np.array([0, 2]))
    return data, alignments


@pytest.mark.parametrize("protocol", ["ref", "strict"])
def test_phones_that_loudness_tells_apart(tmp_path, protocol):
    train, test = noisy_data(tmp_path / "a", "ab"), noisy_data(tmp_path / "b", "ac")
    result = probe_phones(Loudness(), train, test, protocol=protocol, shift=0, modules=[1, 2])
    level, nothing = result.modules
    if protocol == "strict":
        assert level["accuracy"] > 0.95
        assert nothing["accuracy"] == 0.5
    assert result.counts["majority"] == 0.5
    assert result.counts["train_frames"] == result.counts["train_frames_labelled"] == 8 * 50
    assert result.settings["shift"] == 0


def test_the_shift_moves_the_labels(tmp_path):
    train = noisy_data(tmp_path / "a", "ab")
    right = {
        s: probe_phones(Loudness(), train, train, shift=s, modules=[1]).modules[0]["accuracy"]
        for s in (0, 10)
    }
    assert right[0] > 0.95 > right[10]


def test_frames_beyond_the_limit_are_left_out(tmp_path):
    train = noisy_data(tmp_path / "a", "ab")
    result = probe_phones(Loudness(), train, train, modules=[1], most_frames=100)
    assert 60 < result.counts["train_frames"] < 140
    # The last label of each has no frame at shift 1.
    assert result.counts["train_frames_labelled"] == 8 * 49
    assert result.counts["test_frames"] == 8 * 49


@pytest.mark.parametrize("protocol", ["ref", "strict"])
def test_speakers_that_loudness_tells_apart(tmp_path, protocol):
    data, _ = noisy_data(tmp_path / "a", "abc", 6)
    train = data.select([n for n in data.utterances if n[-1] < "4"])
    test = data.select([n for n in data.utterances if n[-1] >= "4"])
    result = probe_speakers(Loudness(), train, test, protocol=protocol, modules=[1, 2])
    assert result.modules[1]["accuracy"] == pytest.approx(1 / 3)
    if protocol == "strict":
        assert result.modules[0]["accuracy"] == 1
        assert result.modules[0]["held_out"] == 1
    assert result.counts["majority"] == pytest.approx(1 / 3)
    assert result.counts["train_windows"] == 120


def test_the_published_speaker_probe_learns(tmp_path, monkeypatch):
    """The learning rate is raised, for a feature of one dimension."""
    monkeypatch.setattr("gim_audio.probes.speakers.PUBLISHED", Published(0.5, 100, 16))
    data, _ = noisy_data(tmp_path / "a", "abc", 6)
    result = probe_speakers(Loudness(), data, data, protocol="ref", modules=[1])
    assert result.modules[0]["accuracy"] > 0.8


def test_whole_utterances_choose_the_speaker_penalty(tmp_path, monkeypatch):
    """They belong to speakers with several; a single utterance has its end held out."""
    data, _ = noisy_data(tmp_path / "a", "ab", 5)
    data = data.select([name for name in data.utterances if name[0] == "a" or name == "b-0"])
    seen = []
    monkeypatch.setattr("gim_audio.probes.speakers.fit", lambda *given: seen.append(given) or [])
    probe = SpeakerProbe(Subject(Loudness(), [1]), data, data, protocols=["strict", "ref"], seed=0)
    levels = {name: Loudness().encode(waveform)[0] for name, waveform in data.waveforms(16000)}
    for name in data.utterances:
        probe.learn(name, [levels[name]])
    probe.fit()
    (_, strict, *_), (_, ref, *_) = seen
    held_out = strict.held_out.reshape(6, 10)
    whole = [name for name, away in zip(data.utterances, held_out, strict=True) if away.all()]
    assert len(whole) == 1
    assert whole[0][0] == "a"
    assert held_out[5].tolist() == [False] * 8 + [True] * 2  # windows of b's only utterance
    features, labels = strict.judged
    expected = [levels[whole[0]].mean(axis=0), levels["b-0"][40:].mean(axis=0)]
    np.testing.assert_allclose(features[0], expected, rtol=1e-6)
    assert labels.tolist() == [0, 1]
    assert not ref.held_out.any()
    assert ref.judged is None


def test_what_cannot_be_probed(tmp_path):
    data, alignments = noisy_data(tmp_path / "a", "ab")
    with pytest.raises(DataError, match="speaker b .1 in all. is not in"):
        probe_speakers(
            Loudness(), data.select([n for n in data.utterances if n[0] == "a"]), data, modules=[1]
        )
    with pytest.raises(DataError, match="one class only"):
        probe_speakers(Loudness(), data.select(["a-0"]), data.select(["a-1"]), modules=[1])
    with pytest.raises(DataError, match="no labels, or of one class only"):
        probe_phones(Loudness(), (data, {}), (data, alignments), modules=[1])
    with pytest.raises(DataError, match="no labelled frames to test on"):
        probe_phones(Loudness(), (data, alignments), (data, {}), modules=[1])
    (tmp_path / "a/a-0.wav").write_bytes(b"")
    with pytest.raises(DataError, match="a-0: .*is empty"):
        probe_phones(Loudness(), (data, alignments), (data, alignments), modules=[1])


def test_pooled_frames_are_centred_on_the_slower_ones():
    """A ramp in time stays the same ramp.

    The mean of frames around a centre is the value at that centre.
    """
    geometries = Featurizer.random(load(None, ["model.channels=2"])).geometries
    grid = geometries[-1]
    for own in geometries:
        ramp = (own.centre + own.hop * np.arange(16000 // own.hop, dtype=np.float32))[:, None]
        pool = ToSlowerRate(own, grid)
        pool.push(ramp)
        pooled = pool.finish(100)
        expected = grid.centre + grid.hop * np.arange(100)
        np.testing.assert_allclose(
            pooled[2:-2, 0], expected[2:-2], atol=own.hop / 2 if own.hop < 160 else 0
        )
        if own.hop in {5, 20, 40}:  # their grids allow exactly that
            np.testing.assert_allclose(pooled[2:-2, 0], expected[2:-2], atol=1e-2)


@pytest.mark.parametrize("seed", range(5))
def test_a_speaker_without_labels_is_not_held_out(tmp_path, seed):
    """Otherwise nothing might be left to choose the penalty by."""
    data, alignments = noisy_data(tmp_path / "a", "abc")
    known = {name: alignment for name, alignment in alignments.items() if name[0] != "b"}
    sample = FrameSample(
        Subject(Loudness(), [1]), (data, known), shifts=[0], most_frames=10**6, seed=seed
    )
    evaluate(sample.subject, [sample])
    assert sample.examples(0).held_out.sum() == 4 * 50


def test_speakers_that_choose_do_not_teach():
    speakers = [f"s{n % 10}" for n in range(40)]
    chosen = held_out(speakers, seed=3)
    assert len({s for s, c in zip(speakers, chosen, strict=True) if c}) == 2
    assert not {s for s, c in zip(speakers, chosen, strict=True) if c} & {
        s for s, c in zip(speakers, chosen, strict=True) if not c
    }
    assert not held_out(["a", "a"], seed=3).any()


def test_intervals_are_over_speakers():
    """They come from how much speakers differ, however many frames each has."""
    same, different = Tally(), Tally()
    for speaker in range(40):
        same.add(str(speaker), [700], 1000)
        different.add(str(speaker), [1000 if speaker % 2 else 400], 1000)
    (equal,), (unequal,) = same.rows([1], ["x"], [{}]), different.rows([1], ["x"], [{}])
    assert equal["accuracy"] == unequal["accuracy"] == 0.7
    assert equal["interval"] == pytest.approx([0.7, 0.7])
    low, high = unequal["interval"]
    expected = 2.02 * 0.3 / np.sqrt(39)  # 95% of a mean of 40 values, each 0.3 from it
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)


def test_speakers_without_answers_do_not_count():
    tally = Tally()
    tally.add("a", [3], 4)
    tally.add("b", [0], 0)
    (row,) = tally.rows([1], ["x"], [{}])
    assert row["accuracy"] == 0.75
    assert row["interval"] is None  # of one speaker


def test_command_line(spoken, tmp_path, run):
    run(
        "data",
        "split",
        spoken,
        tmp_path / "a",
        tmp_path / "b",
        "--by",
        "utterances",
        "--share",
        0.6,
    )
    out = tmp_path / "r/phones.json"
    arguments = ["--train", tmp_path / "a", "--test", tmp_path / "b"]
    status, printed, err = run("probe", "phones", "mfcc", *arguments, "--out", out, "--shift", 0)
    assert status == 0
    assert "label shift 0" in err
    record = json.loads(out.read_text())
    assert record["settings"]["shift"] == 0
    assert record["train"] == str(tmp_path / "a")
    accuracy = record["modules"][0]["accuracy"]
    assert f"{accuracy:.1%}" in printed
    assert accuracy > 3 * record["counts"]["majority"]
    assert record["modules"][0]["interval"][0] <= accuracy <= record["modules"][0]["interval"][1]
    status, _, err = run("probe", "phones", "mfcc", *arguments, "--out", out)
    assert (status, "exists already" in err) == (2, True)
    status, printed, _ = run(
        "probe",
        "speakers",
        "fbank",
        *arguments,
        "--out",
        tmp_path / "r/s.json",
        "--protocol",
        "ref",
    )
    assert status == 0
    assert json.loads((tmp_path / "r/s.json").read_text())["settings"]["epochs"] == 5
    (tmp_path / "b/phones.ctm").unlink()
    for more, message in [
        (["--module", "x"], "module x: mfcc has modules 1 to 1: mfcc"),
        ([], "data labels"),
    ]:
        status, _, err = run(
            "probe", "phones", "mfcc", *arguments, "--out", tmp_path / "r/t.json", *more
        )
        assert (status, message in err, len(err.strip().splitlines())) == (2, True, 1)
