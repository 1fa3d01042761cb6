import numpy as np
import pytest
import soundfile

from gim_audio.corpora.espeak import ESPEAK_TO_PHONES, Espeak
from gim_audio.corpora.synthetic import STOPS, make, phones_of
from gim_audio.errors import DataError, GimAudioError
from gim_audio.kaldi import DataDir, check
from gim_audio.phones import PHONES, normalise, read_ctm


def contents(folder):
    return {
        file.relative_to(folder): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "wav.scp"
    }


def test_the_same_bytes_for_the_same_seed(spoken, tmp_path):
    # Nothing may be left in the library from this.
    make(tmp_path / "warm-up", hours=0.002, speakers=2, seed=9)
    make(tmp_path / "again", hours=0.025, speakers=4, seed=3)
    assert contents(tmp_path / "again") == contents(spoken)
    make(tmp_path / "other", hours=0.025, speakers=4, seed=4)
    assert contents(tmp_path / "other") != contents(spoken)


def test_a_checked_data_directory_of_the_wanted_size(spoken):
    assert check(spoken) == []
    data = DataDir.read(spoken)
    assert len(set(data.speakers.values())) == 4
    seconds = sum(soundfile.info(file).duration for file in data.recordings.values())
    assert 90 <= seconds < 90 + 15
    assert all(soundfile.info(file).samplerate == 16000 for file in data.recordings.values())


def test_phones_cover_every_sample(spoken):
    data, alignments = DataDir.read(spoken), read_ctm(spoken / "phones.ctm")
    assert list(alignments) == data.utterances
    for name, alignment in alignments.items():
        assert alignment.starts[0] == 0
        np.testing.assert_allclose(alignment.starts[1:], alignment.ends[:-1], atol=2e-4)
        assert alignment.ends[-1] == pytest.approx(
            soundfile.info(data.recordings[name]).duration, abs=1e-3
        )
    assert {PHONES[label] for a in alignments.values() for label in a.labels} >= set(
        "SIL s t n ih ah er".split()
    )


def test_times_agree_with_the_sound(spoken):
    """Sibilants have their energy above 3 kHz, vowels below, and silence has little.

    At the stated times.
    """
    data, alignments = DataDir.read(spoken), read_ctm(spoken / "phones.ctm")
    high, level = {}, {}
    for name, waveform in data.waveforms(16000):
        normal = waveform / np.sqrt(np.mean(waveform**2))
        for start, end, label in zip(
            *(getattr(alignments[name], f) for f in ("starts", "ends", "labels")), strict=True
        ):
            piece = normal[round(start * 16000) : round(end * 16000)]
            if len(piece) < 640:
                continue
            power = np.abs(np.fft.rfft(piece * np.hanning(len(piece)))) ** 2
            share = power[len(power) * 3 // 8 :].sum() / power.sum()
            high.setdefault(PHONES[label], []).append(share)
            level.setdefault(PHONES[label], []).append(np.mean(piece**2))
    assert np.median(high["s"]) > 0.5 > 0.2 > np.median(high["aa"])
    assert np.median(level["SIL"]) < 0.2 * np.median(level["aa"])


def test_every_mnemonic_has_a_phone():
    assert all(
        0 <= normalise(phone) < 41 for phones in ESPEAK_TO_PHONES.values() for phone in phones
    )
    reachable = {phone for phones in ESPEAK_TO_PHONES.values() for phone in phones}
    assert reachable == set(PHONES) - {"SPN"}


def test_impossible_wishes(tmp_path, spoken):
    with pytest.raises(DataError, match="at least one speaker and a second for each"):
        make(tmp_path / "x", hours=0.001, speakers=10, seed=0)
    with pytest.raises(GimAudioError, match="exists already"):
        make(spoken, hours=0.01, speakers=1, seed=0)


def test_voiceless_stops_begin_with_their_closure():
    """Silence is digital in a voice without echo, and eSpeak's event is the burst after it."""
    speech = Espeak().say(
        "a cat took a cup", variant="m1", words_a_minute=175, pitch=50, pitch_range=50, noise_seed=1
    )
    found = phones_of(speech)
    starts = {round(start * speech.rate) for start in found.starts}
    stops = 0
    for burst, mnemonic in speech.events:
        if mnemonic in STOPS:
            closed = burst - 1 - int(np.flatnonzero(speech.samples[:burst])[-1])
            assert closed > 0.03 * speech.rate
            # A vowel fades.
            assert min(abs(start - (burst - closed)) for start in starts) < 0.006 * speech.rate
            stops += 1
    assert stops >= 4
