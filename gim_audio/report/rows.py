"""Experiments as rows of the paper's table: ours, measured, beside the published numbers."""

from collections.abc import Sequence

from gim_audio.config import read_yaml
from gim_audio.report.paper_results import SOURCE, TABLE
from gim_audio.report.results import Experiment, Probe
from gim_audio.report.tables import TASKS, Table, cell
from gim_audio.report.verdicts import baseline_name, baselines

__all__ = ["PROTOCOLS", "by_layer", "curve", "learning_curve", "method", "rows"]

PROTOCOLS = ("strict", "ref")
UNTRAINED = "random initialisation"


def method(experiment: Experiment) -> tuple[str, str]:
    """Return the name of the method in the paper's table, and the labels that it learnt."""
    config = read_yaml(experiment.config, f"{experiment.path}/config.yaml")
    given, cuts = config["objective"], config["model"]["isolate_after"]
    each = given if isinstance(given, list) else [given]
    kinds = dict.fromkeys(str(one.get("kind", "infonce")) for one in each)
    reach = config["model"].get("reach", 1)
    beyond = f", losses reach {reach} modules" if reach > 1 else ""
    if [*kinds] == ["infonce"]:
        return ("Greedy InfoMax" if cuts else "CPC") + beyond, ""
    if [*kinds] in (["phones"], ["speakers"]):
        return ("greedy supervised" if cuts else "supervised") + beyond, next(iter(kinds))
    return f"{'local objectives' if cuts else 'end to end'}: {', '.join(kinds)}{beyond}", ""


def rows(experiments: Sequence[Experiment]) -> Table:
    """Compare the last layer of every model, by both protocols.

    Computed features and random weights are beside them.
    """
    head = ["features", "updates"]
    head += [f"{task} %, {protocol}" for task in TASKS for protocol in PROTOCOLS]
    head += [f"published {task} %" for task in TASKS]
    lines: list[list[str]] = []
    trained = [experiment for experiment in experiments if experiment.config]
    computed = [
        kind for e in trained for task in TASKS for p in PROTOCOLS for kind in baselines(e, task, p)
    ]
    for kind in dict.fromkeys(["random", *computed]):
        found = next((e for e in trained if _any(e, kind)), None)
        if found:
            known = (
                (
                    found.probe(task, kind, protocol)
                    if kind == "random"
                    else baselines(found, task, protocol).get(kind)
                )
                for task in TASKS
                for protocol in PROTOCOLS
            )
            cells = [_last(probe) for probe in known]
            cited = _published({"random": UNTRAINED, "mfcc": "MFCC"}.get(kind, ""), TASKS)
            lines.append([baseline_name(kind) or UNTRAINED, "", *cells, *cited])
    for experiment in trained:
        if not _any(experiment, "trained"):
            continue
        name, labels = method(experiment)
        cells = [
            _last(experiment.probe(task, "trained", protocol))
            for task in TASKS
            for protocol in PROTOCOLS
        ]
        cited = _published(name, (labels,) if labels else TASKS)
        what = f"{name}, of {labels}" if labels else name
        updates = str(experiment.metrics[-1]["step"]) if experiment.metrics else ""
        lines.append([f"{what} (`{experiment.path.name}`)", updates, *cells, *cited])
    measured = (
        experiment.probe("phones", "trained", protocol)
        for experiment in trained
        for protocol in PROTOCOLS
    )
    shifts = sorted({str(probe.record["settings"].get("shift")) for probe in measured if probe})
    shifted = f" (label shift {', '.join(shifts)})" if shifts else ""
    caption = (
        "The last layer of each model, by protocol, with 95% intervals over speakers: measured"
        f" here{shifted}, and published ({SOURCE}: a hundred times the speech, other labels)"
    )
    return Table(caption, head, lines)


def _any(experiment: Experiment, kind: str) -> bool:
    return any(experiment.probe(task, kind, protocol) for task in TASKS for protocol in PROTOCOLS)


def _last(probe: Probe | None) -> str:
    return cell(probe.modules[-1]) if probe else ""


def _published(name: str, tasks: Sequence[str]) -> list[str]:
    known = TABLE.get(name)
    return [f"{known[TASKS.index(task)]:.1f}" if known and task in tasks else "" for task in TASKS]


def by_layer(experiments: Sequence[Experiment], task: str, protocol: str) -> Table | None:
    """Accuracy of every layer of every model; None where nobody measured."""
    columns: dict[str, Probe] = {}
    for experiment in experiments:
        if untrained := experiment.probe(task, "random", protocol):
            columns.setdefault(UNTRAINED, untrained)
    for experiment in experiments:
        if probe := experiment.probe(task, "trained", protocol):
            columns[experiment.path.name] = probe
    if not columns:
        return None
    names = list(dict.fromkeys(row["name"] for probe in columns.values() for row in probe.modules))
    lines = []
    for name in names:
        found = [
            next((row for row in probe.modules if row["name"] == name), None)
            for probe in columns.values()
        ]
        lines.append([name, *(cell(row) if row else "" for row in found)])
    return Table(
        f"{task.capitalize()} %, {protocol} protocol, by layer, measured",
        ["layer", *columns],
        lines,
    )


def learning_curve(experiment: Experiment) -> Table | None:
    """Phones of the last module against updates and hours of audio.

    None where one checkpoint alone was probed.
    """
    found = curve(experiment)
    if len(found) < 3:
        return None
    lines = [[f"{steps:,}", f"{hours:.1f}", cell(row)] for steps, hours, row in found]
    head = ["updates", "hours of audio", "phones %"]
    return Table(
        f"{experiment.path.name}: the last module as training goes on (strict protocol)",
        head,
        lines,
    )


def curve(experiment: Experiment) -> list[tuple[int, float, dict[str, object]]]:
    """Return updates, hours of audio, and the last module's phone accuracy after them.

    It is measured by the strict protocol.
    """
    whole = experiment.probe("phones", "trained", "strict")
    if whole is None or not experiment.config:
        return []
    config = read_yaml(experiment.config, f"{experiment.path}/config.yaml")
    hours = config["training"]["batch"] * config["data"]["crop"] / config["model"]["rate"] / 3600
    points = {
        probe.record["trained_steps"]: probe.modules[-1]
        for probe in experiment.probes
        if probe.task == "phones"
        and probe.kind in {"trained", "random"}
        and probe.setup == whole.setup
    }
    return [(steps, steps * hours, row) for steps, row in sorted(points.items())]
