"""The leak of 1911.05722 section 3.3, as a law on training: without the shuffle a model finds its
key by the statistics of their common sub-batch; with it, it finds nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmoco.loading.batch import Prepared
from fastmoco.model.batchnorm import SplitBatchNorm2d
from fastmoco.model.build import make_optimizer
from fastmoco.model.dictionaries import Queue
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe
from fastmoco.training.step import training_step

N, PARTS, K, C, SIDE, NOISE = 32, 8, 128, 32, 8, 0.2


def small_net(splits):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), SplitBatchNorm2d(16, splits), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1, bias=False), SplitBatchNorm2d(32, splits), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, C),
    )


def batches(seed, count):
    """Two noisy views of smooth random images, and two ways to deal them."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(count):
        images = F.interpolate(torch.randn(N, 3, 2, 2, generator=g), size=SIDE, mode="bilinear")
        im_q, im_k = (images + NOISE * torch.randn(images.shape, generator=g) for _ in range(2))
        yield im_q, im_k, torch.randperm(N, generator=g), torch.randperm(N, generator=g)


def trained(split, shuffled):
    """A model after 120 steps."""
    torch.manual_seed(0)
    net = small_net(PARTS if split == "both" else 1)
    moco = MoCo(net, Queue(K, C), 0.9, 0.1, key_parts=PARTS if split == "keys" else 1)
    recipe = Recipe(lr=0.05, bn_splits=PARTS if shuffled else 1, precision="float32")
    optimizer, scaler = make_optimizer(moco, recipe), torch.amp.GradScaler("cpu", enabled=False)
    for im_q, im_k, order, _ in batches(1, 120):
        batch = Prepared(torch.stack([im_q, im_k]), torch.arange(N), order, None)
        training_step(moco, optimizer, scaler, batch, recipe)
    return moco


@torch.no_grad()
def accuracies(moco, shuffled):
    """Pretext accuracy on new images: in the sub-batches of training, and dealt to others."""
    found = torch.zeros(2)
    for im_q, im_k, order, another in batches(2, 80):
        as_trained = moco(im_q, im_k, None, order if shuffled else None)
        dealt = moco(im_q, im_k, None, another)
        found += torch.stack([o.accuracy for o in (as_trained, dealt)]) / 80
        moco.dictionary.enqueue(as_trained.keys)
    return found.tolist()


def test_without_the_shuffle_it_cheats():
    as_trained, dealt = accuracies(trained("both", shuffled=False), shuffled=False)
    assert as_trained > 0.9 and as_trained - dealt > 0.2


@pytest.mark.parametrize("split", ["both", "keys"])
def test_with_the_shuffle_it_learns_from_the_images(split):
    as_trained, dealt = accuracies(trained(split, shuffled=True), shuffled=True)
    assert as_trained > 0.2  # a guess is 1 in 129
    assert as_trained - dealt < 0.02
