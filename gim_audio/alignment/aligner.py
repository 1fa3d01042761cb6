"""Forced alignment of one utterance, by the English model that pocketsphinx carries."""

import re
import tempfile
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gim_audio.audio import Waveform
from gim_audio.corpora.espeak import Espeak
from gim_audio.corpora.synthetic import phones_of
from gim_audio.errors import DataError
from gim_audio.phones import LABEL_SECONDS, PHONES, Alignment, normalise

__all__ = ["Aligner", "words_of"]

RATE = 16000
"""Hz, of the acoustic model."""

CENTRE = 0.0078
"""Seconds from 10 k ms to the moment that frame k stands for: the middle of its window of 25.6 ms
less half a frame."""

DITHER = 2
"""Numbers of 16 bits: digital silence has no spectrum."""

WIDE = {"beam": 1e-200, "pbeam": 1e-200, "wbeam": 1e-200}
"""Beams that lose nothing; pocketsphinx's own are several times faster and sometimes lose the
thread."""

BEAMS: tuple[dict[str, float], ...] = ({}, WIDE)
"""The beams of the first pass, which are tried in turn."""

SHORTEST = 410
"""Samples: a window."""

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ＇`´′", "'"))
_MARKUP = re.compile(r"<[^<>\s]+>|\[[^\[\]]*\]|\{[^{}]*\}|(?<!\S)![^\W_]\S*")
_SILENCE = {"sil", "silence", "s", "/s", "eps", "sp", "pau", "pause"}
_WORD = re.compile(r"\+SPN\+|[^\W_]+(?:'[^\W_]+)*'?")
_NAME = "the_whole_utterance"

SPOKEN_NOISE = "+SPN+"
"""Stands for markup among the words, and for its phone."""


def words_of(text: str) -> list[str]:
    """Return the words of a transcript, in lower case, without punctuation.

    What stands in <>, [] or {} or after ! is no word: names of silence are left out, as there may
    be a pause anywhere, and what else somebody uttered (<UNK>, [LAUGHTER]) is `SPOKEN_NOISE`.
    """

    def marked(found: re.Match[str]) -> str:
        return " " if found[0].strip("<>[]{}!") in _SILENCE else f" {SPOKEN_NOISE} "

    return _WORD.findall(_MARKUP.sub(marked, text.lower().translate(_APOSTROPHES)))


class Aligner:
    """Finds the phones of utterances whose words are known.

    Two passes: the first finds the words, with the pronunciation and the pauses that fit best; the
    second takes all their phones as those of one long word and finds each. (Of several words
    pocketsphinx 5.1.1 finds the phones of some utterances only: it holds them to the first pass's
    word boundaries.) Words that its dictionary lacks are pronounced by eSpeak NG.
    """

    def __init__(self) -> None:
        import pocketsphinx

        model = Path(pocketsphinx.get_model_path("en-us"))
        self._model, self._decoder = str(model / "en-us"), pocketsphinx.Decoder
        self._dictionary = str(model / "cmudict-en-us.dict")
        self._words = [self._make(self._dictionary, **beams) for beams in BEAMS]

    def _make(self, dictionary: str, **beams: float) -> Any:
        return self._decoder(hmm=self._model, dict=dictionary, lm=None, loglevel="FATAL", **beams)

    def align(self, waveform: Waveform, text: str) -> Alignment:
        """Phones from the first sample to the last, in true time.

        Pauses, breath and noise are `SIL`.

        Args:
            waveform: The samples at `RATE`. Shape: `(samples,)`.
            text: The words that are said, and nothing else.

        Raises:
            DataError: there are no words, or they do not fit the audio.
        """
        words = words_of(text)
        if not set(words) - {SPOKEN_NOISE}:
            raise DataError("no words in its transcript")
        if len(waveform) < SHORTEST:
            raise DataError(f"{len(waveform)} samples are too short to align")
        dither = np.random.default_rng(0).integers(-DITHER, DITHER + 1, len(waveform))
        pcm = np.clip(np.rint(waveform * 32768) + dither, -32768, 32767).astype("<i2").tobytes()
        found = None
        for number, beams in enumerate(BEAMS):
            try:
                found = self._find(_pronounced(self._words[number], words, pcm), pcm)
                break
            except (
                RuntimeError,
                TypeError,
            ):  # pocketsphinx's words for a hypothesis that it has not got
                # The old one would receive the next otherwise.
                self._words[number] = self._make(self._dictionary, **beams)
        if found is None:
            raise DataError("its transcript does not fit the audio")
        starts = np.array([0.0, *(LABEL_SECONDS * start + CENTRE for start, _ in found[1:])])
        return Alignment(
            starts,
            np.array([*starts[1:], len(waveform) / RATE]),
            np.array([label for _, label in found]),
        )

    def _find(self, phones: Sequence[str], pcm: bytes) -> list[tuple[int, int]]:
        """The frame at which each phone begins, and its class; silences that meet are one."""
        with tempfile.NamedTemporaryFile("w", suffix=".dict") as dictionary:
            dictionary.write(f"{_NAME} {' '.join(phones)}\n")
            dictionary.flush()
            decoder = self._make(dictionary.name, **WIDE)
        decoder.set_align_text(_NAME)
        _hear(decoder, pcm)
        decoder.set_alignment()
        _hear(decoder, pcm)
        found: list[tuple[int, int]] = []
        for entry in decoder.get_alignment().phones():
            name = (
                entry.name
                if not entry.name.startswith("+")
                else "SPN"
                if entry.name == SPOKEN_NOISE
                else "SIL"
            )
            label = normalise(name)
            if not (found and found[-1][1] == label == normalise("SIL")):
                found.append((entry.start, label))
        return found


def _pronounced(decoder: Any, words: Sequence[str], pcm: bytes) -> list[str]:
    """The phones of the words as they are said, with a pause where there is one."""
    for word in words:
        if decoder.lookup_word(word) is None:
            decoder.add_word(
                word, SPOKEN_NOISE if word == SPOKEN_NOISE else " ".join(_pronounce(word)), True
            )
    decoder.set_align_text(" ".join(words))
    _hear(decoder, pcm)
    phones: list[str] = []
    for segment in decoder.seg():
        if segment.word == SPOKEN_NOISE:
            phones.append(SPOKEN_NOISE)
        elif segment.word.startswith(("<", "[", "+")):
            phones += ["SIL"] if phones[-1:] != ["SIL"] else []
        else:
            phones += decoder.lookup_word(segment.word).split()
    return phones


def _hear(decoder: Any, pcm: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()


@cache
def _espeak() -> Espeak:
    return Espeak()


def _pronounce(word: str) -> list[str]:
    """Return the phones of a word as eSpeak NG says it.

    Raises:
        DataError: it says nothing, or would name the letters.
    """
    if not all(
        letter.isascii() or unicodedata.name(letter, "").startswith("LATIN") for letter in word
    ):
        raise DataError(f"nobody knows how to say `{word}`")
    speech = _espeak().say(
        word, variant="m1", words_a_minute=160, pitch=50, pitch_range=50, noise_seed=1
    )
    silence = normalise("SIL")
    phones = [PHONES[label].upper() for label in phones_of(speech).labels if label != silence]
    if not phones:
        raise DataError(f"nobody knows how to say `{word}`")
    return phones
