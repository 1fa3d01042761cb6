"""Features of sound that is still going on."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import Tensor

from gim_audio.audio import Waveform
from gim_audio.devices import arithmetic
from gim_audio.errors import AudioError, ConfigError
from gim_audio.featurize.encoders import Featurizer, ModuleName, Signal, mono
from gim_audio.inference.pieces import Stream

__all__ = ["Live"]


class Live:
    """Takes samples, as many at a time as there are, and gives each frame as soon as it is sure.

    Together its frames are those of the whole: to float rounding, and at another rate too.

    Args:
        featurizer: a model.
        rate: The rate of the samples in Hz; the model's own by default.
        module: A number from 1, from the end where negative, or a name; the last one by default.

    Attributes:
        latency: seconds from the moment on which a frame is centred to the sample with which it can
            be given; a resampler waits for some more.

    Example:
        >>> from gim_audio.config import Config
        >>> live = Live(Featurizer.random(Config()), rate=16000)
        >>> [live.push(np.zeros(n, np.float32)).shape for n in (252, 1, 160)]
        [(0, 256), (1, 256), (1, 256)]
        >>> live.flush().shape  # 413 samples make 3 frames
        (1, 256)
        >>> live.latency
        0.0145
    """

    def __init__(
        self, featurizer: Featurizer, rate: int | None = None, module: ModuleName | None = None
    ) -> None:
        number = featurizer.pick(module)
        geometry = featurizer.geometries[number - 1]
        if math.isinf(geometry.latency):
            name = featurizer.module_names[number - 1]
            raise ConfigError(
                f"{featurizer.name}: module {number} ({name}) sees the whole utterance, and cannot"
                " stream: take one below it, or a context with a lookahead"
            )
        self.latency = geometry.latency / featurizer.rate
        self.rate = featurizer.rate if rate is None else rate
        mono(np.empty(0), self.rate, featurizer.rate)  # refuses what is no rate
        self._featurizer = featurizer
        self._stream: Stream | None = featurizer.start([number])
        self._resampler: Any = None
        if self.rate != featurizer.rate:
            self._resampler = soxr.ResampleStream(self.rate, featurizer.rate, 1, dtype="float32")

    def push(self, samples: Signal) -> Signal:
        """The frames that these samples complete; as an array or a tensor, as they are.

        Args:
            samples: The next samples, as in `Encoder.encode_all`.

        Returns:
            Shape: `(frames, width)`, often with no frames.

        Raises:
            AudioError: they are not finite floating-point numbers, or the stream has ended.
        """
        features = self._push(mono(samples, self.rate, self.rate), last=False)
        return (
            torch.from_numpy(features).to(samples.device)
            if isinstance(samples, Tensor)
            else features
        )

    def flush(self) -> npt.NDArray[np.float32]:
        """The last frames, which see the end; nothing can be pushed after.

        Shape: `(frames, width)`.
        """
        return self._push(np.empty(0, np.float32), last=True)

    def _push(self, samples: Waveform, *, last: bool) -> npt.NDArray[np.float32]:
        if self._stream is None:
            raise AudioError("the stream is over: begin another one")
        if self._resampler is not None:
            samples = np.asarray(self._resampler.resample_chunk(samples, last=last), np.float32)
        waveform = torch.from_numpy(samples).to(self._featurizer.device)
        with arithmetic(tf32=False):
            (frames,) = self._stream.push(waveform, last=last)
        if last:
            self._stream = None
        return frames.cpu().numpy()
