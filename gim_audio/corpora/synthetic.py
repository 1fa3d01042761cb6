"""The built-in spoken corpus.

It is a data directory with exact phone times, the same bytes for the same seed.
"""

import io
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from gim_audio.audio import Waveform, to_mono
from gim_audio.corpora.espeak import ESPEAK_TO_PHONES, VARIANTS, Espeak, Speech
from gim_audio.errors import DataError
from gim_audio.files import new_folder
from gim_audio.kaldi import DataDir
from gim_audio.phones import Alignment, normalise, write_ctm

__all__ = ["make", "phones_of"]

RATE = 16000

STOPS = ("p", "t", "t2", "k", "tS")
"""eSpeak's voiceless stops and affricates: before their burst the mouth is closed."""

LONGEST_CLOSURE = 0.061
"""Seconds; eSpeak's at 130 words a minute, measured in voices that do not echo."""

QUIET = 0.06
"""A share of the loudest sample shortly before."""

ADJECTIVES = (
    "azure bright careful cheerful cloudy curious dusty eager early faithful famous foolish frozen"
    " gentle golden good hasty heavy huge joyful lazy little loud loyal narrow noisy odd old"
    " patient pleasant proud quiet royal shallow sharp shy silver strange thirsty thorough tired"
    " usual warm weary whole wooden yellow young "
).split()
NOUNS = (
    "author badger beach bird bishop bottle boy bridge bush butcher camera captain car chair child"
    " church clock cloud cook cousin dog doctor engine father feather field fire fish forest garage"
    " garden girl goose guest harbour hedge horse house island jacket judge juice jungle king"
    " kitchen lawyer letter lion mirage mountain mouse mother nephew nurse ocean oyster path pigeon"
    " pillow poet potter river road rouge sailor shadow shepherd singer sister soldier spoon"
    " stranger teacher thief thumb toy treasure uncle valley village voice watch weather window"
    " wolf wood yacht zebra "
).split()
VERBS = (
    "admired annoyed answered avoided believed bought carried caught chased choked counted covered"
    " crossed described employed enjoyed feared followed found heard judged joined knew launched"
    " left liked loathed measured missed moved noticed opened painted passed praised pushed reached"
    " remembered saw shook showed sold stole thanked threw touched troubled understood used visited"
    " washed watched wished "
).split()
PREPOSITIONS = (
    "above across after against along among around before behind below beside beyond near through"
    " toward under with without "
).split()
OPENINGS = (
    "In the morning; At last; Once again; Without any doubt; Last Thursday; Long ago; For pleasure;"
    " As usual; Beyond measure; Every other year; To his great joy; Under the azure sky"
).split("; ")


@dataclass(frozen=True)
class Voice:
    """A speaker: voice, prosody, and the microphone."""

    name: str
    variant: str
    words_a_minute: int
    pitch: int
    pitch_range: int
    tilt: float
    """Coefficient of a first-order filter: dull above 0, bright below."""


def make(
    path: Path,
    *,
    hours: float,
    speakers: int,
    seed: int,
    progress: Callable[[float], None] = lambda hours: None,
) -> None:
    """Make the corpus: WAVs of 16 kHz, `text`, and `phones.ctm` in true time.

    Speakers take turns until `hours` are reached. Each has a voice, pitch, speed and microphone of
    its own; each utterance has one to three sentences, a level of -32 to -14 dB and noise at 15 to
    45 dB below it.

    Raises:
        DataError: there would be no speaker, or less audio than a second for each.
        GimAudioError: `path` exists.
    """
    if speakers < 1 or hours * 3600 < speakers:
        raise DataError(
            f"{speakers} speakers in {hours} hours: give at least one speaker and a second for each"
        )
    # A process of its own: the library keeps state that an earlier corpus must not pass on to this
    # one.
    with (
        new_folder(path) as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
    ):
        recordings: dict[str, str] = {}
        owners: dict[str, str] = {}
        text: dict[str, str] = {}
        alignments: dict[str, Alignment] = {}
        voices = [
            _voice(number, np.random.default_rng((seed, 0, number))) for number in range(speakers)
        ]
        seconds, turn = 0.0, 0
        while seconds < hours * 3600 or turn < speakers:
            voice = voices[turn % speakers]
            generator = np.random.default_rng((seed, 1, turn))
            sentences = [_sentence(generator) for _ in range(generator.integers(1, 4))]
            speech = process.submit(
                _say, " ".join(sentences), voice, int(generator.integers(2**31))
            ).result()
            name = f"{voice.name}-{turn // speakers:04d}"
            samples = _record(speech, voice, generator)
            file = Path("wav") / voice.name / f"{name}.wav"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(_wav(samples))
            recordings[name], owners[name] = str(path.resolve() / file), voice.name
            text[name] = " ".join(sentences).replace(",", "").replace(".", "").upper()
            alignments[name] = phones_of(speech)
            seconds += len(samples) / RATE
            turn += 1
            progress(seconds / 3600)
        DataDir(dict(sorted(recordings.items())), dict(sorted(owners.items())), {}, text).write(
            folder
        )
        write_ctm(folder / "phones.ctm", alignments)


def _voice(number: int, generator: np.random.Generator) -> Voice:
    return Voice(
        name=f"syn{number:03d}",
        variant=VARIANTS[number % len(VARIANTS)],
        words_a_minute=int(generator.integers(130, 200)),
        pitch=int(generator.integers(30, 71)),
        pitch_range=int(generator.integers(30, 71)),
        tilt=float(generator.uniform(-0.3, 0.5)),
    )


def _sentence(generator: np.random.Generator) -> str:
    def pick(words: list[str]) -> str:
        return words[int(generator.integers(len(words)))]

    def thing() -> str:
        article = pick(["the", "the", "his", "her", "their", "our", "this", "each"])
        return (
            f"{article} {pick(ADJECTIVES)} {pick(NOUNS)}"
            if generator.random() < 0.7
            else f"{article} {pick(NOUNS)}"
        )

    sentence = f"{thing()} {pick(VERBS)} {thing()}"
    if generator.random() < 0.6:
        sentence += f" {pick(PREPOSITIONS)} {thing()}"
    if generator.random() < 0.25:
        sentence = f"{pick(OPENINGS)}, {sentence}"
    return sentence[0].upper() + sentence[1:] + "."


_engine: Espeak | None = None


def _say(text: str, voice: Voice, noise_seed: int) -> Speech:
    global _engine  # noqa: PLW0603 - one library in the process that speaks
    _engine = _engine or Espeak()
    return _engine.say(
        text,
        variant=voice.variant,
        words_a_minute=voice.words_a_minute,
        pitch=voice.pitch,
        pitch_range=voice.pitch_range,
        noise_seed=noise_seed,
    )


def _record(speech: Speech, voice: Voice, generator: np.random.Generator) -> Waveform:
    """The voice through its microphone, in a room that is not silent."""
    from scipy.signal import lfilter

    samples = to_mono(speech.samples[:, None], speech.rate, RATE).astype(np.float64)
    samples = lfilter([1 - abs(voice.tilt)], [1, -voice.tilt], samples)
    noise = lfilter([1], [1, -generator.uniform(0, 0.95)], generator.standard_normal(len(samples)))
    noise *= _rms(samples) / _rms(noise) * 10 ** (-generator.uniform(15, 45) / 20)
    noisy = samples + noise
    level = 10 ** (generator.uniform(-32, -14) / 20)
    mixed: Waveform = np.clip(noisy * level / _rms(noisy), -1, 1 - 2**-15).astype(np.float32)
    return mixed


def _wav(samples: Waveform) -> bytes:
    buffer = io.BytesIO()  # soundfile does not say why it cannot write to a file
    soundfile.write(buffer, samples, RATE, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


def _rms(samples: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(samples * samples))) or 1.0


def phones_of(speech: Speech) -> Alignment:
    """Return eSpeak's phones as classes of the 41, from the first sample to the last.

    eSpeak says when a voiceless stop bursts; as phoneticians and aligners have it, it begins with
    its closure.
    """
    starts: list[float] = [0.0]
    labels: list[int] = [normalise("SIL")]
    total = len(speech.samples)
    positions = [position for position, _ in speech.events] + [total]
    for (start, marked), end in zip(speech.events, positions[1:], strict=True):
        mnemonic = marked.lstrip("',%=|")
        parts = ESPEAK_TO_PHONES.get(mnemonic)
        if parts is None:
            raise DataError(f"eSpeak phone `{mnemonic}` has no place among the 41")
        if end <= start:
            continue  # eSpeak merged it into the phone before
        begin = start
        if mnemonic in STOPS and labels[-1] != normalise("SIL"):
            # The last phone was received.
            begin = max(start - _closure(speech, start), int(starts[-1] + start) // 2)
        for number, part in enumerate(parts):
            starts.append(begin + (end - begin) * number / len(parts))
            labels.append(normalise(part))
    times = np.array([*starts, total]) / speech.rate
    kept = times[1:] > times[:-1]
    return Alignment(times[:-1][kept], times[1:][kept], np.array(labels)[kept])


def _closure(speech: Speech, burst: int) -> int:
    """Samples of quiet before a burst. Voices that echo are quiet, not silent."""
    before = np.abs(speech.samples[max(0, burst - int(0.15 * speech.rate)) : burst])
    loud = np.flatnonzero(before > QUIET * before.max(initial=0))
    quiet = len(before) - 1 - int(loud[-1]) if len(loud) else 0
    return min(quiet, int(LONGEST_CLOSURE * speech.rate))
