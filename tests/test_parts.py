"""The parts to learn with: objectives beyond InfoNCE, contexts that look ahead, and the reach."""

import numpy as np
import pytest
import torch
from conftest import info_nce, place, random_numbers
from reference import infonce
from test_objectives import drawn_for

from gim_audio.config import (
    Config,
    HingeConfig,
    InfoNCEConfig,
    SpectraConfig,
    UnitsConfig,
    VICRegConfig,
    load,
)
from gim_audio.errors import ConfigError
from gim_audio.model.geometry import Geometry
from gim_audio.model.mel import log_mel
from gim_audio.model.objectives import Hinge, InfoNCE, Spectra, Units, VICReg
from gim_audio.model.sampling import RandomNumbers

GRID = Geometry(160, -212, 465)


def slow_log_mel(samples, rate, grid, frames, bands=80):
    """Triangles on the HTK mel scale over the power spectrum of Hann windows, by definition."""
    window, points = round(0.025 * rate), 512
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)

    def mel(hertz):
        return 2595 * np.log10(1 + hertz / 700)

    edges = 700 * (10 ** (np.linspace(mel(20.0), mel(0.475 * rate), bands + 2) / 2595) - 1)
    found = np.empty((frames, bands))
    for frame in range(frames):
        first = round(grid.centre + 0.5) + frame * grid.hop - window // 2
        cut = np.array(
            [samples[i] if 0 <= i < len(samples) else 0.0 for i in range(first, first + window)]
        )
        power = np.abs(np.fft.rfft(cut * hann, points)) ** 2
        hertz = np.arange(len(power)) * rate / points
        for band in range(bands):
            low, middle, high = edges[band : band + 3]
            rise, fall = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
            found[frame, band] = (power * np.maximum(0, np.minimum(rise, fall))).sum()
    return np.log(found + 1e-6)


def test_log_mel_agrees_with_the_definition():
    samples = 0.1 * np.random.default_rng(1).standard_normal(1600).astype(np.float32)
    found = log_mel(torch.from_numpy(samples)[None], 16000, GRID, 10)
    np.testing.assert_allclose(found[0], slow_log_mel(samples, 16000, GRID, 10), atol=2e-3)


@pytest.mark.parametrize("own", [GRID, Geometry(40, -52, 105)])
def test_spectra_agree_with_the_definition(own):
    torch.manual_seed(1)
    config = SpectraConfig(ahead=(0, 2, -1), bands=20, hidden=9)
    objective = Spectra(config, place(7, 7, own, GRID))
    before, samples = 0.02 * torch.randn(2, 1600), 0.1 * torch.randn(2, 1600)
    frames, ratio = 10, 160 // own.hop
    c = torch.randn(2, frames * ratio, 7)
    objective.score(c, c, random_numbers(), before)
    score = objective.score(c, c, random_numbers(), samples)
    assert objective.eval().score(c, c, random_numbers(), samples).loss == score.loss
    both, target = (
        np.stack([slow_log_mel(each.numpy(), 16000, GRID, frames, 20) for each in some])
        for some in (torch.cat([before, samples]), samples)
    )
    target = (target - both.mean((0, 1))) / both.std((0, 1))
    first, _ = own.under(GRID)
    errors = {k: [] for k in config.ahead}
    with torch.no_grad():
        for b in range(2):
            for t in range(frames):
                near = [min(max(first + t * ratio + i, 0), c.shape[1] - 1) for i in range(ratio)]
                hidden = torch.relu(objective.hidden_layer(c[b, near].mean(0)))
                made = objective.linear(hidden).view(3, 20).numpy()
                for index, k in enumerate(config.ahead):
                    if 0 <= t + k < frames:
                        errors[k].append(np.abs(made[index] - target[b, t + k]).mean())
    expected = np.mean([np.mean(each) for each in errors.values()])
    assert float(score.loss.detach()) == pytest.approx(expected, rel=1e-3)


def test_units_ahead_agree_with_loops():
    torch.manual_seed(1)
    objective = Units(UnitsConfig(number=5, ahead=(1, 3)), place(7, 7))
    c, units = torch.randn(2, 8, 7), torch.randint(0, 5, (2, 8))
    units[1, 5] = -1
    score = objective.score(c, c, random_numbers(), units)
    losses, right = [], []
    answers = objective.linear(c).view(2, 8, 2, 5).detach().double().log_softmax(3)
    for b in range(2):
        for t in range(8):
            for index, k in enumerate((1, 3)):
                if t + k < 8 and units[b, t + k] >= 0:
                    losses.append(-answers[b, t, index, units[b, t + k]])
                    right.append(int(answers[b, t, index].argmax()) == int(units[b, t + k]))
    assert float(score.loss.detach()) == pytest.approx(float(np.mean(losses)), rel=1e-5)
    assert float(score.accuracy) == pytest.approx(np.mean(right))


def test_spans_hide_what_they_say():
    """The share of hidden frames is 1 - (1 - p)^n, and only they are named."""
    objective = Units(UnitsConfig(number=5, spans={"starts": 0.1, "length": 4}), place(7, 6))
    batch, frames = 50, 400
    numbers = RandomNumbers(1).of(
        range(1, 2), objective.numbers(frames, batch), torch.device("cpu")
    )
    hidden = objective.hidden(frames, batch, numbers[0])
    assert float(hidden[:, 3:].float().mean()) == pytest.approx(1 - 0.9**4, abs=0.01)
    starts = hidden[:, 1:] & ~hidden[:, :-1]
    for b, t in starts.nonzero()[:50].tolist():
        assert hidden[b, t + 1 : t + 5].all()
    z = torch.randn(batch, frames, 6)
    seen = objective.hide(z, hidden)
    assert torch.equal(seen[~hidden], z[~hidden])
    assert not seen[hidden].any()  # the blank begins with zeros
    c = torch.randn(batch, frames, 7)
    units = torch.randint(0, 5, (batch, frames))
    score = objective.score(z, c, numbers[0], units, hidden=hidden)
    expected = torch.nn.functional.cross_entropy(objective.linear(c[hidden]), units[hidden])
    assert float(score.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_vicreg_agrees_with_the_definition():
    torch.manual_seed(1)
    objective = VICReg(VICRegConfig(apart=0, width=6), place(5, 5))
    one, other = torch.randn(40, 6).double(), 0.3 * torch.randn(40, 6).double()
    found = objective.forward(one, other)
    a, b = one.numpy(), other.numpy()
    alike = np.mean((a - b) ** 2)
    varied = sum(np.maximum(0, 1 - np.sqrt(x.var(0, ddof=1) + 1e-4)).mean() for x in (a, b)) / 2
    uncorrelated = 0.0
    for x in (a, b):
        covariance = np.cov(x.T)
        uncorrelated += sum(covariance[i, j] ** 2 for i in range(6) for j in range(6) if i != j) / 6
    assert float(found.loss) == pytest.approx(25 * alike + 25 * varied + uncorrelated, rel=1e-6)
    same = objective.forward(one, one)
    assert float(same.accuracy) == 1


def test_vicreg_pairs_lie_apart():
    """Frames that count up differ by the distance wherever two are compared."""
    objective = VICReg(VICRegConfig(apart=2, width=6), place(1, 1))  # 2 ms are 32 samples
    pairs = []
    objective.project = torch.nn.Identity()
    objective.forward = lambda one, other: pairs.append((one, other))
    c = torch.arange(500.0)[None, :, None]
    objective.score(c, c, random_numbers())
    ((one, other),) = pairs
    assert set((other - one).flatten().tolist()) == {32.0}
    assert len(one) == 128


def test_the_hinge_agrees_with_loops():
    torch.manual_seed(1)
    objective = Hinge(HingeConfig(steps_ahead=3, margin=0.7), place(5, 7))
    z, c = torch.randn(2, 20, 7), torch.randn(2, 20, 5)
    score = objective.score(z, c, random_numbers())
    first, length, negatives = drawn_for(objective.sampler, 2, 20)
    by_step = []
    for k, weight in enumerate(objective.heads.detach(), start=1):
        losses = []
        for t in range(first, first + length - k):
            for b in range(2):
                prediction = weight @ c[b, t]
                ((u, s),) = negatives(k, t + k, b)
                fits, does_not = float(prediction @ z[b, t + k]), float(prediction @ z[u, s])
                losses.append((max(0, 0.7 - fits) + max(0, 0.7 + does_not)) / 2)
        by_step.append(np.mean(losses))
    assert float(score.loss.detach()) == pytest.approx(np.mean(by_step), rel=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_a_temperature_divides_cosines(own):
    torch.manual_seed(1)
    objective = info_nce(7 if own else 5, 7, "utterance", 6, 10, 4, temperature=0.2)
    z = torch.randn(3, 25, 7)
    c = z if own else torch.randn(3, 25, 5)
    score = objective.score(z, c, random_numbers())
    unit = torch.nn.functional.normalize(z, dim=2).double().numpy()
    contexts = unit if own else c.double().numpy()
    weights = []
    for weight in objective.heads.detach().double().numpy():

        class Unit:
            def __init__(self, weight):
                self.weight = weight

            def __matmul__(self, context):
                found = self.weight @ context
                return found / np.linalg.norm(found) / 0.2

        weights.append(Unit(weight))
    loss, _ = infonce(unit, contexts, weights, *drawn_for(objective.sampler, 3, 25))
    assert float(score.loss.detach()) == pytest.approx(loss, rel=1e-4)
    learnt = info_nce(5, 7, "utterance", 6, 10, 4, temperature="learnt")
    z, c = torch.randn(3, 25, 7), torch.randn(3, 25, 5)
    learnt.score(z, c, random_numbers()).loss.backward()
    assert learnt.log_temperature.grad != 0


def test_a_horizon_is_the_same_loss_of_every_nth_frame():
    place_ = place(5, 7, Geometry(5, -2, 10), GRID)
    far = InfoNCE(InfoNCEConfig(steps_ahead=4, window=16, horizon=15.0), place_)
    assert far.stride == 12  # 3.75 ms are 12 frames of 5 samples
    near = InfoNCE(InfoNCEConfig(steps_ahead=4, window=16), place_)
    near.load_state_dict(far.state_dict())
    z, c = torch.randn(2, 300, 7), torch.randn(2, 300, 5)
    assert far.numbers(300, 2) == near.numbers(25, 2)
    expected = near.score(z[:, ::12], c[:, ::12], random_numbers())
    assert torch.equal(far.score(z, c, random_numbers()).loss, expected.loss)
    with pytest.raises(ConfigError, match="4 steps of 12 frames, and a crop has 4 such steps"):
        far.score(z[:, :40], c[:, :40], random_numbers())


@pytest.mark.parametrize("kind", ["mlp", "recurrent", "transformer"])
def test_predictors_see_no_later_context(kind):
    """Predictions of the frame at t depend on contexts before it alone."""
    torch.manual_seed(1)
    objective = info_nce(4, 4, "batch", 3, 20, 1, predictor=kind)
    contexts = torch.randn(20, 2, 4)
    before = objective.predictor(contexts)
    contexts[:8] += 1  # the window runs back in time: these are the last
    after = objective.predictor(contexts)
    torch.testing.assert_close(after[8:], before[8:])
    assert (after[:8] - before[:8]).abs().amin((1, 2)).min() > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective={kind: unit}", "there is no objective 'unit': it is one of hinge, infonce"),
        ("objective=[{}, {}]", "objective has 2 entries for 6 modules"),
        ("objective=3", "expected settings such as"),
        ("objective=[{},{},{windw: 3},{},{},{}]", "objective.2.windw: unknown key"),
        ("objective={kind: units, of: 1}", "module 1 can learn units of a module below it"),
        (
            "objective={kind: units, ahead: []}",
            "objective.ahead: Tuple should have at least 1 item",
        ),
        ("model.context={kind: gru, lookahead: 5}", "lookahead is for a residual context"),
        ("model.context={kind: none, norm: running}", "norm is for a context"),
        ("model.context={kind: gru, gather: [1]}", "gather is for a residual context"),
        ("model.context={kind: residual, gather: [1, 3]}", "end with the last layer, 4"),
        ("model.context={kind: conv, bidirectional: true}", "bidirectional is for a gru"),
        ("model.context={hidden: 5, bidirectional: true}", "even number"),
    ],
)
def test_bad_parts_are_one_line(override, message):
    with pytest.raises(ConfigError, match=message) as error:
        load(None, [override])
    assert "\n" not in str(error.value)


def test_settings_of_before_are_read():
    """Saved configurations of version 0.1 have every key for every kind."""
    old = {"kind": "infonce", "classes": None, "shift": 1, "steps_ahead": 3, "window": 9}
    assert Config.model_validate({"objective": old}).objective == InfoNCEConfig(
        steps_ahead=3, window=9
    )
    old |= {"kind": "phones", "classes": 41, "shift": 2}
    assert Config.model_validate({"objective": old}).objective.shift == 2
