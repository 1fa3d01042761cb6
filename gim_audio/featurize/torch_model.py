"""Features as torch users expect them.

Batches of waveforms go in, batches of frames come out, with gradients if asked for.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gim_audio import audio
from gim_audio.errors import AudioError, ConfigError
from gim_audio.featurize.encoders import Encoder, Featurizer, ModuleName
from gim_audio.featurize.live import Live

__all__ = ["BaselineModel", "FeatureModel", "GimModel", "Trained"]

Trained = Literal["last", "all"]
"""The modules that learn: the last one, or all of them, by one loss and without stop-gradients."""

Modules = ModuleName | Sequence[ModuleName] | Literal["all"] | None
"""One module or several, by numbers from 1 (from the end where negative) or names such as `gru`;
None is the last."""


class FeatureModel(nn.Module):
    """Waveforms to features.

    Args:
        encoder: The encoder of single waveforms.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = encoder

    @property
    def encoder(self) -> Encoder:
        """The encoder of single waveforms, block by block."""
        return self._encoder

    @property
    def name(self) -> str:
        """The name of the model or baseline, with the fingerprint of its weights."""
        return self._encoder.name

    @property
    def module_names(self) -> list[str]:
        """The names of the modules, from the bottom up."""
        return list(self._encoder.module_names)

    @property
    def sample_rate(self) -> int:
        """The rate of the waveforms that `forward` takes, in Hz."""
        return self._encoder.rate

    @abstractmethod
    def extract_features(
        self, waveforms: Tensor, lengths: Tensor | None = None, modules: Modules = "all"
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of several modules and how many frames of each are real.

        Args:
            waveforms: Samples in [-1, 1] at `sample_rate`. Shape: `(samples,)` or `(batch,
                samples)`; two dimensions are a batch, never channels.
            lengths: The number of samples of each waveform, of which the rest is padding; all of
                them unless given. What is in the padding changes nothing. Shape: `(batch,)`.
            modules: The module or modules.

        Returns:
            For each module, in the order asked for, its features, zero beyond the end, and their
            numbers of frames.
            Shape: each `(batch, frames, width)` and `(batch,)`.

        Raises:
            AudioError: Waveforms or lengths have another shape or type, or are too short.
            ConfigError: There is no such module.
        """

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the features of the last module: see `extract_features`.

        Shape: `(batch, frames, width)`.
        """
        (features,), _ = self.extract_features(waveforms, lengths, None)
        return features

    def featurize(
        self,
        recording: npt.NDArray[Any] | Tensor | Path | str,
        sample_rate: int | None = None,
        module: Modules = None,
    ) -> Any:
        """Return the features of one recording at any rate and of any length, without gradients.

        Args:
            recording: A file, or samples in [-1, 1] as an array `(samples,)` or `(samples,
                channels)`, as soundfile has it, or a tensor `(samples,)` or `(channels, samples)`,
                as torchaudio; channels are averaged.
            sample_rate: The rate of the samples in Hz; `sample_rate` of the model unless given.
            module: The module or modules.

        Returns:
            An array `(frames, width)`, or a tensor where the recording is one; of several modules a
            list of them.

        Raises:
            AudioError: The recording cannot be read, is too short, or is not of finite
                floating-point numbers.
            ConfigError: There is no such module.
        """
        if isinstance(recording, str | Path):
            recording, sample_rate = audio.read(recording, self.sample_rate), None
        rate = self.sample_rate if sample_rate is None else sample_rate
        given = cast("npt.NDArray[Any]", recording)  # or a tensor
        found = self._on_its_device().encode_all(given, rate, self._encoder.pick_all(module))
        return found if isinstance(module, list | tuple) or module == "all" else found[0]

    def frame_times(self, frames: int, module: ModuleName | None = None) -> npt.NDArray[np.float64]:
        """Return the moments on which the first frames of a module are centred, in seconds.

        Shape: `(frames,)`.
        """
        geometry = self._encoder.geometries[self._encoder.pick(module) - 1]
        return (geometry.centre + geometry.hop * np.arange(frames)) / self.sample_rate

    def stream(self, rate: int | None = None, module: ModuleName | None = None) -> Live:
        """Return what takes sound that is still going on: see `Live`.

        Raises:
            ConfigError: It is a baseline, or there is no such module.
        """
        encoder = self._on_its_device()
        if not isinstance(encoder, Featurizer):
            raise ConfigError(f"{self.name}: only a network can stream")
        return Live(encoder, rate, module)

    def _on_its_device(self) -> Encoder:
        return self._encoder

    def _checked(self, waveforms: Tensor, lengths: Tensor | None) -> tuple[Tensor, list[int]]:
        """Return waveforms as a batch, and the length of each."""
        if not (
            isinstance(waveforms, Tensor)
            and waveforms.is_floating_point()
            and waveforms.ndim in {1, 2}
        ):
            kind = waveforms.dtype if isinstance(waveforms, Tensor) else type(waveforms).__name__
            raise AudioError(
                f"waveforms of {kind} and shape {tuple(np.shape(waveforms))}: expected a tensor of"
                " floating point, (samples,) or (batch, samples); `featurize` takes arrays, files"
                " and channels"
            )
        batch = waveforms if waveforms.ndim == 2 else waveforms[None]
        count = len(batch) if lengths is None else lengths.numel()
        if count != len(batch) or not count:
            raise AudioError(
                f"{count} lengths of {len(batch)} waveforms: expected one each, and some"
            )
        known = (
            [batch.shape[1]] * count
            if lengths is None
            else [int(length) for length in lengths.flatten().tolist()]
        )
        if max(known) > batch.shape[1]:
            raise AudioError(
                f"a length of {max(known)}: the waveforms have {batch.shape[1]} samples"
            )
        self._encoder.check_length(min(known))
        return batch, known

    @property
    @abstractmethod
    def widths(self) -> list[int]:
        """The number of features in a frame of each module."""

    def __repr__(self) -> str:
        """Return name, rate, and name, width and hop of each module."""
        encoder = self._encoder
        shown = (
            f"{name}: {width} features every {1000 * geometry.hop / encoder.rate:g} ms"
            for name, width, geometry in zip(
                encoder.module_names, self.widths, encoder.geometries, strict=True
            )
        )
        return f"{type(self).__name__}({self.name}, {encoder.rate} Hz; {'; '.join(shown)})"


class GimModel(FeatureModel):
    """A network that `gim-audio train` made, as a module of torch.

    Its weights are frozen unless `train` says otherwise. Gradients are those of the whole network:
    the stop-gradients between modules belong to greedy training, and a module that is frozen stays
    as it is all the same.

    Args:
        featurizer: The network.
        train: `last` or `all` to fine-tune these modules; None freezes all.

    Example:
        >>> from gim_audio.config import load
        >>> config = load(None, ["model.channels=8", "model.context.hidden=6"])
        >>> model = GimModel(Featurizer.random(config))
        >>> model(torch.zeros(2, 16000)).shape
        torch.Size([2, 100, 6])
    """

    def __init__(self, featurizer: Featurizer, train: Trained | None = None) -> None:
        super().__init__(featurizer)
        self.network = featurizer.model
        if train not in {None, "last", "all"}:
            raise ConfigError(f"train={train!r}: expected None, 'last' or 'all'")
        self.network.requires_grad_(train == "all")
        if train == "last":
            cast("nn.Module", self.network.stack[-1]).requires_grad_(True)
        for module in self.network.stack:  # features do not depend on what trained them
            module.objective.requires_grad_(False)

    def extract_features(
        self, waveforms: Tensor, lengths: Tensor | None = None, modules: Modules = "all"
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See `FeatureModel.extract_features`."""
        batch, known = self._checked(waveforms, lengths)
        wanted = self._encoder.pick_all(modules)
        padded = None if lengths is None else known
        features, _ = self.network(batch, lengths=padded, modules=wanted, isolated=False)
        made = [self.network.frames(length) for length in known]
        counts = torch.tensor(made, device=batch.device).T
        return features, [counts[module - 1] for module in wanted]

    @property
    def widths(self) -> list[int]:
        """See `FeatureModel.widths`."""
        return [module.width for module in self.network.stack]

    def _on_its_device(self) -> Encoder:
        featurizer = cast("Featurizer", self._encoder)
        featurizer.device = self.network.mean.device
        return featurizer


class BaselineModel(FeatureModel):
    """Features that are computed, not learnt (MFCC, log mel energies), with the same interface.

    It has no weights.

    They have no gradients.
    """

    def extract_features(
        self, waveforms: Tensor, lengths: Tensor | None = None, modules: Modules = "all"
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See `FeatureModel.extract_features`."""
        batch, known = self._checked(waveforms, lengths)
        wanted, rows = self._encoder.pick_all(modules), batch.detach().float().cpu().numpy()
        each = [
            self._encoder.encode(row[:length], wanted)
            for row, length in zip(rows, known, strict=True)
        ]
        by_module = [
            [torch.from_numpy(matrix) for matrix in of_module]
            for of_module in zip(*each, strict=True)
        ]
        features = [
            pad_sequence(matrices, batch_first=True).to(batch.device) for matrices in by_module
        ]
        counts = [
            torch.tensor([len(matrix) for matrix in matrices]).to(batch.device)
            for matrices in by_module
        ]
        return features, counts

    @property
    def widths(self) -> list[int]:
        """See `FeatureModel.widths`."""
        return [
            matrix.shape[1]
            for matrix in self._encoder.encode(np.zeros(self._encoder.shortest, np.float32))
        ]
