"""Exported models give the same features in another program."""

import ast
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_stream import STACKS as ALL_STACKS

from gim_audio.checkpoints.folders import save_model, trained_steps
from gim_audio.config import load
from gim_audio.featurize import Featurizer
from gim_audio.model.norms import RunningNorm

STACKS = {name: ALL_STACKS[name] for name in ("published", "causal", "grown", "overlapping")}
STACKS |= {
    "ahead": [
        "model.channels=8",
        "model.norm=channel",
        "model.activation=gelu",
        "model.context={kind: residual, hidden: 6, layers: 3, kernel: 3, lookahead: 30}",
    ],
    "gathered": [
        "model.channels=8",
        "model.context={kind: residual, hidden: 6, kernel: 3, lookahead: 60, gather: [2, 4]}",
    ],
    "running norm": [
        "model.channels=8",
        "model.norm=batch",
        "model.activation=log",
        "model.context={hidden: 6, stacked: 2, norm: running}",
    ],
}
WHOLE = {
    "both ways": ["model.channels=8", "model.context={hidden: 6, bidirectional: true}"],
    "utterance norm": ["model.channels=8", "model.context={hidden: 6, norm: utterance}"],
}
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=STACKS)
def exported(request, tmp_path_factory):
    """A model, and the files exported from it."""
    from gim_audio.cli import main

    folder = tmp_path_factory.mktemp("export")
    config = load(None, STACKS[request.param])
    encoder = Featurizer.random(config)
    for module in encoder.model.stack:
        if isinstance(module.norm, RunningNorm):
            torch.nn.init.normal_(module.norm.mean)
            torch.nn.init.uniform_(module.norm.deviation, 0.5, 2)
    (folder / "exp").mkdir()
    save_model(folder / "exp", config, encoder.model.state_dict())
    main(["export", str(folder / "exp"), str(folder / "whole.onnx")])
    main(["export", str(folder / "exp"), str(folder / "stream.onnx"), "--stream"])
    return encoder, folder


def session(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def noise(samples, batch=1):
    return (0.06 * np.random.default_rng(samples).standard_normal((batch, samples))).astype(
        np.float32
    )


def whole(encoder, waveforms, module=None):
    return np.stack(
        [encoder.encode_whole(waveform, [encoder.pick(module)])[0] for waveform in waveforms]
    )


@pytest.mark.parametrize(("samples", "batch"), [(41, 1), (900, 3), (20480, 2), (50001, 1)])
def test_onnxruntime_agrees(exported, samples, batch):
    encoder, folder = exported
    waveforms = noise(samples, batch)
    (found,) = session(folder / "whole.onnx").run(None, {"waveform": waveforms})
    np.testing.assert_allclose(found, whole(encoder, waveforms), atol=TOLERANCE)


@pytest.mark.parametrize("name", WHOLE)
def test_what_sees_the_whole_is_exported_as_a_whole(tmp_path, run, name):
    config = load(None, WHOLE[name])
    encoder = Featurizer.random(config)
    (tmp_path / "exp").mkdir()
    save_model(tmp_path / "exp", config, encoder.model.state_dict())
    assert run("export", tmp_path / "exp", tmp_path / "m.onnx")[0] == 0
    waveforms = noise(9000, 2)
    (found,) = session(tmp_path / "m.onnx").run(None, {"waveform": waveforms})
    np.testing.assert_allclose(found, whole(encoder, waveforms), atol=TOLERANCE)
    status, _, err = run("export", tmp_path / "exp", tmp_path / "s.onnx", "--stream")
    assert (status, "it cannot stream" in err) == (2, True)


@given(pieces=st.lists(st.integers(0, 5000), min_size=1, max_size=6), batch=st.integers(1, 3))
@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_stream_agrees(exported, pieces, batch):
    encoder, folder = exported
    graph = session(folder / "stream.onnx")
    told = graph.get_modelmeta().custom_metadata_map
    pieces, shapes = (
        [int(told["least_samples"]) + n for n in pieces],
        ast.literal_eval(told["initial_states"]),
    )
    waveforms = noise(sum(pieces), batch)
    states = [np.zeros((batch, *shape[1:]), np.float32) for shape in shapes]
    found, bounds = [], np.cumsum([0, *pieces])
    for start, stop in pairwise(bounds):
        last = np.array([stop == bounds[-1]], np.int64)
        given_states = {f"state_{number}": state for number, state in enumerate(states)}
        features, *states = graph.run(
            None, {"waveform": waveforms[:, start:stop], "last": last, **given_states}
        )
        found.append(features)
    np.testing.assert_allclose(
        np.concatenate(found, axis=1), whole(encoder, waveforms), atol=TOLERANCE
    )


def test_a_module_and_half_the_size(exported, tmp_path, run):
    encoder, folder = exported
    assert run("export", folder / "exp", tmp_path / "m.onnx", "--module", 4)[0] == 0
    (found,) = session(tmp_path / "m.onnx").run(None, {"waveform": noise(9000)})
    np.testing.assert_allclose(found, whole(encoder, noise(9000), 4), atol=TOLERANCE)
    metadata = session(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
    assert (metadata["module"], metadata["hop_samples"]) == ("conv4", "80")
    assert run("export", folder / "exp", tmp_path / "h.onnx", "--half")[0] == 0
    (found,) = session(tmp_path / "h.onnx").run(None, {"waveform": noise(9000)})
    np.testing.assert_allclose(found, whole(encoder, noise(9000)), atol=5e-3)
    sizes = [
        sum(
            np.prod(w.dims) * onnx.helper.tensor_dtype_to_np_dtype(w.data_type).itemsize
            for w in graph.initializer
        )
        for graph in (onnx.load(folder / "whole.onnx").graph, onnx.load(tmp_path / "h.onnx").graph)
    ]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_folder_for_features(exported, tmp_path, run):
    encoder, folder = exported
    for name, options, tolerance in (("full", [], 0), ("half", ["--half"], 5e-3)):
        assert run("export", folder / "exp", tmp_path / name, *options)[0] == 0
        loaded = Featurizer.load(tmp_path / name)
        for found, expected in zip(
            loaded.encode(noise(9000)[0]), encoder.encode(noise(9000)[0]), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        assert run("info", tmp_path / name)[0] == 0
        assert trained_steps(tmp_path / name) is trained_steps(folder / "exp") is None
    full, half = (
        (tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")
    )
    assert half < full < (folder / "exp/model.safetensors").stat().st_size
    with (tmp_path / "half/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(bytes([file.read(1)[0] ^ 1]))
    status, _, err = run("info", tmp_path / "half")
    assert (status, "damaged" in err, len(err.strip().splitlines())) == (2, True, 1)


def test_wrong_exports(exported, tmp_path, run, monkeypatch):
    _, folder = exported
    (tmp_path / "there.onnx").touch()
    for arguments, message in [
        ([tmp_path / "there.onnx"], "exists already"),
        ([tmp_path / "x.onnx", "--module", 99], "has modules 1 to"),
        ([tmp_path / "x", "--stream"], "are for ONNX: name it FILE.onnx"),
    ]:
        status, _, err = run("export", folder / "exp", *arguments)
        assert (status, message in err, len(err.strip().splitlines())) == (2, True, 1)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    monkeypatch.delitem(__import__("sys").modules, "gim_audio.inference.onnx", raising=False)
    status, _, err = run("export", folder / "exp", tmp_path / "x.onnx")
    assert (status, "needs onnx: pip install" in err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.onnx"]
