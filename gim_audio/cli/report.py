"""`gim-audio report`."""

from pathlib import Path

import click

from gim_audio.cli.options import PATH, command
from gim_audio.cli.progress import say


@command(epilog="Example: gim-audio report exp/gim --out exp/gim/report.html --markdown RESULTS.md")
@click.argument("experiments", metavar="EXP...", nargs=-1, required=True, type=PATH)
@click.option(
    "--out",
    required=True,
    type=PATH,
    help="One HTML file; its figures are also written beside it as PNGs.",
)
@click.option("--markdown", type=PATH, help="The tables, as Markdown.")
@click.option("--title", default="gim-audio", show_default=True)
def report(experiments: tuple[Path, ...], out: Path, markdown: Path | None, title: str) -> None:
    """Tables and figures of experiments.

    They show metrics.jsonl and the probes' results in EXP/results/*.json.
    """
    from gim_audio.errors import ConfigError
    from gim_audio.report import write_report

    # Other files of an experiment have other endings: none of them is overwritten.
    for option, name, suffixes in (
        ("--out", out, (".html", ".htm")),
        ("--markdown", markdown, (".md",)),
    ):
        if name and (name.suffix.lower() not in suffixes or name.is_dir()):
            raise ConfigError(f"{option} {name}: name a file that ends in {suffixes[0]}")
    for file in write_report(list(experiments), out, markdown, title):
        say(f"wrote {file}")
