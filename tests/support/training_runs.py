"""A small training run of a second on the `dataset` fixture, and comparisons of its files."""

import dataclasses
import json
import os
import subprocess
import sys

import torch

from fastmoco.recipe import MOCO_V2

RECIPE = dataclasses.replace(
    MOCO_V2, arch="resnet-mini", size=16, batch=16, bn_splits=2, K=72, epochs=3, lr=0.05,
    augmentation=dataclasses.replace(MOCO_V2.augmentation, blur_sigma=(0.1, 1.0)),
)
# Steps that RECIPE takes on the `dataset` fixture: 3 epochs of 6.
STEPS = 18
# Trains at three view sizes. 4 epochs of 6 steps: the sizes change within epochs.
GROWING = dataclasses.replace(RECIPE, progressive=(8, 12, 16), epochs=4)


def run_python(code, *args):
    """Start a Python process with one thread; return its Popen."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=os.getcwd(),
    )


def assert_equal(a, b, path=""):
    """Assert that two nests of dicts, lists and tensors have the same types and bits."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for k in a:
            assert_equal(a[k], b[k], f"{path}.{k}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def metrics(path):
    """The rows of a run's metrics.jsonl without the fields that depend on the clock."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    clocks = ("images_per_s", "data_wait", "seconds_left", "train_seconds", "seconds", "path",
              "memory", "budget_left")
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]
