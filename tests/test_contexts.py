"""Contexts that look ahead, in pieces and in batches, and what stands around them."""

import math

import pytest
import torch
from conftest import stack_of
from torch import nn

from gim_audio.config import load
from gim_audio.errors import ConfigError
from gim_audio.inference.pieces import Stream, encode_batch
from gim_audio.model.build import build_model
from gim_audio.model.contexts import GRUContext, ResidualConvolutions
from gim_audio.model.norms import RunningNorm, UtteranceNorm


@pytest.mark.parametrize("lookahead", [0, 5, 16])
def test_residual_contexts_see_as_far_as_they_say(lookahead):
    torch.manual_seed(0)
    context = ResidualConvolutions(
        3, 8, layers=4, kernel=5, dilations=(1, 2, 4), lookahead=lookahead
    ).double()
    z = torch.randn(1, 120, 3).double().requires_grad_()
    (c, _), at = context(z), 60
    c[0, at].sum().backward()
    moved = z.grad[0].abs().sum(1).nonzero()[:, 0]
    reach = 4 * (1 + 2 + 4 + 1)
    assert int(moved.max()) == at + min(lookahead, reach // 2)
    assert int(moved.min()) == at - reach + min(lookahead, reach // 2)
    with pytest.raises(ConfigError, match="look at most 16 frames ahead, not 17"):
        ResidualConvolutions(3, 8, layers=4, kernel=5, dilations=(1, 2, 4), lookahead=17)


STACKS = [
    ["model.context={kind: residual, hidden: 6, layers: 3, kernel: 3, lookahead: 40}"],
    ["model.context={kind: residual, hidden: 6, layers: 3, kernel: 3}", "model.norm=channel"],
    ["model.context={hidden: 6, stacked: 2}", "model.activation=gelu", "model.norm=batch"],
    ["model.activation=log"],
    ["model.context={hidden: 6, norm: running}"],
    ["model.context={kind: residual, hidden: 6, kernel: 3, lookahead: 60, gather: [2, 4]}"],
    [
        "model.context={kind: residual, hidden: 6, layers: 2, lookahead: 20, norm: running}",
        "model.isolate_after=[1]",
    ],
    [
        "model.context={kind: residual, hidden: 6, layers: 2, lookahead: 20}",
        "model.added=[{kind: residual, hidden: 5, layers: 2, lookahead: 30}]",
    ],
]
WHOLE = [
    ["model.context={hidden: 6, bidirectional: true, stacked: 2}"],
    ["model.context={hidden: 6, norm: utterance}"],
    ["model.context={kind: residual, hidden: 6, layers: 2, norm: utterance}"],
]


@pytest.mark.parametrize("settings", [*STACKS, *WHOLE])
@pytest.mark.parametrize("sizes", [[1] * 40, [37, 160, 1200, 5, 3000], [7000]])
def test_pieces_give_the_features_of_the_whole(tmp_path, settings, sizes):
    model, _ = stack_of(tmp_path, *settings)
    torch.manual_seed(1)
    waveform = 0.1 * torch.randn(8000)
    last = len(model.stack)
    whole, _ = model(waveform[None], modules=[1, last])
    stream, found, begin = Stream(model, [1, last]), [[], []], 0
    for size in [*sizes, len(waveform) - sum(sizes)]:
        begin += size
        pieces = stream.push(waveform[begin - size : begin], last=begin == len(waveform))
        for kept, piece in zip(found, pieces, strict=True):
            kept.append(piece)
    for kept, features in zip(found, whole, strict=True):
        torch.testing.assert_close(torch.cat(kept), features[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [*STACKS, *WHOLE])
def test_batches_give_the_features_of_each(tmp_path, settings):
    model, _ = stack_of(tmp_path, *settings)
    waveforms = [0.1 * torch.randn(n) for n in (8000, 700, 4321)]
    last = len(model.stack)
    together = encode_batch(model, waveforms, [last])
    for waveform, (features,) in zip(waveforms, together, strict=True):
        alone, _ = model(waveform[None], modules=[last])
        torch.testing.assert_close(features, alone[0][0], rtol=1e-4, atol=1e-5)


def test_what_sees_the_whole_is_refused_in_pieces():
    for part in (GRUContext(3, 4, bptt=True, bidirectional=True), UtteranceNorm()):
        with pytest.raises(ValueError, match="whole utterances"):
            part(torch.randn(1, 5, 3), last=False)


def test_what_is_gathered_are_the_outputs_of_layers():
    torch.manual_seed(0)
    sizes = {"kernel": 3, "dilations": (1, 2), "lookahead": 3}
    context = ResidualConvolutions(3, 4, layers=4, gather=(2, 4), **sizes)
    z = torch.randn(2, 50, 3)
    found, _ = context(z)
    for layers, part in ((2, found[:, :, :4]), (4, found[:, :, 4:])):
        alone = ResidualConvolutions(3, 4, layers=layers, **{**sizes, "lookahead": 3})
        alone.load_state_dict(context.state_dict(), strict=False)
        torch.testing.assert_close(alone(z)[0], part)


def test_norms_are_those_of_a_slow_loop():
    torch.manual_seed(0)
    z = 3 * torch.randn(2, 30, 3) + 5
    z[1, 20:] = 0

    def standardised(frame, frames):
        variance = frames.var(0, correction=0)
        return (frame - frames.mean(0)) / (variance + 0.01).sqrt()

    found, _ = UtteranceNorm()(z, lengths=[30, 20])
    torch.testing.assert_close(found[1, :20], standardised(z[1, :20], z[1, :20]))
    running = RunningNorm(3)
    nn.init.normal_(running.mean)
    nn.init.uniform_(running.deviation, 0.5, 2)
    found, _ = running(z)
    # Half of the first frames lie a deviation above the mean, and half below.
    mean, deviation = running.mean.detach(), running.deviation.detach()
    before = torch.stack([mean - deviation, mean + deviation] * (RunningNorm.PRIOR // 2))
    for t in range(30):
        frames = torch.cat([before, z[0, : t + 1]])
        torch.testing.assert_close(found[0, t], standardised(z[0, t], frames))


def test_a_channel_that_is_louder_or_moved_makes_the_same_contexts(tmp_path):
    model, _ = stack_of(tmp_path, "model.context={hidden: 6, norm: utterance}")
    assert math.isinf(model.geometries[-1].latency)
    module, z = model.stack[-1], 10 * torch.randn(1, 40, model.stack[-1].channels)
    moved = 2 * z + torch.randn(1, 1, z.shape[2])
    torch.testing.assert_close(module(moved).contexts, module(z).contexts, rtol=1e-3, atol=1e-3)


def test_geometry_tells_the_latency():
    config = load(None, ["model.context={kind: residual, hidden: 8, layers: 4, lookahead: 100}"])
    model = build_model(config.model, config.objectives)
    conv, context = model.geometries[-2:]
    assert context.lookahead == 1600
    assert context.latency - conv.latency == 1600
    assert (context.centre, context.hop) == (conv.centre, conv.hop)
    config = load(None, ["model.context={hidden: 8, bidirectional: true}"])
    assert math.isinf(build_model(config.model, config.objectives).geometries[-1].latency)
