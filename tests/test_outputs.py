"""Files that `featurize` writes.

Every format read by the tool that it is for, and the same bytes each time.
"""

import json
import time

import kaldiio
import numpy as np
import pytest
import torch

from gim_audio.featurize import load_encoder


@pytest.fixture
def expected(small, noise):
    """Features of every utterance alone, in one pass, of the GRU and of module 4."""
    encoder = load_encoder(str(small))
    return {
        name: encoder.encode_whole(waveform, [6, 4]) for name, waveform in noise.waveforms(16000)
    }


def read(path):
    """Every format by the library that people read it with."""
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path) as file:
            return {name: np.asarray(file[name]) for name in file}
    if path.suffix in {".parquet", ".arrow"}:
        import pyarrow.feather
        import pyarrow.parquet

        table = (
            pyarrow.parquet.read_table if path.suffix == ".parquet" else pyarrow.feather.read_table
        )(path)
        return {
            row["utterance"]: np.array(row["features"], np.float32) for row in table.to_pylist()
        }
    if path.suffix in {".ark", ".txt"}:
        return dict(kaldiio.load_ark(str(path)))
    if path.suffix == ".scp":
        return dict(kaldiio.load_scp(str(path)))
    found = {}
    for file in path.iterdir():
        if file.suffix == ".npy":
            found[file.stem] = np.load(file)
        elif file.suffix == ".pt":
            found[file.stem] = torch.load(file, weights_only=True).numpy()
        elif file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            found[file.stem] = load_file(file)["features"]
    return found


@pytest.mark.parametrize(
    ("output", "options"),
    [
        ("out", []),
        ("out", ["--format", "pt"]),
        ("out", ["--format", "safetensors"]),
        ("out.h5", []),
        ("out.parquet", []),
        ("out.arrow", []),
        ("ark:out.ark", []),
        ("ark,scp:out.ark,out.scp", []),
        ("ark,t:out.txt", []),
    ],
)
@pytest.mark.parametrize("vectors", [False, True])
def test_formats(small, noise, expected, tmp_path, monkeypatch, run, output, options, vectors):
    monkeypatch.chdir(tmp_path)
    options = [*options, "--pool", "mean+std"] if vectors else options
    status, out, err = run("featurize", small, noise.path, output, *options)
    assert (status, out, err.splitlines()[-1]) == (0, "", f"{output}: 7 utterances")
    found = read(tmp_path / output.rsplit(":", 1)[-1].rsplit(",", 1)[-1])
    assert sorted(found) == noise.utterances
    for name, features in found.items():
        frames = expected[name][0]
        truth = np.concatenate([frames.mean(0), frames.std(0)]) if vectors else frames
        assert features.shape == truth.shape
        np.testing.assert_allclose(features, truth, rtol=0, atol=1e-5)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("form", ["npy", "pt", "safetensors", "h5", "parquet", "arrow", "ark"])
def test_the_same_command_gives_the_same_bytes(small, noise, tmp_path, monkeypatch, run, form):
    """The same holds later, and for the description of the features."""
    output = {"ark": "ark,scp:out.ark,out.scp"}.get(
        form, f"out.{form}" if form in {"h5", "parquet", "arrow"} else "out"
    )
    options = ["--format", form] if output == "out" else []
    found = []
    for day in ("2026-01-01 00:00 UTC", "2027-01-01 00:00 UTC"):
        folder = tmp_path / day
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(
            "gim_audio.featurize.run.provenance", lambda day=day: {"command": "x", "date": day}
        )
        assert run("featurize", small, noise.path, output, *options)[0] == 0
        found.append(
            {
                file.relative_to(folder): file.read_bytes()
                for file in folder.rglob("*")
                if file.is_file()
            }
        )
        if form == "h5":
            time.sleep(1.1)  # it could write the time, in seconds
    assert found[0] == found[1]


def test_safetensors_are_told_what_their_folder_is(small, noise, tmp_path, run):
    from safetensors import safe_open

    assert run("featurize", small, noise.path, tmp_path / "out", "--format", "safetensors")[0] == 0
    with safe_open(tmp_path / f"out/{noise.utterances[0]}.safetensors", "np") as file:
        inside = json.loads(file.metadata()["features.json"])
    assert inside == json.loads((tmp_path / "out/features.json").read_text())
    assert inside["frame_shift"] == 0.01


def test_an_archive_is_kaldiios_to_the_byte(small, noise, tmp_path, run):
    run("featurize", small, noise.path, f"ark:{tmp_path}/ours.ark")
    kaldiio.save_ark(f"{tmp_path}/theirs.ark", dict(kaldiio.load_ark(f"{tmp_path}/ours.ark")))
    assert (tmp_path / "ours.ark").read_bytes() == (tmp_path / "theirs.ark").read_bytes()


def test_compressed_and_half(small, noise, expected, tmp_path, run):
    assert run("featurize", small, noise.path, f"ark:{tmp_path}/c.ark", "--compress")[0] == 0
    assert run("featurize", small, noise.path, f"ark:{tmp_path}/w.ark")[0] == 0
    assert run("featurize", small, noise.path, tmp_path / "half", "--dtype", "float16")[0] == 0
    for name, features in dict(kaldiio.load_ark(f"{tmp_path}/c.ark")).items():
        np.testing.assert_allclose(features, expected[name][0], rtol=0, atol=0.01)
        half = np.load(tmp_path / f"half/{name}.npy")
        assert half.dtype == np.float16
        np.testing.assert_allclose(half, expected[name][0], rtol=1e-3, atol=1e-4)
    assert (tmp_path / "c.ark").stat().st_size < 0.6 * (tmp_path / "w.ark").stat().st_size


def test_several_modules_in_one_pass(small, noise, expected, tmp_path, run):
    status, _, _ = run(
        "featurize", small, noise.path, tmp_path / "m-MODULE", "--module", 6, "--module", 4
    )
    assert status == 0
    for position, module in enumerate((6, 4)):
        for name in noise.utterances:
            found = np.load(tmp_path / f"m-{module}/{name}.npy")
            np.testing.assert_allclose(found, expected[name][position], rtol=0, atol=1e-5)
        assert json.loads((tmp_path / f"m-{module}/features.json").read_text())["module"] == module


@pytest.mark.parametrize("number", [2, 7, 200])
def test_fewer_frames(small, noise, expected, tmp_path, run, number):
    assert (
        run("featurize", small, noise.path, tmp_path / "stack", "--pool", f"stack:{number}")[0] == 0
    )
    assert (
        run(
            "featurize", small, noise.path, tmp_path / "subsample", "--pool", f"subsample:{number}"
        )[0]
        == 0
    )
    for name, (frames, _) in expected.items():
        padded = np.concatenate([frames, np.repeat(frames[-1:], -len(frames) % number, axis=0)])
        stacked = np.load(tmp_path / f"stack/{name}.npy")
        np.testing.assert_allclose(stacked, padded.reshape(-1, number * 6), rtol=0, atol=1e-5)
        np.testing.assert_allclose(
            np.load(tmp_path / f"subsample/{name}.npy"), frames[::number], rtol=0, atol=1e-5
        )
    description = json.loads((tmp_path / "stack/features.json").read_text())
    assert description["frame_shift"] == 0.01 * number
    assert description["receptive_field_samples"] == 465 + 160 * (number - 1)
    assert description["channels"] == 6 * number


def test_lhotse_reads_them(small, noise, expected, tmp_path, run):
    readers = pytest.importorskip("lhotse.features.io")
    pytest.importorskip("kaldi_native_io")
    run("featurize", small, noise.path, tmp_path / "out")
    run("featurize", small, noise.path, f"ark,scp:{tmp_path}/f.ark,{tmp_path}/f.scp")
    for name, (frames, _) in expected.items():
        part = readers.NumpyFilesReader(str(tmp_path / "out")).read(f"{name}.npy", 3, 11)
        np.testing.assert_allclose(part, frames[3:11], rtol=0, atol=1e-5)
        whole = readers.KaldiReader(str(tmp_path / "f.scp")).read(name)
        np.testing.assert_allclose(whole, frames, rtol=0, atol=1e-5)
