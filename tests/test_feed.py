import numpy as np
import pytest
import torch
from conftest import make_data

from gim_audio.packed import Crops, PackedCorpus, pack
from gim_audio.training import feed as feed_module
from gim_audio.training.feed import Feed

CPU = torch.device("cpu")


@pytest.fixture
def crops(corpus):
    """Crops of a corpus, one utterance of which is too short for them."""
    return Crops(corpus, crop=4500, hop=160, batch=4, seed=5)


def test_a_corpus_on_the_device_gives_the_same_batches(crops):
    from_disk, kept = Feed(crops, CPU, "never"), Feed(crops, CPU, "always")
    assert len(kept.kept) == crops.corpus.samples.sum() - 4000  # without the one that is too short
    for step in (0, 7, 1, 30):
        assert torch.equal(from_disk(step), kept(step))
        np.testing.assert_array_equal(from_disk(step), crops(step) / np.float32(32768))


@pytest.mark.parametrize("short", [0, 3, 6])
def test_whichever_utterance_is_left_out(tmp_path, short):
    pack(
        make_data(tmp_path / "d", {f"a-{i}": 4000 if i == short else 5000 + i for i in range(7)}),
        tmp_path / "p",
    )
    crops = Crops(PackedCorpus(tmp_path / "p"), crop=4500, hop=160, batch=6, seed=1)
    assert torch.equal(Feed(crops, CPU, "never")(3), Feed(crops, CPU, "always")(3))


def test_only_a_device_with_room_keeps_it(crops, monkeypatch):
    assert Feed(crops, CPU, "auto").kept is None
    size = 2 * int(crops.corpus.samples[crops.usable].sum())
    for free, keeps in ((2 * size, False), (2 * size + 1, True)):
        monkeypatch.setattr(feed_module, "free_bytes", lambda _, free=free: free)
        assert (Feed(crops, CPU, "auto").kept is not None) == keeps
