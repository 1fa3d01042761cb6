"""Waveforms to matrices of features, one a module."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from gim_audio.audio import Waveform
from gim_audio.config import Config
from gim_audio.errors import AudioError, ConfigError
from gim_audio.model.checkpoint import fingerprint, load_model
from gim_audio.model.devices import set_precision
from gim_audio.model.gim import GreedyInfoMax, module_names
from gim_audio.model.layers import Geometry
from gim_audio.model.stream import Stream

__all__ = ["BASELINES", "Encoder", "Features", "Featurizer", "KaldiFeatures", "cut", "load_encoder", "pick_module"]

Features = npt.NDArray[np.float32]

BASELINES = ("mfcc", "mfcc13", "fbank")
"""Features that are computed, not learnt."""

BLOCK_SECONDS = {"cpu": 2}
"""Waveforms are encoded in blocks of this length, so that activations take bounded memory (and, on a CPU, a cache's
size: a fifth faster than blocks of 10 s); results are the same."""
LONG_BLOCK_SECONDS = 20
"""On other devices."""


class Encoder(ABC):
    """What turns a waveform into features, one matrix a module.

    Attributes:
        name: of the model or baseline, with the fingerprint of its weights.
        modules: what each module is made of.
        geometries: of each module's frames.
        rate: of the waveforms, Hz.
        shortest: the fewest samples that give a frame of every module.
        block: how many samples it is best to encode at once.
        precision: of its products.
    """

    name: str
    modules: list[str]
    geometries: Sequence[Geometry]
    rate: int
    shortest: int
    block: int = 320_000
    precision: str

    @abstractmethod
    def encode(self, waveform: Waveform, modules: Sequence[int] | None = None) -> list[Features]:
        """Features of some modules, numbered from 1 (all of them). Shape: `(samples,)` → each `(frames, channels)`.

        Raises:
            AudioError: the waveform has fewer than `shortest` samples.
        """

    def pieces(self, blocks: Iterable[Waveform], modules: Sequence[int]) -> Iterator[list[Features]]:
        """Features of a waveform that comes in blocks, as soon as they are sure; together those of `encode`."""
        yield self.encode(np.concatenate([np.empty(0, np.float32), *blocks]), modules)


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
        self.modules, self.rate = module_names(model), model.rate
        self.geometries: Sequence[Geometry] = model.geometries
        self.shortest = model.shortest
        self.block = BLOCK_SECONDS.get(self.device.type, LONG_BLOCK_SECONDS) * self.rate

    @classmethod
    def load(
        cls, path: Path | str, device: torch.device | str = "cpu", precision: Literal["fp32", "bf16"] = "fp32"
    ) -> "Featurizer":
        """The model of an experiment folder or checkpoint."""
        return cls(load_model(Path(path))[1], str(path), device, precision)

    @classmethod
    def random(
        cls, config: Config, device: torch.device | str = "cpu", precision: Literal["fp32", "bf16"] = "fp32"
    ) -> "Featurizer":
        """An untrained model: the initialisation that training would begin with."""
        torch.manual_seed(config.training.seed)
        return cls(GreedyInfoMax.build(config.model, config.objective), "random", device, precision)

    def by_layer(self) -> "Featurizer":
        """With every convolution and context as a module, and the same name."""
        layers = Featurizer(self.model.by_layer(), "", self.device, "bf16" if self.precision == "bf16" else "fp32")
        layers.name = self.name
        return layers

    def encode(self, waveform: Waveform, modules: Sequence[int] | None = None) -> list[Features]:
        """See `Encoder.encode`."""
        wanted = list(modules or range(1, len(self.modules) + 1))
        return [np.concatenate(pieces) for pieces in zip(*self.pieces(cut(waveform, self.block), wanted), strict=True)]

    def pieces(self, blocks: Iterable[Waveform], modules: Sequence[int]) -> Iterator[list[Features]]:
        """See `Encoder.pieces`."""
        stream = Stream(self.model, modules, dtype=torch.bfloat16 if self.precision == "bf16" else torch.float32)
        heard = 0
        for block, last in _with_the_last(blocks):
            heard += len(block)
            if last and heard < self.shortest:
                raise AudioError(f"{heard} samples at {self.rate} Hz: at least {self.shortest} are needed")
            samples = torch.from_numpy(np.ascontiguousarray(block)).to(self.device)
            yield [features[0].cpu().numpy() for features in stream.push(samples[None], last=last)]


def cut(waveform: Waveform, block: int) -> Iterator[Waveform]:
    """Blocks of so many samples, the last one shorter."""
    return (waveform[start : start + block] for start in range(0, len(waveform), block))


def _with_the_last(blocks: Iterable[Waveform]) -> Iterator[tuple[Waveform, bool]]:
    """Each block, and whether it is the last; an empty one if there is none."""
    held: Waveform | None = None
    for block in blocks:
        if held is not None:
            yield held, False
        held = block
    yield np.empty(0, np.float32) if held is None else held, True


class KaldiFeatures(Encoder):
    """13 MFCC, alone or with their first and second differences, or 80 log mel energies, as Kaldi computes them."""

    def __init__(self, kind: str, rate: int = 16000) -> None:
        self.kind, self.name, self.rate, self.precision = kind, kind, rate, "fp32"
        self.modules = [kind]
        self.shortest = rate * 25 // 1000
        self.geometries: Sequence[Geometry] = [Geometry(hop=rate // 100, start=0, receptive_field=self.shortest)]

    def encode(self, waveform: Waveform, modules: Sequence[int] | None = None) -> list[Features]:  # noqa: ARG002 - one module
        """See `Encoder.encode`."""
        from torchaudio.compliance import kaldi
        from torchaudio.functional import compute_deltas

        if len(waveform) < self.shortest:
            raise AudioError(f"{len(waveform)} samples at {self.rate} Hz: at least {self.shortest} are needed")
        pcm = torch.from_numpy(np.ascontiguousarray(waveform))[None] * 32768  # Kaldi's scale
        if self.kind == "fbank":
            energies = kaldi.fbank(pcm, num_mel_bins=80, sample_frequency=self.rate)
            return [energies.numpy()]
        cepstra = kaldi.mfcc(pcm, sample_frequency=self.rate).T
        if self.kind == "mfcc13":
            return [cepstra.T.contiguous().numpy()]
        first = compute_deltas(cepstra)
        return [torch.cat([cepstra, first, compute_deltas(first)]).T.contiguous().numpy()]


def load_encoder(name: str, device: torch.device | str = "cpu", precision: Literal["fp32", "bf16"] = "fp32") -> Encoder:
    """A baseline (`mfcc`, `mfcc13`, `fbank`, `random`), an experiment or a checkpoint; `./mfcc` is a folder.

    Raises:
        ConfigError: `bf16` for a baseline that is not a network.
    """
    if name in BASELINES:
        if precision != "fp32":
            raise ConfigError(f"--precision {precision}: {name} is computed in fp32")
        return KaldiFeatures(name)
    set_precision("fp32", torch.device(device))  # bf16 is autocast's, and TF32 was not asked for
    if name == "random":
        return Featurizer.random(Config(), device, precision)
    return Featurizer.load(name, device, precision)


def pick_module(encoder: Encoder, module: int | None) -> int:
    """A module's number from 1, the last one by default.

    Raises:
        ConfigError: there are fewer.
    """
    count = len(encoder.modules)
    if module is not None and not 1 <= module <= count:
        raise ConfigError(f"--module {module}: {encoder.name} has modules 1 to {count}: {', '.join(encoder.modules)}")
    return module or count
