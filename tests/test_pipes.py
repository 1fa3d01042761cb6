"""Standard input, standard output, archives of recordings, and names that go wrong."""

import io
import os
import subprocess
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from gim_audio.featurize import load_encoder


def piped(command, audio):
    return subprocess.run(
        [sys.executable, "-m", "gim_audio", "featurize", *map(str, command)],
        input=audio,
        capture_output=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wav(samples, rate, form="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype="PCM_16" if form != "OGG" else None)
    return file.getvalue()


def test_standard_input_to_standard_output(small):
    """A pipe `sox … | gim-audio featurize EXP - ark:- | copy-feats ark:- …` works.

    Its header does not know its length.
    """
    samples = (3000 * np.random.default_rng(0).standard_normal(50_000)).astype(np.int16)
    recording = bytearray(wav(samples, 16000))
    recording[4:8], recording[40:44] = b"\xff\xff\xff\x7f", b"\xdb\xff\xff\x7f"
    done = piped([small, "-", "ark:-"], bytes(recording))
    assert (done.returncode, done.stderr.decode().splitlines()[-1]) == (0, "ark:-: 1 utterances")
    ((name, features),) = kaldiio.load_ark(io.BytesIO(done.stdout))
    decoded, _ = soundfile.read(io.BytesIO(wav(samples, 16000)), dtype="float32")
    (expected,) = load_encoder(str(small)).encode_whole(decoded, [6])
    assert name == "stdin"
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)
    pcm = piped([small, "-", "ark:-", "--pcm", 16000], wav(samples, 16000)[44:])
    assert pcm.stdout == done.stdout
    flac = piped([small, "-", "ark:-"], wav(samples, 16000, "FLAC"))
    assert flac.stdout == done.stdout


def test_the_same_module_twice_is_once(small, noise, tmp_path, run):
    assert run("featurize", small, noise.path, tmp_path / "o", "--module", 6, "--module", 6)[0] == 0


def test_a_pipe_is_not_replaced(small, noise, tmp_path, run):
    os.mkfifo(tmp_path / "pipe")
    status, _, err = run("featurize", small, noise.path, f"ark:{tmp_path}/pipe")
    assert (status, "exists already" in err, (tmp_path / "pipe").is_fifo()) == (2, True, True)


def test_damaged_archives_keep_what_is_good(small, tmp_path):
    """Widths that other readers misread, a WAV without samples, a cut one, and no archive."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(9000)

    def recording(subtype):
        file = io.BytesIO()
        soundfile.write(file, samples, 16000, format="WAV", subtype=subtype)
        return file.getvalue()

    good = recording("PCM_16")
    parts = {
        name: recording(s)
        for name, s in (("w8", "PCM_U8"), ("w16", "PCM_16"), ("w24", "PCM_24"), ("f", "FLOAT"))
    }
    parts |= {"hollow": wav(np.zeros(0), 16000), "last": good[:-100]}
    archive = b"".join(name.encode() + b" " + part for name, part in parts.items())
    done = piped([small, "ark:-", tmp_path / "out"], archive)
    error = done.stderr.decode()
    assert done.returncode == 2
    assert "hollow: holds no samples" in error
    assert "last: is shorter than its header says" in error
    found = {path.stem: np.load(path) for path in (tmp_path / "out").glob("*.npy")}
    assert sorted(found) == ["f", "w16", "w24", "w8"]
    np.testing.assert_allclose(found["w24"], found["f"], atol=1e-3)
    np.testing.assert_allclose(found["w8"], found["f"], atol=0.1)
    for junk, message in (
        (b"hello, this is a text that is no archive", b"no WAV begins there"),
        (bytes(range(256)) * 9, b"a name with a line break or a zero byte"),
    ):
        done = piped([small, "ark:-", tmp_path / "no"], junk)
        assert (done.returncode, message in done.stderr) == (2, True)
        assert len(done.stderr.strip().splitlines()) == 1


def test_names_and_inputs_that_go_wrong(small, noise, tmp_path, run):
    """Strange names are listed, never fatal; inputs that contradict each other are refused."""
    folder = tmp_path / "audio"
    folder.mkdir()
    recording = Path(noise.recordings["a-1"]).read_bytes()
    for name in (b"fine.wav", b"caf\xe9.wav", b"n" * 220 + b".wav", "Größe 中.wav".encode()):
        (folder / os.fsdecode(name)).write_bytes(recording)
    status, _, err = run("featurize", small, folder, tmp_path / "out", "--format", "safetensors")
    assert (status, "2 of 4 utterances failed" in err) == (2, True)
    assert "a name that is not UTF-8: rename it" in err
    assert "is too long for a file name" in err
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.safetensors")) == [
        "Größe 中",
        "fine",
    ]
    counts = (tmp_path / "out/utt2num_frames").read_text().splitlines()
    assert [line.rpartition(" ")[0] for line in counts] == ["Größe 中", "fine"]
    (tmp_path / "long.scp").write_text(f"a {'x' * 300}\nb {noise.recordings['a-1']}\n")
    status, _, err = run("featurize", small, f"scp:{tmp_path}/long.scp", tmp_path / "long")
    assert (status, "File name too long" in err, "1 of 2 utterances failed" in err) == (
        2,
        True,
        True,
    )
    for inputs in ([noise.path, folder], ["", folder], [f"scp:{tmp_path}/long.scp", folder]):
        status, _, err = run("featurize", small, *inputs, tmp_path / "no")
        assert (status, "stands alone" in err) == (2, True)
    assert (
        run("featurize", small, folder / "fine.wav", folder / "fine.wav", tmp_path / "once")[0] == 0
    )


def test_a_recording_that_comes_twice(small, tmp_path, noise):
    recording = Path(noise.recordings["a-1"]).read_bytes()
    done = piped(
        [small, "ark:-", tmp_path / "out"],
        b"x " + recording + b"y " + recording + b"x " + recording,
    )
    assert (done.returncode, b"failed: x: comes a second time" in done.stderr) == (2, True)
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.npy")) == ["x", "y"]


def test_an_archive_of_recordings(small, noise, tmp_path, run):
    archive = b"".join(
        f"{name} ".encode() + Path(file).read_bytes() for name, file in noise.recordings.items()
    )
    done = piped([small, "ark:-", "ark:-"], archive)
    assert done.returncode == 0
    found = dict(kaldiio.load_ark(io.BytesIO(done.stdout)))
    assert list(found) == noise.utterances
    run("featurize", small, noise.path, tmp_path / "out")
    for name, features in found.items():
        np.testing.assert_allclose(
            features, np.load(tmp_path / f"out/{name}.npy"), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (wav(np.zeros(1000), 16000)[:1500], "standard input: ends after 728 of 1000 samples"),
        (wav(np.zeros(1000), 16000) * 2, "standard input: another recording follows the first"),
        (wav(np.zeros(1000), 16000, "FLAC")[:60], "standard input: cannot be decoded"),
        (b"", "standard input: cannot be decoded"),
        (wav(np.zeros(40), 16000), "standard input: 40 samples at 16000 Hz: at least 41"),
    ],
)
def test_bad_standard_input_is_one_line(small, tmp_path, audio, message):
    done = piped([small, "-", tmp_path / "out"], audio)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert len(done.stderr.decode().strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_reader_that_goes_away(small, noise):
    process = subprocess.Popen(
        [sys.executable, "-m", "gim_audio", "featurize", str(small), *([str(noise.path)]), "ark:-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.wait(timeout=60) == 2
    error = process.stderr.read().decode()
    assert error == "gim-audio: standard output: its reader went away before a-1 was written\n"


def test_a_folder_that_cannot_be_written(small, noise, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "closed").mkdir(mode=0o500)
    done = piped([small, noise.path, tmp_path / "closed/out"], b"")
    assert done.returncode == 2
    closed = tmp_path / "closed"
    assert (
        done.stderr.decode()
        == f"gim-audio: {closed}/out: {closed} may not be written in: choose another place\n"
    )
