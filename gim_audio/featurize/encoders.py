"""Waveforms to matrices of features, one a module."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gim_audio.audio import Waveform, to_mono
from gim_audio.checkpoints.folders import fingerprint, load_for_features
from gim_audio.config import Config, count_of
from gim_audio.devices import arithmetic
from gim_audio.errors import AudioError, ConfigError
from gim_audio.inference.layers import by_layer, module_names
from gim_audio.inference.pieces import Stream, encode_batch
from gim_audio.model.build import build_model
from gim_audio.model.geometry import Geometry
from gim_audio.model.stack import GreedyInfoMax

__all__ = [
    "BatchEncoder",
    "Encoder",
    "Features",
    "Featurizer",
    "ModuleName",
    "cut",
    "with_the_last",
]

Features = npt.NDArray[np.float32]

ModuleName = int | str
"""A module: its number from 1, from the end where negative, or its name."""

BatchEncoder = Callable[[Sequence[Waveform]], list[list[Features]]]
"""Waveforms to features: a list a waveform, in it a matrix a module."""

Signal = TypeVar("Signal", npt.NDArray[Any], Tensor)

BLOCK_SECONDS = {"cpu": 2}
"""Waveforms are encoded in blocks of this length, so that activations take bounded memory (and, on
a CPU, stay near its caches); results are the same."""
LONG_BLOCK_SECONDS = 20
"""The same on other devices."""


class Encoder(ABC):
    """An encoder of waveforms to features, one matrix for each module.

    Attributes:
        name: The name of the model or baseline, with the fingerprint of its weights.
        module_names: The names of the modules, such as `conv1` or `gru`.
        geometries: The geometry of each module's frames.
        rate: The sampling rate of waveforms in Hz.
        shortest: the fewest samples that give a frame of every module.
        block: The number of samples that it is best to encode at once.
        precision: The precision of its products.
    """

    name: str
    module_names: list[str]
    geometries: Sequence[Geometry]
    rate: int
    shortest: int
    block: int = 320_000
    precision: str

    def check_length(self, samples: int) -> None:
        """Refuse too short a waveform.

        Raises:
            AudioError: it has fewer than `shortest` samples.
        """
        if samples < self.shortest:
            raise AudioError(
                f"{samples} samples at {self.rate} Hz: at least {self.shortest} are needed"
            )

    @abstractmethod
    def encode(self, waveform: Waveform, modules: Sequence[int] | None = None) -> list[Features]:
        """Features of some modules, numbered from 1 (all of them).

        Shape: `(samples,)` → each `(frames, channels)`.

        Raises:
            AudioError: the waveform has fewer than `shortest` samples.
        """

    @abstractmethod
    def pieces(
        self, blocks: Iterable[Waveform], modules: Sequence[int]
    ) -> Iterator[list[Features]]:
        """Features of a waveform that comes in blocks, as soon as they are sure.

        Joined, they are those of `encode`.
        """

    def batch_encoder(self, modules: Sequence[int]) -> BatchEncoder:
        """Return a function that encodes batches, each waveform as `encode` does."""
        return lambda waveforms: [self.encode(waveform, modules) for waveform in waveforms]

    def __call__(self, waveform: Signal, rate: int, module: ModuleName | None = None) -> Signal:
        """Features of one module (the last one) of a waveform at any rate: see `encode_all`."""
        return self.encode_all(waveform, rate, [self.pick(module)])[0]

    def encode_all(self, waveform: Signal, rate: int, modules: Sequence[int]) -> list[Signal]:
        """Return the features of some modules of a waveform at any rate.

        Args:
            waveform: The samples in [-1, 1], an array or a tensor. Shape: `(samples,)`; of several
                channels, which are averaged, an array is `(samples, channels)`, as soundfile has
                it, and a tensor `(channels, samples)`, as torchaudio.
            rate: The rate of the samples in Hz.
            modules: Numbers from 1.

        Returns:
            Arrays or tensors, as the waveform is one, on its device. Shape: each `(frames, width)`.

        Raises:
            AudioError: it is too short, not of floating point, or holds what is not a number.
        """
        found = self.encode(mono(waveform, rate, self.rate), modules)
        if isinstance(waveform, Tensor):
            return [torch.from_numpy(features).to(waveform.device) for features in found]
        return found

    def pick(self, module: ModuleName | None) -> int:
        """Return a module's number from 1.

        Args:
            module: A number from 1, a negative one from the end, or a name such as `gru`; None is
                the last module.

        Raises:
            ConfigError: There is no such module.
        """
        count = len(self.module_names)
        if module is None:
            return count
        number = module
        if isinstance(module, str):
            number = (
                self.module_names.index(module) + 1
                if module in self.module_names
                else count_of(module) or 0
            )
        elif module < 0:
            number = count + 1 + module
        if not 1 <= int(number) <= count:
            names = ", ".join(self.module_names)
            raise ConfigError(f"module {module}: {self.name} has modules 1 to {count}: {names}")
        return int(number)

    def pick_all(self, modules: ModuleName | Sequence[ModuleName] | None) -> list[int]:
        """Return the numbers of one module or several; of `all`, all of them.

        Raises:
            ConfigError: There is no such module, or the list is empty.
        """
        if modules == "all":
            return list(range(1, len(self.module_names) + 1))
        if modules is None or isinstance(modules, str | int):
            return [self.pick(modules)]
        if not modules:
            raise ConfigError("no modules are asked for")
        return [self.pick(module) for module in modules]


class Featurizer(Encoder):
    """A trained model as an encoder.

    Example:
        >>> featurizer = Featurizer.random(Config())
        >>> features = featurizer.encode(np.zeros(16000, dtype=np.float32))
        >>> [f.shape for f in features][-1]
        (100, 256)
    """

    def __init__(
        self,
        model: GreedyInfoMax,
        name: str,
        device: torch.device | str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self.device = torch.device(device)
        self.precision: str = precision
        self.model = model.to(self.device).eval()
        self.name = f"{name} {fingerprint(model)}"
        self.module_names, self.rate = module_names(model), model.rate
        self.geometries: Sequence[Geometry] = model.geometries
        self.shortest = model.shortest
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.block = BLOCK_SECONDS.get(self.device.type, LONG_BLOCK_SECONDS) * self.rate

    @classmethod
    def load(
        cls,
        path: Path | str,
        device: torch.device | str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> "Featurizer":
        """The model of an experiment folder or checkpoint."""
        return cls(load_for_features(Path(path)), str(path), device, precision)

    @classmethod
    def random(
        cls,
        config: Config,
        device: torch.device | str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> "Featurizer":
        """An untrained model: the initialisation that training would begin with."""
        with torch.random.fork_rng():
            torch.manual_seed(config.training.seed)
            return cls(build_model(config.model, config.objectives), "random", device, precision)

    def by_layer(self) -> "Featurizer":
        """Return the same with every convolution and context as a module."""
        layers = Featurizer(
            by_layer(self.model), "", self.device, "bf16" if self.precision == "bf16" else "fp32"
        )
        layers.name = self.name
        return layers

    def encode(self, waveform: Waveform, modules: Sequence[int] | None = None) -> list[Features]:
        """See `Encoder.encode`."""
        wanted = list(modules or range(1, len(self.module_names) + 1))
        return [
            np.concatenate(pieces) for pieces in zip(*self.pieces([waveform], wanted), strict=True)
        ]

    def pieces(
        self, blocks: Iterable[Waveform], modules: Sequence[int]
    ) -> Iterator[list[Features]]:
        """See `Encoder.pieces`."""
        stream, heard = self.start(modules), 0
        short = (part for block in blocks for part in cut(block, self.block))
        for block, last in with_the_last(short):
            heard += len(block)
            if last:
                self.check_length(heard)
            samples = torch.from_numpy(np.require(block, requirements=["C", "W"])).to(self.device)
            with arithmetic(tf32=False):
                found = [features.cpu().numpy() for features in stream.push(samples, last=last)]
            yield found

    def start(self, modules: Sequence[int]) -> Stream:
        """Return a stream that takes one waveform piece by piece."""
        return Stream(self.model, modules, self._dtype)

    def batch_encoder(self, modules: Sequence[int]) -> BatchEncoder:
        """See `Encoder.batch_encoder`."""

        def encode(waveforms: Sequence[Waveform]) -> list[list[Features]]:
            self.check_length(min(map(len, waveforms)))
            with arithmetic(tf32=False):
                tensors = [
                    torch.from_numpy(np.ascontiguousarray(waveform)) for waveform in waveforms
                ]
                found = encode_batch(self.model, tensors, modules, self._dtype)
            return [[features.numpy() for features in each] for each in found]

        return encode

    @torch.no_grad()
    def encode_whole(self, waveform: Waveform, modules: Sequence[int]) -> list[Features]:
        """Encode in one pass, without pieces, as the model is trained.

        All other ways are compared with this.
        """
        with arithmetic(tf32=False):
            features, _ = self.model(
                torch.from_numpy(np.ascontiguousarray(waveform)).to(self.device)[None]
            )
        return [features[module - 1][0].cpu().numpy() for module in modules]


def mono(signal: npt.NDArray[Any] | Tensor, own_rate: int, rate: int) -> Waveform:
    """Samples as an encoder takes them: see `Encoder.__call__`. Shape: `(samples,)`.

    Raises:
        AudioError: they are integers, have another shape, or are not all finite; or a rate is none.
    """
    if isinstance(signal, Tensor) and signal.is_floating_point():  # NumPy has no bfloat16
        samples = signal.detach().cpu().float().numpy()
    else:
        samples = np.asarray(signal.detach().cpu() if isinstance(signal, Tensor) else signal)
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"samples of type {samples.dtype}: expected floating point in [-1, 1]")
    if samples.ndim == 2:
        samples = samples.T if isinstance(signal, Tensor) else samples
    elif samples.ndim == 1:
        samples = samples[:, None]
    if samples.ndim != 2 or not samples.shape[1]:
        shapes = "(samples,), an array (samples, channels) or a tensor (channels, samples)"
        raise AudioError(f"samples of shape {np.shape(signal)}: expected {shapes}")
    if not np.isfinite(samples).all():
        raise AudioError("samples that are not finite numbers")
    if not (isinstance(own_rate, int | np.integer) and own_rate > 0):
        raise AudioError(f"a rate of {own_rate}: expected a whole number of Hz")
    return to_mono(samples.astype(np.float32, copy=False), own_rate, rate)


def cut(waveform: Waveform, block: int) -> Iterator[Waveform]:
    """Yield blocks of `block` samples, the last one shorter."""
    return (waveform[start : start + block] for start in range(0, len(waveform), block))


def with_the_last(blocks: Iterable[Waveform]) -> Iterator[tuple[Waveform, bool]]:
    """Each block, and whether it is the last; an empty one if there is none."""
    held: Waveform | None = None
    for block in blocks:
        if held is not None:
            yield held, False
        held = block
    yield np.empty(0, np.float32) if held is None else held, True
