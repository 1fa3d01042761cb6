"""eSpeak NG through ctypes.

It gives samples, and when each phone begins (speak_lib.h, version 1.52).
"""

import ctypes
from ctypes import POINTER, c_char, c_char_p, c_int, c_long, c_short, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

__all__ = ["ESPEAK_TO_PHONES", "VARIANTS", "Espeak", "Speech"]

VARIANTS = (
    "m1 f1 m2 f2 m3 f3 m4 f4 m5 f5 m6 m7 m8 Alex Alicia Andrea Andy Annie Denis Diogo Gene Hugo"
    " Jacky Lee Marco Mario Michael Mike adam anika antonio aunty belinda benjamin boris caleb"
    " david ed grandma grandpa ian iven iven2 iven3 john linda max miguel pablo paul pedro quincy"
    " rob robert sandro shelby steph steph2 travis victor zac "
).split()
"""Voice variants that sound like people; whispers, robots and monsters are left out."""

ESPEAK_TO_PHONES: dict[str, tuple[str, ...]] = {
    "_": ("SIL",), "_:": ("SIL",), "_::": ("SIL",), "_!": ("SIL",), "_|": ("SIL",), "0": ("aa",),
    "0#": ("aa",), "A:": ("aa",), "A": ("aa",), "A@": ("aa", "r"), "a": ("ae",), "aa": ("ae",),
    "a#": ("ah",), "V": ("ah",), "@": ("ah",), "@2": ("ah",), "@5": ("ah",), "@#": ("ah",),
    "@L": ("ah", "l"), "O": ("ao",), "O:": ("ao",), "O2": ("ao",), "O@": ("ao", "r"),
    "o@": ("ao", "r"), "aU": ("aw",), "aU@": ("aw", "er"), "aI": ("ay",), "aI@": ("ay", "er"),
    "aI3": ("ay", "er"), "b": ("b",), "tS": ("ch",), "d": ("d",), "D": ("dh",), "E": ("eh",),
    "E2": ("eh",), "e@": ("eh", "r"), "3": ("er",), "3:": ("er",), "@r": ("er",), "eI": ("ey",),
    "f": ("f",), "g": ("g",), "h": ("hh",), "I": ("ih",), "I2": ("ih",), "I#": ("ih",),
    "i@3": ("ih", "r"), "i@": ("iy", "ah"), "i": ("iy",), "i:": ("iy",), "dZ": ("jh",),
    "k": ("k",), "l": ("l",), "m": ("m",), "m-": ("m",), "n": ("n",), "n-": ("n",), "N": ("ng",),
    "oU": ("ow",), "oU#": ("ow",), "OI": ("oy",), "p": ("p",), "r": ("r",), "r-": ("r",),
    "s": ("s",), "S": ("sh",), "t": ("t",), "t2": ("t",), "t#": ("d",), "?": ("t",), "T": ("th",),
    "U": ("uh",), "U@": ("uh", "r"), "u": ("uw",), "u:": ("uw",), "v": ("v",), "w": ("w",),
    "j": ("y",), ";": ("y",), "@-": ("ah",), "z": ("z",), "z#": ("z",), "Z": ("zh",),
}  # fmt: skip
"""American English mnemonics (without stress marks) to the 41 phones; a unit of two is cut in the
middle."""

_SYNCHRONOUS, _PHONEME_EVENTS, _END, _PHONEME = 2, 1, 0, 7
_RATE, _PITCH, _RANGE = 1, 3, 4


class _Id(ctypes.Union):
    _fields_: ClassVar[Any] = [("number", c_int), ("name", c_char_p), ("string", c_char * 8)]


class _Event(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        ("type", c_int),
        ("unique_identifier", c_uint),
        ("text_position", c_int),
        ("length", c_int),
        ("audio_position", c_int),
        ("sample", c_int),
        ("user_data", c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_Event))


@dataclass(frozen=True)
class Speech:
    """A piece of speech.

    Attributes:
        samples: The samples in [-1, 1]. Shape: `(samples,)`.
        rate: The sampling rate in Hz.
        events: The first sample of each phone, and eSpeak's mnemonic for it.
    """

    samples: npt.NDArray[np.float32]
    rate: int
    events: list[tuple[int, str]]


class Espeak:
    """The library, initialised once in a process."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS)
        if self.rate <= 0:
            raise RuntimeError("eSpeak NG does not start: reinstall espeakng-loader")
        self._callback = _Callback(self._collect)  # must outlive the calls
        self._library.espeak_SetSynthCallback(self._callback)
        self._blocks: list[npt.NDArray[np.int16]] = []
        self._events: list[tuple[int, str]] = []

    def _collect(self, wave: Any, samples: int, events: Any) -> int:
        if wave and samples:
            self._blocks.append(np.ctypeslib.as_array(wave, (samples,)).copy())
        index = 0
        while events[index].type != _END:
            if events[index].type == _PHONEME:
                self._events.append((events[index].sample, events[index].id.string.decode()))
            index += 1
        return 0

    def say(
        self,
        text: str,
        *,
        variant: str,
        words_a_minute: int,
        pitch: int,
        pitch_range: int,
        noise_seed: int,
    ) -> Speech:
        """Speak American English.

        Args:
            text: The text to say.
            variant: The variant of the voice, one of `VARIANTS`.
            words_a_minute: 80 to 450.
            pitch: 0 to 100.
            pitch_range: 0 (monotone) to 100.
            noise_seed: The seed of breath and frication.
        """
        if self._library.espeak_SetVoiceByName(f"en-us+{variant}".encode()):
            raise ValueError(f"eSpeak NG has no voice en-us+{variant}")
        for parameter, value in ((_RATE, words_a_minute), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks, self._events = [], []
        self._library.espeak_ng_SetRandSeed(c_long(noise_seed))  # breath
        ctypes.CDLL(None).srand(noise_seed)  # frication of the Klatt voices
        encoded = text.encode()
        self._library.espeak_Synth(encoded, c_size_t(len(encoded) + 1), 0, 0, 0, 1, None, None)
        samples = np.concatenate(self._blocks).astype(np.float32) / np.float32(32768)
        return Speech(samples, self.rate, self._events)
