"""Figures that explain an accuracy.

Confusions, label shifts, the course of training, and what features are like.
"""

from collections.abc import Sequence
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from gim_audio.phones import PHONES
from gim_audio.report.paper_results import SPEAKERS_BY_MODULE
from gim_audio.report.results import Experiment
from gim_audio.report.rows import curve, method
from gim_audio.report.style import INK, MFCC, MUTED, STYLE, TRAINED
from gim_audio.report.tables import TASKS
from gim_audio.report.verdicts import baseline_name, strongest

__all__ = ["draw_diagnostics", "draw_layers"]


def draw_diagnostics(experiment: Experiment) -> dict[str, Figure]:
    """The figures that the experiment has data for, by name."""
    with mpl.rc_context(STYLE):
        found = {
            "curve": _curve(experiment),
            "shifts": _shifts(experiment),
            "structure": _structure(experiment),
            "confusion": _confusion(experiment),
        }
    return {name: figure for name, figure in found.items() if figure is not None}


def draw_layers(experiments: Sequence[Experiment]) -> Figure | None:
    """Accuracy by layer of all experiments, by the strict protocol.

    The published speaker curves dotted.
    """
    shown = [e for e in experiments if any(e.probe(task, "trained", "strict") for task in TASKS)]
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        palette = mpl.colormaps["tab10"].colors * 2  # type: ignore[attr-defined]
        colours = dict(zip((e.path.name for e in shown), palette, strict=False))
        for axes, task in zip(figure.subplots(1, 2), TASKS, strict=True):
            for experiment in shown:
                if probe := experiment.probe(task, "trained", "strict"):
                    values = [100 * row["accuracy"] for row in probe.modules]
                    name = experiment.path.name
                    axes.plot(
                        range(len(values)),
                        values,
                        "o-",
                        color=colours[name],
                        ms=4,
                        lw=1.6,
                        label=name,
                    )
            first = next((p for e in shown if (p := e.probe(task, "trained", "strict"))), None)
            if untrained := next(
                (p for e in shown if (p := e.probe(task, "random", "strict"))), None
            ):
                values = [100 * row["accuracy"] for row in untrained.modules]
                axes.plot(
                    range(len(values)),
                    values,
                    "o--",
                    color=MUTED,
                    ms=3,
                    lw=1.2,
                    label="random initialisation",
                )
            if baseline := next((p for e in shown if (p := strongest(e, task, "strict"))), None):
                level = 100 * baseline.modules[0]["accuracy"]
                axes.axhline(
                    level, color=MFCC, lw=1.5, label=f"{baseline_name(baseline.kind)} ({task})"
                )
            if task == "speakers":
                for experiment in shown:
                    name, labels = method(experiment)
                    if labels in {"", "speakers"} and name in SPEAKERS_BY_MODULE:
                        values = list(SPEAKERS_BY_MODULE[name])
                        colour = colours[experiment.path.name]
                        axes.plot(range(len(values)), values, ":", color=colour, lw=1.2)
                axes.plot([], [], ":", color=INK, lw=1.2, label="published (LibriSpeech-100)")
            if first:
                axes.set_xticks(range(len(first.modules)), [row["name"] for row in first.modules])
            axes.set_title(f"Linear {task[:-1]} probe (%)")
        handles, names = figure.axes[1].get_legend_handles_labels()
        more = zip(*figure.axes[0].get_legend_handles_labels(), strict=True)
        extra = [(handle, name) for handle, name in more if name not in names]
        figure.legend(
            [*handles, *(handle for handle, _ in extra)], [*names, *(name for _, name in extra)],
            loc="outside right center", fontsize=8,
        )  # fmt: skip
    return figure


def _curve(experiment: Experiment) -> Figure | None:
    """Phones of the last module by the number of updates."""
    points = curve(experiment)
    if len(points) < 3:
        return None
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    steps = [point[0] for point in points]
    values = np.array([100 * float(point[2]["accuracy"]) for point in points])  # type: ignore[arg-type]
    edges = (
        100
        * np.array(
            [point[2]["interval"] or [point[2]["accuracy"]] * 2 for point in points], dtype=float
        ).T
    )
    axes.errorbar(
        steps,
        values,
        np.abs(edges - values),
        fmt="o-",
        color=TRAINED,
        ms=5,
        capsize=2,
        elinewidth=1,
    )
    if baseline := strongest(experiment, "phones", "strict"):
        level = 100 * baseline.modules[0]["accuracy"]
        axes.axhline(level, color=MFCC, lw=1.5, label=baseline_name(baseline.kind))
        axes.legend(loc="lower right")
    axes.set_xlabel("updates")
    hours = points[-1][1] / points[-1][0]
    top = axes.secondary_xaxis(
        "top", functions=(partial(np.multiply, hours), partial(np.multiply, 1 / hours))
    )
    top.set_xlabel("hours of audio")
    axes.set_ylabel("phones, last module (%)")
    return figure


def _shifts(experiment: Experiment) -> Figure | None:
    """Phones of the last module against the shift of the labels, beside those of MFCC."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes, drawn = figure.subplots(), False
    for kind, name, colour in (
        ("trained", "last module", TRAINED),
        ("mfcc", "MFCC with deltas", MFCC),
    ):
        sweep: dict[tuple[str, int], dict[int, float]] = {}
        for probe in (*experiment.probes, *experiment.baselines):
            if (probe.task, probe.kind, probe.record["protocol"]) == ("phones", kind, "strict"):
                settings = probe.record["settings"]
                key = probe.record["provenance"]["command"], settings.get("most_frames", 0)
                sweep.setdefault(key, {})[settings["shift"]] = 100 * probe.modules[-1]["accuracy"]
        for points in sweep.values():
            if len(points) > 2:
                shifts = sorted(points)
                axes.plot(shifts, [points[s] for s in shifts], "o-", color=colour, ms=5, label=name)
                drawn = drawn or kind == "trained"
    if not drawn:
        return None
    axes.axvline(2, color=MUTED, lw=0.8, ls=":", label="published code's shift")
    axes.set_xlabel("labels later by so many steps of 10 ms")
    axes.set_ylabel("phones (%)")
    axes.legend(fontsize=8)
    return figure


def _structure(experiment: Experiment) -> Figure | None:
    """Draw the slowness of features, trained and at initialisation, and the likeness of modules."""
    slow, untrained = (experiment.probe("slowness", kind) for kind in ("trained", "random"))
    alike = experiment.probe("cka", "trained")
    if slow is None or alike is None:
        return None
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    lags = [10 * int(lag) for lag in slow.record["settings"]["lags"].split()]
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.92, len(slow.modules)))
    for number, row in enumerate(slow.modules):
        left.plot(
            lags,
            _numbers(row["autocorrelation"]),
            "o-",
            color=colours[number],
            ms=4,
            label=row["name"],
        )
        if untrained and number < len(untrained.modules):
            values = _numbers(untrained.modules[number]["autocorrelation"])
            left.plot(lags, values, "--", color=colours[number], lw=1)
    if untrained:
        left.plot([], [], "--", color=INK, lw=1, label="at initialisation")
    left.set_xscale("log")
    left.set_xticks(lags, [str(lag) for lag in lags], minor=False)
    left.minorticks_off()
    left.set_xlabel("ms later")
    left.set_title("Autocorrelation of features")
    left.legend(fontsize=8)
    names = [row["name"] for row in alike.modules]
    table = np.array([row["cka"] for row in alike.modules])
    image = right.imshow(table, vmin=0, vmax=1, cmap="Blues")
    right.set_xticks(range(len(names)), names)
    right.set_yticks(range(len(names)), names)
    right.grid(visible=False)
    for (y, x), value in np.ndenumerate(table):
        right.text(
            x,
            y,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value > 0.6 else INK,
        )
    right.set_title("Linear CKA between modules")
    figure.colorbar(image, ax=right, shrink=0.8)
    return figure


def _confusion(experiment: Experiment) -> Figure | None:
    """Draw what each phone is taken for, by the first and the last module."""
    probe = experiment.probe("phones", "trained", "strict")
    if probe is None or "confusion" not in probe.modules[0]:
        return None
    shown = [probe.modules[0], probe.modules[-1]] if len(probe.modules) > 1 else probe.modules
    tables = [
        np.array([list(map(int, line.split())) for line in row["confusion"]]) for row in shown
    ]
    used = np.flatnonzero(tables[0].sum(axis=1))
    figure = Figure(figsize=(6.3 * len(shown), 6), layout="constrained")
    for axes, row, table in zip(
        np.atleast_1d(figure.subplots(1, len(shown))), shown, tables, strict=True
    ):
        part = table[np.ix_(used, used)]
        image = axes.imshow(part / part.sum(axis=1, keepdims=True), vmin=0, vmax=1, cmap="magma_r")
        names = [PHONES[index] for index in used]
        axes.set_xticks(range(len(used)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(used)), names, fontsize=7)
        axes.grid(visible=False)
        axes.set_xlabel("taken for")
        axes.set_ylabel("phone")
        axes.set_title(
            f"module {row['module']}: {row['name']}, {100 * row['accuracy']:.1f}% of frames right"
        )
    figure.colorbar(image, ax=figure.axes, shrink=0.7, label="share of the phone's frames")
    return figure


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]
