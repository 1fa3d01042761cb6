"""Training batches: which parts of which utterances a step takes."""

import numpy as np
import numpy.typing as npt

from gim_audio.errors import DataError
from gim_audio.packed.corpus import PackedCorpus

__all__ = ["Crops"]


USED = 0.9
"""Share of the audio that a crop should use."""
MOST_UNUSED = 0.5
"""The share of the audio that may be left out unless somebody asks for more."""


class Crops:
    """Training batches: each a function of (corpus, seed, step).

    Resuming needs only the step.

    In an epoch, every utterance gives one crop, in random order, from a random multiple of `hop`.
    Batches run on over the end of an epoch.

    Args:
        corpus: utterances shorter than `crop` are left out; `left_out` says how many, of which
            length.
        crop: The number of samples of a crop.
        hop: crops start on its multiples.
        batch: crops a step.
        seed: The seed of the order and the places.

    Raises:
        DataError: every utterance is shorter than `crop`.
    """

    def __init__(self, corpus: PackedCorpus, *, crop: int, hop: int, batch: int, seed: int) -> None:
        self.corpus, self.crop, self.hop, self.batch, self.seed = corpus, crop, hop, batch, seed
        self.usable = np.flatnonzero(corpus.samples >= crop)
        short, minutes = corpus.samples[corpus.samples < crop], corpus.samples / corpus.rate / 60
        self.unused = float(short.sum() / corpus.samples.sum())
        self.left_out = ""
        if len(short):
            self.left_out = (
                f"{len(short)} of {len(corpus)} utterances, {self.unused * minutes.sum():.1f} of"
                f" {minutes.sum():.1f} minutes of audio, are shorter than data.crop={crop}"
                f" ({crop / corpus.rate:.2f} s)"
            )
        if not len(self.usable):
            raise DataError(f"{corpus.path}: {self.left_out}: {self.advice()}")
        self._plan: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty((2, 0), dtype=np.int64))

    def refuse_to_waste(self) -> None:
        """Refuse to train on the smaller part of the audio.

        Raises:
            DataError: More than half of the audio is left out.
        """
        if self.unused > MOST_UNUSED:
            raise DataError(
                f"{self.corpus.path}: {self.left_out}: {self.advice()}; data.short='leave out'"
                " trains without them"
            )

    def advice(self) -> str:
        """Return which crop would use nine tenths of the audio, or that they are used."""
        lengths = np.sort(self.corpus.samples)[::-1]
        enough = int(np.searchsorted(np.cumsum(lengths), USED * lengths.sum()))
        fits = int(lengths[enough]) // self.hop * self.hop
        if fits >= self.crop:
            return f"the others are {1 - self.unused:.1%} of the audio"
        share = lengths[lengths >= fits].sum() / lengths.sum()
        return (
            f"data.crop={fits} would use {share:.0%} of the audio"
            if fits
            else "utterances are too short to learn from"
        )

    def __call__(self, step: int, part: slice = slice(None)) -> npt.NDArray[np.int16]:
        """PCM of a step, counted from 0, or of a part of its crops. Shape: `(batch, crop)`."""
        utterances, starts = self.where(step)[:, part].tolist()
        pcm = np.empty((len(starts), self.crop), dtype="<i2")
        for row, utterance, start in zip(pcm, utterances, starts, strict=True):
            self.corpus.fill(row, utterance, start)
        return pcm

    def where(self, step: int) -> npt.NDArray[np.int64]:
        """Return the utterances of a step's crops, and their first samples. Shape: `(2, batch)`."""
        epoch, turn = divmod(step * self.batch, len(self.usable))
        found = self._epoch(epoch)[:, turn : turn + self.batch]
        while (missing := self.batch - found.shape[1]) > 0:  # runs on over the end of an epoch
            epoch += 1
            found = np.concatenate([found, self._epoch(epoch)[:, :missing]], axis=1)
        return found

    def _epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        """The crops of an epoch, in their order; kept until the next. Shape: `(2, utterances)`."""
        known, plan = self._plan
        if epoch != known:
            generator = np.random.default_rng((self.seed, epoch))
            order = generator.permutation(self.usable)
            choices = (self.corpus.samples[order] - self.crop) // self.hop + 1
            starts = (generator.random(len(order)) * choices).astype(np.int64) * self.hop
            plan = np.stack([order, starts])
            self._plan = epoch, plan  # at once, as two threads may ask
        return plan
