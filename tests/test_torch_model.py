"""The model as any other module of torch: batches, lengths, gradients, copies.

Against the network one by one.
"""

import copy
import io
import pickle

import numpy as np
import pytest
import soundfile
import torch

import gim_audio
from gim_audio.config import load
from gim_audio.errors import AudioError, ConfigError
from gim_audio.featurize import Featurizer
from gim_audio.featurize.torch_model import GimModel

SMALL = ["model.channels=8", "model.context.hidden=6"]
ADDED = [
    (
        "model.added=[{kernel: 3, padding: 1, channels: 5}, {kind: conv, hidden: 7}, {kind: gru,"
        " hidden: 4}]"
    )
]


def network(*more):
    return Featurizer.random(load(None, [*SMALL, *more]))


@pytest.fixture(
    params=[[], ADDED, ["model.isolate_after=[2]", "model.context.at=each"]],
    ids=["paper", "grown", "each"],
)
def featurizer(request):
    return network(*request.param)


def waveforms(*samples):
    generator = torch.Generator().manual_seed(0)
    return [0.06 * torch.randn(n, generator=generator) for n in samples]


def test_a_batch_is_its_waveforms(featurizer):
    """Rows of other lengths, padded with noise, are each as they are alone and whole."""
    model, rows = GimModel(featurizer), waveforms(16000, 9001, 700)
    batch = 5 * torch.randn(3, 16000)
    for place, row in enumerate(rows):
        batch[place, : len(row)] = row
    features, counts = model.extract_features(batch, torch.tensor([len(row) for row in rows]))
    assert len(features) == len(counts) == len(model.module_names)
    for place, row in enumerate(rows):
        alone = featurizer.encode_whole(row.numpy(), range(1, len(features) + 1))
        for found, count, expected in zip(features, counts, alone, strict=True):
            assert int(count[place]) == len(expected)
            np.testing.assert_allclose(found[place, : len(expected)], expected, rtol=0, atol=1e-5)
            assert not found[place, len(expected) :].any()
    assert [feature.shape[2] for feature in features] == model.widths
    torch.testing.assert_close(model(batch, torch.tensor([len(row) for row in rows])), features[-1])


def test_two_dimensions_are_a_batch():
    """They were averaged as channels once."""
    model, (one, other) = GimModel(network()), waveforms(16000, 16000)
    found = model(torch.stack([one, other]))
    assert found.shape == (2, 100, 6)
    torch.testing.assert_close(found[0], model(one)[0])
    torch.testing.assert_close(found[1], model(other)[0])
    assert model(one).shape == (1, 100, 6)


def test_modules_have_numbers_and_names():
    model, (waveform,) = GimModel(network()), waveforms(8000)
    everything, _ = model.extract_features(waveform)
    for asked, number in ((1, 0), (-1, 5), ("gru", 5), ("conv2", 1), ("3", 2), (None, 5)):
        (found,), _ = model.extract_features(waveform, modules=asked)
        torch.testing.assert_close(found, everything[number])
    found, _ = model.extract_features(waveform, modules=["gru", 1])
    torch.testing.assert_close(found, [everything[5], everything[0]])
    for wrong in (0, 7, -7, "conv9", "", ["gru", 8]):
        with pytest.raises(ConfigError, match="has modules 1 to 6"):
            model.extract_features(waveform, modules=wrong)
    with pytest.raises(ConfigError, match="no modules"):
        model.extract_features(waveform, modules=[])


def test_what_is_no_batch():
    model = GimModel(network())
    for given, lengths, message in [
        (torch.zeros(8000, dtype=torch.int16), None, "expected a tensor of floating point"),
        (torch.zeros(2, 3, 8000), None, "expected a tensor of floating point"),
        (np.zeros(8000, np.float32), None, "`featurize` takes arrays"),
        (torch.zeros(2, 8000), torch.tensor([8000]), "1 lengths of 2 waveforms"),
        (
            torch.zeros(2, 8000),
            torch.tensor([8000, 8001]),
            "a length of 8001: the waveforms have 8000",
        ),
        (torch.zeros(2, 8000), torch.tensor([8000, 40]), "40 samples at 16000 Hz: at least 41"),
        (torch.zeros(0, 8000), None, "and some"),
    ]:
        with pytest.raises(AudioError, match=message):
            model(given, lengths)


@pytest.mark.parametrize(
    ("train", "learns"), [(None, set()), ("last", {5}), ("all", {0, 1, 2, 3, 4, 5})]
)
def test_which_modules_learn(train, learns):
    """A few steps of any optimizer lower a loss of the last features.

    What is frozen stays as it is to the bit.
    """
    torch.manual_seed(0)
    model, batch = GimModel(network(), train), torch.stack(waveforms(4000, 4000))
    before = copy.deepcopy(model.state_dict())
    head = torch.nn.Linear(6, 2)
    parameters = [
        weight for weight in (*model.parameters(), *head.parameters()) if weight.requires_grad
    ]
    optimizer, losses = torch.optim.Adam(parameters, 0.01), []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(
            head(model(batch).mean(dim=1)), torch.tensor([0, 1])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not any(
        "objective" in name for name, weight in model.named_parameters() if weight.requires_grad
    )
    changed = {
        name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])
    }
    assert {int(name.split(".")[2]) for name in changed} == learns
    with pytest.raises(ConfigError, match="expected None, 'last' or 'all'"):
        GimModel(network(), "first")


def test_gradients_of_the_whole_are_right():
    """Against finite differences, through all modules: there is no stop-gradient in fine-tuning."""
    model = GimModel(network("model.channels=2", "model.context.hidden=2"), "all").double()
    waveform = waveforms(120)[0].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x).sum(), waveform, atol=1e-6)
    wider = GimModel(network(), "all")
    wider(waveforms(8000)[0]).sum().backward()
    for module in wider.network.stack:
        assert all(
            weight.grad is not None for weight in module.parameters() if weight.requires_grad
        )
        assert (
            sum(
                float(weight.grad.abs().sum())
                for weight in module.parameters()
                if weight.requires_grad
            )
            > 0
        )


def test_copies_compute_the_same():
    model, batch = gim_audio.load("gim-small"), torch.stack(waveforms(8000, 8000))
    expected, file = model(batch), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = gim_audio.load("gim-small")
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert not torch.equal(other(batch), expected)
    other.load_state_dict(torch.load(file))
    for found in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(found(batch), expected, rtol=0, atol=0)
        np.testing.assert_allclose(found.featurize(batch[0].numpy()), expected[0], atol=1e-5)
    assert not [name for name, weight in model.named_parameters() if weight.requires_grad]


def test_other_types_of_numbers():
    model, (waveform,) = GimModel(network()), waveforms(8000)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(waveform)
    torch.testing.assert_close(rounded.float(), model(waveform), rtol=0, atol=0.02)
    exact = copy.deepcopy(model).double()(waveform.double())
    torch.testing.assert_close(exact.float(), model(waveform), rtol=0, atol=1e-5)


def test_one_recording_of_any_rate(tmp_path):
    model, (waveform,) = gim_audio.load("gim-small"), waveforms(8000)
    expected = model(waveform)[0]
    soundfile.write(tmp_path / "a.wav", waveform.numpy(), 16000, subtype="FLOAT")
    for found in (
        model.featurize(waveform.numpy()),
        model.featurize(waveform),
        model.featurize(str(tmp_path / "a.wav")),
        model.featurize(tmp_path / "a.wav", module="gru"),
        model.featurize(np.stack([waveform.numpy()] * 2, axis=1), 16000, module=[-1])[0],
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert isinstance(model.featurize(waveform), torch.Tensor)
    assert [matrix.shape[1] for matrix in model.featurize(waveform, module="all")] == model.widths
    assert model.featurize(waveform.numpy(), 8000).shape[0] == 100
    stream = model.stream(rate=16000, module="conv5")
    pieces = [
        stream.push(waveform[:3000]),
        stream.push(waveform[3000:]),
        torch.from_numpy(stream.flush()),
    ]
    torch.testing.assert_close(
        torch.cat(pieces), model.featurize(waveform, module=-2), rtol=0, atol=1e-5
    )


def test_when_frames_are():
    """The first frame of conv5 is centred on sample 20, and one comes each 10 ms."""
    model = gim_audio.load("gim-small")
    np.testing.assert_allclose(model.frame_times(3), [0.00125, 0.01125, 0.02125])
    np.testing.assert_allclose(np.diff(model.frame_times(5, module=1)), 5 / 16000)


@pytest.mark.parametrize("name", ["mfcc", "fbank+cmvn"])
def test_baselines_have_the_same_interface(name):
    model, rows = gim_audio.load(name), waveforms(16000, 9000)
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    (features,), (counts,) = model.extract_features(batch, torch.tensor([16000, 9000]))
    for place, row in enumerate(rows):
        expected = model.featurize(row.numpy())
        assert int(counts[place]) == len(expected)
        np.testing.assert_allclose(features[place, : len(expected)], expected, atol=1e-5)
    assert features.shape[2] == model.widths[0]
    with pytest.raises(ConfigError, match="has no weights to train"):
        gim_audio.load(name, train="all")


def test_nothing_of_the_process_changes(corpus, tmp_path):
    """Loading, computing and training leave torch's settings and generator as they are."""
    from conftest import TINY

    (tmp_path / "tiny.yaml").write_text(TINY)
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    for allowed in (True, False):
        products.allow_tf32 = convolutions.allow_tf32 = allowed
        state = torch.get_rng_state()
        model = gim_audio.load("gim-small")
        model.featurize(np.zeros(8000, np.float32))
        gim_audio.train(
            load(tmp_path / "tiny.yaml"), corpus, tmp_path / f"e-{allowed}", say=lambda line: None
        )
        assert (products.allow_tf32, convolutions.allow_tf32) == (allowed, allowed)
        assert torch.equal(torch.get_rng_state(), state)
    convolutions.allow_tf32 = True  # as torch has it


def test_it_compiles():
    model, batch = gim_audio.load("gim-small"), torch.stack(waveforms(8000, 8000))
    compiled = torch.compile(model, backend="aot_eager")  # without a compiler of C++
    torch.testing.assert_close(compiled(batch), model(batch), rtol=0, atol=1e-6)


def test_it_says_what_it_is():
    shown = repr(gim_audio.load("gim-small"))
    assert shown.startswith("GimModel(gim-small ")
    assert "16000 Hz; conv1: 256 features every 0.3125 ms; " in shown
    assert shown.endswith("gru: 256 features every 10 ms)")
