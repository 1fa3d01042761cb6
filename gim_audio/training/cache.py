"""The input of a module for a whole corpus, computed once and read from disk in every step.

`frames` holds 16-bit floats, utterance after utterance in the order of the corpus, each `(frames,
channels)`; where an utterance begins follows from the corpus and the model. `plan` says of which
weights and corpus it is.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gim_audio.devices import give_back_freed_memory, send
from gim_audio.errors import DataError, GimAudioError
from gim_audio.files import free_bytes
from gim_audio.model.module import ModuleState
from gim_audio.model.stack import GreedyInfoMax, autocast
from gim_audio.packed import Crops

__all__ = ["Cache", "CachedFeed", "build"]

REPORT_EVERY = 30.0
"""Seconds."""

PIECE = 4000
"""Frames that are computed at once: a long utterance needs no more memory than a crop."""

ReadFrames = Callable[[int, int, int], Tensor]
"""Frames or samples of an utterance, by its number in the corpus, from one to another. Shape: `(1,
n, channels)`."""


class Cache:
    """The input of a module on disk.

    Frames near an utterance's crops have seen what surrounds the crop, where a crop alone sees
    zeros.

    Args:
        folder: The folder of the cache, which may not exist yet.
        module: The module that takes it, from 2.
        model: The model that has the modules below.
        crops: The crops of the utterances.
        dtype: The type of the numbers, float16 or bfloat16.
    """

    def __init__(
        self, folder: Path, module: int, model: GreedyInfoMax, crops: Crops, dtype: torch.dtype
    ) -> None:
        self.folder, self.module = folder, module
        self.model, self.crops, self.dtype = model, crops, dtype
        corpus = crops.corpus
        below = model.stack[module - 2]
        self.channels = below.output_width
        self.hop = model.geometries[module - 2].hop
        self.crop_frames = model.frames(crops.crop)[module - 2]
        frames = np.zeros(len(corpus), dtype=np.int64)
        frames[crops.usable] = [
            model.frames(int(samples))[module - 2] for samples in corpus.samples[crops.usable]
        ]
        self._ends = 2 * self.channels * np.cumsum(frames)
        self._begins = self._ends - 2 * self.channels * frames
        self.bytes = int(self._ends[-1])
        weights = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            if not name.startswith("stack.") or int(name.split(".")[1]) < module - 1:
                flat = tensor.detach().cpu().contiguous().view(-1)
                weights.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
        self.plan = f"{corpus.fingerprint} {weights.hexdigest()} {crops.crop} {dtype}"
        self._file: int | None = None

    @property
    def complete(self) -> bool:
        """Return whether the cache exists, made of these weights and this corpus."""
        plan = self.folder / "plan"
        return plan.exists() and plan.read_text(encoding="utf-8") == self.plan

    def build(
        self, source: ReadFrames, first: int, say: Callable[[str], None], check: Callable[[], None]
    ) -> None:
        """Compute it, going on where an interrupted run was.

        Args:
            source: The input of module `first`.
            first: the lowest module to run.
            say: takes a line for the user.
            check: called between utterances; may raise to stop.

        Raises:
            DataError: the disk is too small.
            GimAudioError: a number does not fit into 16 bits.
        """
        partial = self.folder.with_name(f".{self.folder.name}.partial")
        if (
            not (partial / "plan").exists()
            or (partial / "plan").read_text(encoding="utf-8") != self.plan
        ):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            (partial / "plan").write_text(self.plan, encoding="utf-8")
        path = partial / "frames"
        path.touch()
        usable = self.crops.usable.tolist()
        done = int(np.searchsorted(self._ends[usable], path.stat().st_size, side="right"))
        os.truncate(path, int(self._ends[usable[done - 1]]) if done else 0)
        needed, free = self.bytes - path.stat().st_size, free_bytes(partial)
        say(
            f"caching what module {self.module} takes: {self.bytes / 1e9:.2f} GB in {self.folder}, "
            f"{free / 1e9:.1f} GB are free"
        )
        if needed > 0.95 * free:
            raise DataError(
                f"{self.folder}: {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free:"
                " make room, or train without cache: true"
            )
        said = time.monotonic()
        with path.open("ab") as file:
            for position, utterance in enumerate(usable[done:], start=done):
                check()
                for frames in self._encode(source, utterance, first):
                    file.write(frames.cpu().view(torch.int16).numpy().data)
                # Utterances differ in length: what fitted one is in the next one's way.
                give_back_freed_memory()
                if time.monotonic() - said > REPORT_EVERY:
                    said = time.monotonic()
                    say(f"caching what module {self.module} takes: {position / len(usable):.0%}")
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(self.folder, ignore_errors=True)
        partial.replace(self.folder)

    @torch.no_grad()
    def _encode(self, source: ReadFrames, utterance: int, first: int) -> Iterator[Tensor]:
        """Yield the input of the module, piece by piece. Shape: each `(frames, channels)`."""
        modules = self.model.stack[first - 1 : self.module - 1]
        length, hop = int(self.crops.corpus.samples[utterance]), self.hop
        if first > 1:
            length = self.model.frames(length)[first - 2]
            hop //= self.model.geometries[first - 2].hop
        dtype = torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32
        states: list[ModuleState | None] = [None] * len(modules)
        for start in range(0, length, PIECE * hop):
            stop = min(length, start + PIECE * hop)
            x = source(utterance, start, stop)
            for number, module in enumerate(modules):
                with autocast(x, dtype):
                    made = module(x, states[number], last=stop == length, features=False)
                x, states[number] = made.output, made.state
            found = x[0].to(self.dtype).contiguous()  # a crop is then one read
            if not torch.isfinite(found).all():
                raise GimAudioError(
                    f"what module {self.module} takes is too large for {self.dtype}: train in bf16"
                )
            yield found

    def read(self, utterance: int, start: int, frames: int) -> Tensor:
        """Some frames of an utterance. Shape: `(frames, channels)`.

        Raises:
            DataError: the file ends before.
        """
        if self._file is None:
            self._file = os.open(self.folder / "frames", os.O_RDONLY)
        found = np.empty((frames, self.channels), dtype=np.int16)
        byte = int(self._begins[utterance]) + 2 * self.channels * start
        left = memoryview(found.data).cast("B")
        while left:
            got = os.preadv(self._file, [left], byte)
            if not got:
                raise DataError(
                    f"{self.folder}/frames: cut short: remove {self.folder}, it is made again"
                )
            left, byte = left[got:], byte + got
        return torch.from_numpy(found).view(self.dtype)

    def part(self, utterance: int, start: int, stop: int) -> Tensor:
        """Read a part as a `ReadFrames` of another cache."""
        return self.read(utterance, start, stop - start)[None].float()

    def remove(self) -> None:
        """Remove the cache from disk."""
        shutil.rmtree(self.folder, ignore_errors=True)


def build(
    caches: Sequence[Cache],
    samples: ReadFrames,
    place: Callable[[int, int], None],
    say: Callable[[str], None],
    check: Callable[[], None],
) -> None:
    """Make the last of some caches, if it is not there, each from the one before it.

    Those are removed then.

    Args:
        caches: The caches, of rising modules.
        samples: The input of module 1.
        place: brings modules, from one to another, to where sources are.
        say: takes a line for the user.
        check: called between utterances; may raise to stop.
    """
    *below, cache = caches
    if cache.complete:
        return
    source, first = samples, 1
    if below:
        build(below, samples, place, say, check)
        source, first = below[-1].part, below[-1].module
    place(first, cache.module - 1)
    device = next(cache.model.stack[first - 1].parameters()).device
    cache.build(lambda *part: source(*part).to(device), first, say, check)
    for other in below:
        other.remove()


class CachedFeed:
    """The input of a module in a step.

    Args:
        cache: A complete cache.
        device: The device that takes it.
        part: The crops of the batch that this process has.
    """

    def __init__(self, cache: Cache, device: torch.device, part: slice = slice(None)) -> None:
        self.cache, self.device, self.part = cache, device, part

    def __call__(self, step: int) -> Tensor:
        """Return the input for the batch of a step, counted from 0.

        Shape: `(batch, frames, channels)`.
        """
        cache = self.cache
        utterances, starts = cache.crops.where(step)[:, self.part].tolist()
        dtype = torch.bfloat16 if cache.dtype == torch.bfloat16 else torch.float32
        x = torch.empty(
            len(starts), cache.channels, cache.crop_frames, dtype=dtype, device=self.device
        )
        # One at a time, to hold no more than x.
        for row, utterance, start in zip(x, utterances, starts, strict=True):
            row.copy_(
                send(cache.read(utterance, start // cache.hop, cache.crop_frames), self.device).T
            )
        return x.transpose(1, 2)  # x is in the order that convolutions want
