"""All images on the device: Pillow's crops by matrix products; when a dataset is small enough."""

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco.loading.engines import resident_gpu
from fastmoco.loading.engines.registry import open_engine
from fastmoco.loading.engines.resident_gpu import ResidentEngine, are_small, cut, needed
from fastmoco.loading.engines.threads import decode
from fastmoco.system.hardware import free_memory, usable_memory
from tests.support.loaded_batches import CPU

NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.mark.parametrize("size", [7, 24, 32, 64])
def test_pillows_crops_to_the_bit_but_for_ties(size):
    """Both passes round to 8 bits as Pillow's do; a sum close to a half may round the other way."""
    random = np.random.default_rng(size)
    windows = []
    for _ in range(50):
        height, width = random.integers(1, 41), random.integers(1, 51)
        windows.append((random.integers(0, 41 - height), random.integers(0, 51 - width),
                        height, width))
    columns = torch.from_numpy(NOISE).transpose(0, 1)[None].contiguous()
    out = cut(columns, torch.tensor(np.array(windows, np.int32))[None], size)[0].numpy()
    assert out.shape == (50, size, size, 3)
    differ = 0
    for view, (top, left, height, width) in zip(out, windows, strict=True):
        box = Image.fromarray(NOISE).crop((left, top, left + width, top + height))
        away = np.abs(view.astype(int) - box.resize((size, size), Image.Resampling.BILINEAR))
        assert away.max() <= 1
        differ += np.count_nonzero(away)
    assert differ / out.size < 0.05


def test_it_compiles_in_one_piece():
    images = torch.randint(0, 256, (4, 20, 16, 3), dtype=torch.uint8)
    windows = torch.tensor([[[0, 0, 16, 20], [3, 4, 9, 8]]] * 4, dtype=torch.int32)
    compiled = torch.compile(cut, fullgraph=True, dynamic=False, backend="aot_eager")
    assert torch.equal(compiled(images, windows, 16), cut(images, windows, 16))


def test_images_of_several_sizes_lie_in_frames_of_the_largest(store):
    engine = ResidentEngine(store, 2, CPU)
    engine.close()
    height, width = store.sizes.max(axis=0)
    assert engine.images.shape == (len(store), width, height, 3)
    assert needed(store, torch.device("cuda")) == engine.images.numel()
    for i in (0, 50, 95):
        high, wide = store.sizes[i]
        image = engine.images[i].transpose(0, 1).numpy()
        np.testing.assert_array_equal(image[:high, :wide], decode(store, i))
        assert not image[high:].any() and not image[:, wide:].any()


def test_small_is_by_side_and_by_memory(store, tmp_path, monkeypatch):
    assert are_small(store, CPU)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (129, 20)).save(tmp_path / "in" / "wide.png")
    prepare(tmp_path / "in", tmp_path / "wide")
    assert not are_small(open_store(tmp_path / "wide"), CPU)
    monkeypatch.setattr(resident_gpu, "free_memory", lambda device: 4 * needed(store, CPU) - 4)
    assert not are_small(store, CPU)
    with pytest.raises(UserError, match="--engine threads"):
        open_engine("resident", store)
    monkeypatch.setattr(resident_gpu, "free_memory", lambda device: 4 * needed(store, CPU))
    assert are_small(store, CPU)
    open_engine("resident", store).engine.close()


def test_ranks_on_one_machine_share_its_memory(store, monkeypatch):
    whole = free_memory(CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(CPU) == usable_memory(CPU) == whole // 4
    monkeypatch.setattr("fastmoco.system.hardware.memory", lambda: 16 * needed(store, CPU) - 16)
    assert not are_small(store, CPU)  # each would hold all images
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert are_small(store, CPU)
