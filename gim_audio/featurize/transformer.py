"""Features as a step of a scikit-learn pipeline."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from gim_audio.errors import AudioError
from gim_audio.featurize.encoders import Features, mono
from gim_audio.featurize.load import load_encoder
from gim_audio.featurize.pooling import FRAMES, Pooling

__all__ = ["GimFeatures"]


class GimFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Waveforms to features, by weights that are trained already: fitting loads them.

    Args:
        model: an experiment, a checkpoint, a model of the package or a baseline.
        module: from 1; the last one by default.
        rate: of the waveforms, Hz; None is the model's own.
        pool: `mean` or `mean+std` give a vector a waveform; None, `stack:K` and `subsample:K` a matrix each.
        device: where it runs.

    Attributes:
        encoder_: the model, once fitted.

    Example:
        >>> waveforms = [np.zeros(n, np.float32) for n in (16000, 8000)]
        >>> GimFeatures("mfcc", pool="mean+std").fit_transform(waveforms).shape
        (2, 78)
    """

    def __init__(
        self,
        model: str = "gim-small",
        module: int | None = None,
        rate: int | None = None,
        pool: str | None = "mean",
        device: str = "cpu",
    ) -> None:
        self.model, self.module, self.rate, self.pool, self.device = model, module, rate, pool, device

    def fit(self, X: Iterable[Any], y: Any = None) -> Self:  # noqa: ARG002, N803 - scikit-learn's signature
        """Load the weights; the waveforms change nothing.

        Raises:
            GimAudioError: there is no such model, module or pooling.
            TypeError: the waveforms are a sparse matrix.
        """
        if issparse(X):
            raise TypeError("waveforms are not sparse: give arrays")
        self.encoder_ = load_encoder(self.model, self.device)
        self.encoder_.pick(self.module)
        self._pooling()
        return self

    def transform(self, X: Iterable[Any]) -> "Features | list[Features]":  # noqa: N803
        """Featurize waveforms in [-1, 1].

        Args:
            X: waveforms of their own lengths, or one array. Shape: each `(samples,)`, or `(waveforms, samples)`.

        Returns:
            Shape: `(waveforms, width)`; without pooling to vectors, a list of `(frames, width)`.

        Raises:
            ValueError: one of them is too short, or not of finite floating-point numbers; says which.
        """
        check_is_fitted(self)
        encoder, pooling = self.encoder_, self._pooling()
        found: list[Features] = []
        for place, waveform in enumerate(_waveforms(X)):
            try:
                samples = mono(waveform, self.rate or encoder.rate, encoder.rate)
                (features,) = encoder.encode(samples, [encoder.pick(self.module)])
            except AudioError as error:
                raise ValueError(f"waveform {place}: {error}") from error
            found.append(pooling.of(features))
        return np.concatenate(found) if pooling.is_vector else found

    def _pooling(self) -> Pooling:
        return Pooling.parse(self.pool) if self.pool else FRAMES

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "encoder_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        tags.no_validation = True
        return tags


def _waveforms(given: Iterable[Any]) -> Sequence[npt.NDArray[Any]]:
    waveforms = [np.asarray(waveform) for waveform in given]
    if not waveforms:
        raise ValueError("no waveforms")
    return waveforms
