"""Batches onto the device: read for each step, or gathered from a corpus on the device."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gim_audio.devices import free_bytes, send
from gim_audio.packed import Crops

__all__ = ["Feed"]


class Feed:
    """The waveforms of a step.

    Args:
        crops: The crops of each step.
        device: The device that takes them.
        keep: put all that crops can come from onto the device, as 16-bit integers; then a batch is
            one gather. `auto` does so on a GPU, where they take less than half of the memory that
            is free.
        part: The crops of a batch that this process has.

    A GPU does not wait for what is read: a thread reads the next batch meanwhile.
    """

    def __init__(
        self,
        crops: Crops,
        device: torch.device,
        keep: Literal["auto", "always", "never"],
        part: slice = slice(None),
    ) -> None:
        self.crops, self.device, self.part = crops, device, part
        corpus, usable = crops.corpus, crops.usable
        if keep == "auto":
            fits = 2 * 2 * corpus.samples[usable].sum() < free_bytes(device)
            keep = "always" if fits else "never"
        self.kept: Tensor | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._coming: tuple[int, Future[Tensor]] | None = None
        if keep == "always":
            ends = np.cumsum(corpus.samples[usable])
            self.kept = torch.empty(int(ends[-1]), dtype=torch.int16, device=device)
            self._begins = np.zeros(len(corpus), dtype=np.int64)
            self._begins[usable[1:]] = ends[:-1]
            for index, end in zip(usable.tolist(), ends.tolist(), strict=True):
                self.kept[self._begins[index] : end] = torch.from_numpy(corpus.read(index))
        elif device.type == "cuda":
            self._reader = ThreadPoolExecutor(1)

    def __call__(self, step: int) -> Tensor:
        """The part of a step's batch, counted from 0.

        Shape: `(batch, crop)`, samples in [-1, 1].
        """
        if self.kept is None:
            pcm = send(self._read_ahead(step) if self._reader else self._read(step), self.device)
        else:
            utterances, starts = self.crops.where(step)
            first = send(
                torch.from_numpy((self._begins[utterances] + starts)[self.part]), self.device
            )
            pcm = self.kept[first[:, None] + torch.arange(self.crops.crop, device=self.device)]
        return pcm.float().mul_(1 / 32768)

    def _read(self, step: int) -> Tensor:
        """Shape: `(batch, crop)`, int16."""
        return torch.from_numpy(self.crops(step, self.part))

    def _read_ahead(self, step: int) -> Tensor:
        """Return the batch of a step, and begin to read the next one. Shape: as `_read`."""
        assert self._reader is not None  # noqa: S101 - the caller has looked
        if self._coming is not None and self._coming[0] == step:
            found = self._coming[1].result()
        else:
            found = self._read(step)
        self._coming = step + 1, self._reader.submit(self._read, step + 1)
        return found
