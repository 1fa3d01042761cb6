"""Features do not depend on how the audio arrives: whole, in pieces, or in a batch with others."""

import copy
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gim_audio.config import load
from gim_audio.featurize import Featurizer, ToSlowerRate, encode_at_one_rate
from gim_audio.inference.pieces import Stream, encode_batch
from gim_audio.model.build import build_model
from gim_audio.model.geometry import Geometry
from gim_audio.model.layers import ConvBlock

STACKS = {
    "published": ["model.channels=8", "model.context.hidden=6"],
    "end to end": ["model.channels=8", "model.isolate_after=[]"],
    "causal": ["model.channels=8", "model.context={kind: conv, hidden: 6, layers: 2}"],
    "grown": [
        "model.channels=8",
        "model.context.hidden=6",
        "model.added=[{kind: gru, hidden: 5}, {kind: conv, hidden: 4}]",
    ],
    "a context each": [
        "model.channels=8",
        "model.isolate_after=[1, 3]",
        "model.context={at: each, hidden: 6}",
    ],
    "odd strides": ["model.channels=8", "model.context.hidden=6", "model.kernels=[11, 7, 5, 3, 3]"],
    "overlapping": [
        "model.channels=8",
        "model.added=[{kernel: 5, stride: 1, padding: 2, channels: 7}]",
    ],
}
TOLERANCE = 1e-5
"""Sums of at most 4,096 products of order 1 in float32, in another order."""


def model(name):
    config = load(None, STACKS[name])
    torch.manual_seed(0)
    return build_model(config.model, config.objectives)


def noise(*shape):
    return 0.06 * torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0]))


@torch.no_grad()
def whole(model, waveform):
    return [features[0] for features in model(waveform[None])[0]]


def close(found, expected):
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape
        np.testing.assert_allclose(f, e, atol=TOLERANCE)


@pytest.mark.parametrize("name", STACKS)
@given(samples=st.integers(41, 30000), cuts=st.lists(st.integers(0, 30000), max_size=12))
@settings(deadline=None, max_examples=25)
def test_pieces_equal_the_whole(name, samples, cuts):
    """Pieces may be empty, shorter than a hop, or all there is."""
    net, waveform = model(name), noise(samples)
    modules = list(range(1, len(net.stack) + 1))
    stream, bounds = Stream(net, modules), [0, *sorted(min(cut, samples) for cut in cuts), samples]
    pieces = [
        stream.push(waveform[start:stop], last=number == len(bounds) - 2)
        for number, (start, stop) in enumerate(pairwise(bounds))
    ]
    close([torch.cat(found) for found in zip(*pieces, strict=True)], whole(net, waveform))


@given(
    kernel=st.integers(1, 9),
    stride=st.integers(1, 5),
    padding=st.integers(0, 4),
    frames=st.integers(1, 400),
    channels=st.sampled_from([1, 40]),
    batch=st.integers(1, 3),
)
@settings(deadline=None)
def test_a_layer_is_a_convolution_and_a_relu(kernel, stride, padding, frames, channels, batch):
    """Compare with torch in double precision, for few frames and for many."""
    padding = min(padding, kernel - 1)
    block, x = ConvBlock(channels, 16, kernel, stride, padding), noise(batch, frames, channels)
    found, _ = block(x)
    assert found.shape == (batch, block.frames(frames), 16)
    if block.frames(frames):
        expected = copy.deepcopy(block.convolution).double()(x.double().transpose(1, 2)).relu()
        torch.testing.assert_close(found.double(), expected.transpose(1, 2), atol=1e-6, rtol=0)


@given(samples=st.integers(41, 900))
@settings(deadline=None, max_examples=10)
def test_a_sample_at_a_time(samples):
    net, waveform = model("published"), noise(samples)
    stream = Stream(net, [1, 6])
    pieces = [stream.push(waveform[i : i + 1], last=i == samples - 1) for i in range(samples)]
    found, expected = (
        [torch.cat(found) for found in zip(*pieces, strict=True)],
        whole(net, waveform),
    )
    close(found, [expected[0], expected[5]])


@pytest.mark.parametrize("name", STACKS)
@given(
    batches=st.lists(
        st.lists(st.integers(41, 12000), min_size=1, max_size=6), min_size=1, max_size=3
    )
)
@settings(deadline=None, max_examples=20)
def test_a_batch_equals_its_files(name, batches):
    """Whatever else is in it."""
    net = model(name)
    modules = range(1, len(net.stack) + 1)
    found = [
        features
        for lengths in batches
        for features in encode_batch(net, [noise(length) for length in lengths], modules)
    ]
    for features, length in zip(found, chain(*batches), strict=True):
        close(features, whole(net, noise(length)))


def test_batches_of_many_lengths_have_few_shapes():
    """A library that keeps something for each shape would grow with the files."""
    net, shapes = model("published"), set()
    net.register_forward_pre_hook(lambda module, given: shapes.add(given[0].shape[1]))
    for samples in range(5000, 8000, 50):
        encode_batch(net, [noise(samples), noise(4000)], [6])
    assert shapes == {6400, 8000}


@pytest.mark.parametrize("name", STACKS)
@given(samples=st.lists(st.integers(41, 5000), min_size=2, max_size=2))
@settings(deadline=None, max_examples=5)
def test_a_stream_forgets_what_is_over(name, samples):
    net = model(name)
    stream = Stream(net, range(1, len(net.stack) + 1))
    for waveform in map(noise, samples):
        close(stream.push(waveform, last=True), whole(net, waveform))


def test_a_frame_comes_when_its_last_sample_does():
    """Module 6's frame i comes with sample 160 i + 252, on which it depends last."""
    net, given = model("published"), 0
    stream = Stream(net, [6])
    for heard in range(1, 1000):
        given += len(stream.push(noise(1))[0])
        assert given == max(0, (heard - 253) // 160 + 1)


def test_only_the_modules_below_are_computed():
    net = model("published")
    net.stack[2].encoder[0].convolution.weight = None  # would fail if it were used
    Stream(net, [2, 1]).push(noise(5000), last=True)


@given(
    first=st.integers(-90, 90),
    count=st.integers(1, 40),
    frames=st.integers(1, 300),
    cuts=st.lists(st.integers(0, 300)),
)
def test_pooling_in_pieces_is_pooling_at_once(first, count, frames, cuts):
    """Against the definition: indices beyond the ends are those of the outermost frames."""
    own, grid = (
        Geometry(hop=20, receptive_field=1),
        Geometry(hop=160, start=20 * first + 70, receptive_field=1),
    )
    features = np.random.default_rng(frames).standard_normal((frames, 3)).astype(np.float32)
    pool = ToSlowerRate(own, grid)
    for piece in np.split(features, sorted(min(cut, frames) for cut in cuts)):
        pool.push(piece)
    begin, ratio = own.under(grid)
    expected = [
        features[np.clip(np.arange(begin + ratio * i, begin + ratio * (i + 1)), 0, frames - 1)]
        for i in range(count)
    ]
    np.testing.assert_allclose(pool.finish(count), np.mean(expected, axis=1), atol=1e-6)


def test_one_rate_does_not_depend_on_the_blocks():
    encoder = Featurizer.random(load(None, STACKS["published"]))
    waveform = noise(30000).numpy()
    at_once = encode_at_one_rate(encoder, waveform, [1, 3, 6])
    encoder.block = 1601
    assert [f.shape for f in at_once] == [(188, 8), (188, 8), (188, 6)]
    close(encode_at_one_rate(encoder, waveform, [1, 3, 6]), at_once)
