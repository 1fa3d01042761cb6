import json

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from test_audio import bad_files, tone
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas

from gim_audio.config import load
from gim_audio.errors import AudioError, ConfigError, DataError
from gim_audio.featurize import Featurizer, gather, load_encoder
from gim_audio.featurize.encoders import cut
from gim_audio.training import train

SMALL = ["model.channels=8", "model.context.hidden=6"]
CONTEXTS = ["{kind: gru, hidden: 6}", "{kind: conv, hidden: 6, at: each}", "{kind: none}"]


def featurizer(context=CONTEXTS[0]):
    isolate_after = "[1,2,3,4,5]" if "gru" in context else "[1,3]"
    return Featurizer.random(
        load(
            None,
            [
                "model.channels=8",
                f"model.context={context}",
                f"model.isolate_after={isolate_after}",
            ],
        )
    )


def test_bf16_is_near_and_says_so(tmp_path, run):
    torch.manual_seed(1)
    waveform = (0.06 * np.random.default_rng(0).standard_normal(40000)).astype(np.float32)
    config = load(None, ["model.channels=32", "model.context.hidden=16"])
    full, half = (Featurizer.random(config, precision=precision) for precision in ("fp32", "bf16"))
    half.block = 160 * 60  # the context's state crosses pieces
    for exact, rounded in zip(full.encode(waveform), half.encode(waveform), strict=True):
        assert rounded.dtype == np.float32
        assert 0 < np.abs(exact - rounded).max() < 0.03 * np.abs(exact).max()
    soundfile.write(tmp_path / "a.wav", waveform[:8000], 16000)
    assert (
        run(
            "featurize",
            "random",
            tmp_path / "a.wav",
            tmp_path / "f",
            "--precision",
            "bf16-emulated",
        )[0]
        == 0
    )
    assert json.loads((tmp_path / "f/features.json").read_text())["precision"] == "bf16"
    status, _, error = run(
        "featurize", "mfcc", tmp_path / "a.wav", tmp_path / "g", "--precision", "bf16"
    )
    assert (status, "mfcc is computed in fp32" in error) == (2, True)


def test_the_shortest_file():
    encoder = Featurizer.random(load(None, SMALL))
    assert [len(f) for f in encoder.encode(np.zeros(41, np.float32))][-1] == 1
    with pytest.raises(AudioError, match="40 samples at 16000 Hz: at least 41"):
        encoder.encode(np.zeros(40, np.float32))


def test_baselines_are_kaldis():
    waveform = tone(16000, 1.0, 500).astype(np.float32)  # five periods a frame
    mfcc, fbank = load_encoder("mfcc"), load_encoder("fbank")
    cepstra, energies = mfcc.encode(waveform)[0], fbank.encode(waveform)[0]
    assert cepstra.shape == (1 + (16000 - 400) // 160, 39)
    assert energies.shape == (98, 80)
    # 500 Hz falls into the mel band around it: Kaldi's filters run from 20 Hz to 8 kHz, evenly in
    # 1127 ln(1 + f / 700).
    mel = lambda f: 1127 * np.log(1 + f / 700)  # noqa: E731
    band = (mel(500) - mel(20)) / (mel(8000) - mel(20)) * 81 - 1
    assert abs(np.median(energies.argmax(axis=1)) - band) <= 1
    steady = cepstra[20:-20]
    # Nothing changes in a steady tone.
    assert np.abs(steady[:, 13:]).max() < 1e-2 * np.abs(steady[:, :13]).max()
    with pytest.raises(AudioError, match="at least 400"):
        mfcc.encode(waveform[:399])


@given(
    samples=st.integers(400, 20000),
    block=st.integers(1, 20000),
    kind=st.sampled_from(["mfcc", "mfcc13", "fbank"]),
)
@settings(deadline=None, max_examples=40)
def test_baselines_are_the_same_in_pieces(samples, block, kind):
    waveform = (0.06 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)
    encoder, block = load_encoder(kind), max(block, samples // 50)
    found = [piece for (piece,) in encoder.pieces(cut(waveform, block), [1])]
    pcm = torch.from_numpy(waveform)[None] * 32768
    whole = kaldi.fbank(pcm, num_mel_bins=80) if kind == "fbank" else kaldi.mfcc(pcm)
    if kind == "mfcc":
        first = compute_deltas(whole.T)
        whole = torch.cat([whole.T, first, compute_deltas(first)]).T
    np.testing.assert_allclose(np.concatenate(found), whole, atol=1e-4)


@pytest.fixture
def experiment(tiny, corpus, tmp_path):
    train(tiny, corpus, tmp_path / "exp", say=lambda _: None)
    return tmp_path / "exp"


def test_a_folder_of_numpy_files(experiment, noise, tmp_path, run):
    status, _, err = run("featurize", experiment, noise.path, tmp_path / "out", "--module", 4)
    assert (status, err.splitlines()[-1]) == (0, f"{tmp_path}/out: 7 utterances")
    encoder = load_encoder(str(experiment))
    counts = dict(
        line.split() for line in (tmp_path / "out/utt2num_frames").read_text().splitlines()
    )
    for name, waveform in noise.waveforms(16000):
        features = np.load(tmp_path / f"out/{name}.npy")
        np.testing.assert_allclose(features, encoder.encode(waveform)[3], rtol=0, atol=1e-6)
        assert int(counts[name]) == len(features)
    description = json.loads((tmp_path / "out/features.json").read_text())
    assert (description["module_name"], description["hop_samples"]) == ("conv4", 80)
    assert float((tmp_path / "out/frame_shift").read_text()) == 0.005
    assert float((tmp_path / "out/frame_offset").read_text()) == -20 / 16000
    assert description["model"].startswith(str(experiment))


def test_a_kaldi_archive(experiment, noise, tmp_path, run):
    status, _, _ = run(
        "featurize", experiment, noise.path, f"ark,scp:{tmp_path}/k/f.ark,{tmp_path}/k/f.scp"
    )
    assert status == 0
    run("featurize", experiment, noise.path, tmp_path / "out")
    found = kaldiio.load_scp(f"{tmp_path}/k/f.scp")
    assert sorted(found) == noise.utterances
    for name in noise.utterances:
        np.testing.assert_array_equal(found[name], np.load(tmp_path / f"out/{name}.npy"))
    assert (tmp_path / "k/f.utt2num_frames").read_text() == (
        tmp_path / "out/utt2num_frames"
    ).read_text()


def test_inputs(noise, corpus, tmp_path):
    files = sorted(noise.path.glob("*.wav"))
    assert gather([str(files[0]), str(files[1])]).utterances == ["a-1", "a-2"]
    (noise.path / "wav.scp").rename(tmp_path / "wav.scp")
    assert gather([str(noise.path)]).utterances == noise.utterances
    assert gather([f"scp:{tmp_path}/wav.scp"]).utterances == noise.utterances
    assert gather([str(corpus.path)]).utterances == noise.utterances
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DataError, match="neither a data directory nor a folder with audio"):
        gather([str(tmp_path / "hollow")])
    (tmp_path / "hollow/a-1.flac").touch()
    with pytest.raises(DataError, match="would both be a-1"):
        gather([str(files[0]), str(tmp_path / "hollow")])


@pytest.mark.parametrize(
    "name", ["empty.wav", "text.wav", "cut.flac", "cut.wav", "nan.wav", "missing.wav", "short.wav"]
)
def test_one_bad_file_is_one_line_and_status_2(tmp_path, run, name):
    bad_files(tmp_path)
    soundfile.write(tmp_path / "short.wav", np.zeros(399), 16000)
    status, out, err = run("featurize", "mfcc", tmp_path / name, tmp_path / "out")
    assert (status, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert str(tmp_path / name) in err
    assert not (tmp_path / "out").exists()


def test_good_files_survive_bad_ones(tmp_path, run):
    folder = tmp_path / "audio"
    folder.mkdir()
    bad = [name for name in bad_files(folder) if name not in {"folder.wav", "missing.wav"}]
    (folder / "folder.wav").rmdir()
    (folder / "good.wav").rename(folder / "fine.wav")
    (folder / "cut.wav").rename(folder / "cut2.wav")
    for rate in (8000, 44100):
        soundfile.write(folder / f"rate{rate}.mp3", tone(rate), rate)
    soundfile.write(folder / "stereo 1.wav", np.zeros((44100, 2)), 44100)
    status, _, err = run("featurize", "mfcc", folder, tmp_path / "out")
    lines = err.strip().splitlines()
    assert status == 2
    assert lines[-1].endswith(
        f"{len(bad)} of {len(bad) + 5} utterances failed, 5 are in {tmp_path}/out"
    )
    assert len([line for line in lines if line.startswith("failed: ")]) == len(bad)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.npy")) == [
        "fine.npy",
        "good.npy",
        "rate44100.npy",
        "rate8000.npy",
        "stereo 1.npy",
    ]
    status, _, err = run("featurize", "mfcc", folder / "stereo 1.wav", f"ark:{tmp_path}/s.ark")
    assert status == 2
    assert "no names with spaces" in err


def test_nothing_is_overwritten(experiment, noise, tmp_path, run):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    status, _, err = run("featurize", experiment, noise.path, tmp_path / "out")
    assert (status, "exists already" in err) == (2, True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_utterance_name_is_no_path(noise, tmp_path, run):
    (tmp_path / "wav.scp").write_text(
        f"{tmp_path}/escaped {noise.recordings['a-1']}\nspk/utt {noise.recordings['a-1']}\nfine"
        f" {noise.recordings['a-1']}\n"
    )
    status, _, err = run("featurize", "mfcc", f"scp:{tmp_path}/wav.scp", tmp_path / "out")
    assert status == 2
    assert "2 of 3 utterances failed" in err
    assert "is no file name" in err
    assert not (tmp_path / "escaped.npy").exists()
    assert [p.name for p in (tmp_path / "out").glob("*.npy")] == ["fine.npy"]


def test_lists_and_formats_that_say_too_little(tmp_path, run):
    (tmp_path / "empty.scp").touch()
    (tmp_path / "x.raw").write_bytes(b"12345678" * 100)
    (tmp_path / "twice.scp").write_text("a a.wav\na b.wav\n")
    for name, message in [
        (f"scp:{tmp_path}/empty.scp", "lists no recordings"),
        (f"scp:{tmp_path}/twice.scp", "stands twice"),
        (tmp_path / "x.raw", "x.raw: cannot be decoded"),
    ]:
        status, _, err = run("featurize", "mfcc", name, tmp_path / "out")
        assert (status, message in err, len(err.strip().splitlines())) == (2, True, 1)


def test_a_folder_does_not_hide_a_baseline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mfcc").mkdir()
    assert load_encoder("mfcc").name == "mfcc"


@pytest.mark.parametrize("samples", [40, 41])
def test_the_shortest_file_through_the_command(tmp_path, run, samples):
    soundfile.write(tmp_path / "short.wav", np.zeros(samples), 16000)
    status, _, err = run("featurize", "random", tmp_path / "short.wav", tmp_path / "out")
    if samples == 40:
        assert (status, "40 samples at 16000 Hz: at least 41 are needed" in err) == (2, True)
    else:
        assert status == 0
        assert np.load(tmp_path / "out/short.npy").shape == (1, 256)


def test_wrong_names(experiment, noise, tmp_path, run):
    for arguments, message in [
        (
            [tmp_path / "none", noise.path, tmp_path / "o"],
            (
                "no such experiment (nor is it gim-small, mfcc, mfcc+cmvn, mfcc13, fbank,"
                " fbank+cmvn or random)"
            ),
        ),
        (
            [experiment, noise.path, tmp_path / "o", "--module", 7],
            "has modules 1 to 6: conv1, conv2",
        ),
        ([experiment, noise.path, "ark,scp:only.ark"], "expected ark,scp:FILE.ark,FILE.scp"),
        (
            [experiment, noise.path, tmp_path / "o", "--device", "gpu7"],
            "device gpu7 cannot be used here",
        ),
    ]:
        status, _, err = run("featurize", *arguments)
        assert status == 2
        assert message in err
        assert len(err.strip().splitlines()) == 1
    with pytest.raises(ConfigError):
        load_encoder("mfcc").pick(2)


def test_the_example_in_the_readme(experiment, noise, tmp_path, monkeypatch):
    code = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    (tmp_path / "project/exp").mkdir()
    experiment.rename("exp/gim")
    soundfile.write("speech.flac", soundfile.read(noise.recordings["a-2"])[0], 16000)
    names = {}
    exec(code, names)
    assert names["features"].shape == (100, 6)
    np.testing.assert_allclose(np.diff(names["times"]), 0.01)
    assert names["times"][0] == 20 / 16000
    assert sum(map(len, names["frames"])) == 201
    assert names["vectors"].shape == (2, 12)


def test_random_is_the_reference_model():
    encoder = load_encoder("random")
    assert encoder.module_names[-1] == "gru"
    assert encoder.encode(np.zeros(20480, np.float32))[-1].shape == (128, 256)
    assert encoder.name == load_encoder("random").name


def test_a_real_recording(sample, tmp_path, run):
    file = next(sample.rglob("103-1240-0000.flac"))
    status, _, _ = run("featurize", "random", file, tmp_path / "out")
    assert status == 0
    seconds = soundfile.info(file).duration
    frames, width = np.load(tmp_path / "out/103-1240-0000.npy").shape
    assert width == 256
    assert abs(frames - 100 * seconds) <= 1


@pytest.mark.parametrize("cuts", ["[]", "[2, 4]", "[1, 2, 3, 4, 5]"])
def test_layers_inside_modules_are_those_of_a_model_cut_everywhere(cuts):
    """The same weights in a model whose every layer is a module give the same features."""
    whole = Featurizer.random(load(None, ["model.channels=8", f"model.isolate_after={cuts}"]))
    pieces = Featurizer.random(load(None, ["model.channels=8"]))

    def layers(model):
        return [
            layer
            for module in model.stack
            for layer in (*module.encoder, *([module.context] if module.context else []))
        ]

    for ours, theirs in zip(layers(pieces.model), layers(whole.model), strict=True):
        ours.load_state_dict(theirs.state_dict())
    waveform = np.random.default_rng(0).standard_normal(20000).astype(np.float32)
    inside = whole.by_layer()
    assert (
        inside.module_names
        == pieces.module_names
        == ["conv1", "conv2", "conv3", "conv4", "conv5", "gru"]
    )
    assert inside.name == whole.name
    for found, expected in zip(inside.encode(waveform), pieces.encode(waveform), strict=True):
        np.testing.assert_array_equal(found, expected)
