"""Devices and precisions, and processors without bf16."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from conftest import TINY, training_command
from test_training import change, quiet

from gim_audio.config import load
from gim_audio.devices import pick_device
from gim_audio.errors import ConfigError
from gim_audio.training import train


def test_tf32_is_for_gpus(tiny, corpus, tmp_path):
    with pytest.raises(
        ConfigError, match="tf32 is for NVIDIA GPUs, not for cpu: take fp32 or bf16"
    ):
        train(change(tiny, precision="tf32", device="cpu"), corpus, tmp_path / "e", say=quiet)
    assert not (tmp_path / "e").exists()


LOOK = """
import torch
from gim_audio.devices import bf16_speed
torch.conv1d(torch.ones(4, 64, 400), torch.ones(64, 64, 4))  # oneDNN introduces itself at its first work
print("speed", bf16_speed(torch.device("cpu")))
"""


@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="oneDNN's limits are of x86 instruction sets"
)
@pytest.mark.parametrize("most", ["DEFAULT", "AVX512_CORE", "AVX2"])
def test_bf16_is_fast_where_onednn_says_so(most):
    environment = os.environ | {
        "ONEDNN_MAX_CPU_ISA": most,
        "ONEDNN_VERBOSE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, check=True
    )
    (isa,) = (line for line in done.stdout.splitlines() if "info,cpu,isa:" in line)
    speed = float(done.stdout.splitlines()[-1].removeprefix("speed "))
    assert (speed > 1) == ("bfloat16" in isa.lower()), isa


def test_bf16_without_its_instructions_is_one_line(tiny, corpus, tmp_path):
    """Training would take a hundred times as long, in silence; `auto` and `bf16-emulated` run."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    (tmp_path / "c.yaml").write_text(TINY)

    def start(precision, out, *more):
        more = f"training.precision={precision}", *more
        command = training_command(tmp_path / "c.yaml", corpus, tmp_path / out, *more)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    refused = start("bf16", "a")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "this processor has no bf16 arithmetic and takes" in refused.stderr
    assert "start with fp32 or auto; bf16-emulated computes in bf16 all the same" in refused.stderr
    assert not (tmp_path / "a").exists()
    assert start("auto", "b").returncode == 0
    assert load(tmp_path / "b/config.yaml").training.precision == "fp32"
    assert start("bf16-emulated", "c").returncode == 0
    assert load(tmp_path / "c/config.yaml").training.precision == "bf16"
    resumed = start("auto", "c", "training.steps=7", "--resume")
    assert (resumed.returncode, len(resumed.stderr.splitlines())) == (2, 1)
    assert (
        f"{tmp_path}/c was trained in bf16: precision bf16: this processor has no bf16"
        in resumed.stderr
    )
    assert start("bf16-emulated", "c", "training.steps=7", "--resume").returncode == 0


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for wrong in ("gpu9", "cuda:99"):
        with pytest.raises(ConfigError, match="cannot be used here"):
            pick_device(wrong)
