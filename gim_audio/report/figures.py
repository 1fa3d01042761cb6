"""Figures of one experiment: curves of training, and accuracy by module beside its baselines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from gim_audio.report.diagnostics import draw_diagnostics
from gim_audio.report.paper_results import SPEAKERS_BY_MODULE, TABLE
from gim_audio.report.results import Experiment
from gim_audio.report.style import INK, MFCC, MUTED, STYLE, TRAINED
from gim_audio.report.verdicts import baseline_name, strongest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

PUBLISHED = SPEAKERS_BY_MODULE["Greedy InfoMax"]


def draw(experiment: Experiment) -> dict[str, Figure]:
    """The figures that the experiment has data for, by name."""
    figures = {}
    with mpl.rc_context(STYLE):
        if experiment.metrics:
            figures["training"] = _training(experiment)
        tasks = [task for task in ("phones", "speakers") if experiment.probe(task, "trained")]
        if tasks:
            figures["accuracy"] = _accuracy(experiment, tasks)
    return figures | draw_diagnostics(experiment)


def _training(experiment: Experiment) -> Figure:
    metrics = experiment.metrics
    steps = np.array([row["step"] for row in metrics])
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _curves(left, steps, _numbers(metrics, "loss"))
    left.set_title("Loss (nats)")
    _curves(middle, steps, 100 * _numbers(metrics, "accuracy"))
    middle.set_title("Accuracy of the training task (%)")
    looked = [row for row in metrics if "effective_rank" in row]
    if looked:
        _curves(
            right, np.array([row["step"] for row in looked]), _numbers(looked, "effective_rank")
        )
        right.set_yscale("log")
        right.set_ylim(1, None)
    right.set_title("Effective rank of the output")
    for axes in (left, middle, right):
        axes.set_xlabel("step")
    figure.legend(
        handles=left.get_lines(),
        title="module",
        loc="outside right center",
        handlelength=1.2,
        title_fontsize=9,
    )
    return figure


def _numbers(metrics: Sequence[dict[str, Any]], key: str) -> np.ma.MaskedArray[Any, Any]:
    """Masked where a module did not learn. Shape: `(steps, modules)`."""
    return np.ma.masked_invalid(np.array([row[key] for row in metrics], dtype=float))


def _curves(axes: "Axes", steps: np.ndarray[Any, Any], values: np.ma.MaskedArray[Any, Any]) -> None:
    """One line a module, averaged over a hundredth of the run."""
    width = max(1, len(steps) // 100)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.92, values.shape[1]))
    whole = len(steps) // width * width
    for module in range(values.shape[1]):
        mean = values[:whole, module].reshape(-1, width).mean(axis=1)
        axes.plot(
            steps[width - 1 : whole : width],
            mean,
            color=colours[module],
            lw=1.4,
            label=str(module + 1),
        )
    axes.set_xlim(0, None)


def _accuracy(experiment: Experiment, tasks: Sequence[str]) -> Figure:
    figure = Figure(figsize=(5 * len(tasks), 4), layout="constrained")
    for axes, task in zip(np.atleast_1d(figure.subplots(1, len(tasks))), tasks, strict=True):
        _accuracy_by_module(axes, experiment, task)
    return figure


def _accuracy_by_module(axes: "Axes", experiment: Experiment, task: str) -> None:
    trained = experiment.probe(task, "trained")
    assert trained is not None  # noqa: S101 - the caller looked
    names = [str(row["name"]) for row in trained.modules]
    x = np.arange(len(names))
    column = 0 if task == "phones" else 1
    accuracy = _percent(trained.modules)
    interval = (
        100 * np.array([row["interval"] or [row["accuracy"]] * 2 for row in trained.modules]).T
    )
    axes.errorbar(
        x,
        accuracy,
        yerr=np.abs(interval - accuracy),
        fmt="o-",
        color=TRAINED,
        ms=5,
        lw=2,
        elinewidth=1,
        capsize=2,
        label="trained (95% interval)",
        zorder=3,
    )
    if random := experiment.probe(task, "random"):
        axes.plot(
            x,
            _percent(random.modules),
            "o--",
            color=MUTED,
            ms=4,
            lw=1.2,
            label="random initialisation",
        )
    if baseline := strongest(experiment, task):
        axes.axhline(
            _percent(baseline.modules)[0], color=MFCC, lw=1.5, label=baseline_name(baseline.kind)
        )
    majority = 100 * float(trained.record["counts"]["majority"])
    axes.axhline(
        majority,
        color=MUTED,
        lw=0.8,
        ls=":",
        label="majority class" if task == "phones" else "chance",
    )
    if task == "speakers" and len(names) == len(PUBLISHED):
        axes.plot(x, PUBLISHED, ":", color=INK, lw=1, label="published GIM (LibriSpeech-100)")
    else:
        final = [TABLE["Greedy InfoMax"][column]]
        axes.plot(
            x[: len(PUBLISHED)][-1:],
            final,
            "D",
            mfc="none",
            mec=INK,
            ls="",
            label="published GIM (LibriSpeech-100)",
        )
    axes.set_xticks(x, names)
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_ylim(0, 105 if task == "speakers" else None)
    axes.set_ylabel("accuracy (%)")
    axes.set_xlabel("module")
    axes.set_title(f"Linear {task[:-1]} probe")
    axes.legend(fontsize=8, loc="lower right" if task == "speakers" else "best")


def _percent(rows: Sequence[dict[str, Any]]) -> np.ndarray[Any, Any]:
    return 100 * np.array([row["accuracy"] for row in rows])
