"""Random crops for classifiers: torchvision's windows and flips, the same from every engine."""

import numpy as np
import pytest
import torch

from data_tools.subset import Subset
from fastmoco import draws
from fastmoco.augmentation.plain import centre_view
from fastmoco.evaluation.crop_loader import CROP_AND_FLIP, CropLoader
from fastmoco.loading.engines.registry import open_engine
from fastmoco.loading.engines.resident_gpu import ResidentEngine
from tests.support.evaluation_parts import CPU, RECIPE


def epoch(store, engine, batch=10, seed=3, number=0):
    if engine == "resident, as on a GPU":
        opened = ResidentEngine(store, 1, CPU)
    else:
        opened = open_engine(engine, store, 1, CPU).engine
    try:
        loader = CropLoader(store, RECIPE, opened, CPU, batch, seed)
        found = [(images.clone(), label.clone()) for images, label in loader.epoch(number)]
    finally:
        opened.close()
    return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])


@pytest.fixture(scope="module")
def some(store):
    return Subset(store, np.arange(0, 96, 4))  # 24: the last batch is smaller


def test_every_image_comes_once_with_its_window_flip_and_label(some):
    images, labels = epoch(some, "threads")
    order = draws.permutation(3, 0, 24)
    assert labels.tolist() == some.labels[order].tolist() and len(images) == 24
    aug = CROP_AND_FLIP
    windows = draws.crop_windows(3, 0, order, some.sizes[order], 1, aug.scale, aug.ratio)
    flip = draws.colour(3, 0, order, 1, aug).flip[:, 0]
    assert 4 < flip.sum() < 20
    engine = open_engine("threads", some, 1, CPU).engine
    views = np.empty((24, 1, 24, 24, 3), np.uint8)
    engine.submit(order, windows, views).result()
    engine.close()
    views[flip] = views[flip][:, :, :, ::-1]
    torch.testing.assert_close(
        images, centre_view(torch.from_numpy(views), RECIPE.augmentation, torch.float32)
    )


def test_batches_engines_and_epochs(some):
    images, labels = epoch(some, "threads")
    assert torch.equal(images, epoch(some, "threads", batch=7)[0])
    assert torch.equal(images, epoch(some, "resident")[0])
    resident, same = epoch(some, "resident, as on a GPU")
    assert same.tolist() == labels.tolist()
    torch.testing.assert_close(images, resident, atol=0.05, rtol=0)  # two grey levels at most
    assert not torch.equal(images, epoch(some, "threads", number=1)[0])
    assert not torch.equal(images, epoch(some, "threads", seed=4)[0])


def test_the_crops_are_torchvisions_own():
    from torchvision.transforms import RandomResizedCrop

    theirs = RandomResizedCrop(24)
    assert tuple(theirs.scale) == CROP_AND_FLIP.scale
    assert tuple(theirs.ratio) == CROP_AND_FLIP.ratio
    assert (CROP_AND_FLIP.jitter_p, CROP_AND_FLIP.gray_p, CROP_AND_FLIP.blur_p) == (0, 0, 0)
