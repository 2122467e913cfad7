"""All images decoded in memory: same bits as the threads engine; when it is chosen."""

import numpy as np
import pytest

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco import draws
from fastmoco.loading.engines import resident_cpu
from fastmoco.loading.engines.registry import open_engine
from fastmoco.loading.engines.resident_cpu import DecodedEngine
from fastmoco.loading.engines.threads import ThreadsEngine
from tests.support.loaded_batches import CPU

IDS = np.array([5, 90, 17, 17, 0, 44, 61])


def cut(engine, ids, windows, size):
    try:
        out = np.zeros((len(ids), windows.shape[1], size, size, 3), np.uint8)
        engine.submit(ids, windows, out).result()
        return out
    finally:
        engine.close()


def narrow(windows):
    windows = windows.copy()
    windows[3, 1, 3] = 2  # pixels wide: below what the vectors take
    return windows


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", ["many", "narrow", "tiny", "boxes"])
def test_the_cuts_are_those_of_the_threads_engine(store, case, threads):
    sizes = store.sizes[IDS]
    windows = draws.crop_windows(0, 2, IDS, sizes, 2, (0.2, 1.0), (3 / 4, 4 / 3))
    if case == "boxes":
        windows = draws.eval_boxes(sizes, 0.875)
    if case == "narrow":
        windows = narrow(windows)
    size = 12 if case == "tiny" else 20
    ours = cut(DecodedEngine(store, threads), IDS, windows, size)
    assert ours.std() > 10
    assert np.array_equal(ours, cut(ThreadsEngine(store, 2), IDS, windows, size))


def test_many_are_cut_in_one_call(store, monkeypatch):
    """Exactly the images that fit go to the compiled loop over images."""
    windows = draws.crop_windows(0, 2, IDS, store.sizes[IDS], 2, (0.2, 1.0), (3 / 4, 4 / 3))
    calls = []
    real = resident_cpu.crop_images
    monkeypatch.setattr(resident_cpu, "crop_images", lambda *a: calls.append(len(a[3])) or real(*a))
    cut(DecodedEngine(store, 1), IDS, windows, 20)
    assert calls[0] == 0 and sum(calls) == len(IDS) and max(calls) > 0
    calls.clear()
    cut(DecodedEngine(store, 1), IDS, narrow(windows), 20)
    assert calls == [0]


def test_auto_takes_it_for_small_images_on_a_cpu(store):
    engine, name, line = open_engine("auto", store, 2, CPU)
    engine.close()
    assert isinstance(engine, DecodedEngine)
    assert name == "resident" and line == "resident (2 threads; small images)"


def test_an_image_of_another_size_than_the_index_tells_is_named(store, tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 30)).save(tmp_path / "in" / f"{name}.jpg")
    prepare(tmp_path / "in", tmp_path / "out")
    changed = open_store(tmp_path / "out")
    changed.sizes = changed.sizes.copy()
    changed.sizes[1] = 32, 40
    with pytest.raises(UserError, match=r"b\.jpg.*40 x 30 pixels and not of the size"):
        DecodedEngine(changed, 1)
