"""Drawing batches, packing, and how both grow with the corpus.

    python tools/bench_data.py DATA [--nj 2] [--out tools/bench_data.md]

DATA is a data directory of FLAC files, such as LibriSpeech's; it is packed into a temporary folder.
The large corpora are sparse archives with real indices: nothing but the index takes room.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import torch
from bench import apart, peak_gigabytes, seconds, table, write_page

from gim_audio.devices import keep_freed_memory
from gim_audio.files import write_text
from gim_audio.kaldi import DataDir, write_table
from gim_audio.packed import Crops, PackedCorpus, pack
from gim_audio.training.feed import Feed

CROP, BATCH, RATE, REPEATS = 20480, 8, 16000, 10
SIZES = {"10 h": (3_000, 12), "1,000 h": (300_000, 12), "60,000 h": (300_000, 720)}
"""Utterances and the seconds of each."""


def repeated(data: DataDir) -> DataDir:
    """The same files some times over, so that what it costs to start a process does not count."""
    names = [(f"{name}-{turn}", name) for name in data.recordings for turn in range(REPEATS)]
    names.sort()
    return DataDir(
        {new: data.recordings[name] for new, name in names},
        {new: data.speakers[name] for new, name in names},
    )


def decode(path: str) -> int:
    """Decode a file and forget it."""
    return len(soundfile.read(path, dtype="int16")[0])


def decode_all(paths: list[str], nj: int) -> None:
    """The least that packing can do."""
    with ProcessPoolExecutor(nj, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(decode, paths, chunksize=max(1, len(paths) // (8 * nj))))


def step_seconds() -> float:
    """A training step of the reference model."""
    return apart(
        str(Path(__file__).with_name("bench_step.py")), "--measure", "gim fp32", "--steps", 5
    )["seconds"]


def sparse(folder: Path, utterances: int, length: int) -> None:
    """A packed corpus without its samples."""
    folder.mkdir()
    samples, archive_of = length * RATE, 500
    header = bytearray(44)
    header[24:28] = RATE.to_bytes(4, "little")
    names = [f"{index % 2000:04d}-{index:07d}" for index in range(utterances)]
    names.sort()
    places = {}
    for first in range(0, utterances, archive_of):
        path = folder / f"wav.{first // archive_of + 1}.ark"
        with path.open("wb") as file:
            for name in names[first : first + archive_of]:
                key = f"{name} ".encode()
                places[name] = f"{path}:{file.tell() + len(key)}"
                file.write(key + header)
                file.seek(2 * samples, os.SEEK_CUR)
            file.truncate()
    write_table(folder / "wav.scp", places)
    write_table(folder / "utt2num_samples", dict.fromkeys(names, samples))
    write_table(folder / "utt2spk", {name: name[:4] for name in names})
    write_text(folder / "fingerprint", "sparse\n")


def grown(folder: Path) -> dict[str, float]:
    """Start, memory and a batch of one corpus, in this process."""
    before, started = peak_gigabytes(), time.perf_counter()
    corpus = PackedCorpus(folder)
    opened = time.perf_counter() - started
    crops = Crops(corpus, crop=CROP, hop=160, batch=BATCH, seed=0)
    keep_freed_memory()
    feed, steps = Feed(crops, torch.device("cpu"), "never"), iter(range(10**9))
    feed(next(steps))
    memory = peak_gigabytes() - before
    return {
        "open": opened,
        "gigabytes": memory,
        "batch": seconds(lambda: feed(next(steps)), 500, warm=50),
    }


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--nj", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(grown(options.data)))
        return

    data = repeated(DataDir.read(options.data))
    files = list(data.recordings.values())
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        decoding, packing = [], []
        for turn in range(3):
            print(f"packing, round {turn + 1} of 3", file=sys.stderr)
            started = time.perf_counter()
            decode_all(files, options.nj)
            between = time.perf_counter()
            pack(data, folder / f"packed{turn}", nj=options.nj)
            decoding.append(between - started)
            packing.append(time.perf_counter() - between)
            if turn:
                shutil.rmtree(folder / f"packed{turn}")
        corpus = PackedCorpus(folder / "packed0")
        crops = Crops(corpus, crop=CROP, hop=160, batch=BATCH, seed=0)
        os.sync()  # what was written and removed is none of the drawing's business
        keep_freed_memory()  # as training does
        feed, steps = Feed(crops, torch.device("cpu"), "never"), iter(range(10**9))
        drawing = seconds(lambda: feed(next(steps)), 2000, warm=100)
        whole = seconds(lambda: [decode(files[i]) for i in generator.choice(len(files), BATCH)], 20)
        hours = corpus.samples.sum() / RATE / 3600

        growth = []
        for name, (utterances, length) in SIZES.items():
            print(f"a corpus of {name}", file=sys.stderr)
            sparse(folder / name, utterances, length)
            os.sync()
            found = apart(__file__, folder / name, "--measure")
            growth.append(
                [
                    name,
                    f"{utterances:,}",
                    f"{found['open']:.2f}",
                    f"{found['gigabytes']:.2f}",
                    f"{1e3 * found['batch']:.2f}",
                ]
            )
    step = step_seconds()
    write_page(
        options.out,
        "Data",
        f"{len(files)} FLAC files, {hours:.2f} hours, {options.nj} processes; batches of {BATCH}"
        f" crops of {CROP} samples.\n",
        table(
            ["what", "took", "against", "took", "ratio"],
            [
                [
                    "drawing a batch",
                    f"{1e3 * drawing:.2f} ms",
                    "decoding eight whole FLACs",
                    f"{1e3 * whole:.1f} ms",
                    f"{whole / drawing:.0f} times faster",
                ],
                [
                    "drawing a batch",
                    f"{1e3 * drawing:.2f} ms",
                    "a training step, fp32",
                    f"{step:.2f} s",
                    f"{drawing / step:.2%}",
                ],
                [
                    "pack",
                    f"{min(packing):.2f} s",
                    "decoding the same files",
                    f"{min(decoding):.2f} s",
                    f"{min(decoding) / min(packing):.2f} of that rate",
                ],
            ],
        ),
        "## Growth\n",
        table(["corpus", "utterances", "opened, s", "index in memory, GB", "a batch, ms"], growth),
    )


if __name__ == "__main__":
    main()
