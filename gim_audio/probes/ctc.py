"""Phone error rate: a small network on frozen features names the phones in order.

It is trained by CTC (Graves et al. 2006).

As in CPC_audio (Rivière et al. 2020): one convolution, eight frames wide, every four frames;
decided greedily.
"""

import math
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gim_audio.errors import DataError
from gim_audio.featurize import Features
from gim_audio.intervals import estimate
from gim_audio.kaldi import DataDir
from gim_audio.phones import PHONES, Alignment
from gim_audio.probes.evaluation import Evaluation, Subject
from gim_audio.probes.frames import Labelled, held_out
from gim_audio.probes.solvers import FLOOR
from gim_audio.probes.tally import Result, figure, share_of

__all__ = ["PhoneErrorRate"]

WIDTH, STRIDE = 8, 4
"""Frames."""
EPOCHS, BATCH, LEARNING_RATE = 60, 8, 1e-3
"""Epochs at most."""
SILENT = 2
"""The first phones, silence and noise, are not read."""
BLANK = 0
CLASSES = len(PHONES) - SILENT + 1


class PhoneErrorRate(Evaluation):
    """Measure substituted, inserted and missed phones, for the last of the subject's modules.

    Silence and noise are not read.

    Features of the training set lie in a temporary folder: 4 bytes a frame and channel. They are
    standardised by their mean and deviation. Adam; the number of epochs is chosen on a held-out
    fifth of the training speakers.

    Args:
        subject: The features that are evaluated.
        train: utterances and their phones.
        test: the same.
        seed: The seed of the initialisation and of the order.
    """

    train: DataDir
    test: DataDir

    def __init__(self, subject: Subject, train: Labelled, test: Labelled, *, seed: int) -> None:
        self.subject, self.seed = subject, seed
        self.train, self.test = train[0], test[0]
        self._train, self._test = train[1], test[1]
        self._folder = tempfile.TemporaryDirectory(prefix="gim-audio-ctc-")
        self._file = Path(self._folder.name) / "frames"
        self._sums = np.zeros((2, 1))  # of frames, and of their squares
        self._lengths: list[int] = []
        self._targets: list[list[int]] = []
        self._learnt_from: list[str] = []
        self._speakers = sorted(set(self.test.speakers.values()))
        self._counts = np.zeros((len(self._speakers), 2))  # errors and phones

    def learn(self, name: str, features: list[Features]) -> None:
        """See `Evaluation`."""
        target = sequence(self._train.get(name))
        if not target:
            return
        needed = len(target) + sum(a == b for a, b in pairwise(target))  # a blank between twins
        if needed > outputs(len(features[0])):
            raise DataError(
                f"{self.train.path}: {name} has {len(target)} phones in {len(features[0])} frames, "
                f"and a phone needs {STRIDE} of them: labels of other audio?"
            )
        frames = np.ascontiguousarray(features[-1])
        with self._file.open("ab") as file:
            file.write(frames.data)
        sums = frames.sum(axis=0, dtype=np.float64), np.square(frames, dtype=np.float64).sum(axis=0)
        self._sums = self._sums + np.stack(sums)
        self._lengths.append(len(features[0]))
        self._targets.append(target)
        self._learnt_from.append(self.train.speakers[name])

    def fit(self) -> None:
        """See `Evaluation`.

        Raises:
            DataError: no utterance has phones.
        """
        if not self._targets:
            raise DataError(
                f"{self.train.path}: no labels, or of silence only: there is nothing to read"
            )
        shape = sum(self._lengths), self._sums.shape[1]
        frames = np.memmap(self._file, dtype=np.float32, mode="r", shape=shape)
        self._reader = self._fit(frames, *(self._sums / len(frames)))
        self._folder.cleanup()

    def _fit(
        self,
        frames: npt.NDArray[np.float32],
        mean: npt.NDArray[np.float64],
        square: npt.NDArray[np.float64],
    ) -> "Reader":
        """Choose the number of epochs on a held-out fifth of the speakers, then retrain on all."""
        variance = (square - mean**2).clip(0)
        deviation = np.sqrt(variance + FLOOR * variance.mean())
        deviation[deviation == 0] = 1  # nothing varies
        scale = torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()
        away = held_out(self._learnt_from, self.seed)
        losses: list[float] = []
        if away.any() and not away.all():
            held = np.flatnonzero(away)
            readers = self._epochs(frames, scale, np.flatnonzero(~away), EPOCHS)
            losses = [self._mean_loss(reader, frames, held) for reader in readers]
        self.epochs = 1 + int(np.argmin(losses)) if losses else EPOCHS
        *_, reader = self._epochs(frames, scale, np.arange(len(away)), self.epochs)
        return reader

    def _epochs(
        self,
        frames: npt.NDArray[np.float32],
        scale: tuple[Tensor, Tensor],
        utterances: npt.NDArray[np.int64],
        count: int,
    ) -> Iterator["Reader"]:
        """A reader after each epoch of training on some utterances."""
        torch.manual_seed(self.seed)
        reader = Reader(*scale)
        optimizer = torch.optim.Adam(reader.parameters(), lr=LEARNING_RATE)
        for _ in range(count):
            for batch in torch.split(torch.randperm(len(utterances)), BATCH):
                loss = self._loss(reader, frames, utterances[batch.numpy()].tolist())
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            yield reader

    @torch.no_grad()
    def _mean_loss(
        self, reader: "Reader", frames: npt.NDArray[np.float32], utterances: npt.NDArray[np.int64]
    ) -> float:
        """Return the mean loss of an utterance, from batches of about one length."""
        order = utterances[np.argsort(np.array(self._lengths)[utterances], kind="stable")]
        batches = [order[start : start + BATCH].tolist() for start in range(0, len(order), BATCH)]
        return sum(
            len(batch) * float(self._loss(reader, frames, batch)) for batch in batches
        ) / len(order)

    def _loss(
        self, reader: "Reader", frames: npt.NDArray[np.float32], utterances: list[int]
    ) -> Tensor:
        ends = np.cumsum(self._lengths)
        parts = (frames[ends[i] - self._lengths[i] : ends[i]] for i in utterances)
        inputs = [reader.standardise(torch.from_numpy(part.copy())) for part in parts]
        targets = [torch.tensor(self._targets[i]) for i in utterances]
        scores = reader(nn.utils.rnn.pad_sequence(inputs, batch_first=True))
        return nn.functional.ctc_loss(
            scores.log_softmax(2).transpose(0, 1),  # CTC takes (frames, batch, classes)
            torch.cat(targets),
            torch.tensor([outputs(len(x)) for x in inputs]),
            torch.tensor([len(t) for t in targets]),
            blank=BLANK,
        )

    def judge(self, name: str, features: list[Features]) -> None:
        """See `Evaluation`."""
        from torchaudio.functional import edit_distance

        target = sequence(self._test.get(name))
        if not target:
            return
        speaker = self._speakers.index(self.test.speakers[name])
        errors = edit_distance(target, self._reader.read(torch.from_numpy(features[-1])))
        self._counts[speaker] += (errors, len(target))

    def results(self) -> list[Result]:
        """See `Evaluation`.

        Raises:
            DataError: no test utterance has phones.
        """
        if not self._counts.any():
            raise DataError(
                f"{self.test.path}: no labels, or of silence only: there is nothing to test on"
            )
        spoke = self._counts.any(axis=1)
        counts, speakers = self._counts[spoke], np.array(self._speakers)[spoke].tolist()
        row = {
            "module": self.subject.modules[-1],
            "name": self.subject.names[-1],
            **figure(
                "per", estimate(share_of(counts[:, 0], counts[:, 1]), len(speakers), most=math.inf)
            ),
        }
        settings: dict[str, int | float | str] = {
            "seed": self.seed,
            "epochs": self.epochs,
            "learning_rate": LEARNING_RATE,
            "stack": self.subject.stack,
        }
        found: dict[str, int | float] = {
            "train_utterances": len(self._targets),
            "test_phones": int(counts[:, 1].sum()),
            "test_speakers": len(counts),
        }
        return [Result("per", "ctc", [row], found, settings, speakers)]


class Reader(nn.Module):
    """Standardised frames, padded with zeros, to scores of blank and phones, every fourth frame.

    Shape: `(batch, frames, channels)` → `(batch, outputs(frames), classes)`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.convolution = nn.Conv1d(len(mean), CLASSES, WIDTH, STRIDE, padding=WIDTH // 2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        # Convolutions take time last.
        scores: Tensor = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        return scores

    def standardise(self, x: Tensor) -> Tensor:
        """Shape: `(frames, channels)`, as the result."""
        return (x - self.mean) / self.deviation

    @torch.no_grad()
    def read(self, x: Tensor) -> list[int]:
        """The best path without repeats and blanks. Shape: x `(frames, channels)`."""
        path = self(self.standardise(x)[None])[0].argmax(1)
        return [c for c in torch.unique_consecutive(path).tolist() if c != BLANK]


def outputs(frames: int) -> int:
    """Return the number of scores that a reader gives."""
    return (frames + 2 * (WIDTH // 2) - WIDTH) // STRIDE + 1


def sequence(alignment: Alignment | None) -> list[int]:
    """Phones to read, numbered from 1: 0 is the blank."""
    if alignment is None:
        return []
    return [label - SILENT + 1 for label in alignment.labels.tolist() if label >= SILENT]
