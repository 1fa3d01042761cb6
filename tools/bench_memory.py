"""Peak memory and time of training, by schedule.

Joint, one module after another, the same from a cache, end to end.

    python tools/bench_memory.py [--precision fp32] [--device cpu] [--out tools/bench_memory.md]

Each row is a run of its own through `gim_audio.training.train`, checkpoints and all. Nothing else
should run.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench import apart, noise, noise_of, peak_gigabytes, table, write_page

from gim_audio.config import Config, load
from gim_audio.devices import pick_device
from gim_audio.model.build import build_model
from gim_audio.packed import Crops, PackedCorpus
from gim_audio.training import train
from gim_audio.training.cache import Cache
from gim_audio.training.memory import alone, memory_by_module, peaks

IMPORTED = peak_gigabytes()
MODULES = 6
LENGTH = 12.7
"""Seconds of an average utterance of train-clean-100: 100.6 hours in 28,539."""


def configuration(row: str, precision: str, device: str) -> Config:
    """The name of a row: `joint`, `cpc`, `sequential`, `alone 3` or `cached 3`."""
    kind, _, module = row.partition(" ")
    settings = [f"training.precision={precision}", f"training.device={device}", "training.steps=12"]
    settings += ["training.checkpoint_every=6", "training.diagnose_every=6"]
    if kind == "cpc":
        settings.append("model.isolate_after=[]")
    if module:
        settings.append(
            f"training.schedule=[{{modules: [{module}], cache: {str(kind == 'cached').lower()}}}]"
        )
    if kind == "sequential":
        settings += ["training.schedule=sequential", "training.cache=true"]
    return load(None, settings)


def varied(folder: Path, crop: int) -> PackedCorpus:
    """Sixty utterances as LibriSpeech's: none is as long as another, 12.7 s on average."""
    generator = np.random.default_rng(0)
    lengths = generator.permutation(
        np.linspace(crop, 2 * LENGTH * 16000 - crop, 60).astype(int)
    ).tolist()
    return noise_of(folder, lengths)


def measure(config: Config) -> dict[str, float]:
    """A run, in this process: its peak above the imports, and the median of its steps."""
    took: list[float] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        corpus = varied if config.training.schedule == "sequential" else noise
        train(
            config,
            corpus(Path(temporary), config.data.crop),
            Path(temporary) / "exp",
            say=lambda line: None,
            progress=lambda done, total, metrics: took.append(metrics["seconds"]),
        )
    on_cuda = pick_device(config.training.device).type == "cuda"
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_cuda else peak_gigabytes() - IMPORTED
    return {
        "gigabytes": peak,
        "step": statistics.median(took[1:]),
        "whole": time.perf_counter() - started,
    }


def making(module: int, config: Config) -> dict[str, float]:
    """Seconds that it takes to cache what a module takes, for a second of audio."""
    torch.manual_seed(0)
    model = build_model(config.model, config.objectives)
    dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float16
    with tempfile.TemporaryDirectory() as temporary:
        corpus = noise(Path(temporary), 4 * config.data.crop)
        crops = Crops(corpus, crop=config.data.crop, hop=160, batch=8, seed=0)

        def samples(utterance: int, start: int, stop: int) -> torch.Tensor:
            return model.standardise(
                torch.from_numpy(corpus.read(utterance)[start:stop])[None].float() / 32768
            )

        started = time.perf_counter()
        cache = Cache(Path(temporary) / "cache", module, model, crops, dtype)
        cache.build(samples, 1, lambda line: None, lambda: None)
        return {"seconds": (time.perf_counter() - started) / (corpus.samples.sum() / corpus.rate)}


def shares(config: Config, rounds: int = 4) -> dict[str, float]:
    """Seconds of each module in a joint step."""
    from gim_audio.devices import keep_freed_memory
    from gim_audio.training.optimizers import AdamW
    from gim_audio.training.step import Step

    keep_freed_memory()
    torch.manual_seed(0)
    model = build_model(config.model, config.objectives)
    marks: list[float] = []
    step = Step.joint(model, config)

    def apply(optimizer: AdamW) -> None:
        optimizer.step()
        marks.append(time.perf_counter())

    step.apply = apply
    x, times = torch.randn(config.training.batch, config.data.crop, 1), []
    for index in range(rounds):
        marks[:] = [time.perf_counter()]
        step(x, index)
        times.append([after - before for before, after in itertools.pairwise(marks)])
    medians = [statistics.median(column) for column in zip(*times[1:], strict=True)]
    return {f"module {number}": share for number, share in enumerate(medians, start=1)}


def predicted(row: str, config: Config) -> float:
    """Gigabytes, by the arithmetic that `gim-audio info` prints."""
    model = build_model(config.model, config.objectives)
    kind, _, module = row.partition(" ")
    if not module:
        return peaks(model, config)["sequential, cached" if row == "sequential" else "joint"] / 1e9
    return alone(memory_by_module(model, config), int(module), cached=kind == "cached") / 1e9


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, _, module = options.measure.partition(" ")
        if kind == "shares":
            print(json.dumps(shares(configuration("joint", options.precision, options.device))))
        elif kind == "making":
            print(json.dumps(making(int(module), configuration("joint", options.precision, "cpu"))))
        else:
            print(
                json.dumps(
                    measure(configuration(options.measure, options.precision, options.device))
                )
            )
        return

    given = ("--precision", options.precision, "--device", options.device)
    alone_rows = [f"alone {module}" for module in range(1, MODULES + 1)]
    cached_rows = [f"cached {module}" for module in range(2, MODULES + 1)]
    rows = ["joint", *alone_rows, *cached_rows, "sequential", "cpc"]
    found = {}
    for row in [*rows, "shares", *(f"making {module}" for module in range(2, MODULES + 1))]:
        print(row, file=sys.stderr)
        found[row] = apart(__file__, "--measure", row, *given)
    joint, share = found["joint"], found["shares"]
    lines = []
    for row in rows:
        one = found[row]
        kind, _, module = row.partition(" ")
        name = {
            "alone": f"module {module} alone",
            "cached": f"module {module} alone, from a cache",
        }.get(kind, row)
        part = share.get(f"module {module}")
        lines.append(
            [
                {
                    "cpc": "end to end (CPC)",
                    "sequential": "one after another, from caches: all of it",
                }.get(name, name),
                f"{one['gigabytes']:.2f}",
                f"{predicted(row, configuration(row, options.precision, options.device)):.2f}",
                f"{one['gigabytes'] / joint['gigabytes']:.2f}",
                f"{one['step']:.3f}" if row != "sequential" else "",
                f"{one['step'] / part:.2f}" if part else "",
            ]
        )
    pays = []
    for module in range(2, MODULES + 1):
        made, saved = (
            found[f"making {module}"]["seconds"],
            found[f"alone {module}"]["step"] - found[f"cached {module}"]["step"],
        )
        epochs = f"{8 * LENGTH * made / saved:.0f}" if saved > 0 else "never"
        pays.append([str(module), f"{1000 * made:.1f}", f"{1000 * saved:.0f}", epochs])
    where = (
        torch.cuda.get_device_name() if options.device == "cuda" else "the CPU; not run on a GPU"
    )
    write_page(
        options.out,
        "Memory by schedule",
        f"The reference model, batch 8, {options.precision}, on {where}. Measured: the peak of a"
        " whole run above what the imports hold. Predicted: the tensors alone, as `gim-audio info`"
        " counts them. The last column is the time of a step against what the same module takes in"
        " a joint step.\n",
        table(
            ["training", "measured, GB", "predicted, GB", "of joint", "s a step", "of its share"],
            lines,
        ),
        "## When a cache pays\n\nMaking it from the waveform, what a step saves, and after how"
        f" many epochs (a crop of each utterance; utterances of {LENGTH} s, as LibriSpeech's are on"
        " average) it has paid for itself.\n",
        table(["module", "making it, ms a second of audio", "saved, ms a step", "epochs"], pays),
    )


if __name__ == "__main__":
    main()
