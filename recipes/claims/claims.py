"""Figures and a page of the paper's claims, from what run.sh measured.

python claims.py EXP CLAIMS.md
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from gim_audio.files import new_file, write_text
from gim_audio.intervals import Estimate, difference
from gim_audio.provenance import provenance
from gim_audio.report.style import STYLE

NEGATIVES = (1, 10, 128, 512)
Rows = list[dict[str, Any]]


class Page:
    """Sections, each with a claim, what was measured, a table and a figure."""

    def __init__(self, experiment: Path) -> None:
        self.experiment = experiment
        self.parts: list[str] = []
        self.commands: list[str] = []

    def rows(self, run: str, task: str, result: str = "trained") -> Rows:
        """Figures of every module."""
        folder = self.experiment / run / "results" / result
        (file,) = folder.glob(f"{task}-*.json")
        record = json.loads(file.read_text(encoding="utf-8"))
        where = record["provenance"]
        line = (
            f"`{where['command']}`; {where['commit']}, {where['date']}, {where['hardware']}, torch"
            f" {where['torch']}"
        )
        if line not in self.commands:
            self.commands.append(line)
        if "speakers" not in record:
            sys.exit(
                f"{file}: of an older version, without what a paired test needs: remove {folder}"
                " and run again"
            )
        return [row | {"speakers": len(record["speakers"])} for row in record["modules"]]

    def section(
        self,
        name: str,
        claim: str,
        verdict: str,
        head: list[str],
        lines: list[list[str]],
        drawn: Figure,
    ) -> None:
        """Draw and write."""
        file = self.experiment / f"{name}.png"
        with new_file(file) as temporary:
            drawn.savefig(temporary, format="png", dpi=150)
        table = "\n".join(
            "| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines]
        )
        self.parts.append(f"## {claim}\n\n{verdict}\n\n{table}\n\nFigure: `{file}`")


def shown(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{100 * row['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def change(new: dict[str, Any], old: dict[str, Any]) -> tuple[float, float]:
    """Return by how many points one accuracy exceeds another, and half its interval's width."""
    first, second = (
        Estimate(r["accuracy"], r["accuracy"], r["interval"], r["halves"]) for r in (new, old)
    )
    return 100 * (first.value - second.value), 100 * difference(first, second, new["speakers"])


def points(new: dict[str, Any], old: dict[str, Any]) -> str:
    """Return a difference with its interval."""
    return "{:+.1f} ± {:.1f}".format(*change(new, old))


def two(titles: tuple[str, str]) -> tuple[Figure, Any]:
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for one, title in zip(axes, titles, strict=True):
        one.set_title(title)
    return figure, axes


def curve(axes: Any, rows: Rows, label: str, style: str = "o-") -> None:
    """Accuracy of every module."""
    values = [100 * row["accuracy"] for row in rows]
    edges = np.abs(100 * np.array([row["interval"] for row in rows]).T - values)
    axes.errorbar(
        range(len(rows)), values, edges, fmt=style, ms=4, capsize=2, elinewidth=0.8, label=label
    )


def negatives(page: Page) -> None:
    figure, axes = two(("Phones, last module (%)", "Speakers, last module (%)"))
    tables = {
        task: [page.rows(f"negatives-{n}", task)[-1] for n in NEGATIVES]
        for task in ("phones", "speakers")
    }
    for one, rows in zip(axes, tables.values(), strict=True):
        values = [100 * row["accuracy"] for row in rows]
        edges = np.abs(100 * np.array([row["interval"] for row in rows]).T - values)
        one.errorbar(NEGATIVES, values, edges, fmt="o-", capsize=2)
        one.set_xscale("log")
        one.set_xticks(NEGATIVES, map(str, NEGATIVES))
        one.set_xlabel("negatives")
    found = []
    for task, rows in tables.items():
        gains = [
            f"{n}: {points(row, rows[0])}" for n, row in zip(NEGATIVES[1:], rows[1:], strict=True)
        ]
        found.append(f"{task}, points more than with one negative, {', '.join(gains)}")
    lines = [
        [str(n), *(shown(rows[i]) for rows in tables.values())] for i, n in enumerate(NEGATIVES)
    ]
    verdict = f"Measured: {'; '.join(found)}."
    head = ["negatives", "phones %", "speakers %"]
    page.section("negatives", "More negatives give better features", verdict, head, lines, figure)


def context(page: Page) -> None:
    figure, axes = two(("Phones by module (%)", "Speakers by module (%)"))
    runs = {"context-none": "none", "context-last": "on top", "context-each": "in each module"}
    found, lines = [], []
    for one, task in zip(axes, ("phones", "speakers"), strict=True):
        rows = {run: page.rows(run, task) for run in runs}
        for run, name in runs.items():
            curve(one, rows[run], name)
            lines.append([task, name, *(shown(row) for row in rows[run])])
        one.set_xticks(
            range(len(rows["context-none"])), [row["name"] for row in rows["context-none"]]
        )
        gains = [
            points(with_one, without)
            for with_one, without in zip(rows["context-each"], rows["context-none"], strict=True)
        ]
        top = points(rows["context-last"][-1], rows["context-none"][-1])
        found.append(
            f"{task}: one on top alone changes the last module by {top} points; "
            f"one in each module changes modules 1 to {len(gains)} by {', '.join(gains)}"
        )
    axes[0].legend(title="causal convolutions", fontsize=8)
    head = ["task", "context", *(f"module {n}" for n in range(1, len(gains) + 1))]
    verdict = f"Measured: {'; '.join(found)}."
    claim = "A context matters at the top, and not in the lower modules"
    page.section("context", claim, verdict, head, lines, figure)


def depth(page: Page) -> None:
    figure, axes = two(("Phones by module (%)", "Speakers by module (%)"))
    found, lines = [], []
    for one, task in zip(axes, ("phones", "speakers"), strict=True):
        rows = page.rows("deeper", task)
        curve(one, rows, task)
        one.set_xticks(range(len(rows)), [row["name"] for row in rows])
        convolutions = [row for row in rows if row["name"].startswith("conv")]
        steps = [points(above, below) for below, above in pairwise(convolutions)]
        found.append(
            f"{task}: each convolution, from the second, changes the one below by"
            f" {', '.join(steps)} points"
        )
        lines.append([task, *(shown(row) for row in rows)])
        one.tick_params(axis="x", rotation=45)
    head = ["task", *(row["name"] for row in rows)]
    claim = "Each module improves on the one below, until it saturates"
    page.section("depth", claim, f"Measured: {'; '.join(found)}.", head, lines, figure)


def slowness(page: Page) -> None:
    trained, untrained = (page.rows("base", "slowness", result) for result in ("trained", "random"))
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    lines, slower = [], 0
    for place, ms in ((0, 10), (3, 100)):
        for rows, style, name in (
            (trained, "o-", "trained"),
            (untrained, "o--", "at initialisation"),
        ):
            axes.plot(
                [row["autocorrelation"][place] for row in rows],
                style,
                label=f"{name}, {ms} ms later",
            )
    for row, first in zip(trained, untrained, strict=True):
        pairs = [
            (row["autocorrelation"][place], first["autocorrelation"][place]) for place in (0, 3)
        ]
        slower += all(now > before for now, before in pairs)
        lines.append([row["name"], *(f"{value:.2f}" for pair in pairs for value in pair)])
    axes.set_xticks(range(len(trained)), [row["name"] for row in trained])
    axes.set_ylabel("autocorrelation")
    axes.legend(fontsize=8)
    head = ["module", "10 ms, trained", "10 ms, untrained", "100 ms, trained", "100 ms, untrained"]
    verdict = (
        f"Measured: {slower} of {len(trained)} modules are slower than at their initialisation, at"
        " both lags."
    )
    page.section("slowness", "The features are slow", verdict, head, lines, figure)


def gradients(page: Page) -> None:
    record = json.loads((page.experiment / "gradients.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, list[float]]] = record["gradients"]
    where = record["provenance"]
    page.commands.append(
        f"`{where['command']}`; {where['commit']}, {where['date']}, {where['hardware']}"
    )
    times = list(next(iter(found.values())))
    figure, axes = two((times[0].capitalize(), times[1].capitalize()))
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(found) // 2))
    for one, when in zip(axes, times, strict=True):
        for number, (name, values) in enumerate(found.items()):
            style = "o-" if name.startswith("GIM") else "s--"
            layers = range(1, len(values[when]) + 1)
            one.plot(layers, values[when], style, ms=3, color=colours[number // 2], label=name)
        one.set_yscale("log")
        one.set_xlabel("convolution")
    axes[0].set_ylabel("RMS gradient of weights")
    axes[1].legend(fontsize=7)
    lines, ratios = [], {"GIM": [], "CPC": []}
    for name, values in found.items():
        ratio = [values[when][1] / values[when][-1] for when in times]
        ratios[name[:3]].append(ratio[0])
        lines.append([name, *(f"{value:.3g}" for value in ratio)])
    verdict = (
        "Measured: the gradient of the second convolution is, at the initialisation, from the"
        f" shallowest stack to the deepest, {ratios['CPC'][0]:.3g} to {ratios['CPC'][-1]:.3g} times"
        f" that of the last one under CPC, {ratios['GIM'][0]:.3g} to {ratios['GIM'][-1]:.3g} times"
        " under Greedy InfoMax."
    )
    head = ["stack", *(f"second layer / last layer, {when}" for when in times)]
    page.section("gradients", "Gradients do not vanish with depth", verdict, head, lines, figure)


if __name__ == "__main__":
    experiment, out = map(Path, sys.argv[1:])
    page = Page(experiment)
    with mpl.rc_context(STYLE):
        for claim in (negatives, context, depth, slowness, gradients):
            claim(page)
    written = (
        f"Written by `{provenance()['command']}`; do not edit. One run of each. Intervals of 95%"
        " are over speakers (delete-half jackknife), those of differences paired by speaker; seeds"
        " are not varied."
    )
    body = "\n\n".join(page.parts)
    commands = "\n".join(f"- {line}" for line in page.commands)
    config = (experiment / "base/config.yaml").read_text(encoding="utf-8")
    text = (
        f"# The paper's claims, tested\n\n{written}\n\n{body}\n\n##"
        f" Commands\n\n{commands}\n\n```yaml\n{config}```\n"
    )
    write_text(out, text)
    print(f"wrote {out}")
