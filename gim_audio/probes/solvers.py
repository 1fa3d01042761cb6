"""Linear classifiers.

One is logistic regression to convergence, the other a linear layer trained as published.
"""

import warnings
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gim_audio.featurize import Features
from gim_audio.probes.frames import Examples, Labels

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

__all__ = ["Classifier", "Protocol", "Published", "fit", "settings"]

Protocol = Literal["ref", "strict"]

PENALTIES = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
"""Candidates for the L2 penalty: each is the weight of half the squared norm of the coefficients
beside the mean loss of an example."""
DEFAULT_PENALTY = 1e-4
"""Penalty where none can be chosen."""
TOLERANCE = 1e-5
"""Largest component of the gradient at which a fit ends. At scikit-learn's 1e-4 a fit with a weak
penalty that starts from the one before ends at once, where it began."""
ITERATIONS = 1000
"""Most iterations of a fit; with a weak penalty some three hundred are needed."""
FLOOR = 0.01
"""Added to each channel's variance, as a share of the mean variance: a channel that training hardly
saw active would otherwise be a thousand deviations off in a test utterance, and decide alone."""
SHRINKAGE = 0.3
"""Added to the variance along each principal axis, as a share of the mean."""


@dataclass(frozen=True)
class Classifier:
    """x ↦ argmax (W x + b).

    Shape: weight `(classes, channels)`, bias `(classes,)`; `names` are the classes.
    """

    weight: Features
    bias: Features
    names: Labels
    note: dict[str, Any] = field(default_factory=dict)
    """Notes on the fit."""

    def predict(self, features: Features) -> Labels:
        """Shape: `(examples, channels)` → `(examples,)`."""
        decided: Labels = self.names[(features @ self.weight.T + self.bias).argmax(axis=1)]
        return decided


@dataclass(frozen=True)
class Published:
    """Settings of the published probe.

    A batch is a number of examples, or None for an utterance.
    """

    learning_rate: float
    epochs: int
    batch: int | None


def fit(
    protocol: Protocol, examples: Examples, classes: int, published: Published, seed: int
) -> list[Classifier]:
    """One classifier a module."""
    if protocol == "ref":
        return [
            adam(features, examples, classes, published, seed) for features in examples.features
        ]
    judged = examples.judged
    return [
        logistic_regression(
            features,
            examples.labels,
            examples.held_out,
            (judged[0][number], judged[1]) if judged else None,
        )
        for number, features in enumerate(examples.features)
    ]


def settings(protocol: Protocol, published: Published) -> dict[str, Any]:
    """Return the settings that stand beside a result."""
    if protocol == "strict":
        return {
            "optimiser": "L-BFGS",
            "penalties": " ".join(f"{penalty:g}" for penalty in PENALTIES),
            "variance_floor": FLOOR,
            "shrinkage": SHRINKAGE,
            "tolerance": TOLERANCE,
            "most_iterations": ITERATIONS,
        }
    return {"optimiser": "Adam", **asdict(published)}


def logistic_regression(
    features: Features,
    labels: Labels,
    held_out: npt.NDArray[np.bool_],
    judged: tuple[Features, Labels] | None = None,
) -> Classifier:
    """Fit multinomial logistic regression to whitened features by scikit-learn's L-BFGS.

    Every penalty of `PENALTIES` is tried on the examples that are not held out, from the strongest
    to weaker ones, each fit beginning where the last one ended. The penalty with the highest
    accuracy is taken, the strongest of equals, and all examples are fitted with it from the
    beginning. The classifier's note says which penalty, how it was chosen (`path`, or `not_chosen`
    with the reason), and the accuracy that it was chosen by (`held_out`).

    Args:
        features: Features to learn from. Shape: `(examples, channels)`.
        labels: The class of each. Shape: `(examples,)`.
        held_out: Examples that are left out while the penalty is chosen. Shape: `(examples,)`.
        judged: Features and labels by which it is chosen; None stands for the examples that are
            held out.
    """
    mean, transform = whiten(features)
    white = _project(features, mean, transform)
    tried, truth = (
        (_project(judged[0], mean, transform), judged[1])
        if judged
        else (white[held_out], labels[held_out])
    )
    chosen: float = DEFAULT_PENALTY
    note: dict[str, Any] = {}
    if not len(truth):
        note = {"not_chosen": "no speaker or utterance could be held out"}
    elif len(np.unique(labels[~held_out])) < 2:
        note = {"not_chosen": "what is not held out has a single class"}
    else:
        path: dict[float, float] = {}
        model = None
        for penalty in PENALTIES:
            model = _fit(white[~held_out], labels[~held_out], penalty, model)
            path[penalty] = float((model.predict(tried) == truth).mean())
        chosen = max(path, key=lambda penalty: path[penalty])
        note = {
            "held_out": path[chosen],
            "path": {f"{penalty:g}": accuracy for penalty, accuracy in path.items()},
        }
    model = _fit(white, labels, chosen)
    iterations = int(model.n_iter_[0])
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes share one row
        weight, bias = np.vstack([-weight, weight]), np.concatenate([-bias, bias])
    weight = weight @ transform.T.astype(np.float64)
    return Classifier(
        weight.astype(np.float32),
        (bias - weight @ mean.astype(np.float64)).astype(np.float32),
        model.classes_,
        {"penalty": chosen, **note, "iterations": iterations, "converged": iterations < ITERATIONS},
    )


def _project(features: Features, mean: Features, transform: Features) -> Features:
    white: Features = ((features - mean) @ transform).astype(np.float32, copy=False)
    return white


def _fit(
    features: Features, labels: Labels, penalty: float, begun: "LogisticRegression | None" = None
) -> "LogisticRegression":
    """Fit with a penalty, from a fit to the same examples or from zero."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = begun or LogisticRegression(tol=TOLERANCE, max_iter=ITERATIONS, warm_start=True)
    with warnings.catch_warnings():
        # The result says how many iterations there were.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.set_params(C=1 / (penalty * len(labels))).fit(features, labels)


def whiten(features: Features) -> tuple[Features, Features]:
    """Mean m and matrix W, so that (x - m) W has uncorrelated channels of a variance of almost one.

    Collinear channels would cost L-BFGS hundreds of iterations; along principal axes of like
    variance it needs some seventy. Axes that hardly vary are not blown up: see `FLOOR` and
    `SHRINKAGE`.

    Args:
        features: Shape: `(examples, channels)`.

    Returns:
        Shapes: `(channels,)`, `(channels, channels)`.
    """
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = features - mean
    covariance = (centred.T @ centred).astype(np.float64) / len(features)
    variance = covariance.diagonal()
    scale = np.sqrt(variance + FLOOR * variance.mean())
    scale[scale == 0] = 1  # nothing varies
    variance, axes = np.linalg.eigh(covariance / np.outer(scale, scale))
    spread = np.sqrt(variance.clip(0) + SHRINKAGE * variance.mean())
    spread[spread == 0] = 1
    transform: Features = (axes / spread / scale[:, None]).astype(np.float32)
    return mean, transform


def adam(
    features: Features, examples: Examples, classes: int, published: Published, seed: int
) -> Classifier:
    """A linear layer (Xavier) on features as they are, trained by Adam; the last epoch counts."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    layer = nn.Linear(features.shape[1], classes)
    nn.init.xavier_uniform_(layer.weight)
    optimizer = torch.optim.Adam(layer.parameters(), lr=published.learning_rate)
    x, y = torch.from_numpy(features), torch.from_numpy(examples.labels)
    bounds = [*examples.starts, len(y)]
    for _ in range(published.epochs):
        if published.batch:
            order = list(torch.split(torch.randperm(len(y)), published.batch))
        else:
            order = [
                torch.arange(bounds[i], bounds[i + 1])
                for i in torch.randperm(len(examples.starts)).tolist()
            ]
        for batch in order:
            if not len(batch):
                continue  # an utterance without labels
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(layer(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return Classifier(
        layer.weight.detach().numpy(), layer.bias.detach().numpy(), np.arange(classes)
    )
