"""Linear classifiers, and the penalty that they choose."""

import numpy as np
import pytest
from test_probes import Loudness, noisy_data, none_chosen

from gim_audio.phones import write_ctm
from gim_audio.probes import FrameSample, Subject, evaluate
from gim_audio.probes.frames import Examples
from gim_audio.probes.solvers import PENALTIES, Published, adam, logistic_regression, whiten


def test_regression_agrees_with_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(0)
    features = (generator.standard_normal((400, 6)) * [1, 10, 100, 1, 1, 1] + 5).astype(np.float32)
    for classes in (2, 4):
        labels = (
            (features[:, 1] - 5) / 10 + generator.standard_normal(400)
            > np.linspace(-1, 1, classes - 1)[:, None]
        ).sum(0) * 3
        ours = logistic_regression(features, labels, none_chosen(labels))
        theirs = make_pipeline(
            StandardScaler(), LogisticRegression(C=1 / (1e-4 * 400), max_iter=1000)
        ).fit(features, labels)
        assert (ours.predict(features) == theirs.predict(features)).mean() > 0.99
        assert ours.note["converged"]


def test_collinear_channels_cost_few_iterations():
    """Two hundred channels mixed from four, as those of an untrained encoder are."""
    generator = np.random.default_rng(0)
    sources = generator.standard_normal((2000, 4))
    labels = sources.argmax(axis=1)
    mixed = sources @ generator.standard_normal((4, 200)) + 1e-3 * generator.standard_normal(
        (2000, 200)
    )
    features = (mixed + 3).astype(np.float32)
    fitted = logistic_regression(features, labels, none_chosen(labels))
    assert fitted.note["iterations"] < 150
    assert (fitted.predict(features) == labels).mean() > 0.97

    mean, transform = whiten(features)
    covariance = np.cov((features - mean) @ transform, rowvar=False)
    np.testing.assert_allclose(covariance - np.diag(covariance.diagonal()), 0, atol=2e-3)
    assert covariance.diagonal().max() <= 1


def test_features_that_never_vary_are_no_reason_to_stop():
    fitted = logistic_regression(
        np.ones((10, 3), np.float32), np.repeat([0, 1], 5), none_chosen(range(10))
    )
    assert np.isfinite(fitted.weight).all()


def test_a_channel_that_training_hardly_saw_does_not_decide():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    features = np.stack(
        [labels + 0.1 * generator.standard_normal(400), np.zeros(400)], axis=1
    ).astype(np.float32)
    features[0, 1] = 1e-4  # once
    fitted = logistic_regression(features, labels, none_chosen(labels))
    test = features.copy()
    test[:, 1] = 0.5
    assert (fitted.predict(test) == labels).mean() > 0.95


def test_the_published_solver_learns_by_utterance():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((3000, 4)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int64)
    examples = Examples([features], labels, list(range(0, 3000, 100)), none_chosen(labels))
    fitted = adam(features, examples, 2, Published(1e-2, 20, None), seed=0)
    assert (fitted.predict(features) == labels).mean() > 0.97
    again = adam(features, examples, 2, Published(1e-2, 20, None), seed=0)
    np.testing.assert_array_equal(fitted.weight, again.weight)
    assert fitted.weight.shape == (2, 4)


def test_the_published_solver_learns_from_batches_of_examples():
    """A plain loop from the same weights and in the same order learns the same."""
    import torch

    generator = np.random.default_rng(0)
    features = generator.standard_normal((100, 4)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int64)
    examples = Examples([features], labels, [0], none_chosen(labels))
    fitted = adam(features, examples, 2, Published(1e-2, 3, 32), seed=0)
    torch.manual_seed(0)
    weight = torch.nn.Linear(4, 2)
    torch.nn.init.xavier_uniform_(weight.weight)
    parameters = [p.detach().numpy().astype(np.float64) for p in (weight.weight, weight.bias)]
    first, second = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]
    step = 0
    for _ in range(3):
        for batch in torch.split(torch.randperm(100), 32):
            x, y = features[batch.numpy()].astype(np.float64), labels[batch.numpy()]
            scores = x @ parameters[0].T + parameters[1]
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            wrong = (share / share.sum(axis=1, keepdims=True) - np.eye(2)[y]) / len(y)
            step += 1
            for k, gradient in enumerate((wrong.T @ x, wrong.sum(axis=0))):
                first[k] = 0.9 * first[k] + 0.1 * gradient
                second[k] = 0.999 * second[k] + 0.001 * gradient**2
                moved = first[k] / (1 - 0.9**step) / (np.sqrt(second[k] / (1 - 0.999**step)) + 1e-8)
                parameters[k] = parameters[k] - 1e-2 * moved
    np.testing.assert_allclose(fitted.weight, parameters[0], atol=1e-5)
    np.testing.assert_allclose(fitted.bias, parameters[1], atol=1e-5)


def test_examples_keep_their_utterances(tmp_path):
    data, alignments = noisy_data(tmp_path / "a", "ab")
    sample = FrameSample(
        Subject(Loudness(), [1]), (data, alignments), shifts=[0, 1], most_frames=10**6, seed=0
    )
    evaluate(sample.subject, [sample])
    whole, late = sample.examples(0), sample.examples(1)
    assert whole.starts == list(range(0, 400, 50))
    assert late.starts == list(range(0, 8 * 49, 49))  # the last label of each has no frame then
    assert whole.held_out.reshape(8, 50).all(axis=1).sum() == 4  # one of two speakers
    assert not whole.held_out.reshape(8, 50)[~whole.held_out.reshape(8, 50).all(axis=1)].any()


def search(features, labels, fitted, judged):
    """Every penalty from zero by scikit-learn alone, and the accuracy on what is judged."""
    from sklearn.linear_model import LogisticRegression

    return {
        penalty: (
            LogisticRegression(C=1 / (penalty * fitted.sum()), tol=1e-7, max_iter=10_000)
            .fit(features[fitted].astype(np.float64), labels[fitted])
            .score(features[judged], labels[judged])
        )
        for penalty in PENALTIES
    }


@pytest.mark.parametrize("channels", [2, 10, 60])
def test_the_penalty_is_that_of_an_independent_search(channels):
    """Labels of three classes that depend on two channels.

    The more others there are, the stronger the penalty.
    """
    generator = np.random.default_rng(channels)
    features = generator.standard_normal((400, channels)).astype(np.float32)
    noise = 0.7 * generator.standard_normal((400, 3))
    labels = (features[:, :2] @ generator.standard_normal((2, 3)) + noise).argmax(axis=1)
    held_out = np.arange(400) % 4 == 0
    fitted = logistic_regression(features, labels, held_out)
    mean, transform = whiten(features)
    expected = search((features - mean) @ transform, labels, ~held_out, held_out)
    assert {
        float(penalty): accuracy for penalty, accuracy in fitted.note["path"].items()
    } == expected
    assert fitted.note["penalty"] == max(expected, key=expected.get)
    assert fitted.note["held_out"] == max(expected.values())
    assert len(expected) == len(PENALTIES)  # the search does not stop at a dip


def test_what_is_held_out_may_have_a_class_of_its_own():
    """The class is wrong for every penalty, and the others choose; afterwards it is learnt."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 100)
    features = (np.eye(3)[labels] + 0.1 * generator.standard_normal((300, 3))).astype(np.float32)
    held_out = (labels == 2) | (np.arange(300) % 2 == 0)
    fitted = logistic_regression(features, labels, held_out)
    assert fitted.note["held_out"] == pytest.approx(100 / 200)
    assert (fitted.predict(features) == labels).all()


def test_where_no_penalty_can_be_chosen_the_result_says_so(tmp_path, run):
    features = np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32)
    labels = np.repeat([0, 1], 10)
    assert (
        logistic_regression(features, labels, labels == 1).note["not_chosen"]
        == "what is not held out has a single class"
    )
    _, alignments = noisy_data(tmp_path / "a", "a")
    write_ctm(tmp_path / "a/phones.ctm", alignments)
    arguments = ["--train", tmp_path / "a", "--test", tmp_path / "a", "--out", tmp_path / "r.json"]
    status, out, _ = run("probe", "phones", "mfcc13", *arguments)
    assert status == 0
    assert "penalty not chosen: no speaker or utterance could be held out" in out
