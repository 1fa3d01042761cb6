"""The package as a library: arrays and tensors in and out, streams, a scikit-learn transformer."""

from itertools import pairwise

import numpy as np
import pytest
import soxr
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.utils.estimator_checks import parametrize_with_checks

import gim_audio
from gim_audio.config import load
from gim_audio.errors import AudioError, ConfigError, GimAudioError
from gim_audio.featurize import Featurizer
from gim_audio.featurize.live import Live
from gim_audio.model.build import build_model

SMALL = ["model.channels=8", "model.context.hidden=6"]


@pytest.fixture(scope="module")
def model():
    return Featurizer.random(load(None, SMALL))


def noise(samples):
    return (0.06 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def test_arrays_and_tensors(model):
    waveform = noise(8000)
    (expected,) = model.encode_whole(waveform, [6])
    np.testing.assert_allclose(model(waveform, 16000), expected, atol=1e-6)
    found = model(torch.from_numpy(waveform), 16000)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(model(waveform.astype(np.float64), 16000), expected, atol=1e-6)
    both = np.stack([waveform + 0.1, waveform - 0.1])
    np.testing.assert_allclose(model(both.T, 16000), expected, atol=1e-5)  # as soundfile gives it
    # As torchaudio.
    np.testing.assert_allclose(model(torch.from_numpy(both), 16000), expected, atol=1e-5)
    np.testing.assert_allclose(Live(model).push(both.T), expected[: -1 - 252 // 160 + 1], atol=1e-5)
    assert model(waveform, 16000, module=1).shape == (1599, 8)


def test_any_rate_is_that_of_a_file(model):
    waveform = noise(30000)
    resampled = soxr.resample(waveform, 44100, 16000)
    np.testing.assert_allclose(model(waveform, 44100), model(resampled, 16000), atol=1e-6)


def test_what_is_no_waveform(model):
    for waveform, message in [
        (np.zeros(8000, np.int16), "type int16: expected floating point"),
        (np.zeros((2, 3, 4), np.float32), "shape .2, 3, 4.: expected .samples,., an array"),
        (np.zeros((8000, 0), np.float32), "expected .samples,., an array"),
        (np.full(8000, np.nan, np.float32), "not finite"),
        (np.zeros(40, np.float32), "at least 41"),
    ]:
        with pytest.raises(AudioError, match=message):
            model(waveform, 16000)
    for rate in (0, -1, 16000.5, float("nan")):
        with pytest.raises(AudioError, match="expected a whole number of Hz"):
            model(noise(8000), rate)
        with pytest.raises(AudioError, match="expected a whole number of Hz"):
            Live(model, rate=rate)
    with pytest.raises(ConfigError, match="module 7: .* has modules 1 to 6"):
        model(noise(8000), 16000, module=7)


def test_load(tmp_path):
    assert gim_audio.load("mfcc").featurize(noise(8000), 16000).shape == (48, 39)
    with pytest.raises(ConfigError, match="mfcc: only a network can stream"):
        gim_audio.load("mfcc").stream()
    with pytest.raises(GimAudioError, match="no such experiment"):
        gim_audio.load(str(tmp_path / "none"))


@given(
    samples=st.integers(41, 20000),
    cuts=st.lists(st.integers(0, 20000), max_size=20),
    rate=st.sampled_from([8000, 16000, 44100]),
)
@settings(deadline=None, max_examples=40)
def test_a_stream_is_the_whole(model, samples, cuts, rate):
    waveform = noise(samples * rate // 16000 + 60)
    stream, bounds = (
        Live(model, rate=rate),
        [0, *sorted(min(cut, len(waveform)) for cut in cuts), len(waveform)],
    )
    found = [stream.push(waveform[start:stop]) for start, stop in pairwise(bounds)]
    np.testing.assert_allclose(
        np.concatenate([*found, stream.flush()]), model(waveform, rate), atol=1e-5
    )


@pytest.mark.parametrize("module", [1, 4, 6])
def test_a_frame_is_there_after_the_stated_latency(model, module):
    geometry, stream, given = model.geometries[module - 1], Live(model, module=module), 0
    for heard in range(1, 1500):
        given += len(stream.push(np.zeros(1, np.float32)))
        waited = heard - 1 - stream.latency * 16000 - geometry.centre
        last_sure = np.floor(waited / geometry.hop + 1e-9)
        assert given == max(0, last_sure + 1)


def test_a_stream_in_tensors_and_its_end(model):
    stream = Live(model)
    assert isinstance(stream.push(torch.zeros(500)), torch.Tensor)
    with pytest.raises(AudioError, match="not finite"):
        stream.push(np.array([np.nan], np.float32))
    assert len(stream.push(np.zeros(160, np.float32))) == 1  # what was refused was not received
    stream.flush()
    with pytest.raises(AudioError, match="the stream is over"):
        stream.push(np.zeros(1, np.float32))
    assert Live(model).flush().shape == (0, 6)


def test_features_follow_the_weights():
    model, waveform = Featurizer.random(load(None, SMALL)), noise(32000)
    before = model(waveform, 16000, module=5)
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.mul_(1.05)
    after = model(waveform, 16000, module=5)
    assert np.abs(after - before).max() > 100 * 1e-5
    np.testing.assert_allclose(after, model.encode_whole(waveform, [5])[0], atol=1e-5)


def test_weights_are_those_of_any_torch_module(tmp_path):
    """A model in use can be saved, and its parameters laid end to end."""
    model = gim_audio.load("gim-small")
    model.featurize(noise(16000))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    count = sum(weight.numel() for weight in model.parameters())
    assert torch.nn.utils.parameters_to_vector(model.parameters()).shape == (count,)


def test_in_inference_mode():
    waveform = noise(16000)
    with torch.inference_mode():
        found = gim_audio.load("gim-small").featurize(waveform, 16000)
    np.testing.assert_array_equal(found, gim_audio.load("gim-small").featurize(waveform, 16000))


@pytest.mark.parametrize("module", [2, 6])
def test_a_stream_in_inference_mode_and_out_of_it(module):
    stream, waveform = (
        gim_audio.load("gim-small").stream(module=module),
        torch.from_numpy(noise(48000)),
    )
    frames = []
    for first, inside in ((0, True), (16000, False), (32000, True)):
        with torch.inference_mode(inside):
            frames.append(stream.push(waveform[first : first + 16000]))
    frames.append(torch.from_numpy(stream.flush()))
    expected = gim_audio.load("gim-small").featurize(waveform, 16000, module)
    np.testing.assert_allclose(torch.cat(frames), expected, rtol=0, atol=1e-5)


def test_a_transformer_in_a_pipeline():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    time = np.arange(8000) / 16000
    waveforms = [
        (0.1 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)[: 7000 + 10 * i]
        for i, hertz in enumerate([200, 2000] * 10)
    ]
    pipeline = make_pipeline(gim_audio.GimFeatures("mfcc"), LogisticRegression())
    search = GridSearchCV(pipeline, {"gimfeatures__pool": ["mean", "mean+std"]}, cv=2).fit(
        waveforms, [0, 1] * 10
    )
    assert search.score(waveforms, [0, 1] * 10) == 1.0
    frames = gim_audio.GimFeatures("mfcc", pool=None).fit_transform(waveforms)
    np.testing.assert_allclose(gim_audio.load("mfcc").featurize(waveforms[3], 16000), frames[3])
    with pytest.raises(ValueError, match="waveform 1: 10 samples"):
        gim_audio.GimFeatures("mfcc").fit_transform([waveforms[0], waveforms[1][:10]])


def test_a_transformer_of_anything_that_holds_audio(tmp_path):
    """Arrays, files and what the datasets library gives are the same; columns have names."""
    import soundfile

    waveform = noise(16000)
    soundfile.write(tmp_path / "a.wav", waveform, 16000, subtype="FLOAT")
    transformer = gim_audio.GimFeatures("gim-small", module="gru", pool="mean+std").fit([])
    given = [
        waveform,
        str(tmp_path / "a.wav"),
        tmp_path / "a.wav",
        {"array": waveform, "sampling_rate": 16000},
    ]
    found = transformer.transform(given)
    np.testing.assert_allclose(found, np.repeat(found[:1], 4, axis=0), atol=1e-6)
    slow = soxr.resample(waveform, 16000, 8000)
    np.testing.assert_allclose(
        transformer.transform([{"array": slow, "sampling_rate": 8000}]),
        gim_audio.GimFeatures("gim-small", pool="mean+std", rate=8000).fit_transform([slow]),
    )
    names = transformer.get_feature_names_out()
    assert len(names) == found.shape[1]
    assert (names[0], names[-1]) == ("gru_mean_0", "gru_std_255")
    with pytest.raises(ValueError, match="waveform 1: .*no such file"):
        transformer.transform([waveform, "missing.wav"])
    with pytest.raises(ValueError, match="only vectors have names"):
        gim_audio.GimFeatures("mfcc", pool=None).fit([]).get_feature_names_out()


def of_few_samples(estimator):
    """The checks that give integers, or rows of which the first differs in length.

    Here that is an error.
    """
    names = (
        "check_estimators_dtypes",
        "check_transformer_general",
        "check_transformer_preserve_dtypes",
    )
    return dict.fromkeys(names, "its waveforms are of floating point, and are not all long enough")


# At 50 Hz the few samples of scikit-learn's rows are waveforms of some length.
@parametrize_with_checks(
    [gim_audio.GimFeatures("mfcc", rate=50)], expected_failed_checks=of_few_samples
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture
def saved(tmp_path, model):
    from gim_audio.checkpoints.folders import save_model

    (tmp_path / "exp").mkdir()
    save_model(tmp_path / "exp", load(None, SMALL), model.model.state_dict())
    return str(tmp_path / "exp")


def test_an_s3prl_upstream(saved, model):
    """The contract: a list of waveforms in, hidden states of one rate out, padded.

    Lengths by the downsample rate.
    """
    upstream = torch.hub.load(str(ROOT), "gim_upstream", saved, source="local")
    waveforms = [torch.from_numpy(noise(n)) for n in (16000, 9000)]
    found = upstream(waveforms)
    states = found["hidden_states"]
    assert [tuple(s.shape) for s in states] == [(2, 100, 8)] * 6
    assert not states[-1][:, :, 6:].any()
    assert upstream.get_downsample_rates("hidden_states") == 160
    for row, waveform in enumerate(waveforms):
        expected = model(waveform, 16000)
        torch.testing.assert_close(
            found["last_hidden_state"][row, : len(expected)], expected, atol=1e-6, rtol=0
        )
        assert not states[-1][row, len(expected) :].any()
    assert not any(s.requires_grad for s in states)
    upstream.load_state_dict({name: weight / 2 for name, weight in upstream.state_dict().items()})
    again = Featurizer(build_model(load(None, SMALL).model, load(None, SMALL).objective), "again")
    again.model.load_state_dict(
        {name: weight / 2 for name, weight in model.model.state_dict().items()}
    )
    (expected,) = again.encode_whole(waveforms[0].numpy(), [6])
    np.testing.assert_allclose(upstream(waveforms)["last_hidden_state"][0], expected, atol=1e-6)


def test_torch_hub(saved, model):
    loaded = torch.hub.load(str(ROOT), "gim_audio", saved, source="local")
    np.testing.assert_allclose(loaded.featurize(noise(8000)), model(noise(8000), 16000), atol=1e-6)


def test_inside_s3prl(saved, monkeypatch):
    try:
        from s3prl import hub
        from s3prl.nn import Featurizer as Sum
        from s3prl.nn import S3PRLUpstream
    except Exception as error:  # noqa: BLE001 - it needs what torchaudio has removed
        pytest.skip(f"s3prl cannot be imported here: {error}")
    from gim_audio.featurize.s3prl import gim_upstream

    monkeypatch.setattr(hub, "gim_upstream", gim_upstream, raising=False)
    upstream = S3PRLUpstream("gim_upstream", path_or_url=saved)
    states, lengths = upstream(
        torch.from_numpy(np.stack([noise(32000)] * 2)), torch.tensor([16000, 32000])
    )
    summed, _ = Sum(upstream)(states, lengths)
    assert tuple(summed.shape) == (2, 200, 8)
