import json
import os
import shutil

import kaldiio
import numpy as np
import pytest
import soundfile
from conftest import make_data

from gim_audio.errors import DataError, GimAudioError
from gim_audio.kaldi import DataDir, Segment, check
from gim_audio.packed import Crops, PackedCorpus, pack


def test_every_sample_comes_back(noise, corpus):
    assert corpus.utterances == noise.utterances
    assert corpus.rate == 16000
    for index, name in enumerate(corpus.utterances):
        pcm, _ = soundfile.read(noise.recordings[name], dtype="int16")
        np.testing.assert_array_equal(corpus.read(index), pcm)
        part = np.empty(50, np.int16)
        corpus.fill(part, index, 100)
        np.testing.assert_array_equal(part, pcm[100:150])


def test_a_file_system_may_give_less_than_asked(corpus, monkeypatch):
    whole, preadv = [corpus.read(index) for index in range(len(corpus))], os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda file, buffers, at: preadv(file, [buffers[0][:1001]], at)
    )
    for index, pcm in enumerate(whole):
        np.testing.assert_array_equal(corpus.read(index), pcm)


def test_it_is_a_kaldi_data_directory(noise, corpus):
    assert check(corpus.path) == []
    for name, (rate, samples) in kaldiio.load_scp(str(corpus.path / "wav.scp")).items():
        assert rate == 16000
        np.testing.assert_array_equal(
            samples, soundfile.read(noise.recordings[name], dtype="int16")[0]
        )
    again = dict(DataDir.read(corpus.path).waveforms(16000))
    np.testing.assert_array_equal(
        again["a-1"], soundfile.read(noise.recordings["a-1"], dtype="float32")[0]
    )


def test_processes_do_not_change_the_bytes(noise, corpus, tmp_path):
    pack(noise, tmp_path / "two", nj=2)
    assert PackedCorpus(tmp_path / "two").fingerprint == corpus.fingerprint
    for archive in corpus.path.glob("*.ark"):
        assert (tmp_path / "two" / archive.name).read_bytes() == archive.read_bytes()


def test_it_can_be_moved(corpus, tmp_path):
    before = corpus.read(0).copy()
    shutil.move(corpus.path, tmp_path / "elsewhere")
    np.testing.assert_array_equal(PackedCorpus(tmp_path / "elsewhere").read(0), before)


def test_an_interrupted_pack_goes_on(noise, corpus, tmp_path, monkeypatch):
    target = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(
            "gim_audio.packed.packing._write_tables",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            pack(noise, target)
    staging = tmp_path / ".again.partial"
    assert not target.exists()
    kept = {file.name: file.stat().st_mtime_ns for file in staging.glob("*.ark")}
    next(iter(sorted(staging.glob("*.ark")))).with_name(
        "wav.1.ark.json"
    ).unlink()  # this one was not finished
    del kept["wav.1.ark"]
    pack(noise, target)
    assert {name: (target / name).stat().st_mtime_ns for name in kept} == kept
    assert PackedCorpus(target).fingerprint == corpus.fingerprint
    assert not list(target.glob("*.json"))


def test_what_is_left_of_another_corpus_is_not_used(noise, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            "gim_audio.packed.packing._write_tables",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            pack(noise.select(["a-1", "a-2"]), tmp_path / "p")
    pack(noise, tmp_path / "p")
    assert PackedCorpus(tmp_path / "p").utterances == noise.utterances


def test_bad_audio_is_refused_or_listed(noise, tmp_path):
    (noise.path / "b-1.wav").write_bytes(b"")
    with pytest.raises(
        DataError,
        match="1 of 7 utterances cannot be packed, the first is b-1: .*is empty.*--skip-bad",
    ):
        pack(noise, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    assert list(pack(noise, tmp_path / "p", skip_bad=True)) == ["b-1"]
    assert PackedCorpus(tmp_path / "p").utterances == [n for n in noise.utterances if n != "b-1"]
    with pytest.raises(GimAudioError, match="exists already"):
        pack(noise, tmp_path / "p")
    with pytest.raises(DataError, match="none of 7"):
        for name in noise.utterances:
            (noise.path / f"{name}.wav").write_bytes(b"")
        pack(noise, tmp_path / "q", skip_bad=True)


def test_what_was_mended_is_packed(noise, tmp_path):
    good = (noise.path / "b-1.wav").read_bytes()
    (noise.path / "b-1.wav").write_bytes(good[:1000])
    with pytest.raises(DataError, match="b-1: .*cut short"):
        pack(noise, tmp_path / "p")
    (noise.path / "b-1.wav").write_bytes(good)
    assert pack(noise, tmp_path / "p") == {}
    assert PackedCorpus(tmp_path / "p").utterances == noise.utterances


def test_pipes_can_be_allowed_later(noise, tmp_path):
    data = DataDir({"x-1": f"cat {noise.recordings['a-1']} |"}, {"x-1": "x"})
    with pytest.raises(DataError, match="--allow-pipes"):
        pack(data, tmp_path / "p")
    assert pack(data, tmp_path / "p", allow_pipes=True) == {}


def test_labels_by_recording_are_cut(noise, tmp_path):
    noise.write(noise.path)
    (noise.path / "phones.ctm").write_text(
        "a-2 1 0.0 0.5 ah\n\na-2 1 0.5 0.5 iy\n".replace("\n\n", "\n")
    )
    data = DataDir(
        noise.recordings, {"a-9": "a"}, {"a-9": Segment("a-2", 0.25, 1.0)}, path=noise.path
    )
    pack(data, tmp_path / "p")
    assert (
        tmp_path / "p/phones.ctm"
    ).read_text() == "a-9 1 0.0000 0.2500 ah\na-9 1 0.2500 0.5000 iy\n"


def test_damage_is_noticed(corpus, tmp_path):
    with pytest.raises(DataError, match="not a packed corpus"):
        PackedCorpus(tmp_path)
    archive = next(iter(sorted(corpus.path.glob("*.ark"))))
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-100])
    with pytest.raises(DataError, match="cut short since it was opened"):
        [corpus.read(index) for index in range(len(corpus))]
    with pytest.raises(DataError, match="beyond the end of its archive"):
        PackedCorpus(corpus.path)
    archive.unlink()
    with pytest.raises(DataError, match="missing: pack the corpus again"):
        PackedCorpus(corpus.path)
    archive.write_bytes(whole)
    (corpus.path / "utt2num_samples").write_text("a-1 9000\n")
    with pytest.raises(DataError, match="do not agree"):
        PackedCorpus(corpus.path)


def test_statistics(corpus):
    everything = (
        np.concatenate([corpus.read(i) for i in range(len(corpus))]).astype(np.float64) / 32768
    )
    np.testing.assert_allclose(
        corpus.statistics(), [everything.mean(), everything.std()], rtol=1e-6
    )


def find(corpus, pcm):
    """Return the place of a crop: utterance and start."""
    for index, name in enumerate(corpus.utterances):
        samples = corpus.read(index)
        for start in range(len(samples) - len(pcm) + 1):
            if samples[start] == pcm[0] and np.array_equal(samples[start : start + len(pcm)], pcm):
                return name, start
    raise AssertionError("a crop that is not in the corpus")


def test_crops(corpus):
    crops = Crops(corpus, crop=4500, hop=160, batch=3, seed=5)
    assert (
        crops.left_out
        == "1 of 7 utterances, 0.0 of 0.1 minutes of audio, are shorter than data.crop=4500"
        " (0.28 s)"
    )
    assert crops.unused == 4000 / corpus.samples.sum()  # c-1
    drawn = [find(corpus, crop) for step in range(4) for crop in crops(step)]
    for epoch in (drawn[:6], drawn[6:]):  # each usable utterance once
        assert sorted(name for name, _ in epoch) == [n for n in corpus.utterances if n != "c-1"]
    assert all(start % 160 == 0 for _, start in drawn)
    assert len({start for _, start in drawn}) > 6


def test_a_batch_is_a_function_of_the_step(corpus):
    crops = Crops(corpus, crop=4000, hop=160, batch=4, seed=5)
    forwards = [crops(step) for step in range(6)]
    other = Crops(corpus, crop=4000, hop=160, batch=4, seed=5)
    for step in (5, 0, 3, 1, 4, 2):
        np.testing.assert_array_equal(other(step), forwards[step])
    assert not np.array_equal(Crops(corpus, crop=4000, hop=160, batch=4, seed=6)(0), forwards[0])


def test_starts_reach_every_place(tmp_path):
    pack(make_data(tmp_path / "d", {"a-1": 4000 + 320}), tmp_path / "p")
    corpus = PackedCorpus(tmp_path / "p")
    crops = Crops(corpus, crop=4000, hop=160, batch=1, seed=0)
    starts = [find(corpus, crops(step)[0])[1] for step in range(60)]
    assert set(starts) == {0, 160, 320}


def test_no_utterance_long_enough(corpus):
    advice = (
        r"7 of 7 utterances.*data\.crop=20480 \(1\.28 s\): data\.crop=4960 would use 94% of the"
        r" audio"
    )
    with pytest.raises(DataError, match=advice):
        Crops(corpus, crop=20480, hop=160, batch=1, seed=0)


def test_few_short_utterances_need_no_other_crop(tmp_path):
    pack(
        make_data(tmp_path / "d", {"a-1": 3000, **{f"b-{n}": 90_000 for n in range(9)}}),
        tmp_path / "p",
    )
    crops = Crops(PackedCorpus(tmp_path / "p"), crop=20480, hop=160, batch=1, seed=0)
    assert crops.advice() == "the others are 99.6% of the audio"
    crops = Crops(PackedCorpus(tmp_path / "p"), crop=100, hop=90_001, batch=1, seed=0)
    assert crops.unused == 0


def test_labels_and_text_travel_along(spoken, tmp_path):
    pack(DataDir.read(spoken), tmp_path / "p")
    for name in ("phones.ctm", "text", "utt2spk"):
        assert (tmp_path / "p" / name).read_text() == (spoken / name).read_text()
    assert (
        json.loads(json.dumps(DataDir.read(tmp_path / "p").utterances))
        == DataDir.read(spoken).utterances
    )
