"""Linear classifiers: logistic regression to convergence, or a linear layer trained as published."""

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

PENALTIES = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""Weights of half the squared norm of the weights beside the mean loss of an example, from which one is chosen."""
DEFAULT_PENALTY = 1e-4
"""Where there are no examples to choose by."""
ITERATIONS = 300
"""Whitened features take some seventy; those that training has collapsed go on for thousands, to no better answers."""
FLOOR = 0.01
"""Added to each channel's variance, as a share of the mean variance: a channel that training hardly saw active
would otherwise be a thousand deviations off in a test utterance, and decide alone."""
SHRINKAGE = 0.3
"""Added to the variance along each principal axis, as a share of the mean."""


@dataclass(frozen=True)
class Classifier:
    """x ↦ argmax (W x + b). Shape: weight `(classes, channels)`, bias `(classes,)`; `names` are the classes."""

    weight: Features
    bias: Features
    names: Labels
    note: dict[str, Any] = field(default_factory=dict)
    """What is worth saying about the fit."""

    def predict(self, features: Features) -> Labels:
        """Shape: `(examples, channels)` → `(examples,)`."""
        decided: Labels = self.names[(features @ self.weight.T + self.bias).argmax(axis=1)]
        return decided


@dataclass(frozen=True)
class Published:
    """Settings of the published probe; a batch is a number of examples, or None for an utterance."""

    learning_rate: float
    epochs: int
    batch: int | None


def fit(protocol: Protocol, examples: Examples, classes: int, published: Published, seed: int) -> list[Classifier]:
    """One classifier a module."""
    if protocol == "strict":
        return [logistic_regression(features, examples.labels, examples.choosing) for features in examples.features]
    return [adam(features, examples, classes, published, seed) for features in examples.features]


def settings(protocol: Protocol, published: Published) -> dict[str, Any]:
    """What to print beside a result."""
    if protocol == "strict":
        return {
            "optimiser": "L-BFGS",
            "penalties": " ".join(f"{penalty:g}" for penalty in PENALTIES),
            "variance_floor": FLOOR,
            "shrinkage": SHRINKAGE,
            "most_iterations": ITERATIONS,
        }
    return {"optimiser": "Adam", **asdict(published)}


def logistic_regression(features: Features, labels: Labels, choosing: npt.NDArray[np.bool_]) -> Classifier:
    """Multinomial logistic regression on whitened features by scikit-learn's L-BFGS.

    From the strongest penalty to weaker ones, each fit begins where the last one ended; when accuracy on the examples
    that choose falls, the best penalty so far is that of the fit to all examples.

    Args:
        features: Shape: `(examples, channels)`.
        labels: Shape: `(examples,)`.
        choosing: examples that choose the penalty, and are not learnt from meanwhile. Shape: `(examples,)`.
    """
    from sklearn.linear_model import LogisticRegression

    mean, transform = whiten(features)
    white = ((features - mean) @ transform).astype(np.float32, copy=False)
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    chosen, note = DEFAULT_PENALTY, {}
    fitting = ~choosing
    if choosing.any() and len(np.unique(labels[fitting])) == len(np.unique(labels)):
        path: dict[float, float] = {}
        for penalty in PENALTIES:
            _fit(model, white[fitting], labels[fitting], penalty)
            path[penalty] = float((model.predict(white[choosing]) == labels[choosing]).mean())
            if path[penalty] < max(path.values()):
                break
        chosen = max(path, key=lambda penalty: path[penalty])
        note = {"path": {f"{penalty:g}": accuracy for penalty, accuracy in path.items()}}
    _fit(model, white, labels, chosen)
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


def _fit(model: "LogisticRegression", features: Features, labels: Labels, penalty: float) -> None:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the result says how many iterations there were
        model.set_params(C=1 / (penalty * len(labels))).fit(features, labels)


def whiten(features: Features) -> tuple[Features, Features]:
    """Mean m and matrix W, so that (x - m) W has uncorrelated channels of a variance of almost one.

    Collinear channels would cost L-BFGS hundreds of iterations; along principal axes of like variance it needs some
    seventy. Axes that hardly vary are not blown up: see `FLOOR` and `SHRINKAGE`.

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


def adam(features: Features, examples: Examples, classes: int, published: Published, seed: int) -> Classifier:
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
            order = [torch.arange(bounds[i], bounds[i + 1]) for i in torch.randperm(len(examples.starts)).tolist()]
        for batch in order:
            if not len(batch):
                continue  # an utterance without labels
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(layer(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return Classifier(layer.weight.detach().numpy(), layer.bias.detach().numpy(), np.arange(classes))
