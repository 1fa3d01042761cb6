"""Inputs that are wrong in ways that nobody thought of: see `tools/fuzz.py`."""

import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def fuzzer():
    sys.path.insert(0, str(ROOT / "tools"))
    import fuzz

    yield fuzz
    sys.path.remove(str(ROOT / "tools"))


def test_no_input_ends_in_a_traceback(fuzzer):
    """Two thousand of them: no traceback, no crash, no hang, and no good output lost."""
    tried, failures = fuzzer.fuzz(2000, seed=2)
    assert not failures, "\n".join(
        f"{number} {kind}: {reason[-2000:]}" for number, kind, reason in failures
    )
    assert tried.total() == 2000
    assert set(tried) == set(fuzzer.KINDS)


def test_the_fuzzer_finds_what_is_wrong(fuzzer, tmp_path, monkeypatch):
    """A traceback, a silent refusal and a lost output, each planted."""
    scene = fuzzer.Scene(tmp_path)

    def wrong(error):
        def run(arguments):
            raise error

        return run

    for error, reason in (
        (KeyError("x"), "KeyError"),
        (SystemExit(1), "status 1"),
        (SystemExit(2), "no line"),
    ):
        monkeypatch.setattr(fuzzer, "command_line", wrong(error))
        assert reason in fuzzer.one(scene, "configuration", 0, seed=0)
    monkeypatch.setattr(fuzzer, "command_line", lambda arguments: None)
    assert "are missing" in fuzzer.one(scene, "recording", 0, seed=0)
