"""The parts to learn with: objectives beyond InfoNCE, contexts that look ahead, and the reach."""

import math

import numpy as np
import pytest
import torch
from conftest import TINY, info_nce, place, random_numbers
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
from gim_audio.inference.pieces import Stream, encode_batch
from gim_audio.model.build import build_model
from gim_audio.model.contexts import GRUContext, ResidualConvolutions
from gim_audio.model.geometry import Geometry
from gim_audio.model.mel import log_mel
from gim_audio.model.objectives import Hinge, InfoNCE, Spectra, Units, VICReg
from gim_audio.model.sampling import RandomNumbers
from gim_audio.training.step import Step

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
    samples = 0.1 * torch.randn(2, 1600)
    frames, ratio = 10, 160 // own.hop
    c = torch.randn(2, frames * ratio, 7)
    score = objective.score(c, c, random_numbers(), samples)
    target = np.stack([slow_log_mel(each.numpy(), 16000, GRID, frames, 20) for each in samples])
    target = (target - target.mean((0, 1))) / target.std((0, 1), ddof=1)
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
    [
        "model.context={kind: residual, hidden: 6, layers: 2, lookahead: 20}",
        "model.added=[{kind: residual, hidden: 5, layers: 2, lookahead: 30}]",
    ],
]


def stack_of(tmp_path, *overrides):
    path = tmp_path / "c.yaml"
    path.write_text(TINY)
    config = load(path, overrides)
    torch.manual_seed(0)
    return build_model(config.model, config.objectives).eval(), config


@pytest.mark.parametrize("settings", STACKS)
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


@pytest.mark.parametrize(
    "settings", [*STACKS, ["model.context={hidden: 6, bidirectional: true, stacked: 2}"]]
)
def test_batches_give_the_features_of_each(tmp_path, settings):
    model, _ = stack_of(tmp_path, *settings)
    waveforms = [0.1 * torch.randn(n) for n in (8000, 700, 4321)]
    last = len(model.stack)
    together = encode_batch(model, waveforms, [last])
    for waveform, (features,) in zip(waveforms, together, strict=True):
        alone, _ = model(waveform[None], modules=[last])
        torch.testing.assert_close(features, alone[0][0], rtol=1e-4, atol=1e-5)


def test_what_sees_the_whole_is_refused_in_pieces():
    context = GRUContext(3, 4, bptt=True, bidirectional=True)
    with pytest.raises(ValueError, match="whole utterances"):
        context(torch.randn(1, 5, 3), last=False)


OBJECTIVES = {
    "infonce": "{steps_ahead: 3, negatives: {number: 4}, window: 16}",
    "hinge": "{kind: hinge, steps_ahead: 3}",
    "vicreg": "{kind: vicreg, width: 8}",
    "spectra": "{kind: spectra, bands: 10, hidden: 8}",
    "units": "{kind: units, number: 4, ahead: [1, 2]}",
    "phones": "{kind: phones, classes: 4}",
    "speakers": "{kind: speakers, classes: 3}",
}


def targets_for_all(model, x):
    """Return something to teach to each module, of the kind that it asks for."""
    frames, made = model.frames(x.shape[1])[4], {}
    for number, module in enumerate(model.stack, start=1):
        made[number] = {
            "": None,
            "phones": torch.randint(0, 4, (len(x), frames)),
            "units": torch.randint(0, 4, (len(x), frames)),
            "speakers": torch.randint(0, 3, (len(x),)),
            "waveforms": 0.1 * x[:, :, 0],
        }[module.objective.taught]
    return {number: target for number, target in made.items() if target is not None}


@pytest.mark.parametrize("reach", [1, 2, 6])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_each_loss_moves_the_modules_that_it_may(tmp_path, kind, reach):
    """Loss 4 alone is given weight; the modules that it moves are 4 and those within reach."""
    model, config = stack_of(tmp_path, f"objective={OBJECTIVES[kind]}", f"model.reach={reach}")
    x = torch.randn(2, 4000, 1)
    targets = targets_for_all(model, x)
    step = Step.joint(model, config)
    moved = set()

    def note(optimizer):
        number = next(n for n, o in step.optimizers.items() if o is optimizer)
        gradients = [p.grad for p in optimizer.parameters if p.grad is not None]
        if any(bool(g.any()) for g in gradients):
            moved.add(number)
        for parameter in optimizer.parameters:
            parameter.grad = None

    step.apply = note
    for number, module in enumerate(model.stack, start=1):
        if number != 4:
            score = module.objective.score

            def silent(*args, score=score, **settings):
                found = score(*args, **settings)
                return type(found)(0 * found.loss, found.accuracy)

            module.objective.score = silent
    step(x, 0, targets)
    assert moved == set(range(max(1, 5 - reach), 5))


def test_a_reach_of_two_is_a_gradient_of_two_losses(tmp_path):
    """Against torch.autograd.grad, loss by loss."""
    model, config = stack_of(tmp_path, "model.reach=2", "training.learning_rate=1.0e-3")
    x = torch.randn(2, 4000, 1)
    random = RandomNumbers(config.training.seed, 0)
    scores = {n: score() for n, score, _ in model.greedy_losses(x, random)}
    expected = {}
    for number, module in enumerate(model.stack, start=1):
        losses = [scores[n].loss for n in (number, number + 1) if n in scores]
        gradients = [
            torch.autograd.grad(
                loss, list(module.parameters()), retain_graph=True, allow_unused=True
            )
            for loss in losses
        ]
        expected[number] = [
            sum(g for g in each if g is not None) for each in zip(*gradients, strict=True)
        ]
    step, found = Step.joint(model, config), {}

    def note(optimizer):
        number = next(n for n, o in step.optimizers.items() if o is optimizer)
        found[number] = [p.grad.clone() for p in optimizer.parameters]
        for parameter in optimizer.parameters:
            parameter.grad = None

    step.apply = note
    step(x, 0)
    assert sorted(found) == list(range(1, 7))
    for number, gradients in found.items():
        for ours, theirs in zip(gradients, expected[number], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_a_context_above_hidden_frames_is_scored_on_the_same(tmp_path):
    units = "{kind: units, number: 4, spans: {starts: 0.2, length: 3}}"
    infonce_ = OBJECTIVES["infonce"]
    model, _ = stack_of(
        tmp_path,
        "model.context={kind: residual, hidden: 6, layers: 2, lookahead: 20}",
        "model.added=[{kind: residual, hidden: 5, layers: 2, lookahead: 20}]",
        f"objective=[{', '.join([infonce_] * 5 + [units] * 2)}]",
    )
    x, seen = torch.randn(2, 4000, 1), {}
    for number in (6, 7):
        objective = model.stack[number - 1].objective

        def note(z, c, numbers, target, ranks, hidden, number=number):
            seen[number] = z, hidden

        objective.score = note
    with torch.no_grad():
        model.stack[5].objective.blank += 7
    for frozen in ((), range(1, 7)):
        seen.clear()
        for number, score, _ in model.greedy_losses(x, RandomNumbers(1, 5), frozen=frozen):
            if number >= 6 and score is not None:
                score()
        assert seen[7][1].any()
        if not frozen:
            assert torch.equal(seen[6][1], seen[7][1])
            contexts = seen[7][0]
        else:  # the same frames of module 6 are hidden when it stands still
            torch.testing.assert_close(seen[7][0], contexts)


def test_geometry_tells_the_latency():
    config = load(None, ["model.context={kind: residual, hidden: 8, layers: 4, lookahead: 100}"])
    model = build_model(config.model, config.objectives)
    conv, context = model.geometries[-2:]
    assert context.lookahead == 1600
    assert context.latency - conv.latency == 1600
    assert (context.centre, context.hop) == (conv.centre, conv.hop)
    config = load(None, ["model.context={hidden: 8, bidirectional: true}"])
    assert math.isinf(build_model(config.model, config.objectives).geometries[-1].latency)


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
