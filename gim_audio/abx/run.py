"""ABX errors of a model's modules on the tokens of a data directory."""

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gim_audio.abx.distances import Tokens, distances
from gim_audio.abx.items import Item
from gim_audio.abx.scores import Mode, Numbers, groups, pairs_of, score
from gim_audio.errors import DataError
from gim_audio.featurize import Encoder, encode_at_one_rate, encoders_of, waveforms
from gim_audio.kaldi import DataDir

__all__ = ["abx"]

MODES: tuple[Mode, ...] = ("within", "across")


def abx(
    encoder: Encoder,
    data: DataDir,
    items: Sequence[Item],
    *,
    modules: Sequence[int],
    most: int = 10,
    most_speakers: int = 5,
    most_utterances: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    allow_pipes: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """ABX error of some modules, within and across speakers.

    Features lie in a temporary folder while they are compared: memory does not grow with the data.

    A token's frames are those whose centres lie in it, without the last one, as in libri-light;
    every module is taken at the last module's frame rate. All modules are compared on the same
    tokens.

    Args:
        encoder: The frozen model or baseline.
        data: the audio.
        items: tokens in its utterances; those in others are passed over.
        modules: The numbers of the modules to compare, from 1.
        most: tokens of one phone, context and speaker; of more, this many by chance.
        most_speakers: The most speakers of X for one A across speakers, drawn by chance.
        most_utterances: The most utterances, drawn by chance.
        seed: The seed of these draws.
        device: The device that computes distances.
        allow_pipes: run the commands in `wav.scp`.
        progress: called with the number of utterances that are encoded.

    Returns:
        A row a module: its number, its name, and for `within` and `across` a score as a dictionary,
        or None where there is nothing to compare. And the speakers that the scores' halves are made
        of, sorted.

    Raises:
        DataError: no item is in the data, or none can be compared.
    """
    by_utterance: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.utterance in data.speakers:
            by_utterance[item.utterance].append(item)
    if not by_utterance:
        raise DataError(f"{data.path}: none of its {len(data.utterances)} utterances has a token")
    names = sorted(by_utterance)
    if most_utterances is not None and len(names) > most_utterances:
        names = np.random.default_rng(seed).choice(names, most_utterances, replace=False).tolist()
    with tempfile.TemporaryDirectory(prefix="gim-audio-abx-") as folder:
        files = [Path(folder) / str(module) for module in modules]
        tokens, starts, lengths, total = _encode(
            encoder,
            data.select(names),
            by_utterance,
            modules,
            files,
            allow_pipes=allow_pipes,
            progress=progress,
        )
        plans = {
            mode: groups(tokens, mode, most=most, most_speakers=most_speakers, seed=seed)
            for mode in MODES
        }
        if not any(plans.values()):
            raise DataError(
                f"{data.path}: among {len(tokens)} tokens no two phones stand between the same"
                " neighbours: more speech is needed"
            )
        pairs = pairs_of([group for plan in plans.values() for group in plan])
        rows: list[dict[str, Any]] = []
        speakers = sorted({item.speaker for item in tokens})
        for module, file in zip(modules, files, strict=True):
            frames = np.memmap(file, np.float32, "r").reshape(total, -1)
            stretches = Tokens(frames, starts, lengths, device or torch.device("cpu"))
            measured = distances(stretches, pairs)
            scores: dict[str, Any] = {
                mode: asdict(score(plan, pairs, measured, speakers)) if plan else None
                for mode, plan in plans.items()
            }
            rows.append({"module": module, "name": encoder.module_names[module - 1], **scores})
        return rows, speakers


def _encode(
    encoder: Encoder,
    data: DataDir,
    items: Mapping[str, Sequence[Item]],
    modules: Sequence[int],
    files: Sequence[Path],
    *,
    allow_pipes: bool,
    progress: Callable[[int], None],
) -> tuple[list[Item], Numbers, Numbers, int]:
    """Write each module's frames to its file.

    Return tokens, their starts and lengths, and how many frames.

    Shape: the arrays `(tokens,)`.
    """
    grid = encoder.geometries[-1]
    tokens: list[Item] = []
    stretches: list[tuple[int, int]] = []
    total = 0
    encoders = encoders_of(encoder, data, allow_pipes=allow_pipes)
    with ExitStack() as stack:
        opened = [stack.enter_context(file.open("wb")) for file in files]
        for done, (name, waveform) in enumerate(
            waveforms(data, encoder, allow_pipes=allow_pipes), start=1
        ):
            features = encode_at_one_rate(encoders(name), waveform, modules)
            frames = len(features[0])
            for item in items[name]:
                edges = [
                    (time * encoder.rate - grid.centre) / grid.hop
                    for time in (item.onset, item.offset)
                ]
                first, last = max(0, math.ceil(edges[0])), min(frames, math.floor(edges[1]))
                if last > first:
                    tokens.append(item)
                    stretches.append((total + first, last - first))
            for file, matrix in zip(opened, features, strict=True):
                file.write(np.ascontiguousarray(matrix, dtype=np.float32).data)
            total += frames
            progress(done)
    starts, lengths = np.array(stretches, dtype=np.int64).reshape(-1, 2).T
    return tokens, starts, lengths, total
