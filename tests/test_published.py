"""Checkpoints of the published code and CPC_audio, against networks built as theirs are."""

import numpy as np
import pytest
import torch
from torch import nn

from gim_audio.checkpoints.import_checkpoints import read_published
from gim_audio.errors import CheckpointError
from gim_audio.featurize import Featurizer

KERNELS, STRIDES, PADDINGS = (10, 8, 4, 4, 4), (5, 4, 2, 2, 2), (2, 2, 2, 2, 1)


class Module(nn.Module):
    """One part of the published model: convolutions, a GRU, heads.

    Any of the first two may be missing.
    """

    def __init__(self, layers, channels, hidden, *, gru):
        super().__init__()
        self.channels, self.has_gru = channels, gru
        if layers:
            self.encoder = nn.Module()
            self.encoder.model = nn.Sequential()
            for place, layer in enumerate(layers):
                taken = channels if layer else 1
                convolution = nn.Conv1d(
                    taken, channels, KERNELS[layer], STRIDES[layer], PADDINGS[layer]
                )
                self.encoder.model.add_module(
                    f"layer {place}", nn.Sequential(convolution, nn.ReLU())
                )
        if gru:
            self.autoregressor = nn.Module()
            self.autoregressor.gru = nn.GRU(channels, hidden, batch_first=True)
        self.loss = nn.Module()
        self.loss.predictor = nn.Linear(hidden if gru else channels, 12 * channels, bias=False)

    def forward(self, x):
        z = self.encoder.model(x) if hasattr(self, "encoder") else x
        c = z.transpose(1, 2)
        return (self.autoregressor.gru(c)[0] if self.has_gru else c), z


class Published(nn.Module):
    def __init__(self, splits, channels=7, hidden=5, *, each=False):
        super().__init__()
        groups = {1: [range(5)], 5: [[i] for i in range(5)], 6: [[i] for i in range(5)] + [[]]}[
            splits
        ]
        self.fullmodel = nn.ModuleList(
            Module(list(group), channels, hidden, gru=each or number == splits - 1)
            for number, group in enumerate(groups)
        )

    @torch.no_grad()
    def forward(self, waveform):
        x, found = (waveform[None, None] + 1456218.75 / 2**31) / (135303504 / 2**31), []
        for module in self.fullmodel:
            c, x = module(x)
            found.append(c[0].numpy())
        return found


@pytest.mark.parametrize(("splits", "each"), [(1, False), (5, False), (5, True), (6, False)])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_features_are_those_of_the_published_model(tmp_path, run, splits, each, prefix):
    torch.manual_seed(splits)
    theirs = Published(splits, each=each)
    torch.save(
        {prefix + key: value for key, value in theirs.state_dict().items()},
        tmp_path / "model_299.ckpt",
    )
    status, _, err = run("import", tmp_path / "model_299.ckpt", tmp_path / "exp")
    assert (status, err.startswith(f"{tmp_path}/exp: conv1")) == (0, True)
    waveform = (0.06 * np.random.default_rng(0).standard_normal(9000)).astype(np.float32)
    ours = Featurizer.load(tmp_path / "exp").encode(waveform)
    for found, expected in zip(ours, theirs(torch.from_numpy(waveform)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_heads_predict_step_after_step(tmp_path):
    """The published code takes the channels of step k from (k - 1) · C on."""
    theirs = Published(6)
    torch.save(theirs.state_dict(), tmp_path / "m.ckpt")
    config, weights = read_published(tmp_path / "m.ckpt")
    assert config.objective.steps_ahead == 12
    context = torch.randn(5)
    expected = theirs.fullmodel[5].loss.predictor(context)[7:14]
    torch.testing.assert_close(weights["stack.5.objective.heads"][1] @ context, expected)


def test_other_commands_take_it(tmp_path, corpus, run):
    torch.save(Published(6).state_dict(), tmp_path / "m.ckpt")
    run("import", tmp_path / "m.ckpt", tmp_path / "exp")
    assert run("info", tmp_path / "exp")[0] == 0
    assert run("featurize", tmp_path / "exp", corpus.path, tmp_path / "out", "--module", 6)[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s | {"fullmodel.0.loss.linear.weight": torch.zeros(1)},
            "fullmodel.0.loss.linear.weight: not a key",
        ),
        (
            lambda s: {k: v for k, v in s.items() if "2.loss" not in k},
            "fullmodel.2.loss.predictor.weight: missing",
        ),
        (
            lambda s: {k: v for k, v in s.items() if "fullmodel.4" not in k},
            "modules with 4 convolutions",
        ),
        (
            lambda s: {k: v for k, v in s.items() if "bias_hh" not in k},
            "context.gru.bias_hh_l0: missing",
        ),
        (
            lambda s: s | {"fullmodel.1.encoder.model.layer 0.0.weight": torch.zeros(7, 7, 9)},
            "stack.1.encoder.0.convolution.weight: shape (7, 7, 9), expected a kernel of 8",
        ),
        (
            lambda s: s | {"fullmodel.1.encoder.model.layer 0.0.bias": torch.zeros(8)},
            "stack.1.encoder.0.convolution.bias: shape (8,), expected (7,)",
        ),
        (lambda s: {"epoch": 3}, "epoch: not a state dict of tensors"),
        (lambda s: {**s, 3: torch.zeros(1)}, "3: not a state dict of tensors"),
        (
            lambda s: {
                k: v for k, v in s.items() if k != "fullmodel.0.encoder.model.layer 0.0.weight"
            },
            "stack.0.encoder.0.convolution.weight: missing",
        ),
        (
            lambda s: {
                k: v for k, v in s.items() if k != "fullmodel.3.encoder.model.layer 0.0.weight"
            },
            "stack.3.encoder.0.convolution.weight: missing",
        ),
        (
            lambda s: {
                k.replace("3.encoder.model.layer 0", "3.encoder.model.layer 4"): v
                for k, v in s.items()
            },
            "stack.3.encoder.0.convolution.weight: missing",
        ),
        (
            lambda s: {k: v for k, v in s.items() if "weight_hh" not in k},
            "stack.5.context.gru.weight_hh_l0: missing",
        ),
        (
            lambda s: s | {"fullmodel.1.loss.predictor.weight": torch.zeros(13, 7)},
            "fullmodel.1.loss.predictor.weight: shape (13, 7) with 7 channels",
        ),
        (
            lambda s: s | {"fullmodel.0.encoder.model.layer 0.0.weight": torch.zeros(())},
            "stack.0.encoder.0.convolution.weight: shape ()",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, run, change, message):
    torch.save(change(Published(6).state_dict()), tmp_path / "m.ckpt")
    status, _, err = run("import", tmp_path / "m.ckpt", tmp_path / "exp")
    assert (status, message in err) == (2, True), err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "exp").exists()


def test_no_code_is_run(tmp_path, run):
    class Trap:
        def __reduce__(self):
            return (print, ("run!",))

    torch.save({"fullmodel": Trap()}, tmp_path / "trap.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "empty.ckpt").touch()
    for name in ("trap", "text", "empty"):
        status, out, err = run("import", tmp_path / f"{name}.ckpt", tmp_path / "exp")
        assert (status, out) == (2, "")
        assert f"{name}.ckpt: not a file of weights alone" in err


class Cpc(nn.Module):
    """CPC_audio's model without norms: nothing between convolution and ReLU."""

    def __init__(self, recurrent=nn.GRU):
        super().__init__()
        self.gEncoder = nn.Module()
        for layer, padding in enumerate((3, 2, 1, 1, 1)):
            convolution = nn.Conv1d(6 if layer else 1, 6, KERNELS[layer], STRIDES[layer], padding)
            self.gEncoder.add_module(f"conv{layer}", convolution)
        self.gAR = nn.Module()
        self.gAR.baseNet = recurrent(6, 4, batch_first=True)

    @torch.no_grad()
    def forward(self, waveform):
        x = waveform[None, None]
        for layer in range(5):
            x = torch.relu(getattr(self.gEncoder, f"conv{layer}")(x))
        return self.gAR.baseNet(x.transpose(1, 2))[0][0].numpy()


def test_cpc_audio_without_norms(tmp_path, run):
    torch.manual_seed(0)
    theirs = Cpc()
    torch.save(
        {"gEncoder": theirs.state_dict(), "cpcCriterion": {}, "epoch": 4},
        tmp_path / "checkpoint_4.pt",
    )
    assert run("import", tmp_path / "checkpoint_4.pt", tmp_path / "exp")[0] == 0
    waveform = (0.06 * np.random.default_rng(0).standard_normal(9000)).astype(np.float32)
    (ours,) = Featurizer.load(tmp_path / "exp").encode(waveform)
    np.testing.assert_allclose(ours, theirs(torch.from_numpy(waveform)), atol=1e-6)


def test_cpc_audio_with_norms_is_refused(tmp_path):
    state = Cpc().state_dict()
    torch.save(
        {"gEncoder": state | {"gEncoder.batchNorm0.weight": torch.ones(1, 6, 1)}}, tmp_path / "a.pt"
    )
    with pytest.raises(
        CheckpointError, match="gEncoder.batchNorm0.weight: it normalises each frame"
    ):
        read_published(tmp_path / "a.pt")
    for key, value, message in (
        ("gEncoder.conv3.weight", None, "stack.0.encoder.3.convolution.weight: missing|stack.3"),
        ("gAR.baseNet.weight_hh_l0", torch.zeros(4), "weight_hh_l0: shape"),
        ("gEncoder.conv3.weight", "text", "gEncoder.conv3.weight: not a state dict"),
    ):
        damaged = {k: v for k, v in (state | {key: value}).items() if v is not None}
        torch.save({"gEncoder": damaged}, tmp_path / "c.pt")
        with pytest.raises(CheckpointError, match=message):
            read_published(tmp_path / "c.pt")
    torch.save({"gEncoder": Cpc(nn.LSTM).state_dict()}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match=r"weight_hh_l0: shape \(16, 4\) is an LSTM's"):
        read_published(tmp_path / "b.pt")
