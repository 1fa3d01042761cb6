"""The page, its figures as PNGs, and the same tables as Markdown."""

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

from gim_audio.files import new_file, write_text
from gim_audio.provenance import provenance
from gim_audio.report import tables
from gim_audio.report.diagnostics import draw_layers
from gim_audio.report.figures import draw
from gim_audio.report.results import Experiment, read_experiments
from gim_audio.report.rows import PROTOCOLS, by_layer, learning_curve, rows
from gim_audio.report.tables import Table
from gim_audio.report.verdicts import verdicts

__all__ = ["write_report"]

DPI = 150
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.sub, caption { color: #666; } caption { text-align: left; padding-bottom: .4rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid #e6e6e6;
         vertical-align: top; }
th:first-child, td:first-child { text-align: left; min-width: 10rem; } th { font-weight: 600; }
table.facts th, table.facts td { text-align: left; overflow-wrap: anywhere; }
table.facts { font-size: .85rem; }
td span { display: block; white-space: nowrap; color: #666; font-size: .85rem; }
img { max-width: 100%; }
pre { background: #f6f6f6; padding: .8rem; font-size: .85rem; overflow-x: auto; }
@media print { body { margin: 0; max-width: none; } h2, img, tr { break-inside: avoid; } }
"""


def write_report(paths: Sequence[Path], out: Path, markdown: Path | None, title: str) -> list[Path]:
    """Write the page, PNGs beside it, and the tables as Markdown where that is asked for.

    Args:
        paths: The folders of experiments.
        out: the page; its figures are inside it.
        markdown: The file of the tables as Markdown, or None.
        title: The title of the page.

    Returns:
        The files that were written.

    Raises:
        DataError: an experiment is not one, or is damaged.
    """
    experiments = read_experiments(paths)
    trained = [experiment for experiment in experiments if experiment.shown]
    together = len(experiments) > 1
    written, images = [out], {}
    figures = {}
    if together and (
        layers := draw_layers([experiment for experiment in trained if experiment.config])
    ):
        figures["layers"] = layers
    for number, experiment in enumerate(trained, start=1):
        prefix = f"{number}-" if together else ""
        figures |= {f"{prefix}{name}": figure for name, figure in draw(experiment).items()}
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        file = out.with_name(f"{out.stem}-{name}.png")
        with new_file(file) as temporary:
            temporary.write_bytes(buffer.getvalue())
        written.append(file)
        images[name] = _image(name, buffer.getvalue())
    for number, experiment in enumerate(trained, start=1):
        for file in sorted((experiment.path / "figures").glob("*.png")):  # of `gim-audio draw`
            name = f"{number}-{file.stem}" if together else file.stem
            images[name] = _image(name, file.read_bytes())
    now = provenance()
    parts = [_html(table) for table in _side_by_side(experiments)] if together else []
    parts.append(images.get("layers", ""))
    for number, experiment in enumerate(trained, start=1):
        own = [
            image for name, image in images.items() if not together or name.startswith(f"{number}-")
        ]
        parts.append(_section(experiment, own))
    parts += [
        "<h2>Settings and provenance</h2>",
        *(_provenance(experiment) for experiment in experiments),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta'
        f' charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{CSS}</style></head><body><h1>{html.escape(title)}</h1>"
        f'<p class="sub">{html.escape(now["date"])}, commit {html.escape(now["commit"])}</p>'
        f"{''.join(parts)}</body></html>\n"
    )
    write_text(out, page)
    if markdown:
        write_text(markdown, _markdown(experiments, title, now["command"]))
        written.append(markdown)
    return written


def _image(name: str, png: bytes) -> str:
    """Return an image as wide as the figure, so that the letters of all have one size."""
    width = int.from_bytes(png[16:20]) * 96 // DPI  # CSS has 96 pixels an inch
    return (
        f'<img alt="{name}" width="{width}"'
        f' src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )


def _side_by_side(experiments: Sequence[Experiment]) -> list[Table]:
    """Return the tables of several experiments together, the paper's first."""
    tables_ = [rows(experiments)]
    for task in tables.TASKS:
        tables_ += [
            table for protocol in PROTOCOLS if (table := by_layer(experiments, task, protocol))
        ]
    return [
        *tables_,
        tables.comparison([experiment for experiment in experiments if experiment.config]),
    ]


def _shown(experiment: Experiment) -> list[Table]:
    """The tables of one experiment."""
    curve = learning_curve(experiment)
    return [*tables.measured(experiment), *([curve] if curve else []), tables.published()]


def _section(experiment: Experiment, images: Sequence[str]) -> str:
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in verdicts(experiment))
    first, *more = _shown(experiment)
    return (
        f"<h2>{html.escape(str(experiment.path))}</h2><ul>{sentences}</ul>"
        f"{_html(first)}{''.join(images)}{''.join(_html(table) for table in more)}"
    )


def _provenance(experiment: Experiment) -> str:
    config = f"<pre>{html.escape(experiment.config)}</pre>" if experiment.config else ""
    facts = _html(tables.facts(experiment), "facts")
    return f"<h3>{html.escape(str(experiment.path))}</h3>{facts}{config}"


def _html(table: Table, kind: str = "") -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    caption = html.escape(table.caption)
    inside = f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<table class="{kind}">{inside}</table>'


def _cell(text: str) -> str:
    """Names in backticks as Markdown has them, and an interval on a line of its own."""
    named = re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(text))
    return re.sub(r" (\(-?[\d.]+ to -?[\d.]+\))$", r"<span>\1</span>", named)


def _markdown(experiments: Sequence[Experiment], title: str, command: str) -> str:
    parts = [f"# {title}", f"Written by `{command}`; do not edit."]
    if len(experiments) > 1:
        parts += [_pipes(table) for table in _side_by_side(experiments)]
    for experiment in experiments:
        if experiment.shown:
            parts.append(f"## {experiment.path}")
            parts.append("\n".join(f"- {sentence}" for sentence in verdicts(experiment)))
            parts += [_pipes(table) for table in _shown(experiment)]
    parts.append("## Settings and provenance")
    for experiment in experiments:
        parts += [f"### {experiment.path}", _pipes(tables.facts(experiment))]
        if experiment.config:
            parts.append(f"Configuration:\n\n```yaml\n{experiment.config}```")
    return "\n\n".join(part for part in parts if part) + "\n"


def _pipes(table: Table) -> str:
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    body = "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
    return f"{table.caption}:\n\n{body}"
