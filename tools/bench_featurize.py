"""`gim-audio featurize` on a very long file, on many short ones, as a stream and in onnxruntime.

python tools/bench_featurize.py [--hours 10] [--files 20000] [--channels 512] [--out
tools/bench_featurize.md]
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from bench import apart, seconds, table, write_page
from bench_features import SLICE, convolutions, noise

from gim_audio.checkpoints.folders import features_only, save_model
from gim_audio.config import Config, load
from gim_audio.devices import keep_freed_memory
from gim_audio.featurize import Featurizer
from gim_audio.featurize.live import Live
from gim_audio.model import layers
from gim_audio.model.build import build_model

RATE = 16000


def settings(channels: int) -> Config:
    """The reference model, or a narrower one."""
    return load(None, [f"model.channels={channels}"])


def checkpoint(folder: Path, channels: int) -> Path:
    """An untrained model, as a folder."""
    config = settings(channels)
    torch.manual_seed(0)
    folder.mkdir()
    save_model(folder, config, features_only(build_model(config.model, config.objectives)))
    return folder


def featurize(model: Path, given: Path, output: Path) -> tuple[float, float]:
    """Seconds and peak gigabytes of the command in a process of its own, libraries included."""
    started = time.perf_counter()
    command = (
        f"from gim_audio.cli import main; main({['featurize', *map(str, (model, given, output))]})"
    )
    # Before it ends: torch's own end touches a tenth of a gigabyte that no work needs.
    peak = (
        "import torch; from gim_audio.devices import peak_bytes;"
        " print(peak_bytes(torch.device('cpu')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{command}; {peak}"],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started, int(done.stdout) / 1e9


def long_file(hours: float, channels: int) -> dict[str, float]:
    """One WAV."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        minute = noise(60)
        with soundfile.SoundFile(folder / "long.wav", "w", RATE, 1, "PCM_16") as file:
            for _ in range(round(60 * hours)):
                file.write(minute)
        took, peak = featurize(
            checkpoint(folder / "model", channels), folder / "long.wav", folder / "out"
        )
        frames = np.load(folder / "out/long.npy", mmap_mode="r")
        return {"seconds": took, "peak": peak, "frames": len(frames)}


def short_files(count: int, channels: int) -> dict[str, float]:
    """Files of 0.3 to 1 s: a command for a tenth of them, and one for all."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lengths = generator.integers(RATE * 3 // 10, RATE, count)
        whole = noise(1)
        (folder / "all").mkdir()
        for number, length in enumerate(lengths):
            soundfile.write(folder / f"all/{number:05}.wav", whole[:length], RATE)
        model = checkpoint(folder / "model", channels)
        found: dict[str, float] = {"audio": float(lengths.sum()) / RATE}
        (folder / "part").mkdir()
        for file in sorted((folder / "all").iterdir())[: count // 10]:
            shutil.copy(file, folder / "part")
        found["tenth"], found["tenth_peak"] = featurize(model, folder / "part", folder / "few")
        found["all"], found["all_peak"] = featurize(model, folder / "all", folder / "many")
        return found


def stream(channels: int) -> dict[str, float]:
    """Return the seconds that a push of one hop takes, and of one sample.

    Of one hop there are the median, and the slowest of a hundred.
    """
    keep_freed_memory()
    encoder = Featurizer.random(settings(channels))
    live, waveform = Live(encoder), noise(20)
    took = []
    for start in range(0, len(waveform) - 160, 160):
        started = time.perf_counter()
        live.push(waveform[start : start + 160])
        took.append(time.perf_counter() - started)
    single = seconds(lambda: live.push(waveform[:1]), 1000)
    layers.FEW = 0
    convolved = seconds(lambda: live.push(waveform[:160]), 200)
    return {
        "convolved": convolved,
        "median": float(np.median(took[100:])),
        "slow": float(np.quantile(took[100:], 0.99)),
        "single": single,
        "latency": live.latency,
    }


def in_onnxruntime(channels: int) -> dict[str, float]:
    """Return the seconds per second of audio in ONNX Runtime and in torch.

    The largest difference is beside them.
    """
    import onnxruntime

    from gim_audio.inference.onnx import to_onnx

    keep_freed_memory()
    encoder, waveform = Featurizer.random(settings(channels)), noise(SLICE)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "model.onnx"
        to_onnx(encoder.model, 6, file, stream=False, half=False, notes={})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
    inputs = {"waveform": waveform[None]}
    (theirs,) = session.run(None, inputs)
    (ours,) = encoder.encode(waveform, [6])
    return {
        "onnxruntime": seconds(lambda: session.run(None, inputs), 5) / SLICE,
        "torch": seconds(lambda: encoder.encode(waveform, [6]), 5) / SLICE,
        "difference": float(np.abs(theirs[0] - ours).max()),
    }


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=10)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    width = options.channels
    if options.measure:
        work = {
            "long": lambda: long_file(options.hours, width),
            "short": lambda: short_files(options.files, width),
            "stream": lambda: stream(width),
            "onnx": lambda: in_onnxruntime(width),
            "convolutions": lambda: {"seconds": convolutions("fp32", width)},
        }[options.measure]
        print(json.dumps(work()))
        return

    def run(what: str) -> dict[str, float]:
        print(what, file=sys.stderr)
        given = ("--hours", options.hours, "--files", options.files, "--channels", width)
        return apart(__file__, "--measure", what, *given)

    before, one, after, many, live, graph = map(
        run, ("convolutions", "long", "convolutions", "short", "stream", "onnx")
    )
    alone, audio = (before["seconds"] + after["seconds"]) / 2, 3600 * options.hours
    write_page(
        options.out,
        "featurize: long, many, live",
        f"A model of {width} channels, last module, fp32, on the CPU; the whole command, with"
        " start, decoding and writing. Memory is the most that the process held, libraries"
        f" included. The convolutions alone are measured as in bench_features.md, on {SLICE} s,"
        " before and after the long file; their mean.\n",
        table(
            [
                "one file of",
                "times real time",
                "convolutions alone",
                "ratio",
                "memory, GB",
                "frames",
            ],
            [
                [
                    f"{options.hours:g} hours",
                    f"{audio / one['seconds']:.0f}",
                    f"{1 / alone:.0f}",
                    f"{alone * audio / one['seconds']:.2f}",
                    f"{one['peak']:.2f}",
                    f"{one['frames']:.0f}",
                ]
            ],
        ),
        table(
            ["files of 0.3 to 1 s", "files a second", "memory, GB"],
            [
                [
                    f"{options.files // 10}",
                    f"{options.files / 10 / many['tenth']:.0f}",
                    f"{many['tenth_peak']:.2f}",
                ],
                [
                    f"{options.files}",
                    f"{options.files / many['all']:.0f}",
                    f"{many['all_peak']:.2f}",
                ],
            ],
        ),
        table(
            ["stream", "milliseconds"],
            [
                ["from a frame's centre to its last sample", f"{1e3 * live['latency']:.1f}"],
                ["push of 10 ms, median", f"{1e3 * live['median']:.2f}"],
                ["push of 10 ms, slowest in a hundred", f"{1e3 * live['slow']:.2f}"],
                ["push of 10 ms, by convolutions alone", f"{1e3 * live['convolved']:.2f}"],
                ["push of one sample", f"{1e3 * live['single']:.2f}"],
            ],
        ),
        table(
            ["times real time in torch", "in onnxruntime", "largest difference"],
            [
                [
                    f"{1 / graph['torch']:.0f}",
                    f"{1 / graph['onnxruntime']:.0f}",
                    f"{graph['difference']:.1e}",
                ]
            ],
        ),
    )


if __name__ == "__main__":
    main()
