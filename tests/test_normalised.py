"""Cepstral mean normalisation, against the mean that a person would subtract."""

import json

import numpy as np
import pytest
import soundfile
from conftest import make_data

from gim_audio.errors import ConfigError
from gim_audio.featurize import BASELINES, encode_at_one_rate, encoders_of, load_encoder
from gim_audio.phones import Alignment, write_ctm
from gim_audio.probes import SlownessProbe, Subject, evaluate


@pytest.fixture
def voices(tmp_path):
    """Two speakers with two utterances each, of other lengths."""
    return make_data(tmp_path / "voices", {"a-1": 9000, "a-2": 16000, "b-1": 5000, "b-2": 12345})


@pytest.mark.parametrize("kind", ["mfcc", "mfcc13", "fbank"])
def test_of_an_utterance(voices, kind):
    plain, normalised = load_encoder(kind), load_encoder(f"{kind}+cmvn")
    for _, waveform in voices.waveforms(16000):
        (features,), (found,) = plain.encode(waveform), normalised.encode(waveform)
        np.testing.assert_allclose(found, features - features.mean(axis=0), atol=1e-4)
        blocks = [waveform[:3001], waveform[3001:]]
        np.testing.assert_allclose(
            np.concatenate([f for (f,) in normalised.pieces(blocks, [1])]), found, atol=1e-3
        )
    assert normalised.name == f"{kind}+cmvn"


def test_of_a_speaker(voices):
    """The mean covers all frames of a speaker's utterances in the same data directory."""
    plain, encoder = load_encoder("mfcc"), load_encoder("mfcc+cmvn-speaker")
    encoders = encoders_of(encoder, voices, allow_pipes=False)
    features = {name: plain.encode(waveform)[0] for name, waveform in voices.waveforms(16000)}
    for name, waveform in voices.waveforms(16000):
        mean = np.concatenate([f for other, f in features.items() if other[0] == name[0]]).mean(
            axis=0
        )
        (found,) = encode_at_one_rate(encoders(name), waveform, [1])
        np.testing.assert_allclose(found, features[name] - mean, atol=1e-4)


def test_evaluations_use_the_speakers_of_their_own_set(voices):
    """Whoever tests on other speakers normalises by those."""
    subject = Subject(load_encoder("mfcc13+cmvn-speaker"), [1])
    kept = []
    probe = SlownessProbe(subject, voices)
    probe.judge = lambda name, features: kept.append((name, features[0]))
    evaluate(subject, [probe])
    for speaker in "ab":
        own = np.concatenate([features for name, features in kept if name[0] == speaker])
        np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-3)


def test_where_nobody_says_who_speaks(voices, tmp_path, run):
    with pytest.raises(
        ConfigError, match=r"mfcc\+cmvn-speaker: the mean of a speaker .*: use mfcc\+cmvn here"
    ):
        load_encoder("mfcc+cmvn-speaker").encode(np.zeros(8000, np.float32))
    file = voices.recordings["a-1"]
    status, _, err = run("featurize", "mfcc+cmvn-speaker", file, tmp_path / "f")
    assert (status, len(err.strip().splitlines())) == (2, 1), err
    assert "use mfcc+cmvn here" in err
    assert run("featurize", "mfcc+cmvn", file, tmp_path / "g", "--check", "1")[0] == 0
    found = np.load(tmp_path / "g/a-1.npy")
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
    assert json.loads((tmp_path / "g/features.json").read_text())["model"] == "mfcc+cmvn"


def test_the_commands(voices, tmp_path, run):
    edges = 0.05 * np.arange(6)
    known = Alignment(edges[:-1], edges[1:], np.array([2, 5, 2, 5, 9]))
    write_ctm(voices.path / "phones.ctm", dict.fromkeys(voices.utterances, known))
    for name in ("mfcc13+cmvn", "mfcc13+cmvn-speaker"):
        out = tmp_path / f"{name}.json"
        arguments = ["--train", voices.path, "--test", voices.path, "--out", out]
        status, _, err = run("probe", "phones", name, *arguments)
        assert status == 0, err
        assert json.loads(out.read_text())["model"] == name
    status, _, err = run("probe", "phones", "mfcc+cvn", *arguments[:-1], tmp_path / "x.json")
    assert (
        status,
        "mfcc+cvn: no such experiment (nor is it gim-small, mfcc, mfcc+cmvn" in err,
    ) == (2, True), err


def test_names():
    assert len(BASELINES) == 9
    for name in BASELINES:
        assert load_encoder(name).name == name


def test_a_constant_channel_gain_is_taken_out(tmp_path):
    """The same words through a quieter microphone have the same features."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(16000)
    for name, gain in (("a", 1.0), ("b", 0.25)):
        soundfile.write(tmp_path / f"{name}.wav", gain * samples, 16000, subtype="FLOAT")
    loud, quiet = (soundfile.read(tmp_path / f"{n}.wav", dtype="float32")[0] for n in "ab")
    plain, normalised = load_encoder("fbank"), load_encoder("fbank+cmvn")
    assert np.abs(plain.encode(loud)[0] - plain.encode(quiet)[0]).min() > 2
    np.testing.assert_allclose(normalised.encode(loud)[0], normalised.encode(quiet)[0], atol=1e-2)
