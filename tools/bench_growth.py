"""Measure a step's time and memory by batch, crop, channels and modules.

Greedy InfoMax beside CPC.

    python tools/bench_growth.py [--precision fp32] [--steps 3] [--out tools/bench_growth.md]

The figure is written beside the table.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from bench import apart, peak_gigabytes, seconds, table, write_page

from gim_audio.config import load
from gim_audio.devices import keep_freed_memory
from gim_audio.model.build import build_model
from gim_audio.training.step import Step

IMPORTED = peak_gigabytes()
REFERENCE = {"batch": 8, "crop": 20480, "channels": 512, "convolutions": 5}
SWEEPS = {
    "batch": [2, 4, 8, 16],
    "crop": [10240, 20480, 40960, 81920],
    "channels": [128, 256, 512, 1024],
    "convolutions": [5, 6, 8, 11],
}
KINDS = {"gim": "Greedy InfoMax", "cpc": "CPC, end to end"}


def measure(
    kind: str, batch: int, crop: int, channels: int, convolutions: int, precision: str, steps: int
) -> None:
    """One point, in this process.

    Convolutions beyond five follow the second one, with a stride of 1.
    """
    keep_freed_memory()
    extra = convolutions - 5
    cuts = list(range(1, convolutions + 1)) if kind == "gim" else []
    config = load(
        None,
        [
            f"model.kernels={[10, 8, *[3] * extra, 4, 4, 4]}",
            f"model.strides={[5, 4, *[1] * extra, 2, 2, 2]}",
            f"model.paddings={[2, 2, *[1] * extra, 2, 2, 1]}",
            f"model.isolate_after={cuts}",
            f"model.channels={channels}",
            f"training.batch={batch}",
            f"training.precision={precision}",
        ],
    )
    torch.manual_seed(0)
    model = build_model(config.model, config.objectives)
    step, x, count = Step.joint(model, config), torch.randn(batch, crop, 1), iter(range(10**9))
    taken = seconds(lambda: step(x, next(count)), steps)
    parameters = sum(p.numel() for p in model.parameters())
    memory = peak_gigabytes() - IMPORTED
    # Weights and Adam's two moments are the same whatever the schedule; the rest is what a step
    # needs.
    found = {
        "seconds": taken,
        "gigabytes": memory,
        "working": memory - 12e-9 * parameters,
        "parameters": parameters,
    }
    print(json.dumps(found))


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(**json.loads(options.measure), precision=options.precision, steps=options.steps)
        return

    known: dict[str, dict[str, float]] = {}
    rows = []
    figure, axes = plt.subplots(2, len(SWEEPS), figsize=(13, 6), layout="constrained")
    for column, (swept, values) in enumerate(SWEEPS.items()):
        points: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for value in values:
            for kind in KINDS:
                shape = json.dumps({"kind": kind, **REFERENCE, swept: value})
                if shape not in known:
                    print(shape, file=sys.stderr)
                    known[shape] = apart(
                        __file__,
                        "--measure",
                        shape,
                        "--precision",
                        options.precision,
                        "--steps",
                        options.steps,
                    )
                points[kind].append(known[shape])
            gim, cpc = points["gim"][-1], points["cpc"][-1]
            rows.append(
                [f"{swept} {value}", f"{gim['seconds']:.2f}", f"{cpc['seconds']:.2f}"]
                + [f"{point[key]:.2f}" for key in ("gigabytes", "working") for point in (gim, cpc)]
            )
        for row, (key, label) in enumerate(
            (("seconds", "s a step"), ("working", "working memory, GB"))
        ):
            for kind, name in KINDS.items():
                axes[row, column].plot(
                    values, [point[key] for point in points[kind]], "o-", label=name
                )
            axes[row, column].set(xlabel=swept, ylabel=label if column == 0 else "", ylim=(0, None))
            axes[row, column].grid(alpha=0.3)
    axes[0, 0].legend()
    picture = options.out.with_suffix(".png")
    reference = ", ".join(f"{key} {value}" for key, value in REFERENCE.items())
    write_page(
        options.out,
        "How a step grows",
        f"One thing changes at a time from {reference}; {options.precision}, on the CPU. Working"
        " memory is the peak without the imports, the weights and Adam's moments: what activations"
        " and gradients need. Convolutions beyond five have a kernel of 3 and a stride of 1 and"
        " follow the second one.\n",
        f"![]({picture.name})\n",
        table(
            ["", "GIM, s", "CPC, s", "GIM, GB", "CPC, GB", "GIM, working GB", "CPC, working GB"],
            rows,
        ),
    )
    figure.savefig(picture, dpi=120)  # after the page, which asks git whether anything changed


if __name__ == "__main__":
    main()
