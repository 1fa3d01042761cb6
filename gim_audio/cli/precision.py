"""The option `--precision` of the commands that encode audio."""

import click

__all__ = ["PRECISIONS", "PRECISION_HELP"]

PRECISIONS = click.Choice(["auto", "fp32", "bf16", "bf16-emulated"])
PRECISION_HELP = (
    "Precision of a network's products. auto: bf16 where the processor or GPU computes it faster than fp32. bf16 is "
    "refused where it is slower, unless it is called bf16-emulated."
)
