"""The page, its figures as PNGs, and the same tables as Markdown."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from gim_audio.files import new_file, write_text
from gim_audio.provenance import provenance
from gim_audio.report import tables
from gim_audio.report.figures import draw
from gim_audio.report.results import Experiment, read_experiment
from gim_audio.report.tables import Table

__all__ = ["write_report"]

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.sub, caption { color: #666; } caption { text-align: left; padding-bottom: .4rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid #e6e6e6; vertical-align: top; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; } th { font-weight: 600; }
table.facts th, table.facts td { text-align: left; overflow-wrap: anywhere; } table.facts { font-size: .85rem; }
img { max-width: 100%; } pre { background: #f6f6f6; padding: .8rem; font-size: .85rem; overflow-x: auto; }
@media print { body { margin: 0; max-width: none; } h2, img, tr { break-inside: avoid; } }
"""


def write_report(paths: Sequence[Path], out: Path, markdown: Path | None, title: str) -> list[Path]:
    """Write the page, PNGs beside it, and the tables as Markdown where that is asked for.

    Args:
        paths: experiments.
        out: the page; its figures are inside it.
        markdown: or None.
        title: of the page.

    Returns:
        The files that were written.

    Raises:
        DataError: an experiment is not one, or is damaged.
    """
    experiments = [read_experiment(path) for path in paths]
    written: list[Path] = []
    sections = []
    for number, experiment in enumerate(experiments, start=1):
        images = []
        for name, figure in draw(experiment).items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=150)
            prefix = out.stem if len(experiments) == 1 else f"{out.stem}-{number}"
            file = out.with_name(f"{prefix}-{name}.png")
            with new_file(file) as temporary:
                temporary.write_bytes(buffer.getvalue())
            written.append(file)
            encoded = base64.b64encode(buffer.getvalue()).decode()
            images.append(f'<img alt="{name}" src="data:image/png;base64,{encoded}">')
        sections.append(_section(experiment, images))
    now = provenance()
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{CSS}</style></head><body><h1>{html.escape(title)}</h1>"
        f'<p class="sub">{html.escape(now["date"])}, commit {html.escape(now["commit"])}</p>'
        f"{_html(tables.comparison(experiments)) if len(experiments) > 1 else ''}{''.join(sections)}</body></html>\n"
    )
    write_text(out, page)
    written.insert(0, out)
    if markdown:
        write_text(markdown, _markdown(experiments, title, now["command"]))
        written.append(markdown)
    return written


def _section(experiment: Experiment, images: Sequence[str]) -> str:
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in tables.verdicts(experiment))
    return (
        f"<h2>{html.escape(str(experiment.path))}</h2><ul>{sentences}</ul>"
        f"{''.join(_html(table) for table in tables.measured(experiment))}{''.join(images)}{_html(tables.published())}"
        f"{_html(tables.facts(experiment), 'facts')}<pre>{html.escape(experiment.config)}</pre>"
    )


def _html(table: Table, kind: str = "") -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    caption = html.escape(table.caption)
    return (
        f'<table class="{kind}"><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _markdown(experiments: Sequence[Experiment], title: str, command: str) -> str:
    parts = [f"# {title}", f"Written by `{command}`; do not edit."]
    if len(experiments) > 1:
        parts.append(_pipes(tables.comparison(experiments)))
    for experiment in experiments:
        parts.append(f"## {experiment.path}")
        parts.append("\n".join(f"- {sentence}" for sentence in tables.verdicts(experiment)))
        shown = (*tables.measured(experiment), tables.published(), tables.facts(experiment))
        parts += [_pipes(table) for table in shown]
        parts.append(f"Configuration:\n\n```yaml\n{experiment.config}```")
    return "\n\n".join(part for part in parts if part) + "\n"


def _pipes(table: Table) -> str:
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{table.caption}:\n\n{body}"
