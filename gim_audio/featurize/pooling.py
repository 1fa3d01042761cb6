"""Coarser features, made while the frames come: one vector an utterance, or fewer frames."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gim_audio.config import count_of
from gim_audio.errors import ConfigError
from gim_audio.featurize.encoders import Features
from gim_audio.model.geometry import Geometry

__all__ = ["FRAMES", "Pooling", "Reducer"]


MOST = 9999
"""Frames that become one."""


class Reducer(ABC):
    """Takes the frames of one utterance piece by piece.

    Shape: `(frames, channels)` → `(fewer, channels')`.
    """

    @abstractmethod
    def push(self, features: Features) -> Features:
        """Return the pooled frames that these frames complete."""

    def finish(self) -> Features | None:
        """Return the pooled frames that remain at the end."""
        return None


@dataclass(frozen=True)
class Pooling:
    """The pooling of frames.

    Attributes:
        kind: `frames` leaves them; `mean` and `mean+std` give one vector an utterance (the
            deviation after the mean); `stack` joins N frames to one, the last one repeated
            where they are not enough; `subsample` takes one of N.
        number: The K of `stack` and `subsample`.
    """

    kind: Literal["frames", "mean", "mean+std", "stack", "subsample"] = "frames"
    number: int = 1

    @classmethod
    def parse(cls, text: str) -> "Pooling":
        """`mean`, `mean+std`, `stack:K` or `subsample:K`.

        Raises:
            ConfigError: it is none of them.
        """
        kind, _, number = text.partition(":")
        if kind in {"mean", "mean+std"} and not number:
            return cls("mean" if kind == "mean" else "mean+std")
        frames = count_of(number) or 0
        if kind in {"stack", "subsample"} and 1 < frames <= MOST:
            return cls("stack" if kind == "stack" else "subsample", frames)
        raise ConfigError(
            f"pool {text}: expected mean, mean+std, stack:K or subsample:K, with K from 2 to 9999"
        )

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}" if self.number > 1 else self.kind

    @property
    def is_vector(self) -> bool:
        """True where an utterance becomes one vector."""
        return self.kind in {"mean", "mean+std"}

    def geometry(self, own: Geometry) -> Geometry:
        """Return the geometry of the pooled frames."""
        field = own.receptive_field + (self.number - 1) * own.hop * (self.kind == "stack")
        return replace(own, hop=own.hop * self.number, receptive_field=field)

    def of(self, features: Features) -> Features:
        """All frames of an utterance at once.

        Shape: `(frames, channels)` → `(fewer, channels')`.
        """
        reducer = self.start()
        parts = [reducer.push(features), reducer.finish()]
        return np.concatenate([part for part in parts if part is not None])

    def start(self) -> Reducer:
        """Return a reducer for one utterance."""
        if self.kind == "stack":
            return _Stack(self.number)
        if self.kind == "subsample":
            return _Subsample(self.number)
        return _Mean(deviation=self.kind == "mean+std") if self.is_vector else _Frames()


FRAMES = Pooling()


class _Frames(Reducer):
    def push(self, features: Features) -> Features:
        return features


class _Subsample(Reducer):
    def __init__(self, number: int) -> None:
        self.number, self.skip = number, 0

    def push(self, features: Features) -> Features:
        taken = features[self.skip :: self.number]
        self.skip = (self.skip - len(features)) % self.number
        return taken


class _Stack(Reducer):
    def __init__(self, number: int) -> None:
        self.number = number
        self.held: Features | None = None

    def push(self, features: Features) -> Features:
        held = features if self.held is None else np.concatenate([self.held, features])
        whole = len(held) // self.number
        self.held = held[whole * self.number :]
        return held[: whole * self.number].reshape(whole, self.number * held.shape[1])

    def finish(self) -> Features | None:
        if self.held is None or not len(self.held):
            return None
        return self.push(np.repeat(self.held[-1:], self.number - len(self.held), axis=0))


class _Mean(Reducer):
    def __init__(self, *, deviation: bool) -> None:
        self.deviation, self.count = deviation, 0
        # And the sum of squared distances from the mean.
        self.mean, self.squares = (
            np.zeros(1),
            np.zeros(1),
        )

    def push(self, features: Features) -> Features:
        if count := len(features):  # Chan et al. 1979: the moments of two sets from those of each
            mean = features.mean(axis=0, dtype=np.float64)
            apart, total = mean - self.mean, self.count + count
            squares = np.square(features - mean).sum(axis=0)
            self.squares = self.squares + squares + apart**2 * self.count * count / total
            self.mean, self.count = self.mean + apart * count / total, total
        return features[:0].repeat(1 + self.deviation, axis=1)

    def finish(self) -> Features:
        parts = [self.mean, np.sqrt(self.squares / self.count)] if self.deviation else [self.mean]
        return np.concatenate(parts).astype(np.float32)[None]
