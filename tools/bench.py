"""Parts that the benchmarks share.

A measurement in a process of its own, and a page of tables that says where it is from.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch

from gim_audio.devices import bf16_speed, peak_bytes
from gim_audio.kaldi import DataDir
from gim_audio.packed import PackedCorpus, pack
from gim_audio.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent


def apart(script: str, *arguments: object) -> dict[str, float]:
    """Run a script in a new process, so that memory and threads are its own.

    It prints one JSON line.
    """
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def seconds(work: Callable[[], object], times: int, warm: int = 1) -> float:
    """Median time of one call."""
    for _ in range(warm):
        work()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that are worth measuring.

    Emulated bf16 would take a hundred times as long.
    """
    if bf16_speed(device) > 1:
        return "fp32", "bf16"
    print(f"bf16 is left out: {device.type} has no arithmetic for it", file=sys.stderr)
    return ("fp32",)


def peak_gigabytes() -> float:
    """Most memory that this process ever held."""
    return peak_bytes(torch.device("cpu")) / 1e9


def noise(folder: Path, crop: int) -> PackedCorpus:
    """A packed corpus of sixteen utterances of three crops each."""
    return noise_of(folder, [3 * crop] * 16)


def noise_of(folder: Path, lengths: Sequence[int]) -> PackedCorpus:
    """Return a packed corpus of utterances of `samples` samples."""
    generator, recordings = np.random.default_rng(0), {}
    for number, length in enumerate(lengths):
        name = f"a-{number:02d}"
        recordings[name] = str(folder / f"{name}.wav")
        soundfile.write(recordings[name], 0.06 * generator.standard_normal(length), 16000)
    pack(DataDir(recordings, dict.fromkeys(recordings, "a")), folder / "packed")
    return PackedCorpus(folder / "packed")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_page(path: Path, title: str, *parts: str) -> None:
    """Markdown, with command, commit, date and hardware at its end."""
    origin = provenance()
    command = f"python tools/{origin.pop('command')}"
    said = "; ".join(f"{key}: {value}" for key, value in origin.items())
    path.write_text("\n".join([f"# {title}\n", *parts, f"`{command}`; {said}\n"]), encoding="utf-8")
    print(f"wrote {path}")
