"""Give gim-audio inputs that are wrong, and see that it says so.

    python tools/fuzz.py [--count 10000] [--seed 0] [--kind KIND]

Real files of every container, data directories, alignments, configurations, experiments and command
lines are mutated. A run is good where it ends within 20 s with status 0, or with status 2 and a
line that says why. A traceback, a crash of the process, silence, or missing output of a good input
beside the wrong one is printed with what reproduces it, and the status is 1.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from gim_audio.cli import main as command_line

SECONDS = 20
"""The seconds and bytes that an input may take."""
TOGETHER = 200
"""Inputs that a process is given: where it crashes, the next one continues."""
RATE = 16000

Generator = np.random.Generator

TOKENS = (
    "",
    " ",
    "\ufeff",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "\x85",
    "\u2028",
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e999",
    "99999999999999999999",
    "1" * 5000,
    "0x1F",
    "²",
    "٣",
    "ünïcödé",
    "日本",
    "../..",
    "/",
    "a/b",
    ".",
    "|",
    "ls |",
    "[LAUGHTER]",
    "<UNK>",
    "!SIL",
    ";;",
    "#",
    "&a",
    "*a",
    "{",
    "[" * 2000,
    "null",
    "true",
    "\udcff",
)
"""The pieces that text is spoilt with."""


def spoilt(data: bytes, generator: Generator) -> bytes:
    """Return bytes with some mutations.

    Flipped, overwritten, cut out, put in, repeated or cut off.
    """
    found = bytearray(data)
    for _ in range(int(generator.integers(1, 4))):
        at, length = int(generator.integers(len(found) + 1)), int(2 ** generator.uniform(0, 12))
        kind = int(generator.integers(8))
        if kind == 0 and found:
            found[at % len(found)] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            found[at : at + length] = generator.bytes(length)
        elif kind == 2:
            del found[at : at + length]
        elif kind == 3:
            found[at:at] = generator.bytes(length)
        elif kind == 4:
            found[at:at] = found[at : at + length]
        elif kind == 5:
            del found[at:]
        elif kind == 6:
            at %= 64  # a header
            found[at : at + 4] = generator.choice(
                [b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"]
            )
        else:
            found += data if generator.integers(2) else generator.bytes(length)
    return bytes(found)


def garbled(text: str, generator: Generator) -> bytes:
    """Return text with some words, characters or lines replaced, moved, repeated or left out.

    Bytes are spoilt too.
    """
    if generator.integers(5) == 0:
        return spoilt(text.encode(), generator)
    lines = [line.split(" ") for line in text.split("\n")]
    for _ in range(int(generator.integers(1, 4))):
        row = int(generator.integers(len(lines)))
        line = lines[row]
        word, token = int(generator.integers(len(line))), str(generator.choice(TOKENS))
        kind = int(generator.integers(6))
        if kind == 0:
            line[word] = token
        elif kind == 1:
            line.insert(word, token)
        elif kind == 2 and len(line) > 1:
            del line[word]
        elif kind == 3:
            lines.insert(row, list(line))
        elif kind == 4 and len(lines) > 1:
            lines[row], lines[row - 1] = lines[row - 1], lines[row]
        else:
            at = int(generator.integers(len(line[word]) + 1))
            line[word] = line[word][:at] + token + line[word][at:]
    return "\n".join(" ".join(line) for line in lines).encode(errors="surrogateescape")


class Scene:
    """Good inputs, made once in a folder: what the mutations begin with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        generator = np.random.default_rng(0)
        samples = 0.1 * generator.standard_normal(RATE // 2)
        self.recordings: dict[str, bytes] = {}
        forms = {
            "wav": "WAV",
            "flac": "FLAC",
            "ogg": "OGG",
            "mp3": "MP3",
            "aiff": "AIFF",
            "au": "AU",
            "w64": "W64",
        }
        forms |= {"caf": "CAF", "sph": "NIST", "voc": "VOC", "rf64": "RF64"}
        for suffix, form in forms.items():
            file = io.BytesIO()
            soundfile.write(file, samples, RATE, format=form)
            self.recordings[suffix] = file.getvalue()
        file = io.BytesIO()
        soundfile.write(file, samples, RATE, format="OGG", subtype="OPUS")
        self.recordings["opus"] = file.getvalue()
        self.good = folder / "good.wav"
        self.good.write_bytes(self.recordings["wav"])
        names = ["a-1", "a-2", "b-1", "b-2"]
        self.tables = {
            "wav.scp": "".join(f"{name} {self.good}\n" for name in names),
            "utt2spk": "".join(f"{name} {name[0]}\n" for name in names),
            "spk2utt": "a a-1 a-2\nb b-1 b-2\n",
            "text": "".join(f"{name} HELLO WORLD\n" for name in names),
            "phones.ctm": "".join(
                f"{name} 1 {0.1 * n:.2f} 0.10 {phone}\n"
                for name in names
                for n, phone in enumerate(["SIL", "HH", "AH0", "L", "SIL"])
            ),
        }
        self.segments = "".join(
            f"{name} {name} 0.05 {end}\n"
            for name, end in zip(names, (0.3, 0.4, -1, 0.45), strict=True)
        )
        self.data = self.write(folder / "data", self.tables)
        self.configuration = (
            "model: {channels: 8, context: {hidden: 6}}\n"
            "objective: {steps_ahead: 3, negatives: {number: 4}, window: 16}\n"
            "data: {crop: 4000}\n"
            "training: {steps: 2, batch: 2, checkpoint_every: 1, diagnose_every: 1}\n"
        )
        (folder / "conf.yaml").write_text(self.configuration)
        quiet(["pack", str(self.data), str(folder / "packed")])
        quiet(
            [
                "train",
                str(folder / "conf.yaml"),
                "--data",
                str(folder / "packed"),
                "--out",
                str(folder / "exp"),
            ]
        )
        probe = ["probe", "speakers", "mfcc", "--train", str(self.data), "--test", str(self.data)]
        quiet([*probe, "--out", str(folder / "exp/results/mfcc/speakers.json")])

    def write(self, folder: Path, tables: dict[str, Any]) -> Path:
        """Write a data directory."""
        folder.mkdir(parents=True)
        for name, text in tables.items():
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder


def quiet(arguments: list[str]) -> tuple[int, str]:
    """Run the command line; return its status and what it said on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            command_line(arguments)
        except SystemExit as done:
            return int(done.code or 0), said.getvalue()
    return 0, said.getvalue()


class FailedError(Exception):
    """An input was not answered as it should be."""


def check(arguments: list[str]) -> int:
    """Run the command line; a status other than 0 needs a line that says why.

    Raises:
        FailedError: The status is another one, or nothing was said.
    """
    status, said = quiet(arguments)
    if status not in {0, 2}:
        raise FailedError(f"status {status}")
    if status and not said.strip().split("\n")[-1].startswith("gim-audio: "):
        raise FailedError(f"no line that says what is wrong, but {said[-300:]!r}")
    if "Traceback" in said or len(said) > 20_000:
        raise FailedError(f"said {said[:300]!r}")
    return status


def recording(scene: Scene, folder: Path, generator: Generator) -> None:
    """A spoilt recording beside a good one, whose features must be there."""
    suffix = str(generator.choice(list(scene.recordings)))
    (folder / "tree").mkdir()
    shutil.copy(scene.good, folder / "tree/good.wav")
    (folder / f"tree/bad.{suffix}").write_bytes(spoilt(scene.recordings[suffix], generator))
    check(["featurize", "fbank", str(folder / "tree"), str(folder / "out")])
    if not (folder / "out/good.npy").exists():
        raise FailedError("the features of the good recording are missing")


def archive(scene: Scene, folder: Path, generator: Generator) -> None:
    """A spoilt archive of recordings; what comes before the first mutation must be there."""
    good = b"good " + scene.recordings["wav"]
    (folder / "a.ark").write_bytes(good + spoilt(b"next " + scene.recordings["wav"], generator))
    check(["featurize", "fbank", f"ark:{folder}/a.ark", str(folder / "out")])
    if not (folder / "out/good.npy").exists():
        raise FailedError("the features of the first recording are missing")


def tree(scene: Scene, folder: Path, generator: Generator) -> None:
    """A folder with names, links and files of all kinds, and a good recording."""
    root = folder / "tree"
    root.mkdir()
    shutil.copy(scene.good, root / "good.wav")
    places = [root]
    for number in range(int(generator.integers(1, 8))):
        token = str(
            generator.choice(
                [t for t in TOKENS if t and "\0" not in t and "/" not in t and len(t) < 50]
            )
        )
        path = places[int(generator.integers(len(places)))] / f"{token}{number}"
        named = path.with_name(
            path.name + str(generator.choice([".wav", ".FLAC", ".m4a", ".txt", "", ".mp3"]))
        )
        kind = int(generator.integers(6))
        with contextlib.suppress(OSError):
            if kind == 0:
                path.mkdir()
                places.append(path)
            elif kind == 1:
                named.symlink_to(
                    str(generator.choice([".", "..", "nowhere", str(scene.data), str(named)]))
                )
            elif kind == 2:
                os.mkfifo(named)
            elif kind == 3:
                named.mkdir()
            else:
                form = str(generator.choice(list(scene.recordings)))
                named.write_bytes(spoilt(scene.recordings[form], generator))
    check(["featurize", "fbank", str(root), str(folder / "out")])
    if not (folder / "out/good.npy").exists():
        raise FailedError("the features of the good recording are missing")


def data_directory(scene: Scene, folder: Path, generator: Generator) -> None:
    """A data directory with a spoilt table."""
    tables: dict[str, Any] = dict(scene.tables)
    if generator.integers(2):
        tables["segments"] = scene.segments
    spoil = str(generator.choice(list(tables)))
    tables[spoil] = garbled(tables[spoil], generator)
    path = str(scene.write(folder / "d", tables))
    command = int(generator.integers(5))
    if command == 0:
        check(["featurize", "fbank", path, str(folder / "out")])
    elif command == 1:
        check(["pack", path, str(folder / "p")])
    elif command == 2:
        check(
            [
                "data",
                "split",
                path,
                str(folder / "x"),
                str(folder / "y"),
                "--by",
                str(generator.choice(["time", "speakers"])),
            ]
        )
    elif command == 3:
        check(["featurize", "fbank", f"scp:{path}/wav.scp", str(folder / "out")])
    else:
        mended = check(["data", "check", path, "--fix"]) == 0
        if mended and check(["data", "check", path]):
            raise FailedError("--fix mended what is still wrong")


def alignment(scene: Scene, folder: Path, generator: Generator) -> None:
    """Alignments in any format, and item files."""
    kind = str(generator.choice(["ctm", "cpc", "items", "textgrid"]))
    if kind == "items":
        lines = "".join(
            f"a-1 0.{n} 0.{n + 2} ah b d a\nb-1 0.{n} 0.{n + 2} iy b d b\n" for n in range(1, 3)
        )
        (folder / "x.item").write_bytes(
            garbled(f"#file onset offset #phone prev next speaker\n{lines}", generator)
        )
        arguments = [
            "abx",
            "fbank",
            str(scene.data),
            "--items",
            str(folder / "x.item"),
            "--device",
            "cpu",
        ]
        check([*arguments, "--out", str(folder / "x.json")])
        return
    texts = {
        "ctm": scene.tables["phones.ctm"],
        "cpc": "".join(
            f"{name} {' '.join(str(n % 41) for n in range(50))}\n" for name in ("a-1", "b-1")
        ),
        "textgrid": (
            'File type = "ooTextFile"\nObject class ='
            ' "TextGrid"\n\n0\n0.5\n<exists>\n1\n"IntervalTier"\n'
            '"phones"\n0\n0.5\n2\n0\n0.2\n"AH0"\n0.2\n0.5\n"T"\n'
        ),
    }
    path = folder / "x.ctm"
    if kind == "textgrid":
        path = folder / "grids"
        path.mkdir()
    (path / "a-1.TextGrid" if kind == "textgrid" else path).write_bytes(
        garbled(texts[kind], generator)
    )
    if generator.integers(2):
        shutil.copytree(scene.data, folder / "d")
        check(["data", "labels", str(folder / "d"), str(path)])
    else:
        check(["data", "agreement", str(path), str(scene.data / "phones.ctm")])


def configuration(scene: Scene, folder: Path, generator: Generator) -> None:
    """A configuration, or a setting on the command line.

    Nothing is trained, as the corpus is missing.
    """
    (folder / "c.yaml").write_bytes(garbled(scene.configuration, generator))
    override = garbled("training.steps=3", generator).decode(errors="surrogateescape")
    check(
        [
            "train",
            str(folder / "c.yaml"),
            "--data",
            str(folder / "none"),
            "--out",
            str(folder / "e"),
            "--",
            override,
        ]
    )


def experiment(scene: Scene, folder: Path, generator: Generator) -> None:
    """An experiment with a spoilt file."""
    path = folder / "exp"
    shutil.copytree(scene.folder / "exp", path, symlinks=True)
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    spoil = files[int(generator.integers(len(files)))]
    text = spoil.suffix in {".json", ".jsonl", ".yaml"}
    content = spoil.read_bytes()
    spoil.write_bytes(garbled(content.decode(), generator) if text else spoilt(content, generator))
    command = int(generator.integers(4))
    if command == 0:
        check(["info", str(path)])
    elif command == 1:
        check(
            [
                "report",
                str(path),
                "--out",
                str(folder / "r.html"),
                "--markdown",
                str(folder / "r.md"),
            ]
        )
    elif command == 2:
        check(["featurize", str(path), str(scene.good), str(folder / "out"), "--device", "cpu"])
    else:
        train = [
            "train",
            str(scene.folder / "conf.yaml"),
            "training.steps=3",
            "--data",
            str(scene.folder / "packed"),
        ]
        check([*train, "--out", str(path), "--resume"])


def line(scene: Scene, folder: Path, generator: Generator) -> None:
    """A command with options and arguments that make no sense."""
    import click

    from gim_audio.cli import COMMANDS, cli

    context = click.Context(cli)
    name = str(generator.choice(list(COMMANDS)))
    command: Any = cli.get_command(context, name)
    arguments = [name]
    while isinstance(command, click.Group):
        name = str(generator.choice(list(command.commands)))
        command, arguments = command.commands[name], [*arguments, name]
    places = [
        str(scene.data),
        str(scene.folder / "exp"),
        str(scene.good),
        str(folder / "new"),
        str(folder / "a\udcff"),
    ]
    places += ["gim-small", "mfcc", "ark:-", "ark,t:x", "scp:x", "x.h5", "", "none"]
    values = [
        *places,
        *(token for token in TOKENS if "\0" not in token),
        "1",
        "2",
        "cpu",
        "phones",
        "cuda:7",
        "meta",
    ]
    for parameter in command.params:
        if parameter.name in {"download", "hours", "help"} or (
            arguments[-1:] == ["synthetic"] and parameter.name == "out"
        ):
            continue  # they would fetch, or speak for hours
        if isinstance(parameter, click.Argument):
            count = 1 if parameter.nargs == 1 else int(generator.integers(1, 3))
            arguments += [str(generator.choice(places)) for _ in range(count)]
        elif generator.integers(3) == 0 or (parameter.required and generator.integers(8)):
            arguments.append(parameter.opts[-1])
            if not parameter.is_flag:
                arguments.append(str(generator.choice(values)))
    check(arguments)


KINDS: dict[str, tuple[Callable[[Scene, Path, Generator], None], int]] = {
    "recording": (recording, 30),
    "archive": (archive, 5),
    "tree": (tree, 5),
    "data directory": (data_directory, 20),
    "alignment": (alignment, 15),
    "configuration": (configuration, 10),
    "experiment": (experiment, 5),
    "line": (line, 10),
}
"""The kinds of mutations, and how many inputs of a hundred each gets."""


class Late(BaseException):
    """An input took too long."""


def _late(*_: object) -> None:
    raise Late


def one(scene: Scene, kind: str, number: int, seed: int) -> str:
    """Try one input; return what was wrong, nothing where all was well."""
    generator = np.random.default_rng((seed, number))
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)  # what a command line names goes here
        signal.signal(signal.SIGALRM, _late)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            KINDS[kind][0](scene, Path(name).resolve(), generator)
        except FailedError as error:
            return str(error)
        except Late:
            return f"more than {SECONDS} s"
        except Exception:  # noqa: BLE001 - that is what is looked for
            return traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.chdir(here)
    return ""


def _kinds(count: int, kind: str | None) -> Iterator[tuple[int, str]]:
    order = [name for name, (_, share) in KINDS.items() for _ in range(share)]
    for number in range(count):
        yield number, kind or order[(number * 37) % len(order)]


def _some(inputs: list[tuple[int, str]], seed: int, results: Any) -> None:
    """Try inputs in a process of their own, and tell of each before and after."""
    for descriptor in (0, 1, 2):  # libraries write past Python
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    sys.stdin = io.TextIOWrapper(io.BytesIO())
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder).resolve())
        for number, kind in inputs:
            results.put((number, kind, None))
            results.put((number, kind, one(scene, kind, number, seed)))
    results.put(None)


def fuzz(
    count: int, seed: int = 0, kind: str | None = None
) -> tuple[Counter[str], list[tuple[int, str, str]]]:
    """Try inputs; return the number of each kind, and those that failed.

    Number, kind, reason.
    """
    context = multiprocessing.get_context("spawn")
    left, failures, tried = list(_kinds(count, kind)), [], Counter[str]()
    while left:
        results = context.Queue()
        process = context.Process(target=_some, args=(left[:TOGETHER], seed, results))
        process.start()
        begun: tuple[int, str] | None = None
        while True:
            try:
                found = results.get(timeout=2 * SECONDS if begun else 120)
            except Exception:  # noqa: BLE001 - queue.Empty: it hangs where no signal reaches, or is gone
                found = None
                if begun:
                    reason = (
                        f"the process ended with {process.exitcode}"
                        if not process.is_alive()
                        else "it hangs"
                    )
                    failures.append((*begun, reason))
                else:
                    failures.append((left[0][0], left[0][1], "the inputs cannot be made"))
                process.kill()
            if found is None:
                break
            number, name, reason = found
            if reason is None:
                begun = number, name
                continue
            tried[name] += 1
            begun = None
            if reason:
                failures.append((number, name, reason))
        process.join()
        done = begun[0] + 1 if begun else left[:TOGETHER][-1][0] + 1
        left = [(number, name) for number, name in left if number >= done]
    return tried, failures


def main() -> None:
    """Try and tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    options = parser.parse_args()
    tried, failures = fuzz(options.count, options.seed, options.kind)
    for number, kind, reason in failures:
        print(f"--- input {number} of seed {options.seed}, {kind}\n{reason}")
    print(json.dumps({**tried, "failures": len(failures)}))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
