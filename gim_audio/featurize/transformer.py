"""Features as a step of a scikit-learn pipeline."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from gim_audio.audio import Waveform, read
from gim_audio.errors import AudioError
from gim_audio.featurize.encoders import Features, ModuleName, mono
from gim_audio.featurize.loading import load_encoder
from gim_audio.featurize.pooling import FRAMES, Pooling

__all__ = ["GimFeatures"]


class GimFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Waveforms to features, by weights that are trained already: fitting loads them.

    Args:
        model: an experiment, a checkpoint, a model of the package or a baseline.
        module: A number from 1, from the end where negative, or a name; the last one by default.
        rate: The rate of waveforms in Hz; None is the model's own.
        pool: `mean` or `mean+std` give a vector a waveform; None, `stack:K` and `subsample:K` a
            matrix each.
        device: The device that computes.

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
        module: ModuleName | None = None,
        rate: int | None = None,
        pool: str | None = "mean",
        device: str = "cpu",
    ) -> None:
        self.model, self.module, self.rate, self.pool, self.device = (
            model,
            module,
            rate,
            pool,
            device,
        )

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
            X: Recordings: arrays of their own lengths or one array (shape: each `(samples,)`, or
                `(waveforms, samples)`), paths, or dictionaries `{"array": …, "sampling_rate": …}`,
                as the datasets library has them.

        Returns:
            Shape: `(waveforms, width)`; without pooling to vectors, a list of `(frames, width)`.

        Raises:
            ValueError: one of them is too short, or not of finite floating-point numbers; says
                which.
        """
        check_is_fitted(self)
        encoder, pooling = self.encoder_, self._pooling()
        found: list[Features] = []
        for place, waveform in enumerate(_waveforms(X)):
            try:
                samples = self._samples(waveform)
                (features,) = encoder.encode(samples, [encoder.pick(self.module)])
            except AudioError as error:
                raise ValueError(f"waveform {place}: {error}") from error
            found.append(pooling.of(features))
        return np.concatenate(found) if pooling.is_vector else found

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:  # noqa: ARG002
        """Return a name for each column of what `transform` gives, such as `gru_mean_17`.

        Raises:
            ValueError: Waveforms are not pooled to vectors: their matrices have no columns in
                common.
        """
        check_is_fitted(self)
        pooling, encoder = self._pooling(), self.encoder_
        if not pooling.is_vector:
            raise ValueError(
                f"pool={self.pool!r} gives a matrix a waveform: only vectors have names of columns"
            )
        number = encoder.pick(self.module)
        (features,) = encoder.encode(np.zeros(encoder.shortest, np.float32), [number])
        columns = range(features.shape[1])
        return np.array(
            [
                f"{encoder.module_names[number - 1]}_{kind}_{n}"
                for kind in pooling.kind.split("+")
                for n in columns
            ],
            object,
        )

    def _samples(self, given: Any) -> Waveform:
        """Return a recording at the encoder's rate."""
        encoder = self.encoder_
        if isinstance(given, str | Path):
            return read(given, encoder.rate)
        if isinstance(given, dict):
            return mono(np.asarray(given["array"]), given["sampling_rate"], encoder.rate)
        return mono(np.asarray(given), self.rate or encoder.rate, encoder.rate)

    def _pooling(self) -> Pooling:
        return Pooling.parse(self.pool) if self.pool else FRAMES

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "encoder_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        tags.no_validation = True
        return tags


def _waveforms(given: Iterable[Any]) -> Sequence[Any]:
    waveforms = list(given)
    if not waveforms:
        raise ValueError("no waveforms")
    return waveforms
