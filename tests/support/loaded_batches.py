"""Copies of the batches that a loader yields, and their comparison."""

import dataclasses

import torch

from fastmoco.recipe import MOCO_V2

RECIPE = dataclasses.replace(MOCO_V2, size=24, batch=20, bn_splits=4, K=40, seed=11)
CPU = torch.device("cpu")


def copy(batch):
    """Tensors of a batch by name, cloned: the loader reuses a batch's memory."""
    colour = {k: t.clone() for k, t in batch.colour.arrays().items()}
    return {"views": batch.views.clone(), "index": batch.index.clone(),
            "label": batch.label.clone(), "shuffle": batch.shuffle.clone(), **colour}


def assert_same(a, b):
    """Assert that two lists of copied batches have the same bits."""
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        for name in x:
            assert torch.equal(x[name], y[name]), name
