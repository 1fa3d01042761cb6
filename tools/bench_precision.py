"""Losses of experiments side by side: does one precision train as another does?

    python tools/bench_precision.py EXP EXP... [--window 250] [--out tools/bench_precision.md]

The figure is written beside the table.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import yaml
from bench import table, write_page


def losses(experiment: Path) -> np.ndarray:
    """Shape: `(steps, modules)`."""
    lines = (experiment / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


def label(experiment: Path) -> str:
    """Precision and where the run is from."""
    config = yaml.safe_load((experiment / "config.yaml").read_text(encoding="utf-8"))
    starts = json.loads((experiment / "provenance.json").read_text(encoding="utf-8"))
    return f"{config['training']['precision']} ({', '.join(start['commit'] for start in starts)})"


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", type=Path, nargs="+")
    parser.add_argument("--window", type=int, default=250, help="Steps that are averaged.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()

    runs = {label(experiment): losses(experiment) for experiment in options.experiments}
    modules = next(iter(runs.values())).shape[1]
    figure, axes = plt.subplots(
        2, -(-modules // 2), figsize=(12, 6), layout="constrained", squeeze=False
    )
    width = max(1, options.window // 10)
    for number, axis in enumerate(axes.flat[:modules]):
        for name, loss in runs.items():
            smooth = np.convolve(loss[:, number], np.ones(width) / width, mode="valid")
            axis.plot(width + np.arange(len(smooth)), smooth, label=name, linewidth=1)
        axis.set(
            title=f"module {number + 1}",
            xlabel="step",
            ylabel="InfoNCE loss" if number % 3 == 0 else "",
        )
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    picture = options.out.with_suffix(".png")

    rows = []
    for first in range(0, max(map(len, runs.values())), options.window):
        for name, loss in runs.items():
            part = loss[first : first + options.window]
            if len(part):
                means, most = part.mean(axis=0), part.max(axis=0)
                cells = [
                    f"{mean:.2f} (at most {top:.2f})" for mean, top in zip(means, most, strict=True)
                ]
                rows.append([f"{first + 1} to {first + len(part)}", name, *cells])
    write_page(
        options.out,
        "Training in two precisions",
        "InfoNCE loss of every module: the mean over some steps, and the largest in them. Chance is"
        " ln 11 = 2.40.\n",
        f"![]({picture.name})\n",
        table(
            ["steps", "precision", *(f"module {number}" for number in range(1, modules + 1))], rows
        ),
    )
    figure.savefig(picture, dpi=120)  # after the page, which asks git whether anything changed


if __name__ == "__main__":
    main()
