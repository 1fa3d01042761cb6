"""Featurize a set of utterances.

The good ones are written, the bad ones come back with the reason.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from gim_audio.audio import Header
from gim_audio.errors import AudioError, GimAudioError
from gim_audio.featurize.check import largest_difference
from gim_audio.featurize.encode import Task, Worker
from gim_audio.featurize.encoders import Encoder
from gim_audio.featurize.inputs import Source
from gim_audio.featurize.jobs import EncodingJob, fingerprint_of_inputs, headers, plan
from gim_audio.featurize.outputs import Matrix, Output, Write
from gim_audio.featurize.target import Target
from gim_audio.featurize.work import IndexEntry, Work, named
from gim_audio.files import free_bytes
from gim_audio.kaldi import DataDir
from gim_audio.provenance import provenance
from gim_audio.workers import each

__all__ = ["Report", "featurize", "pipe"]

Progress = Callable[[float, float | None], None]
"""Takes the seconds of audio that are done, and of how many."""


def _named_modules(task: Task, encoder: Encoder) -> list[int]:
    """Return the numbers of a task's modules, each once."""
    return list(dict.fromkeys(encoder.pick_all(task.modules or None)))


@dataclass
class Report:
    """The outcome of a run.

    Attributes:
        good: The number of utterances that were written.
        failed: the others, with the reason.
        notes: Notes on utterances that were written.
        check: largest difference, and how large values are, where it was asked for and could be
            made.
        outputs: The specifier of each module's output.
    """

    good: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    check: tuple[float, float] | None = None
    outputs: list[str] = field(default_factory=list)

    def enter(self, entries: list[IndexEntry]) -> None:
        """Enter the outcome of an utterance."""
        first = entries[0]
        if first.failed:
            self.failed[first.name] = first.failed
            return
        self.good += 1
        if first.note:
            self.notes[first.name] = first.note

    def refuse_nothing(self) -> None:
        """Refuse a run in which no utterance is good.

        Raises:
            AudioError: so it is.
        """
        if not self.good:
            first = next(iter(self.failed.values()), "there are no utterances")
            count = len(self.failed)
            raise AudioError(
                first if count < 2 else f"all {count} utterances failed, the first: {first}"
            )


def featurize(
    task: Task,
    data: DataDir,
    target: Target,
    *,
    nj: int = 1,
    check: int = 0,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Write the features of every utterance, in the order of their names.

    After an interruption the same call continues.

    Args:
        task: The task, which says what is made of an utterance.
        data: the utterances.
        target: The place of the features.
        nj: The number of processes.
        check: The number of utterances that are featurized again: see `gim_audio.featurize.check`.
        progress: called with seconds of audio.

    Raises:
        AudioError: no utterance could be featurized; then nothing is written.
        GimAudioError: an output exists, is not understood or cannot be written.
    """
    encoder = task.encoder()
    modules = _named_modules(task, encoder)
    outputs = target.outputs(task, modules)
    report = Report(outputs=[target.named(task, module) for module in modules])
    for name in data.utterances:
        if reason := _refusal(outputs, name):
            report.failed[name] = reason
    if report.failed:
        fine = [name for name in data.utterances if name not in report.failed]
        if not fine:
            report.refuse_nothing()
        data = data.select(fine)
    known = headers(data)
    settings = {
        "encoder": encoder.name.split()[-1],  # its fingerprint, however the folder is called
        "task": repr(replace(task, exp="", modules=tuple(modules))),
        "inputs": fingerprint_of_inputs(data),
    }
    folder = _beside(target, outputs)
    own = Work.was_writing(folder, settings)
    for output in outputs.values():
        output.remove() if own else output.check()
    with Work.begin(folder, task.dtype, settings) as work:
        _encode_all(encoder, task, modules, plan(data, known, task.device), work, nj, progress)
        done = work.done()
        for name in data.utterances:
            report.enter(done[name])
        if report.good:
            if check:
                report.check = largest_difference(task, modules, data, work, done, check)
            work.writes()
            _write_all(encoder, task, outputs, work, done, known)
    report.refuse_nothing()
    return report


def pipe(
    task: Task,
    source: Source,
    target: Target,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Write the features of utterances in the order in which they come, as soon as complete.

    Args:
        task: The task, which says what is made of an utterance.
        source: gives the utterances.
        target: The place of the features.
        progress: called with seconds of audio.

    Raises:
        GimAudioError: as `featurize`.
    """
    encoder = task.encoder()
    modules = _named_modules(task, encoder)
    outputs, seconds = target.outputs(task, modules), 0.0
    report = Report(outputs=[target.named(task, module) for module in modules])
    for output in outputs.values():
        output.check()
    with (
        tempfile.TemporaryDirectory(prefix="gim-audio-") as folder,
        named(Path(folder)),
        ExitStack() as opened,
    ):
        work = Work(Path(folder), task.dtype)
        shard, writes = work.shard(modules), dict[int, Write]()
        worker = Worker(task, encoder, modules, shard)
        heard: set[str] = set()
        for name, where, blocks in source(encoder.rate):
            if name in heard or (reason := _refusal(outputs, name)):
                report.failed[name] = f"{name}: comes a second time" if name in heard else reason
                continue
            heard.add(name)
            found = worker.stream(name, where, blocks)
            shard.enter([found])
            report.enter(found)
            for entry in found:
                if entry.failed:
                    continue
                if entry.module not in writes:  # now it is known how wide features are
                    description = _describe(encoder, task, entry, {})
                    writes[entry.module] = opened.enter_context(
                        outputs[entry.module].open(description)
                    )
                writes[entry.module](_matrix(work, task, entry))
            shard.clear()
            seconds += found[0].seconds
            progress(seconds, None)
        report.refuse_nothing()
    return report


def _refusal(outputs: Mapping[int, Output], name: str) -> str:
    return next(filter(None, (output.refuse(name) for output in outputs.values())), "")


def _beside(target: Target, outputs: Mapping[int, Output]) -> Path:
    """Return the folder of the work, hidden beside the first output under the target's own name."""
    path = next(iter(outputs.values())).path
    if path is None:
        raise GimAudioError(
            f"{target.specifier}: standard output takes one utterance after another: see `pipe`"
        )
    return path.parent / f".{path.name}.work"


def _encode_all(
    encoder: Encoder,
    task: Task,
    modules: list[int],
    planned: list[EncodingJob],
    work: Work,
    nj: int,
    progress: Progress,
) -> None:
    done = {name for name, entries in work.done().items() if not entries[0].failed}
    left = [job for job in planned if not done.issuperset(job.data.utterances)]
    total = sum(job.seconds for job in planned)
    seconds = total - sum(job.seconds for job in left)
    progress(seconds, total)
    if nj == 1:
        worker = Worker(task, encoder, modules, work.shard(modules))
        for job in left:
            worker.run(job)
            seconds += job.seconds
            progress(seconds, total)
        return
    jobs = ((job, task, tuple(modules), work.folder, nj) for job in left)
    with closing(each(_in_a_process, jobs, nj)) as results:
        for (job, *_), _ in results:
            seconds += job.seconds
            progress(seconds, total)


def _in_a_process(
    job: EncodingJob, task: Task, modules: tuple[int, ...], folder: Path, nj: int
) -> None:
    _worker(task, modules, folder, nj).run(job)


@cache
def _worker(task: Task, modules: tuple[int, ...], folder: Path, nj: int) -> Worker:
    """Return this process's worker, which is kept between jobs.

    Of several GPUs, each process takes one.
    """
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // nj))
    shard = Work(folder, task.dtype).shard(modules)
    if task.device == "cuda":  # not a certain one
        torch.cuda.set_device(shard.number % torch.cuda.device_count())
    return Worker(task, task.encoder(), modules, shard)


def _write_all(
    encoder: Encoder,
    task: Task,
    outputs: Mapping[int, Output],
    work: Work,
    done: Mapping[str, list[IndexEntry]],
    known: Mapping[str, Header],
) -> None:
    for module, output in outputs.items():
        entries = [entry for name in sorted(done) for entry in done[name] if entry.module == module]
        needed = sum(entry.rows * entry.columns for entry in entries) * work.dtype.itemsize
        if output.path and (free := free_bytes(output.path)) < needed:
            raise GimAudioError(
                f"{output.path}: needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} are free; the same"
                " command goes on"
            )
        with output.open(_describe(encoder, task, entries[0], known)) as write:
            for entry in entries:
                write(_matrix(work, task, entry))


def _matrix(work: Work, task: Task, entry: IndexEntry) -> Matrix:
    shape = (entry.rows, entry.columns)
    return Matrix(entry.name, shape, task.pooling.is_vector, work.dtype, lambda: work.blocks(entry))


def _describe(
    encoder: Encoder, task: Task, entry: IndexEntry, known: Mapping[str, Header]
) -> dict[str, Any]:
    own = encoder.geometries[entry.module - 1]
    geometry, vector = task.pooling.geometry(own), task.pooling.is_vector
    rates = Counter(header.rate for header in known.values())
    return {
        "model": encoder.name,
        "module": entry.module,
        "module_name": encoder.module_names[entry.module - 1],
        "precision": encoder.precision,
        "dtype": task.dtype,
        "channels": entry.columns,
        "pool": str(task.pooling),
        "sample_rate": encoder.rate,
        "recordings_by_rate": {str(rate): count for rate, count in sorted(rates.items())},
        "resampler": "soxr, high quality, where the rates differ",
        "hop_samples": None if vector else geometry.hop,
        "receptive_field_samples": geometry.receptive_field,
        "frame_shift": None if vector else geometry.hop / encoder.rate,
        "frame_offset": None if vector else geometry.centre / encoder.rate,
        "time_of_frame": (
            "one vector an utterance"
            if vector
            else "frame i is centred on frame_offset + i * frame_shift seconds"
        ),
        # The same command gives the same bytes, on any day.
        **{key: value for key, value in provenance().items() if key != "date"},
    }
