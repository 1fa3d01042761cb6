"""Peak memory and time of training, by schedule: joint, one module after another, the same from a cache, end to end.

    python tools/bench_memory.py [--precision fp32] [--device cpu] [--out tools/bench_memory.md]

Each row is a run of its own through `gim_audio.training.train`, checkpoints and all. Nothing else should run.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench import apart, noise, peak_gigabytes, table, write_page

from gim_audio.config import Config, load
from gim_audio.model.devices import pick_device
from gim_audio.model.gim import GreedyInfoMax
from gim_audio.training import train
from gim_audio.training.memory import alone, memory_by_module, peaks

IMPORTED = peak_gigabytes()
MODULES = 6


def configuration(row: str, precision: str, device: str) -> Config:
    """Of a row: `joint`, `cpc`, `alone 3` or `cached 3`."""
    kind, _, module = row.partition(" ")
    settings = [f"training.precision={precision}", f"training.device={device}", "training.steps=12"]
    settings += ["training.checkpoint_every=6", "training.diagnose_every=6"]
    if kind == "cpc":
        settings.append("model.isolate_after=[]")
    if module:
        settings.append(f"training.schedule=[{{modules: [{module}], cache: {str(kind == 'cached').lower()}}}]")
    return load(None, settings)


def measure(config: Config) -> dict[str, float]:
    """A run, in this process: its peak above the imports, and the median of its steps."""
    took: list[float] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        train(
            config,
            noise(Path(temporary), config.data.crop),
            Path(temporary) / "exp",
            say=lambda line: None,
            progress=lambda done, total, metrics: took.append(metrics["seconds"]),
        )
    on_cuda = pick_device(config.training.device).type == "cuda"
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_cuda else peak_gigabytes() - IMPORTED
    return {"gigabytes": peak, "step": statistics.median(took[1:]), "whole": time.perf_counter() - started}


def shares(config: Config, rounds: int = 4) -> dict[str, float]:
    """Seconds of each module in a joint step."""
    from gim_audio.model.devices import keep_freed_memory
    from gim_audio.training.step import Step

    keep_freed_memory()
    torch.manual_seed(0)
    model = GreedyInfoMax.build(config.model, config.objective)
    marks: list[float] = []
    step = Step.joint(model, config)
    step.settle = lambda optimizer: (optimizer.step(), marks.append(time.perf_counter()))  # type: ignore[assignment, func-returns-value]
    x, times = torch.randn(config.training.batch, 1, config.data.crop), []
    for index in range(rounds):
        marks[:] = [time.perf_counter()]
        step(x, index)
        times.append([after - before for before, after in itertools.pairwise(marks)])
    medians = [statistics.median(column) for column in zip(*times[1:], strict=True)]
    return {f"module {number}": share for number, share in enumerate(medians, start=1)}


def predicted(row: str, config: Config) -> float:
    """Gigabytes, by the arithmetic that `gim-audio info` prints."""
    model = GreedyInfoMax.build(config.model, config.objective)
    kind, _, module = row.partition(" ")
    if not module:
        return peaks(model, config)["joint"] / 1e9
    return alone(memory_by_module(model, config), int(module), cached=kind == "cached") / 1e9


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        if options.measure == "shares":
            print(json.dumps(shares(configuration("joint", options.precision, options.device))))
        else:
            print(json.dumps(measure(configuration(options.measure, options.precision, options.device))))
        return

    given = ("--precision", options.precision, "--device", options.device)
    alone_rows = [f"alone {module}" for module in range(1, MODULES + 1)]
    cached_rows = [f"cached {module}" for module in range(2, MODULES + 1)]
    rows = ["joint", *alone_rows, *cached_rows, "cpc"]
    found = {}
    for row in [*rows, "shares"]:
        print(row, file=sys.stderr)
        found[row] = apart(__file__, "--measure", row, *given)
    joint, share = found["joint"], found["shares"]
    lines = []
    for row in rows:
        one = found[row]
        kind, _, module = row.partition(" ")
        name = {"alone": f"module {module} alone", "cached": f"module {module} alone, from a cache"}.get(kind, row)
        part = share.get(f"module {module}")
        lines.append(
            [
                {"cpc": "end to end (CPC)"}.get(name, name),
                f"{one['gigabytes']:.2f}",
                f"{predicted(row, configuration(row, options.precision, options.device)):.2f}",
                f"{one['gigabytes'] / joint['gigabytes']:.2f}",
                f"{one['step']:.3f}",
                f"{one['step'] / part:.2f}" if part else "",
            ]
        )
    where = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU; not run on a GPU"
    write_page(
        options.out,
        "Memory by schedule",
        f"The reference model, batch 8, {options.precision}, on {where}. Measured: the peak of a whole run above what "
        "the imports hold. Predicted: the tensors alone, as `gim-audio info` counts them. The last column is the time "
        "of a step against what the same module takes in a joint step.\n",
        table(["training", "measured, GB", "predicted, GB", "of joint", "s a step", "of its share"], lines),
    )


if __name__ == "__main__":
    main()
