"""The input of a module on disk."""

import pytest
import torch
from test_schedule import conf, quiet

from gim_audio.errors import DataError, GimAudioError
from gim_audio.model.build import build_model
from gim_audio.packed import Crops
from gim_audio.training import cache as cache_module
from gim_audio.training import train
from gim_audio.training.cache import Cache, CachedFeed


@pytest.mark.parametrize("piece", [1000, 7])
def test_a_cache_holds_what_the_module_takes(corpus, tmp_path, monkeypatch, piece):
    monkeypatch.setattr(cache_module, "PIECE", piece)
    torch.manual_seed(0)
    config = conf(tmp_path)
    model = build_model(config.model, config.objectives)
    crops = Crops(corpus, crop=4500, hop=160, batch=5, seed=3)
    said = []

    @torch.no_grad()
    def taken(x, module):
        for below in model.stack[: module - 1]:
            x = below(x).output
        return x

    for module in (2, 4, 6):
        cache = Cache(tmp_path / f"c{module}", module, model, crops, torch.float16)

        def source(number, start=0, stop=None):
            return model.standardise(
                torch.from_numpy(corpus.read(number)[start:stop])[None].float() / 32768
            )

        cache.build(source, 1, said.append, lambda: None)
        assert cache.complete
        assert (tmp_path / f"c{module}/frames").stat().st_size == cache.bytes
        # Frames at the ends of a crop see what surrounds it.
        hop, inner = (
            model.geometries[module - 2].hop,
            3,
        )
        x = CachedFeed(cache, torch.device("cpu"))(2)
        waveform = torch.from_numpy(crops(2)).float() / 32768
        alone = taken(model.standardise(waveform), module)
        assert x.shape == alone.shape
        assert x.dtype == torch.float32
        torch.testing.assert_close(x[:, inner:-inner], alone[:, inner:-inner], rtol=2e-3, atol=1e-4)
        for row, (utterance, start) in zip(x, crops.where(2).T.tolist(), strict=True):
            whole = taken(source(utterance), module)
            there = whole[0, start // hop :][: len(row)]
            torch.testing.assert_close(row, there, rtol=1e-3, atol=1e-4)
    assert all("GB" in line for line in said)


def test_an_interrupted_cache_goes_on(corpus, tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = conf(tmp_path)
    model = build_model(config.model, config.objectives)
    crops = Crops(corpus, crop=4000, hop=160, batch=5, seed=3)
    asked = []

    def source(number, start, stop):
        asked.append(number)
        return model.standardise(
            torch.from_numpy(corpus.read(number)[start:stop])[None].float() / 32768
        )

    def interrupt():
        if len(asked) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(cache_module, "PIECE", 10**6)  # an utterance is asked for once
    caches = [
        Cache(tmp_path / name, 3, model, crops, torch.bfloat16) for name in ("whole", "parts")
    ]
    caches[0].build(source, 1, quiet, lambda: None)
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        caches[1].build(source, 1, quiet, interrupt)
    assert not caches[1].complete
    with (tmp_path / ".parts.partial/frames").open("ab") as file:
        file.write(b"half an utterance")
    asked.clear()
    caches[1].build(source, 1, quiet, lambda: None)
    assert asked == [4, 5, 6]
    assert (tmp_path / "whole/frames").read_bytes() == (tmp_path / "parts/frames").read_bytes()
    with torch.no_grad():
        next(model.stack[1].parameters()).add_(1)
    assert not Cache(
        tmp_path / "parts", 3, model, crops, torch.bfloat16
    ).complete  # of other weights


def test_a_cache_needs_room(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "free_bytes", lambda _: 1000)
    config = conf(tmp_path, "training.schedule=[{modules: [2], cache: true}]")
    with pytest.raises(
        DataError, match=r"GB are needed, 0.00 GB are free: make room.*last good checkpoint"
    ):
        train(config, corpus, tmp_path / "e", say=quiet)


def test_numbers_too_large_for_a_cache(corpus, tmp_path):
    config = conf(
        tmp_path, "training.schedule=[{modules: [2], cache: true}]", "model.deviation=1.0e-7"
    )
    with pytest.raises(
        GimAudioError, match="what module 2 takes is too large for torch.float16: train in bf16"
    ):
        train(config, corpus, tmp_path / "e", say=quiet)
