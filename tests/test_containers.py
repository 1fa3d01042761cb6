"""Decoders that stop early, and folders that hold more than they show.

All of the audio, or a line that says why not.
"""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from gim_audio import audio, containers
from gim_audio.errors import AudioError, DataError
from gim_audio.kaldi import locate


def loud_and_quiet(seconds=12):
    """Sound that makes a variable bit rate vary."""
    generator = np.random.default_rng(0)
    level = np.repeat([0.001, 0.5], 2 * 16000)
    return np.tile(level, seconds // 4)[: seconds * 16000] * generator.uniform(
        -1, 1, seconds * 16000
    )


def encoded(samples, form, rate=16000, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def mp3():
    """An MP3 of 12 s with a Xing header."""
    return encoded(loud_and_quiet(), "MP3", bitrate_mode="VARIABLE", compression_level=0.4)


def without_first_frame(mp3):
    second = mp3.index(mp3[:2], 100)
    assert b"Xing" in mp3[:second]
    return mp3[second:]


@pytest.mark.parametrize("source", ["file", "bytes"])
def test_an_mp3_that_does_not_say_how_long_it_is(tmp_path, mp3, source):
    """libsndfile believes the bit rate of the first frame, and stops at half of this one."""
    streamed = without_first_frame(mp3)
    assert soundfile.SoundFile(io.BytesIO(streamed)).frames < 0.8 * 12 * 16000
    (tmp_path / "a.mp3").write_bytes(streamed)
    samples = audio.read(tmp_path / "a.mp3" if source == "file" else streamed, 16000, "a")
    assert len(samples) == pytest.approx(12 * 16000, abs=3 * 1152)
    whole = audio.read(mp3, 16000, "b")
    assert len(whole) == 12 * 16000
    offset = int(np.argmax(np.correlate(samples[30000:40000], whole[30000:36000], "valid")))
    np.testing.assert_allclose(
        samples[40000 + offset : 180000], whole[40000 : 180000 - offset], atol=1e-5
    )


def test_tags_of_an_mp3_are_no_recording(tmp_path, mp3):
    id3 = b"ID3\x03\x00\x00" + bytes([0, 0, 3, 5]) + bytes(3 * 128 + 5)
    for tagged in (id3 + mp3, mp3 + b"TAG" + bytes(125), id3 + mp3 + b"APETAGEX" + bytes(3000)):
        assert len(audio.read(tagged, 16000, "a")) == 12 * 16000
    assert containers.has_length(id3 + mp3)
    assert not containers.has_length(without_first_frame(mp3))


@pytest.mark.parametrize("form", ["MP3", "WAV", "FLAC", "OGG", "OPUS", "AU"])
@pytest.mark.parametrize("kind", ["twice", "half", "damaged"])
def test_the_whole_or_an_error(form, kind):
    """No part of two recordings in one file is taken for the whole.

    The same holds for half a file, and for one with a hole.
    """
    options = {"OPUS": {"subtype": "OPUS"}}.get(form, {})
    whole = encoded(loud_and_quiet(), "OGG" if form == "OPUS" else form, **options)
    if form in {"WAV", "AU"} and kind == "damaged":
        pytest.skip("other samples, but as many")
    middle = len(whole) // 2
    hole = np.random.default_rng(1).bytes(900)
    broken = {
        "twice": 2 * whole,
        "half": whole[:middle],
        "damaged": whole[:middle] + hole + whole[middle + 900 :],
    }
    with pytest.raises(AudioError) as error:
        found = audio.read(broken[kind], 16000, "a")
        assert len(found) < (2 if kind == "twice" else 1) * 12 * 16000  # what would be a loss
        pytest.fail(f"{len(found)} samples")
    assert str(error.value).startswith("a: ")
    assert len(audio.read(whole, 16000, "a")) == 12 * 16000


@pytest.mark.parametrize("form", ["WAV", "AIFF"])
def test_a_length_that_was_never_written(form):
    """A writer that cannot seek leaves 0 in the first header.

    Libsndfile reads the rest, and so do we.
    """
    whole = encoded(loud_and_quiet(4), form)
    assert len(audio.read(whole[:4] + bytes(4) + whole[8:], 16000, "a")) == 4 * 16000


def test_a_wav_that_was_never_closed():
    whole = encoded(loud_and_quiet(4), "WAV")
    with pytest.raises(AudioError, match="sox --ignore-length"):
        audio.read(whole[:4] + bytes(4) + whole[8:40] + bytes(4) + whole[44:], 16000, "a")


def test_encoders_that_do_not_count_the_first_frame():
    """Their count of bytes ends where the last frame begins, which is no second recording."""
    whole = encoded(loud_and_quiet(), "MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    at = whole.find(b"Xing") if b"Xing" in whole[:64] else whole.find(b"Info")
    count = int.from_bytes(whole[at + 12 : at + 16], "big")
    assert count == pytest.approx(len(whole), rel=0.01)
    fewer = (count - whole.index(whole[:2], 100)).to_bytes(4, "big")
    assert len(audio.read(whole[: at + 12] + fewer + whole[at + 16 :], 16000, "a")) == 12 * 16000


def test_the_header_of_an_mp3_that_does_not_say_how_long_it_is(tmp_path, mp3):
    (tmp_path / "a.mp3").write_bytes(without_first_frame(mp3))
    assert audio.header(tmp_path / "a.mp3").seconds == pytest.approx(12, abs=0.2)


def test_an_mp3_in_a_wav_is_refused(tmp_path, mp3):
    """The form that ffmpeg writes, with the fact chunk.

    Libsndfile reads about half of the frames of a variable bit rate.
    """
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16000, 8000, 1, 0, 12, 1, 2, 576, 1, 1393)
    body = (
        b"WAVEfmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + struct.pack("<I", len(mp3))
        + mp3
    )
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    with pytest.raises(AudioError, match=r"a\.wav: is an MP3 in a WAV file"):
        audio.read(tmp_path / "a.wav", 16000)


def au(samples):
    """An AU as sox writes it, with a comment between header and samples."""
    whole = encoded(samples, "AU")
    offset = int.from_bytes(whole[4:8], "big")
    return (
        whole[:4]
        + struct.pack(">I", offset + 20)
        + whole[8:offset]
        + b"Processed by SoX 14\0"
        + whole[offset:]
    )


ID3V1, ID3V2 = b"TAG" + bytes(125), b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)


@pytest.mark.parametrize(
    "between", [b"", ID3V1, bytes(40), b"APETAGEX" + bytes(24), ID3V2], ids=len
)
@pytest.mark.parametrize("second", ["tagged", "untagged"])
def test_mp3s_that_follow_each_other(mp3, between, second):
    """Whatever stands between them."""
    other = mp3 if second == "tagged" else without_first_frame(mp3)
    with pytest.raises(AudioError, match="bytes were not decoded: another recording follows"):
        audio.read(mp3 + between + other, 16000, "a")


def test_an_mp3_that_is_shorter_than_its_marks(mp3):
    """A file may end within the header of its first frame.

    Or a tag at the end would begin before the file does.
    """
    at = mp3.find(b"Xing")
    assert not containers.has_length(mp3[: at + 4])
    short = containers.Mp3File(mp3[:90])
    assert short.left == len(mp3[:90].rstrip(b"\0"))


def test_an_mp3_whose_kind_changes():
    """A second stream of another rate is not decoded.

    Nothing says how long the first stream is.
    """
    one = without_first_frame(
        encoded(loud_and_quiet(), "MP3", bitrate_mode="VARIABLE", compression_level=0.4)
    )
    other = encoded(
        np.tile(loud_and_quiet(), 3), "MP3", 44100, bitrate_mode="VARIABLE", compression_level=0.4
    )
    with pytest.raises(AudioError):
        audio.read(one + without_first_frame(other), 16000, "a")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (au, au),
        (lambda x: encoded(x, "CAF"), lambda x: encoded(x, "CAF")),
        (lambda x: encoded(x, "WAV"), lambda x: encoded(x, "FLAC")),
        (lambda x: ID3V2 + encoded(x, "FLAC"), lambda x: encoded(x, "FLAC")),
        (lambda x: encoded(x, "AIFF"), lambda x: encoded(x, "OGG")),
        (lambda x: encoded(x, "NIST"), lambda x: encoded(x, "NIST")),
    ],
    ids=["AU", "CAF", "WAV and FLAC", "FLAC with a tag", "AIFF and Ogg", "SPHERE"],
)
def test_two_recordings_of_any_kind(tmp_path, first, second):
    one = first(loud_and_quiet(4))
    assert len(audio.read(one, 16000, "a")) == 4 * 16000
    (tmp_path / "two").write_bytes(one + second(loud_and_quiet(4)))
    with pytest.raises(AudioError, match="another recording follows|cannot be decoded"):
        audio.read(tmp_path / "two", 16000)


def test_a_cut_sphere_file():
    """The format of TIMIT, WSJ and Switchboard."""
    whole = encoded(loud_and_quiet(4), "NIST")
    for kept in (0.3, 0.9, 0.999):
        with pytest.raises(AudioError, match="shorter than its header says"):
            audio.read(whole[: int(kept * len(whole))], 16000, "a")


@pytest.mark.parametrize("form", ["VOC", "AVR", "SDS", "WVE"])
def test_formats_that_libsndfile_does_not_follow_to_the_end(form):
    """libsndfile makes up what a cut SDS or WVE lacks, and takes headers within a VOC for samples."""
    subtype = "ALAW" if form == "WVE" else None
    rate = 8000 if form == "WVE" else 16000
    with pytest.raises(AudioError, match=f"libsndfile does not read {form} reliably"):
        audio.read(encoded(loud_and_quiet(4), form, rate, subtype=subtype), 16000, "a")


def test_a_w64_that_does_not_say_how_long_it_is():
    """libsndfile takes its header for sound."""
    whole = encoded(loud_and_quiet(4), "W64")
    with pytest.raises(AudioError, match="does not say how long it is"):
        audio.read(whole[:16] + bytes(8) + whole[24:], 16000, "a")


def pages(ogg):
    found, at = [], 0
    while at < len(ogg):
        end = at + 27 + ogg[at + 26] + sum(ogg[at + 27 : at + 27 + ogg[at + 26]])
        found.append(ogg[at:end])
        at = end
    return found


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("place", [2, -2])
def test_a_page_of_an_ogg(subtype, place):
    """libsndfile passes over a page that is missing or damaged.

    It counts from the first page that is left.
    """
    whole = pages(encoded(loud_and_quiet(16), "OGG", subtype=subtype))
    missing = b"".join(page for page in whole if page is not whole[place])
    damaged = [
        page if page is not whole[place] else page[:-3] + bytes([page[-3] ^ 1]) + page[-2:]
        for page in whole
    ]
    for broken, message in (
        (missing, "is missing"),
        (b"".join(damaged), "is not what was written"),
    ):
        with pytest.raises(AudioError, match=message):
            audio.read(broken, 16000, "a")
    assert len(audio.read(b"".join(whole), 16000, "a")) == 16 * 16000


def test_an_archive_with_white_space_and_pad_bytes(tmp_path):
    """Kaldi's tools put none there, others do: a word that is empty is not the end."""
    wav = encoded(loud_and_quiet(4), "WAV")
    odd = encoded(loud_and_quiet(4)[:-1], "WAV", subtype="PCM_U8")
    if len(odd) % 2:
        odd += b"\0"
    (tmp_path / "a.ark").write_bytes(b"\nu1 " + odd + b"\n u2 " + wav + b"\0u3 " + wav)
    assert featurize(f"ark:{tmp_path}/a.ark", tmp_path / "out").returncode == 0
    assert sorted(file.stem for file in (tmp_path / "out").glob("*.npy")) == ["u1", "u2", "u3"]


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_of_unknown_length_in_an_archive(tmp_path, length):
    """ffmpeg and sox write it so to a pipe: what follows in the archive would be read too."""
    wav = encoded(loud_and_quiet(4), "WAV")
    streamed = (
        wav[:4] + struct.pack("<I", length) + wav[8:40] + struct.pack("<I", length) + wav[44:]
    )
    (tmp_path / "a.ark").write_bytes(b"u0 " + streamed + b"u1 " + wav)
    with pytest.raises(DataError, match="unknown length"):
        locate(f"{tmp_path}/a.ark:3")
    assert (
        len(audio.read(locate(f"{tmp_path}/a.ark:{6 + len(streamed)}"), 16000, "u1")) == 4 * 16000
    )


@pytest.mark.parametrize("rate", [1, 50, 2**31 - 1])
def test_a_rate_that_is_none(rate):
    wav = encoded(loud_and_quiet(4), "WAV")
    with pytest.raises(AudioError, match=f"says {rate} Hz"):
        audio.read(wav[:24] + struct.pack("<I", rate) + wav[28:], 16000, "a")


def test_samples_that_are_none_after_resampling():
    with pytest.raises(AudioError, match="give none at 16000 Hz"):
        audio.read(encoded(np.zeros(1), "WAV", 192000), 16000, "a")


@pytest.mark.parametrize("level", [32768.0, 40.0])
def test_floats_that_are_no_samples(level):
    with pytest.raises(AudioError, match="where full scale is 1"):
        audio.read(encoded(level * loud_and_quiet(4), "WAV", subtype="FLOAT"), 16000, "a")
    assert (
        np.abs(audio.read(encoded(6 * loud_and_quiet(4), "WAV", subtype="FLOAT"), 16000, "a")).max()
        > 2
    )


def featurize(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "gim_audio", "featurize", "mfcc", *map(str, arguments)],
        capture_output=True,
        timeout=120,
        check=False,
        **options,
    )
