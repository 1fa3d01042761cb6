"""Behaviour that surprised people, as it ought to be."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import make_data

import gim_audio
from gim_audio import config
from gim_audio.checkpoints.folders import load_model
from gim_audio.errors import DataError
from gim_audio.kaldi import DataDir, split
from gim_audio.packed import PackedCorpus
from gim_audio.phones import PHONES, read_ctm
from gim_audio.workers import each

BOM = "\ufeff"


def test_one_process_is_this_one(noise, tmp_path):
    """A plain script without a guard of its main part packs: it started itself again and again."""
    (tmp_path / "script.py").write_text(
        f"import gim_audio\ngim_audio.pack(gim_audio.DataDir.read({str(noise.path)!r}),"
        f" {str(tmp_path / 'p')!r})\nprint(len(gim_audio.PackedCorpus({str(tmp_path / 'p')!r})))\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr
    assert list(each(divmod, [(7, 2), (9, 4)], 1)) == [((7, 2), (3, 1)), ((9, 4), (2, 1))]


def test_a_packed_corpus_is_moved(corpus, tmp_path, run):
    """The archives are those beside wav.scp, wherever it was packed."""
    before = dict(DataDir.read(corpus.path).waveforms(16000))
    moved = corpus.path.rename(tmp_path / "elsewhere")
    for name, wave in DataDir.read(moved).waveforms(16000):
        np.testing.assert_array_equal(wave, before[name])
    assert run("featurize", "fbank", moved, tmp_path / "out")[0] == 0
    first, _ = split(DataDir.read(moved), "speakers", 0.5)
    first.write(tmp_path / "first")
    assert run("pack", tmp_path / "first", tmp_path / "again")[0] == 0


def test_paths_may_be_strings(corpus, trained, tmp_path):
    assert load_model(str(trained[1]))[0] == config.load(
        str(trained[1] / "step-000006/config.yaml")
    )
    assert len(PackedCorpus(str(corpus.path))) == 7
    assert len(gim_audio.audio.read(str(tmp_path / "noise/a-1.wav"), 16000)) == 9000


def test_public_names_are_listed():
    assert set(gim_audio.__all__) <= set(dir(gim_audio))


def test_statistics_take_no_memory_of_a_long_recording(tmp_path, monkeypatch):
    from gim_audio.packed import corpus as module
    from gim_audio.packed import pack

    pack(make_data(tmp_path / "d", {"a-1": 30_000, "a-2": 1000}), tmp_path / "p")
    corpus = PackedCorpus(tmp_path / "p")
    pcm = np.concatenate([corpus.read(0), corpus.read(1)]) / 32768
    monkeypatch.setattr(module, "BLOCK", 700)
    monkeypatch.setattr(PackedCorpus, "read", None)
    assert corpus.statistics() == pytest.approx((pcm.mean(), pcm.std()))


def test_info_counts_what_is_there(run):
    status, out, _ = run("info", "gim-small")
    weights = load_for(gim_audio.load("gim-small"))
    assert (status, f"{weights:,} parameters. It was exported for features" in out) == (0, True)


def load_for(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "h5"])
def test_what_is_told_of_features_is_json(noise, tmp_path, run, suffix):
    file = tmp_path / f"f.{suffix}"
    assert run("featurize", "fbank", noise.path, file)[0] == 0
    if suffix == "h5":
        import h5py

        with h5py.File(file) as opened:
            told = dict(opened.attrs)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pq.read_schema(file) if suffix == "parquet" else pa.ipc.open_file(file).schema
        told = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert json.loads(told["recordings_by_rate"]) == {"16000": 7}
    assert json.loads(told["hop_samples"]) == 160
    assert told["model"] == "fbank"


def test_drawings_do_without_phones(tmp_path, run):
    data = make_data(tmp_path / "d", {f"{speaker}-1": 40_000 for speaker in "abcdef"})
    assert run("draw", "mfcc", data.path, "--out", tmp_path / "figures")[0] == 0
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "map.png",
        "utterance.png",
    ]


def test_a_part_keeps_its_own_labels(tmp_path, run):
    """A CTM may hold more than its data directory.

    The other's labels are not overwritten by them.
    """
    for part, phone in (("a", "ah"), ("b", "iy")):
        data = make_data(tmp_path / part, {f"{part}-1": 8000})
        (data.path / "phones.ctm").write_text(
            "".join(f"{name} 1 0.0 0.4 {phone}\n" for name in ("a-1", "b-1"))
        )
    assert run("data", "combine", tmp_path / "both", tmp_path / "a", tmp_path / "b")[0] == 0
    found = read_ctm(tmp_path / "both/phones.ctm")
    assert {name: PHONES[phones.labels[0]] for name, phones in found.items()} == {
        "a-1": "ah",
        "b-1": "iy",
    }


def test_a_split_in_time_is_split_again(tmp_path, run):
    """The labels of a quarter are those of its stretch of the whole.

    A part without labels has no file of them.
    """
    data = make_data(tmp_path / "d", {"a-1": 16000, "b-1": 16000})
    (data.path / "phones.ctm").write_text("a-1 1 0.0 0.3 ah\na-1 1 0.3 0.7 iy\n")
    assert (
        run(
            "data",
            "split",
            tmp_path / "d",
            tmp_path / "x",
            tmp_path / "y",
            "--by",
            "time",
            "--share",
            0.5,
        )[0]
        == 0
    )
    status, _, err = run(
        "data",
        "split",
        tmp_path / "x",
        tmp_path / "p",
        tmp_path / "q",
        "--by",
        "time",
        "--share",
        0.5,
    )
    assert status == 0, err
    second = read_ctm(tmp_path / "q/phones.ctm")["a-1-a-b"]
    np.testing.assert_allclose(second.starts, [0, 0.05], atol=1e-6)
    assert [PHONES[label] for label in second.labels] == ["ah", "iy"]
    status, _, err = run(
        "data",
        "split",
        tmp_path / "d",
        tmp_path / "s",
        tmp_path / "t",
        "--by",
        "speakers",
        "--share",
        0.5,
    )
    assert status == 0, err
    assert (tmp_path / "s/phones.ctm").exists() != (tmp_path / "t/phones.ctm").exists()


def test_the_first_backup_is_kept(noise, run):
    original = (noise.path / "wav.scp").read_text()
    for number, table in enumerate(("utt2spk", "wav.scp")):
        with (noise.path / table).open("a") as file:
            file.write(f"zzz-{number} x\n\n")
        assert run("data", "check", noise.path, "--fix")[0] == 0
    assert (noise.path / ".backup/wav.scp").read_text() == original
    assert "zzz-1" in (noise.path / ".backup.2/wav.scp").read_text()


def test_a_moved_packed_corpus_is_mended(corpus, tmp_path, run):
    moved = corpus.path.rename(tmp_path / "elsewhere")
    with (moved / "utt2spk").open("a") as file:
        file.write("x y\n")
    status, _, err = run("data", "check", moved, "--fix")
    assert (status, "kept 7 of 8 utterances" in err) == (0, True), err


def test_a_segment_without_a_sample(noise, run, tmp_path):
    (noise.path / "segments").write_text("u a-1 0.1 0.10001\n")
    (noise.path / "utt2spk").write_text("u a\n")
    (noise.path / "spk2utt").write_text("a u\n")
    status, _, err = run("pack", noise.path, tmp_path / "p")
    assert (status, "is shorter than a sample" in err) == (2, True)


def test_outputs_that_are_commands_and_names_that_are_groups(noise, tmp_path, run):
    status, _, err = run("featurize", "fbank", noise.path, "ark:| gzip -c > x.gz")
    assert (status, "commands are not run" in err) == (2, True)
    (tmp_path / "x.scp").write_text(f". {noise.recordings['a-1']}\nu {noise.recordings['a-2']}\n")
    status, _, err = run("featurize", "fbank", f"scp:{tmp_path}/x.scp", tmp_path / "x.h5")
    assert (status, "HDF5 takes `/` and `.` for groups" in err) == (2, True)


def test_a_file_that_is_named_twice(noise, tmp_path, run, monkeypatch):
    monkeypatch.chdir(noise.path)
    (noise.path / "wav.scp").unlink()
    status, _, err = run("featurize", "fbank", "./a-1.wav", "a-1.wav", noise.path, tmp_path / "out")
    assert (status, "7 utterances" in err) == (0, True), err


def test_numbers_with_underscores_are_none(tmp_path):
    """Python takes 1_0 for ten."""
    (tmp_path / "x.ctm").write_text("u 1 0_1.0 0.5 ah\n")
    with pytest.raises(DataError, match="is not a stretch of time"):
        read_ctm(tmp_path / "x.ctm")


def test_what_is_given_from_python(corpus, noise):
    recording = (noise.path / "a-1.wav").read_bytes()
    for source in (recording, bytearray(recording), memoryview(recording)):
        assert len(gim_audio.audio.read(source, 16000)) == 9000
    with pytest.raises(gim_audio.audio.AudioError, match="the recording: ") as error:
        gim_audio.audio.read(b"x" * 100_000, 16000)
    assert len(str(error.value)) < 300
    for rate in (0, -1, "16000", None):
        with pytest.raises(gim_audio.audio.AudioError, match="expected a whole number of Hz"):
            gim_audio.audio.read(recording, rate)
    with pytest.raises(gim_audio.audio.AudioError, match="no such file"):
        gim_audio.audio.header("missing.wav")
    assert gim_audio.pack(str(noise.path), str(noise.path / "packed")) == {}
    encoder, samples = gim_audio.load("fbank"), np.zeros(8000, np.float32)
    samples.flags.writeable = False
    assert (
        encoder.featurize(torch.zeros(8000, dtype=torch.bfloat16)).shape
        == encoder.featurize(samples).shape
    )
    with pytest.raises(ValueError, match="expected int16"):
        corpus.fill(np.empty(10, np.float32), 0)
