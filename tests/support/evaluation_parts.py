"""Parts for the tests of the evaluations: an untrained encoder, and a real task."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch

from bench.demo.images import generate
from data_tools.open import open_store
from data_tools.prepare import prepare
from data_tools.subset import Subset
from fastmoco.recipe import MOCO_CIFAR, Recipe
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.encoders import initial_encoder

CPU = torch.device("cpu")
RECIPE = dataclasses.replace(
    MOCO_CIFAR, arch="resnet-mini", size=24, batch=16, K=64, precision="float32"
)
CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data"  # may be missing


@functools.cache
def untrained(recipe: Recipe = RECIPE) -> Checkpoint:
    """A checkpoint at step 0 with the fields that an evaluation reads."""
    encoder = initial_encoder(recipe, CPU)
    # Running statistics as after a short training, which differ from those of a new BatchNorm.
    encoder.train()
    with torch.no_grad():
        for _ in range(5):
            encoder.trunk(torch.randn(8, 3, 24, 24))
    weights = {f"encoder_q.{k}": v for k, v in encoder.state_dict().items()}
    return Checkpoint(recipe, weights, {}, {}, 0, "", 0)


def real_task(out: Path, train: int, val: int) -> tuple[Subset, Subset]:
    """Two labelled sets: from CIFAR-10 if its files are there, else from drawn images."""
    if (CIFAR / "cifar10-test.tar").exists():
        prepare(CIFAR / "cifar10-test.tar", out / "cifar")
        store = open_store(out / "cifar")
        order = np.random.default_rng(0).permutation(len(store))
        return Subset(store, order[:train]), Subset(store, order[train : train + val])
    generate(out / "drawn", train=train, val=val)
    for split in ("train", "val"):
        prepare(out / "drawn" / split, out / split)
    stores = [open_store(out / split) for split in ("train", "val")]
    return tuple(Subset(s, np.arange(len(s))) for s in stores)
