"""Steps a second with several processes on this machine.

Modules on processes of their own, and shared batches.

    python tools/bench_parallel.py [--precision fp32] [--steps 16] [--out tools/bench_parallel.md]

The reference model with 8 crops a step, each run by torchrun (gloo) as a person would start it, a
thread a process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import noise, table, write_page

RUNS = {
    "one process": (1, 1, []),
    "one process, two threads": (1, 2, []),
    "data, two processes": (2, 1, ["training.parallel=data", "training.batch=4"]),
    "modules, two processes": (2, 1, ["training.parallel=modules"]),
    "modules, three processes": (3, 1, ["training.parallel=modules"]),
}


def measure(folder: Path, corpus: Path, name: str, precision: str, steps: int) -> tuple[float, str]:
    """Median seconds from step to step, and how the modules were shared out."""
    processes, threads, settings = RUNS[name]
    conf, out = folder / "conf.yaml", folder / name.replace(" ", "-")
    conf.write_text(
        f"training: {{steps: {steps}, precision: {precision}, diagnose_every: 1000}}\n",
        encoding="utf-8",
    )
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        if processes > 1
        else []
    )
    command = [sys.executable, *launch, "-m", "gim_audio", "train", str(conf), *settings]
    done = subprocess.run(
        [*command, "--data", str(corpus), "--out", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        check=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = [
        json.loads(line)
        for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    shared = next(
        (line.partition("takes: ")[2] for line in done.stderr.splitlines() if "takes: " in line), ""
    )
    return statistics.median(line["seconds"] for line in lines[steps // 4 :]), shared


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        corpus = noise(Path(temporary), 20480)
        found = {}
        for name in RUNS:
            print(name, file=sys.stderr)
            found[name] = measure(
                Path(temporary), corpus.path, name, options.precision, options.steps
            )
    one, two = found["one process"][0], found["one process, two threads"][0]
    rows = [
        [name, f"{seconds:.3f}", f"{one / seconds:.2f}", f"{two / seconds:.2f}", shared]
        for name, (seconds, shared) in found.items()
    ]
    write_page(
        options.out,
        "Several processes",
        f"The reference model, 8 crops a step, {options.precision}, {os.cpu_count()} cores, gloo; a"
        " thread a process where nothing else is said. Not run on a GPU.\n",
        table(
            ["", "s a step", "gain over one", "over two threads", "modules, by measured seconds"],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
