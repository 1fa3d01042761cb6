import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gim_audio.checkpoints.folders import save_model
from gim_audio.cli import main
from gim_audio.config import Config, InfoNCEConfig, load
from gim_audio.kaldi import DataDir
from gim_audio.model.build import build_model
from gim_audio.model.geometry import Geometry
from gim_audio.model.objectives import InfoNCE, Place
from gim_audio.model.sampling import RandomNumbers
from gim_audio.packed import PackedCorpus, pack

ROOT = Path(__file__).resolve().parent.parent

TINY = """\
model:
  channels: 8
  context: {hidden: 6}
objective: {steps_ahead: 3, negatives: {number: 4}, window: 16}
data: {crop: 4000}
training: {steps: 6, batch: 3, checkpoint_every: 3, learning_rate: 1.0e-3, diagnose_every: 3}
"""


def pytest_configure(config):
    """Show a GPU to no test that is not about one, so that all others run where they say."""
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU; `pytest -m gpu` runs these alone")
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def _seeded():
    """Begin each test with the same random numbers, whatever ran before.

    Some initialisations have dead units alone.
    """
    torch.manual_seed(0)


@pytest.fixture
def tiny(tmp_path) -> Config:
    """A model small enough to train in milliseconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return load(path)


@pytest.fixture
def run(capsys):
    """Run the command line as a person does: status, standard output, standard error."""

    def call(*arguments):
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as done:
            status = done.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def random_numbers(seed: int = 0, count: int = 200_000) -> torch.Tensor:
    """Return what an objective draws from."""
    return RandomNumbers(seed).of(range(1, 2), count, torch.device("cpu"))[0]


def make_data(folder: Path, lengths: dict[str, int], rate: int = 16000) -> DataDir:
    """A data directory of noise: utterance names `speaker-number` to samples."""
    generator = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    recordings = {}
    for name, samples in sorted(lengths.items()):
        file = folder / f"{name}.wav"
        soundfile.write(file, 0.1 * generator.standard_normal(samples), rate, subtype="PCM_16")
        recordings[name] = str(file)
    data = DataDir(recordings, {name: name.split("-")[0] for name in sorted(lengths)}, path=folder)
    data.write(folder)
    return data


@pytest.fixture
def noise(tmp_path) -> DataDir:
    """Three speakers, seven utterances of 0.3 to 1 second."""
    lengths = {
        "a-1": 9000,
        "a-2": 16000,
        "b-1": 5000,
        "b-2": 12345,
        "b-3": 8000,
        "c-1": 4000,
        "c-2": 15999,
    }
    return make_data(tmp_path / "noise", lengths)


@pytest.fixture
def corpus(noise, tmp_path) -> PackedCorpus:
    """The same, packed."""
    pack(noise, tmp_path / "packed")
    return PackedCorpus(tmp_path / "packed")


@pytest.fixture(scope="session")
def spoken(tmp_path_factory) -> Path:
    """Ninety seconds of the built-in corpus, four speakers."""
    folder = tmp_path_factory.mktemp("spoken") / "data"
    main(["data", "synthetic", str(folder), "--hours", "0.025", "--speakers", "4", "--seed", "3"])
    return folder


@pytest.fixture(scope="session")
def sample() -> Path:
    """Real speech, where the machine has it."""
    folder = Path(
        os.environ.get("LIBRISPEECH_SAMPLE", ROOT.parent / "shared" / "librispeech-sample")
    )
    if not folder.is_dir():
        pytest.skip(f"no LibriSpeech sample in {folder}: set LIBRISPEECH_SAMPLE to one")
    return folder


@pytest.fixture
def small(tmp_path):
    """An experiment with eight channels."""
    torch.manual_seed(0)
    config = load(None, ["model.channels=8", "model.context.hidden=6"])
    folder = tmp_path / "small"
    folder.mkdir()
    save_model(folder, config, build_model(config.model, config.objectives).state_dict())
    return folder


@pytest.fixture
def trained(corpus, tmp_path, run):
    """The arguments of a training, and its experiment after six steps."""
    (tmp_path / "c.yaml").write_text(TINY)
    arguments = ["train", tmp_path / "c.yaml", "--data", corpus.path, "--out", tmp_path / "e"]
    assert run(*arguments)[0] == 0
    return arguments, tmp_path / "e"


def training_command(conf, corpus, out, *more) -> list[str]:
    """Return the command of a training in a process of its own."""
    start = [sys.executable, "-m", "gim_audio", "train", conf]
    return list(map(str, [*start, *more, "--data", corpus.path, "--out", out]))


def place(width, channels, own=None, grid=None, has_context=True):
    """Return the place of a module whose frames are the samples, unless it is said otherwise."""
    own = own or Geometry()
    return Place(width, channels, own, grid or own, 16000, has_context)


def info_nce(width, channels, kind, number, window, steps, **settings):
    """Return the objective of a module, with negatives of some kind."""
    negatives = {"kind": kind, "number": number}
    config = InfoNCEConfig(steps_ahead=steps, window=window, negatives=negatives, **settings)
    return InfoNCE(config, place(width, channels))


def stack_of(tmp_path, *overrides):
    path = tmp_path / "c.yaml"
    path.write_text(TINY)
    config = load(path, overrides)
    torch.manual_seed(0)
    return build_model(config.model, config.objectives).eval(), config


OBJECTIVES = {
    "infonce": "{steps_ahead: 3, negatives: {number: 4}, window: 16}",
    "hinge": "{kind: hinge, steps_ahead: 3}",
    "vicreg": "{kind: vicreg, width: 8}",
    "spectra": "{kind: spectra, bands: 10, hidden: 8}",
    "units": "{kind: units, number: 4, ahead: [1, 2]}",
    "phones": "{kind: phones, classes: 4}",
    "speakers": "{kind: speakers, classes: 3}",
}


def targets_for_all(model, x):
    """Return something to teach to each module, of the kind that it asks for."""
    frames, made = model.frames(x.shape[1])[4], {}
    for number, module in enumerate(model.stack, start=1):
        made[number] = {
            "": None,
            "phones": torch.randint(0, 4, (len(x), frames)),
            "units": torch.randint(0, 4, (len(x), frames)),
            "speakers": torch.randint(0, 3, (len(x),)),
            "waveforms": 0.1 * x[:, :, 0],
        }[module.objective.taught]
    return {number: target for number, target in made.items() if target is not None}
