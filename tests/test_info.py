import pytest
import torch
from conftest import TINY, random_numbers

from gim_audio.checkpoints.folders import load_model
from gim_audio.config import Config, load
from gim_audio.model.build import build_model
from gim_audio.training import train
from gim_audio.training.memory import alone, memory_by_module, peaks


def test_memory_of_the_reference_model():
    """Against the paper's shapes, worked out by hand.

    8 crops give module 2 its 512 channels of 4095 frames.
    """
    config = Config()
    model = build_model(config.model, config.objectives)
    modules = memory_by_module(model, config)
    assert sum(m.weights for m in modules) == 4 * 23_143_424
    assert sum(m.optimizer for m in modules) == 8 * 23_143_424
    assert [m.given // (4 * 8) for m in modules] == [
        20480,
        *(512 * n for n in (4095, 1023, 512, 257, 128)),
    ]
    assert [m.frames // (4 * 8 * 512) for m in modules[:5]] == [4095, 1023, 512, 257, 128]
    predictions, candidates, contexts = 1024 * 12, 1024 * 11, 1024
    assert modules[1].scored == 2 * 4 * 512 * (predictions + candidates + contexts)
    assert modules[0].backward == 2 * modules[0].frames
    half = memory_by_module(model, load(None, ["training.precision=bf16"]))
    assert half[2].activations * 2 == modules[2].activations
    found = peaks(model, config)
    assert (
        found["sequential, cached"]
        == alone(modules, 1, cached=False)
        <= found["sequential"]
        < found["joint"]
    )


def test_the_arithmetic_is_what_autograd_keeps():
    """Compare with the bytes that a module's forward pass saves for its backward pass.

    Its input and its output are among them.
    """
    config = load(None, ["model.channels=128", "model.context.hidden=32", "training.batch=2"])
    torch.manual_seed(0)
    model = build_model(config.model, config.objectives)
    modules = memory_by_module(model, config)
    x = model.stack[0](torch.randn(2, config.data.crop, 1)).output.detach()
    for number in (2, 3, 4, 5):
        kept: dict[int, int] = {}

        def keep(tensor, kept=kept):
            if tensor.dtype == torch.float32 and not isinstance(tensor, torch.nn.Parameter):
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            made = model.stack[number - 1](x)
            objective = model.stack[number - 1].objective
            score = objective.score(made.frames, made.contexts, random_numbers())
        memory = modules[number - 1]
        expected = memory.given + memory.frames + memory.scored / 2
        # The product keeps them, without a copy.
        weights = model.stack[number - 1].objective.heads.numel() * 4
        assert sum(kept.values()) == pytest.approx(expected, rel=0.15, abs=weights)
        assert score.loss > 0
        x = made.output.detach()


def test_info(tmp_path, corpus, run):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    train(load(path), corpus, tmp_path / "e", say=lambda line: None)
    status, out, _ = run("info", tmp_path / "e")
    assert status == 0
    lines = out.splitlines()
    parameters = sum(p.numel() for p in load_model(tmp_path / "e")[1].stack[0].parameters())
    assert lines[1].split()[:4] == ["1", "conv1", str(parameters), "3200"]
    assert "29.0625 ms and the past" in lines[6]
    assert [line.split("  ")[1] for line in lines[9:]] == [
        "joint",
        "sequential",
        "sequential, cached",
        "end to end (CPC)",
    ]
    assert run("info", tmp_path / "nothing")[0] == 2
