"""The model that comes with the package."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

import gim_audio
from gim_audio.checkpoints.folders import (
    PRETRAINED,
    features_only,
    fingerprint,
    load_for_features,
    pretrained,
    save_model,
)
from gim_audio.config import load
from gim_audio.featurize import Featurizer

CARDS = [PRETRAINED / name / "README.md" for name in pretrained()]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    waveform = (0.06 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    soundfile.write("speech.wav", waveform, 16000)


def test_features_by_its_name(run):
    status, _, err = run("featurize", "gim-small", "speech.wav", "out")
    assert (status, err.count("Error")) == (0, 0)
    features, told = np.load("out/speech.npy"), json.loads(Path("out/features.json").read_text())
    assert features.shape == (100, 256)
    assert told["model"] == f"gim-small {fingerprint(load_for_features(PRETRAINED / 'gim-small'))}"
    waveform, rate = soundfile.read("speech.wav", dtype="float32")
    np.testing.assert_allclose(
        gim_audio.load("gim-small").featurize(waveform, rate), features, atol=1e-5
    )
    assert gim_audio.GimFeatures().fit_transform([waveform]).shape == (1, 256)


@pytest.mark.parametrize("module", range(1, 7))
def test_real_speech_in_pieces(sample, module):
    """Frames of trained modules are large, and must agree all the same."""
    encoder = gim_audio.load("gim-small").encoder
    for file in sorted(sample.rglob("*.flac"))[::100]:
        waveform, _ = soundfile.read(file, dtype="float32")
        (found,), (expected,) = (
            encoder.encode(waveform, [module]),
            encoder.encode_whole(waveform, [module]),
        )
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_its_name_is_an_experiment_elsewhere_too(run, tmp_path, corpus):
    assert run("info", "gim-small")[0] == 0
    assert run("export", "gim-small", "gim.onnx")[0] == 0
    assert run("export", "gim-small", "copy")[0] == 0
    assert fingerprint(load_for_features(tmp_path / "copy")) == fingerprint(
        load_for_features(PRETRAINED / "gim-small")
    )
    Path("more.yaml").write_text(
        "model: {channels: 256, added: [{kind: gru, hidden: 8}]}\ndata: {crop: 4500}\n"
    )
    status, _, err = run(
        "train", "more.yaml", "--from", "gim-small", "--data", corpus.path, "--out", "more"
    )
    assert (status, len(err.strip().splitlines())) == (2, 1)
    assert "exported for features alone" in err


def test_a_folder_of_its_name_goes_first(tmp_path):
    config = load(None, ["model.channels=8", "model.context.hidden=6"])
    (tmp_path / "gim-small").mkdir()
    save_model(tmp_path / "gim-small", config, features_only(Featurizer.random(config).model))
    assert gim_audio.load("gim-small").featurize(np.zeros(8000, np.float32), 16000).shape == (50, 6)
    (
        tmp_path / "gim-small/model.safetensors"
    ).unlink()  # a folder of that name with something else in it does not
    assert gim_audio.load("gim-small").featurize(np.zeros(8000, np.float32), 16000).shape == (
        50,
        256,
    )


@pytest.mark.parametrize("card", CARDS, ids=[card.parent.name for card in CARDS])
def test_cards_are_of_their_models(card):
    text = card.read_text(encoding="utf-8")
    assert f"`{fingerprint(load_for_features(card.parent))}`" in text
    assert sum(file.stat().st_size for file in card.parent.iterdir()) <= 8e6
    figures = re.findall(r"(\d+\.\d) \((\d+\.\d to \d+\.\d)\)", text)
    assert figures
    results = (PRETRAINED.parents[1] / "recipes/small/RESULTS.md").read_text(encoding="utf-8")
    for figure, interval in figures:
        assert f"{figure} | {interval} |" in results or f"{figure} ({interval})" in results
