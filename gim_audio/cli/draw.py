"""`gim-audio draw`."""

from pathlib import Path

import click

from gim_audio.cli.options import EXPERIMENT, PATH, SHIFT, command
from gim_audio.cli.progress import say
from gim_audio.cli.tasks import alignments, chosen


@command(epilog="Example: gim-audio draw exp/gim packed/test --out exp/gim/figures")
@click.argument("exp", type=EXPERIMENT)
@click.argument("path", metavar="DATA", type=PATH)
@click.option("--out", required=True, type=PATH, help="A folder; EXP/figures is shown in reports.")
@click.option(
    "--module",
    "modules",
    default="last",
    show_default=True,
    help="The module on the map: a number from 1, a name, or last.",
)
@click.option("--utterance", help="The utterance to draw.  [default: the first of DATA]")
@click.option(
    "--shift",
    default=1,
    show_default=True,
    type=SHIFT,
    help="The shift of phone labels: see `gim-audio probe`.",
)
@click.option("--layers", is_flag=True, help="Each layer counts as a module, also inside modules.")
def draw(
    exp: str, path: Path, out: Path, modules: str, utterance: str | None, shift: int, layers: bool
) -> None:
    """Draw features of an utterance, and t-SNE maps of phones and speakers.

    The utterance is drawn as waveform, spectrogram and activations on one time axis.

    The maps show frames of common phones (of DATA/phones.ctm, where that is) and mean windows of
    some speakers.
    """
    from gim_audio.errors import DataError
    from gim_audio.featurize import Featurizer, load_encoder
    from gim_audio.files import absent, new_folder
    from gim_audio.kaldi import DataDir
    from gim_audio.report.pictures import draw_map, draw_utterance

    absent(out)
    data = DataDir.read(path)
    known = alignments(data) if (path / "phones.ctm").exists() else {}
    encoder = load_encoder(exp)
    if layers and isinstance(encoder, Featurizer):
        encoder = encoder.by_layer()
    name = utterance or data.utterances[0]
    (_, waveform), *_ = data.select([name]).waveforms(encoder.rate)
    if isinstance(waveform, Exception):
        raise DataError(f"{name}: {waveform}")
    figures = {
        "utterance": draw_utterance(encoder, waveform, name, known.get(name)),
        "map": draw_map(encoder, data, known, chosen(encoder, modules)[-1], shift=shift),
    }
    with new_folder(out) as folder:
        for file, figure in figures.items():
            figure.savefig(folder / f"{file}.png", dpi=130)
    say(f"wrote {out}/utterance.png and {out}/map.png")
