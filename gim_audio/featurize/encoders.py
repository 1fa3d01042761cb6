"""Waveforms to matrices of features, one a module."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gim_audio.audio import Waveform
from gim_audio.config import Config
from gim_audio.errors import AudioError, ConfigError
from gim_audio.model.checkpoint import fingerprint, load_model
from gim_audio.model.devices import set_precision
from gim_audio.model.gim import GreedyInfoMax, module_names
from gim_audio.model.layers import Geometry, State

__all__ = ["BASELINES", "Encoder", "Features", "Featurizer", "KaldiFeatures", "load_encoder", "pick_module"]

Features = npt.NDArray[np.float32]

BASELINES = ("mfcc", "mfcc13", "fbank")
"""Features that are computed, not learnt."""

CHUNK_SECONDS = 10
"""Long files are encoded in pieces of this length, with equal results and bounded memory."""


class Encoder(Protocol):
    """What turns a waveform into features, one matrix a module.

    Attributes:
        name: of the model or baseline, with the fingerprint of its weights.
        modules: what each module is made of.
        geometries: of each module's frames.
        rate: of the waveforms, Hz.
        shortest: the fewest samples that give a frame of every module.
        precision: of its products.
    """

    name: str
    modules: list[str]
    geometries: Sequence[Geometry]
    rate: int
    shortest: int
    precision: str

    def encode(self, waveform: Waveform, modules: Sequence[int] | None = None) -> list[Features]:
        """Features of some modules, numbered from 1 (all of them). Shape: `(samples,)` → each `(frames, channels)`.

        Raises:
            AudioError: the waveform has fewer than `shortest` samples.
        """


class Featurizer:
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
        hop = self.geometries[-1].hop
        self._left = -min(g.start for g in self.geometries) + hop
        self._left -= self._left % hop  # chunks begin where the strides of a whole pass do
        self._right = max(g.start + g.receptive_field for g in self.geometries)
        self._chunk = CHUNK_SECONDS * self.rate // hop * hop

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

    @torch.no_grad()
    def encode(self, waveform: Waveform, modules: Sequence[int] | None = None) -> list[Features]:
        """See `Encoder.encode`. Pieces of a long waveform overlap by the receptive field and carry the context."""
        wanted = list(modules or range(1, len(self.modules) + 1))
        if len(waveform) < self.shortest:
            raise AudioError(f"{len(waveform)} samples at {self.rate} Hz: at least {self.shortest} are needed")
        samples = torch.from_numpy(np.ascontiguousarray(waveform)).to(self.device)
        stack = list(self.model.stack)[: max(wanted)]
        states: list[State] = [()] * len(stack)
        pieces: list[list[Features]] = [[] for _ in stack]
        starts = range(0, max(1, len(samples) // self._chunk) * self._chunk, self._chunk)
        for start in starts:
            begin = max(0, start - self._left)
            last = start == starts[-1]
            stop = len(samples) if last else start + self._chunk
            x = c = self.model.standardise(samples[None, begin : stop + self._right])
            for number, (module, geometry) in enumerate(zip(stack, self.geometries, strict=False)):
                if number and stack[number - 1].hands_up == "contexts":
                    inside = c  # these have no surroundings to cut off
                else:
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                        x = module.encoder(x)
                    if module.context is None and number + 1 not in wanted:
                        continue  # nobody wants its frames as they are
                    first = (start - begin) // geometry.hop
                    inside = x[:, :, first:] if last else x[:, :, first : first + self._chunk // geometry.hop]
                    inside = inside.transpose(1, 2).float()
                c, states[number] = _summarise(module.context, inside, states[number])
                if number + 1 in wanted:
                    pieces[number].append(c[0].cpu().numpy())
        return [np.concatenate(pieces[number - 1]) for number in wanted]


def _summarise(context: torch.nn.Module | None, z: Tensor, state: State) -> tuple[Tensor, State]:
    return context(z, state) if context is not None else (z, state)


class KaldiFeatures:
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
