"""Changed waveforms for what predicts, and unchanged ones for what is predicted."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file
from test_probes import noisy_data

from gim_audio.checkpoints.folders import resolve
from gim_audio.config import AugmentConfig, load
from gim_audio.errors import ConfigError
from gim_audio.model.build import build_model
from gim_audio.model.sampling import RandomNumbers
from gim_audio.packed import PackedCorpus, pack
from gim_audio.training import train
from gim_audio.training.augment import Augment

ALL = {"share": 1, "warp": 0.1, "reject": 300, "reverb": 0.3, "babble": (5, 15), "noise": (10, 20)}


def changed(waveforms, step=3, **settings):
    return Augment(AugmentConfig(**settings), 16000, seed=1)(waveforms, step, len(waveforms))


def tone(hertz, batch=4, samples=16000):
    times = torch.arange(samples) / 16000
    return (0.1 * torch.sin(2 * torch.pi * hertz * times)).expand(batch, samples).clone()


def test_a_function_of_seed_and_step():
    waveforms = 0.1 * torch.randn(6, 8000)
    once = changed(waveforms, **ALL)
    assert torch.equal(once, changed(waveforms, **ALL))
    assert not torch.equal(once, changed(waveforms, step=4, **ALL))
    assert once.shape == waveforms.shape
    assert torch.equal(changed(waveforms, **ALL | {"share": 0}), waveforms)


def test_a_share_of_crops_is_changed():
    waveforms = 0.1 * torch.randn(400, 800)
    for change in ({"noise": (10, 10)}, {"warp": 0.1}, {"reverb": 0.1}):
        found = changed(waveforms, share=0.3, **change)
        assert float((found != waveforms).any(1).float().mean()) == pytest.approx(0.3, abs=0.08)


def test_processes_change_their_parts_alike():
    """A change that needs no other crops is the same however a batch is shared out."""
    waveforms = 0.1 * torch.randn(6, 8000)
    settings = AugmentConfig(share=0.5, warp=0.1, reject=300, reverb=0.2, noise=(5, 10))
    whole = Augment(settings, 16000, 1)(waveforms, 2, 6)
    part = Augment(settings, 16000, 1, slice(2, 4))(waveforms[2:4], 2, 6)
    torch.testing.assert_close(part, whole[2:4])


@pytest.mark.parametrize("decibels", [0.0, 12.0])
def test_noise_and_babble_have_their_level(decibels):
    waveforms = torch.randn(5, 40000) * torch.tensor([0.01, 0.1, 0.2, 0.05, 0.3])[:, None]
    for settings in ({"noise": (decibels, decibels)}, {"babble": (decibels, decibels)}):
        added = changed(waveforms, share=1, **settings) - waveforms
        ratio = 10 * torch.log10(waveforms.square().mean(1) / added.square().mean(1))
        np.testing.assert_allclose(ratio, decibels, atol=0.1)


def test_frequencies_are_stretched():
    """The strongest frequency of a tone of 1000 Hz lies elsewhere, by at most the warp."""
    found = changed(tone(1000, batch=40), share=1, warp=0.2)
    spectrum = torch.fft.rfft(found[:, 4000:12000], dim=1).abs()
    peaks = spectrum.argmax(1).float() * 2  # Hz
    assert peaks.min() > 780
    assert peaks.max() < 1220
    assert peaks.max() - peaks.min() > 150


def test_a_band_is_removed():
    torch.manual_seed(0)
    found = changed(torch.randn(3, 16000), share=1, reject=1000)
    power = torch.fft.rfft(found, dim=1).abs().square()
    smooth = power.unfold(1, 500, 100).mean(2)  # of 500 Hz
    assert (smooth.amin(1) < 0.02 * smooth.median(1).values).all()
    assert ((smooth > 0.3 * smooth.median(1).values[:, None]).float().mean(1) > 0.8).all()


def test_reverberation_follows_the_sound():
    click = torch.zeros(4, 16000)
    click[:, 4000] = 1
    found = changed(click, share=1, reverb=0.5)
    assert not found[:, :3990].abs().max() > 1e-5
    assert found[:, 4000].abs().min() > 0.5  # the direct sound keeps its place
    energy = found[:, 4001:].square()
    assert (energy[:, :2000].sum(1) > 5 * energy[:, 6000:8000].sum(1)).all()
    np.testing.assert_allclose(energy.sum(1), 1, rtol=0.3)


def config_of(tmp_path, *overrides):
    path = tmp_path / "c.yaml"
    path.write_text(TINY)
    return load(path, overrides)


@pytest.mark.parametrize("kind", ["infonce", "vicreg"])
def test_frames_before_the_change_are_what_is_compared(tmp_path, kind):
    settings = [] if kind == "infonce" else ["objective={kind: vicreg, width: 8}"]
    config = config_of(tmp_path, *settings)
    model = build_model(config.model, config.objectives)
    before, after = torch.randn(2, 4000, 1), torch.randn(2, 4000, 1)
    seen = {}
    for number, module in enumerate(model.stack, start=1):

        def note(z, c, *others, number=number):
            seen[number] = z, c

        module.objective.score = note
    walk = model.greedy_losses(torch.cat([after, before]), RandomNumbers(1), paired=True)
    for _, score, _ in walk:
        score()
    x_before, x_after = before, after
    for number, module in enumerate(model.stack, start=1):
        clean_out, after_out = module(x_before), module(x_after)
        z, c = seen[number]
        torch.testing.assert_close(c, after_out.contexts)
        expected = clean_out.frames if kind == "infonce" else after_out.frames
        torch.testing.assert_close(z, expected)
        x_before, x_after = clean_out.output.detach(), after_out.output.detach()


@pytest.fixture
def spoken(tmp_path):
    pack(noisy_data(tmp_path / "data", "abc")[0], tmp_path / "packed")
    return PackedCorpus(tmp_path / "packed")


AUGMENT = (
    "data.augment={share: 0.7, warp: 0.1, reverb: 0.2, babble: [5, 10], noise: [10, 20],"
    " reject: 200}"
)
SPANS = "{kind: units, number: 4, spans: {starts: 0.2, length: 3}}"


@pytest.mark.parametrize("objective", ["infonce", "units"])
def test_training_resumes_to_the_bit(spoken, tmp_path, objective):
    settings = [AUGMENT]
    if objective == "units":
        settings += [
            "model.context={kind: residual, hidden: 6, layers: 2, lookahead: 20}",
            f"objective=[{', '.join(['{kind: spectra}'] * 5 + [SPANS])}]",
        ]
    train(config_of(tmp_path, *settings), spoken, tmp_path / "whole", say=lambda line: None)
    half = config_of(tmp_path, *settings, "training.steps=3")
    train(half, spoken, tmp_path / "parts", say=lambda line: None)
    whole = config_of(tmp_path, *settings)
    train(whole, spoken, tmp_path / "parts", resume=True, say=lambda line: None)
    one, two = (load_file(resolve(tmp_path / e) / "model.safetensors") for e in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    plain = [each for each in settings if each != AUGMENT]
    train(config_of(tmp_path, *plain), spoken, tmp_path / "plain", say=lambda line: None)
    lines = [
        json.loads((tmp_path / e / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for e in ("whole", "plain")
    ]
    assert lines[0] != lines[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.augment={warp: 2}"], "data.augment.warp"),
        (["data.augment={warp: 0.1}", "training.schedule=sequential", "training.cache=true"], "no cache"),
        (["data.augment={pitch: 1}"], "data.augment.pitch: unknown key"),
    ],
)  # fmt: skip
def test_bad_settings(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(None, overrides)
