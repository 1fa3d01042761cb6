import math

import numpy as np
import pytest
import torch
from conftest import info_nce, place, random_numbers
from reference import infonce
from scipy import stats

from gim_audio.config import PhonesConfig, SpeakersConfig
from gim_audio.errors import ConfigError
from gim_audio.model.geometry import Geometry
from gim_audio.model.objectives import Classify
from gim_audio.model.sampling import RandomNumbers, Sampler, _mixed, _signed

KINDS = ["batch", "exact", "utterance", "pool"]


def drawn_for(sampler, batch, frames, seed=0):
    """Return what the loops want to know: the window, and the places of negatives."""
    draw = sampler.draw(frames, batch, random_numbers(seed))
    last, length = int(draw.last), len(draw.window)

    def negatives(k, t, b):
        found = draw.candidates[last - t, b]
        rows = (found[k - 1] if found.ndim == 2 else found)[1:].tolist()
        if sampler.kind == "pool":
            rows = [row for row in draw.pool.tolist() if row != b * frames + t]
        return [(row // frames, row % frames) for row in rows]

    return last + 1 - length, length, negatives


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("batch", "frames", "window"), [(1, 12, 20), (3, 12, 20), (3, 25, 10), (2, 11, 11)]
)
def test_agrees_with_the_loops(kind, batch, frames, window):
    torch.manual_seed(1)
    objective = info_nce(5, 7, kind, 6, window, 4)
    z, c = torch.randn(batch, frames, 7), torch.randn(batch, frames, 5)
    score = objective.score(z, c, random_numbers())
    weights = list(objective.heads.detach().double().numpy())
    loss, accuracy = infonce(
        z.double().numpy(),
        c.double().numpy(),
        weights,
        *drawn_for(objective.sampler, batch, frames),
    )
    assert float(score.loss.detach()) == pytest.approx(loss, rel=1e-5)
    assert float(score.accuracy) == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("own_context", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_differences_of_the_loops(kind, own_context):
    """Along random directions of the frames, the contexts and the heads."""
    torch.manual_seed(1)
    objective = info_nce(7 if own_context else 5, 7, kind, 6, 10, 4)
    z = torch.randn(3, 25, 7, requires_grad=True)
    c = z if own_context else torch.randn(3, 25, 5, requires_grad=True)
    objective.score(z, c, random_numbers()).loss.backward()
    at = [z, objective.heads] if own_context else [z, objective.heads, c]
    points = [p.detach().double().numpy() for p in at]

    def loss(z, heads, c=None):
        window = drawn_for(objective.sampler, 3, 25)
        return infonce(z, z if c is None else c, list(heads), *window)[0]

    for number, parameter in enumerate(at):
        direction = np.random.default_rng(number).standard_normal(points[number].shape)
        ahead, behind = list(points), list(points)
        ahead[number], behind[number] = (
            points[number] + 1e-5 * direction,
            points[number] - 1e-5 * direction,
        )
        slope = (loss(*ahead) - loss(*behind)) / 2e-5
        assert float((parameter.grad.double().numpy() * direction).sum()) == pytest.approx(
            slope, rel=1e-4, abs=1e-6
        )


@pytest.mark.parametrize("kind", ["batch", "exact", "utterance"])
def test_zeroed_heads_guess(kind):
    objective = info_nce(5, 7, kind, 10, 128, 12)
    torch.nn.init.zeros_(objective.heads)
    score = objective.score(torch.randn(8, 300, 7), torch.randn(8, 300, 5), random_numbers())
    assert float(score.loss.detach()) == pytest.approx(math.log(11), abs=1e-6)
    assert float(score.accuracy) == 0  # a tie is not a right answer


def candidates(kind, batch, frames, number, window, seed=0):
    """Return the rows that are compared for each k, the positive first.

    Shape: each `(times, batch, 1 + number)`, times rising.
    """
    drawn = (
        Sampler(kind, number, window, 3)
        .draw(frames, batch, random_numbers(seed))
        .candidates.flip(0)
    )
    each = drawn.expand(3, *drawn.shape) if drawn.ndim == 3 else drawn.movedim(2, 0)
    return {k: each[k - 1, k:].numpy() for k in (1, 2, 3)}


def test_published_sampling():
    """Negatives are uniform over the batch, shared by all k, and may hit the positive."""
    assert Sampler("batch", 10, 16, 3).draw(40, 4, random_numbers()).candidates.ndim == 3
    batch, frames, hits, counts = 4, 40, 0, np.zeros(160)
    drawn = 0
    for seed in range(60):
        found = candidates("batch", batch, frames, 10, 16, seed)
        negatives = found[1][..., 1:]
        hits += (negatives == found[1][..., :1]).sum()
        counts += np.bincount(negatives.astype(int).ravel(), minlength=160)
        drawn += negatives.size
    expected = drawn / 160
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(chi_square, 159) > 1e-4
    assert abs(hits - expected) < 5 * math.sqrt(expected)


def test_windows_are_uniform_and_positives_come_from_them():
    firsts = []
    for seed in range(400):
        positives = candidates("batch", 2, 30, 3, 8, seed)[1][..., 0]
        utterances, times = positives // 30, positives % 30
        np.testing.assert_array_equal(times[:, 0], times[0, 0] + np.arange(7))
        np.testing.assert_array_equal(times[:, 0], times[:, 1])
        np.testing.assert_array_equal(utterances, np.tile([0, 1], (7, 1)))
        firsts.append(times[0, 0] - 1)
    counts = np.bincount(firsts, minlength=23)
    assert len(counts) == 23
    assert stats.chisquare(counts).pvalue > 1e-4


def test_exact_never_hits_the_positive_and_draws_for_each_step():
    found = candidates("exact", 2, 8, 50, 8)
    assert not (found[1][..., 1:] == found[1][..., :1]).any()
    assert set(found[1][..., 1:].ravel()) == set(range(16))
    assert not np.array_equal(found[3], found[1][2:])


def test_utterance_negatives_stay_in_the_utterance():
    found = candidates("utterance", 3, 8, 100, 8)[2]
    assert (found[..., 1:] // 8 == found[..., :1] // 8).all()
    assert not (found[..., 1:] == found[..., :1]).any()
    assert {len(set(row)) for row in found.reshape(-1, 101)} == {8}  # all frames of it


def test_pool_is_one_set_for_all():
    draw = Sampler("pool", 12, 10, 3).draw(10, 2, random_numbers())
    assert len(set(draw.pool.tolist())) == 12
    assert set(draw.pool.tolist()) < set(range(20))
    assert draw.candidates.tolist() == draw.window[:, :, None].tolist()


def test_pool_takes_every_frame_as_often():
    """20 frames in 12 stretches of one or two."""
    draws = [
        Sampler("pool", 12, 10, 3).draw(10, 2, random_numbers(seed)).pool for seed in range(400)
    ]
    counts = torch.stack(draws).flatten().bincount(minlength=20)
    stretches = [[i * 20 // 12, (i + 1) * 20 // 12] for i in range(12)]
    for start, stop in stretches:
        assert counts[start:stop].sum() == 400
        assert stop == start + 1 or stats.chisquare(counts[start:stop]).pvalue > 1e-4


def split_mix_64(state, count):
    """Return the published generator's numbers."""
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        found.append(z ^ z >> 31)
    return found


def test_random_numbers_are_split_mix_64s():
    assert split_mix_64(1234567, 2) == [6457827717110365317, 3203168211198807973]  # as published
    keys = [k if k < 2**63 else k - 2**64 for k in split_mix_64(99, 50)]
    states = torch.tensor([_signed(99 + n * 0x9E3779B97F4A7C15) for n in range(1, 51)])
    assert _mixed(states).tolist() == keys


def test_random_numbers_depend_on_seed_step_salt_module_and_place():
    cpu = torch.device("cpu")
    seen = torch.cat(
        [
            RandomNumbers(seed, step, salt).of(range(1, 4), 50, cpu).flatten()
            for seed in (0, 1, 2**32 - 1)
            for step in (0, 1, 10**6)
            for salt in (0, 1)
        ]
    )
    assert len(seen.unique()) == len(seen)
    assert seen.min() >= 0
    bits = (seen[:, None] >> torch.arange(63) & 1).double().mean(0)
    assert (bits - 0.5).abs().max() < 5 * 0.5 / math.sqrt(len(seen))
    # Whatever is drawn beside them, and whether the step is a number or on the device.
    few = RandomNumbers(3, torch.tensor(7)).of(range(2, 3), 5, cpu)
    assert torch.equal(few, RandomNumbers(3, 7).of(range(1, 4), 9, cpu)[1:2, :5])


def test_pool_larger_than_the_batch_is_refused():
    objective = info_nce(2, 2, "pool", 99, 8, 1)
    with pytest.raises(ConfigError, match="pool of 99 from a batch of 20"):
        objective.score(torch.randn(2, 10, 2), torch.randn(2, 10, 2), random_numbers())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_positives_negatives_and_contexts(kind):
    objective = info_nce(5, 7, kind, 4, 6, 2)
    z, c = torch.randn(2, 30, 7, requires_grad=True), torch.randn(2, 30, 5, requires_grad=True)
    objective.score(z, c, random_numbers()).loss.backward()
    outside = (z.grad.abs().sum(2) > 0).sum() - (c.grad.abs().sum(2) > 0).sum()
    assert outside > 0 or kind == "utterance"  # negatives lie outside the window of contexts
    assert (objective.heads.grad.abs().sum((1, 2)) > 0).all()


@pytest.mark.parametrize(
    ("own", "frames"),
    [(Geometry(5, -2, 10), 200), (Geometry(40, -52, 105), 26), (Geometry(160, -212, 465), 6)],
)
def test_phones_are_named_from_the_frames_around_them(own, frames):
    """Brute force finds, of all frames, those nearest to the label's centre.

    At the ends, the outermost again.
    """
    torch.manual_seed(3)
    grid, count = Geometry(160, -212, 465), 6
    objective = Classify(PhonesConfig(classes=4), place(7, 7, own, grid))
    c, labels = torch.randn(2, frames, 7), torch.tensor([[0, 1, -1, 3, 2, 1], [-1, 2, 2, 0, 3, 0]])
    score = objective.score(c, c, random_numbers(), labels)
    ratio = grid.hop // own.hop
    losses, right = [], 0
    for utterance, row in enumerate(labels.tolist()):
        for i, label in enumerate(row):
            if label < 0:
                continue
            places = sorted(
                range(-9 * ratio, frames + 9 * ratio),
                key=lambda j: (abs(own.centre + j * own.hop - grid.centre - i * grid.hop), j),
            )
            mean = np.mean(
                [c[utterance, min(max(j, 0), frames - 1)].numpy() for j in places[:ratio]], axis=0
            )
            scores = (
                objective.linear.weight.detach().numpy() @ mean
                + objective.linear.bias.detach().numpy()
            )
            losses.append(np.log(np.exp(scores).sum()) - scores[label])
            right += scores.argmax() == label
    assert count == labels.shape[1]
    assert float(score.loss.detach()) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(score.accuracy) == pytest.approx(right / len(losses))


def test_a_speaker_is_named_from_the_mean_of_a_crop():
    torch.manual_seed(3)
    objective = Classify(SpeakersConfig(classes=5), place(7, 7, Geometry(), Geometry(160)))
    c = torch.randn(3, 20, 7)
    expected = torch.nn.functional.cross_entropy(
        objective.linear(c.mean(1)), torch.tensor([4, 0, 2])
    )
    assert float(
        objective.score(c, c, random_numbers(), torch.tensor([4, 0, 2])).loss.detach()
    ) == pytest.approx(float(expected.detach()), rel=1e-6)
