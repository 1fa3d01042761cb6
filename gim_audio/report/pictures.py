"""Pictures of features themselves.

An utterance on one time axis, and maps of phones and speakers.
"""

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from gim_audio.audio import Waveform
from gim_audio.errors import DataError
from gim_audio.featurize import (
    Encoder,
    Features,
    KaldiFeatures,
    encode_at_one_rate,
    encoders_of,
    waveforms,
)
from gim_audio.kaldi import DataDir
from gim_audio.phones import PHONES, Alignment, frame_labels
from gim_audio.report.style import INK, MUTED, STYLE

__all__ = ["draw_map", "draw_utterance"]

POINTS = 60
"""Frames of a phone, or windows of a speaker, on a map."""
SHOWN = 10
"""The commonest phones, or speakers with the most audio, on a map."""
WINDOW = 100
"""Frames that a point of the speakers' map is the mean of."""


def draw_utterance(
    encoder: Encoder, waveform: Waveform, name: str, alignment: Alignment | None
) -> Figure:
    """Draw a waveform, its log mel spectrogram and the activations of every module.

    Phones' boundaries are drawn over them.

    A module's channels are standardised over the utterance, and those that vary most are shown, the
    most active first at the top.

    Args:
        encoder: The encoder of the modules.
        waveform: The samples at the encoder's rate.
        name: The name of the utterance.
        alignment: The phones, where they are known.
    """
    features = encoder.encode(waveform)
    energies = KaldiFeatures("fbank", encoder.rate)
    seconds = len(waveform) / encoder.rate
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(12, 2.6 + 1.1 * len(features)), layout="constrained")
        rows = figure.subplots(
            2 + len(features), 1, sharex=True, height_ratios=[1.2, 1.2, *[1] * len(features)]
        )
        rows[0].plot(np.arange(len(waveform)) / encoder.rate, waveform, color=INK, lw=0.4)
        rows[0].set_title(f"{name}, {encoder.name}")
        shown = [("log mel", energies.encode(waveform)[0], energies.geometries[0])]
        shown += list(
            zip(encoder.module_names, map(_standardised, features), encoder.geometries, strict=True)
        )
        for axes, (label, values, geometry) in zip(rows[1:], shown, strict=True):
            start = (geometry.centre - geometry.hop / 2) / encoder.rate
            extent = (start, start + len(values) * geometry.hop / encoder.rate, 0, values.shape[1])
            limits = {} if label == "log mel" else {"vmin": -2, "vmax": 2}
            axes.imshow(
                values.T,
                aspect="auto",
                origin="lower",
                extent=extent,
                interpolation="nearest",
                cmap="magma",
                **limits,
            )
            axes.set_ylabel(label, rotation=0, ha="right", va="center")
            axes.set_yticks([])
        if alignment is not None:
            for axes in rows:
                axes.vlines(alignment.starts, *axes.get_ylim(), color=MUTED, lw=0.5)
            height = rows[0].get_ylim()[1]
            for start, end, phone in zip(
                alignment.starts, alignment.ends, alignment.labels, strict=True
            ):
                rows[0].text(
                    (start + end) / 2, height, PHONES[phone], ha="center", va="top", fontsize=6
                )
        rows[0].set_yticks([])
        rows[0].set_xlim(0, seconds)
        rows[-1].set_xlabel("seconds")
    return figure


def _standardised(features: Features) -> Features:
    """Return at most 64 channels, those that vary most, by how active they are."""
    varying = np.argsort(features.std(axis=0))[::-1][:64]
    chosen = features[:, varying[np.argsort(features[:, varying].mean(axis=0))]]
    deviation = chosen.std(axis=0)
    standard: Features = (chosen - chosen.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return standard


def draw_map(
    encoder: Encoder,
    data: DataDir,
    alignments: dict[str, Alignment],
    module: int,
    *,
    shift: int,
    seed: int = 0,
) -> Figure:
    """Draw t-SNE maps of a module (van der Maaten and Hinton 2008).

    They show frames by phone, and mean windows by speaker.

    Args:
        encoder: The encoder of the module.
        data: The utterances.
        alignments: their phones, where they are known.
        module: The number of the module, from 1.
        shift: The shift of the labels.
        seed: The seed of the frames that are shown and of the map.

    Raises:
        DataError: there are too few labelled frames or windows for a map.
    """
    generator = np.random.default_rng(seed)
    grid = encoder.geometries[-1]
    frames: list[Features] = []
    labels: list[npt.NDArray[np.int64]] = []
    windows: list[Features] = []
    speakers: list[str] = []
    encoders = encoders_of(encoder, data, allow_pipes=False)
    for name, waveform in waveforms(data, encoder, allow_pipes=False):
        (features,) = encode_at_one_rate(encoders(name), waveform, [module])
        for first in range(0, len(features) - WINDOW + 1, WINDOW):
            windows.append(features[first : first + WINDOW].mean(axis=0))
            speakers.append(data.speakers[name])
        if name in alignments:
            centre, hop = grid.centre / encoder.rate, grid.hop / encoder.rate
            known = frame_labels(
                alignments[name], len(features), centre=centre, hop=hop, shift=shift
            )
            # Neither silence nor noise.
            some = np.flatnonzero((known > 1) & (generator.random(len(known)) < 0.25))
            frames.append(features[some])
            labels.append(known[some])
    maps = []
    if sum(map(len, frames)) >= SHOWN:
        maps.append(
            (np.concatenate(frames), np.array(PHONES)[np.concatenate(labels)], "Frames by phone")
        )
    if len(windows) >= SHOWN:
        maps.append((np.stack(windows), np.array(speakers), "Mean windows by speaker"))
    if not maps:
        raise DataError(f"{data.path}: too little speech for a map of {SHOWN} points")
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(6 * len(maps), 5.6), layout="constrained")
        for axes, (features, names, title) in zip(
            figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True
        ):
            _scatter(axes, features, names, title, generator, seed)
        figure.suptitle(
            f"{encoder.name}: module {module}, {encoder.module_names[module - 1]} (t-SNE)"
        )
    return figure


def _scatter(
    axes: "mpl.axes.Axes",
    features: Features,
    names: npt.NDArray[np.str_],
    title: str,
    generator: np.random.Generator,
    seed: int,
) -> None:
    """The commonest names, some points of each."""
    from sklearn.manifold import TSNE

    found, counts = np.unique(names, return_counts=True)
    common: list[str] = found[np.argsort(-counts, kind="stable")][:SHOWN].tolist()
    places = [generator.permutation(np.flatnonzero(names == name))[:POINTS] for name in common]
    chosen = np.concatenate(places)
    standard = (features[chosen] - features[chosen].mean(axis=0)) / (
        features[chosen].std(axis=0) + 1e-6
    )
    perplexity = min(30, (len(chosen) - 1) // 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(standard)
    colours = mpl.colormaps["tab10"]
    first = 0
    for number, (name, group) in enumerate(zip(common, places, strict=True)):
        part = points[first : first + len(group)]
        axes.scatter(
            part[:, 0], part[:, 1], s=9, color=colours(number), label=name, alpha=0.8, lw=0
        )
        first += len(group)
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.5)
