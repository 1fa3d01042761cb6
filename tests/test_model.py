import numpy as np
import pytest
import torch
from conftest import random_numbers

from gim_audio.config import Config, InfoNCEConfig, ModelConfig, load
from gim_audio.inference.layers import module_names
from gim_audio.model.build import build_model
from gim_audio.model.contexts import CausalConvolutions, GRUContext
from gim_audio.model.sampling import RandomNumbers
from gim_audio.model.stack import autocast


def build(*overrides):
    config = load(None, overrides)
    return build_model(config.model, config.objectives)


@pytest.mark.parametrize(
    ("isolate_after", "parameters", "modules"),
    [("[1,2,3,4,5]", 23_143_424, 6), ("[1,2,3,4]", 19_997_696, 5), ("[]", 7_414_784, 1)],
)
def test_published_parameter_counts(isolate_after, parameters, modules):
    model = build(f"model.isolate_after={isolate_after}")
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.stack) == modules


def test_published_geometry():
    model = build()
    assert model.frames(20480) == [4095, 1023, 512, 257, 128, 128]
    assert [g.receptive_field for g in model.geometries] == [10, 45, 105, 225, 465, 465]
    assert [g.start for g in model.geometries] == [-2, -12, -52, -132, -212, -212]
    assert [16000 / g.hop for g in model.geometries] == [3200, 800, 400, 200, 100, 100]
    assert model.geometries[-1].centre == 20
    assert model.shortest == 41


def test_a_frame_depends_on_its_receptive_field_alone(tiny):
    model = build_model(tiny.model, tiny.objective)
    waveform = torch.randn(1, 3000)
    for number, (geometry, features) in enumerate(
        zip(model.geometries[:5], model(waveform)[0], strict=False)
    ):
        frame = features.shape[1] // 2
        field = slice(
            geometry.start + frame * geometry.hop,
            geometry.start + frame * geometry.hop + geometry.receptive_field,
        )
        emptied, alone = waveform.clone(), torch.zeros_like(waveform)
        emptied[0, field] = 0
        alone[0, field] = waveform[0, field]
        assert torch.allclose(model(alone)[0][number][0, frame], features[0, frame], atol=1e-6)
        assert not torch.allclose(
            model(emptied)[0][number][0, frame], features[0, frame], atol=1e-6
        )


@pytest.mark.parametrize("isolate_after", ["[1,2,3,4,5]", "[1,2,3,4]", "[2]", "[]"])
@pytest.mark.parametrize(
    "context", ["{kind: gru}", "{kind: gru, at: each}", "{kind: conv}", "{kind: none}"]
)
def test_each_loss_moves_its_own_module_alone(isolate_after, context):
    torch.manual_seed(1)  # with others a unit may be dead from the beginning
    if "5" in isolate_after and ("none" in context or "each" in context):
        isolate_after = "[1,2,3,4]"
    model = build(
        "model.channels=8",
        f"model.context={context}",
        "model.context.hidden=6",
        f"model.isolate_after={isolate_after}",
        "objective.steps_ahead=3",
    )
    for number, score, _ in model.greedy_losses(torch.randn(2, 4000, 1), RandomNumbers(0)):
        model.zero_grad(set_to_none=True)
        score().loss.backward()
        for other, module in enumerate(model.stack):
            moved = [
                p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters()
            ]
            assert all(moved) if other == number - 1 else not any(moved)


def test_standardisation_is_the_published_one():
    model = build("model.channels=4", "model.context.hidden=4")
    assert float(model.standardise(torch.zeros(1, 1))) == pytest.approx(
        1456218.75 / 135303504, rel=1e-4
    )
    assert float(model.standardise(torch.ones(1, 1))) == pytest.approx(
        (2**31 + 1456218.75) / 135303504, rel=1e-4
    )


def test_without_bptt_each_step_takes_the_previous_state_for_a_constant():
    torch.manual_seed(0)
    context = GRUContext(4, 3, bptt=False)
    cell = torch.nn.GRUCell(4, 3)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(cell, name).data = getattr(context.gru, f"{name}_l0").data.clone()
    z, target = torch.randn(2, 9, 4), torch.randn(2, 9, 3)
    c, (last,) = context(z)
    (c * target).sum().backward()
    state, total = torch.zeros(2, 3), 0.0
    for t in range(9):
        state = cell(z[:, t], state.detach())
        assert torch.allclose(c[:, t], state, atol=1e-6)
        total = total + (state * target[:, t]).sum()
    total.backward()
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        assert torch.allclose(
            getattr(context.gru, f"{name}_l0").grad, getattr(cell, name).grad, atol=1e-5
        )
    assert torch.allclose(last[0], state, atol=1e-6)


def test_a_recurrence_is_not_computed_in_bfloat16():
    torch.manual_seed(0)
    context, z = GRUContext(7, 5, bptt=True), torch.randn(3, 11, 7)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, (last,) = context(z.bfloat16())
    assert (rounded.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    exact, _ = context.gru(z.bfloat16().float())
    assert torch.equal(rounded, exact.bfloat16())


@pytest.mark.parametrize(
    "context", [GRUContext(4, 3, bptt=True), CausalConvolutions(4, 3, layers=3, kernel=4)]
)
def test_contexts_are_causal_and_carry_their_state(context):
    z = torch.randn(2, 20, 4)
    whole, _ = context(z)
    changed = z.clone()
    changed[:, 12:] = 5
    assert torch.equal(context(changed)[0][:, :12], whole[:, :12])
    pieces, state = [], ()
    for piece in z.split([1, 7, 2, 10], dim=1):
        c, state = context(piece, state)
        pieces.append(c)
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-6)


def test_names_say_what_a_module_is_made_of():
    assert module_names(build("model.channels=2")) == [
        "conv1",
        "conv2",
        "conv3",
        "conv4",
        "conv5",
        "gru",
    ]
    assert module_names(build("model.channels=2", "model.isolate_after=[2]")) == [
        "conv1-2",
        "conv3-5+gru",
    ]
    conv = build(
        "model.channels=2",
        "model.isolate_after=[4]",
        "model.context={kind: conv, hidden: 2, at: each}",
    )
    assert module_names(conv) == ["conv1-4+causal", "conv5+causal"]


@pytest.mark.parametrize("bptt", [True, False])
def test_bfloat16_gradients_are_near(bptt):
    """Compare each module's gradients on frames of unit variance.

    Numbers of 8 bits are 0.4% off, a sum of products some times that.
    """
    torch.manual_seed(0)
    model = build(
        "model.channels=32", "model.context.hidden=16", f"model.context.bptt={str(bptt).lower()}"
    )
    for number, module in enumerate(model.stack):
        x = torch.randn(4, 300, 32).relu() if number else torch.randn(4, 4000, 1)
        found = []
        for dtype in (torch.float32, torch.bfloat16):
            model.zero_grad(set_to_none=True)
            with autocast(x, dtype):
                made = module(x.to(dtype) if number else x)
            numbers = random_numbers(number)
            module.objective.score(made.frames, made.contexts, numbers).loss.backward()
            found.append({name: p.grad for name, p in module.named_parameters()})
        exact, rounded = found
        for name in exact:
            assert rounded[name].dtype == torch.float32
            assert 0 < (exact[name] - rounded[name]).norm() < 0.04 * exact[name].norm(), (
                number,
                name,
            )


def test_bfloat16_scores_stay_in_float32():
    torch.manual_seed(0)
    model = build("model.channels=16", "model.context.hidden=16")
    x = torch.randn(2, 20480, 1)
    full = [float(s().loss.detach()) for _, s, _ in model.greedy_losses(x, RandomNumbers(0))]
    half = [s().loss for _, s, _ in model.greedy_losses(x, RandomNumbers(0), torch.bfloat16)]
    assert all(loss.dtype == torch.float32 for loss in half)
    np.testing.assert_allclose([float(loss.detach()) for loss in half], full, rtol=0.02)


def test_any_width_and_depth():
    model = build("model.kernels=[8,4]", "model.strides=[4,2]", "model.paddings=[2,1]", "model.channels=[3,5]",
                  "model.isolate_after=[1]", "model.context.hidden=7")  # fmt: skip
    assert [f.shape for f in model(torch.randn(2, 800))[0]] == [(2, 200, 3), (2, 100, 7)]
    assert Config().model.hop == 160
    assert ModelConfig().widths == (512,) * 5
    assert InfoNCEConfig().window == 128
