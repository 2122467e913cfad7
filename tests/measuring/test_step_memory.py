"""The memory of a step: predicted without data, counted on a real one, measured as a process."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fastmoco.measuring.step_memory import Living, augmentation_peak, estimate, walk
from fastmoco.model.build import build_moco
from fastmoco.run_options import RunOptions
from fastmoco.system.device import autocast
from tests.support.measured_step import RECIPE

CPU = torch.device("cpu")


def test_what_lives_is_counted_while_it_lives():
    before = torch.zeros(7)
    with Living() as living:
        living.leave_out([before])
        before.add_(1)
        x = torch.zeros(100)  # 400 bytes
        view = x.view(10, 10)[:5]
        living.doing = "more"
        y = x + 1
        assert living.now == {"": 400, "more": 400}
        del x, y
        assert living.now.total() == 400  # the view holds on
        del view
        assert living.now.total() == 0 and living.most == {"": 400, "more": 400}


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({}, {}),
        ({"precision": "bfloat16"}, {"recomputed": True}),
        ({"symmetric": True}, {"pieces": 2}),
        ({"mechanism": "memory-bank"}, {}),
        ({"mechanism": "end-to-end", "bn_splits": 1}, {}),
    ],
    ids=str,
)  # fmt: skip
def test_without_data_it_finds_what_a_real_step_takes(changes, how):
    recipe = dataclasses.replace(RECIPE, **changes)
    predicted, real = walk(recipe, 80, **how), walk(recipe, 80, real=True, **how)
    assert predicted.lasting == real.lasting and predicted.peak.keys() == real.peak.keys()
    # recomputed under autocast, a few numbers more are kept
    assert predicted.kept == pytest.approx(real.kept, rel=1e-3) and predicted.kept > 0
    assert sum(predicted.peak.values()) == pytest.approx(sum(real.peak.values()), rel=1e-3)
    assert predicted.lasting["query encoder"] > 3_000_000


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_are_what_autograd_keeps(precision):
    """The tensors that a real forward pass saves, within 5 %."""
    recipe = dataclasses.replace(RECIPE, precision=precision)
    moco = build_moco(recipe, 80, CPU)
    images = torch.randn(16, 3, 32, 32).to(memory_format=torch.channels_last)
    own = {p.untyped_storage().data_ptr() for p in moco.parameters()}
    saved = {}

    def pack(t):
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
    with hooks, autocast(CPU, precision):
        out = moco.encoder_q(images.to(getattr(torch, precision)))
    measured = sum(v for k, v in saved.items() if k not in own)
    kept = walk(recipe, 80).kept
    assert out.requires_grad and abs(kept - measured) < 0.05 * measured


MEASURED = """
import dataclasses, sys, torch
from bench.training.loss import most_resident
from fastmoco.measuring.step_memory import walk
from tests.support.measured_step import RECIPE
torch.set_num_threads(1)
walk(RECIPE, 80, real=True)  # loads everything
before = most_resident()
walk(dataclasses.replace(RECIPE, size=64, batch=192, K=192), 200, real=True)
print(most_resident() - before)
"""


def test_a_process_grows_by_what_was_predicted():
    """Peak resident memory of a real step, within 5 %."""
    out = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True,
        # large blocks are given back at once, as they are counted
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    measured = int(out.stdout)
    found = walk(dataclasses.replace(RECIPE, size=64, batch=192, K=192), 200)
    small = walk(RECIPE, 80)  # whose memory the process has and uses again
    predicted = sum(found.peak.values()) - sum(small.peak.values())
    assert predicted > 300e6 and abs(predicted - measured) < 0.05 * measured


def test_less_memory_by_pieces_and_by_recomputing():
    plain, pieces, recomputed = (
        estimate(RECIPE, 80, RunOptions(**how), torch.device("cuda"))
        for how in ({}, {"accumulate": 2}, {"activation_checkpointing": True})
    )
    assert pieces.kept == pytest.approx(plain.kept / 2, rel=0.01)
    assert recomputed.kept < 0.5 * plain.kept
    assert max(pieces.bytes, recomputed.bytes) < plain.bytes
    names = [p.name for p in plain.parts]
    assert {"activations", "momentum of SGD", "queue", "loader's ring", "CUDA itself"} <= set(names)
    assert len(names) == len(set(names)) and all(p.bytes > 0 for p in plain.parts)


def test_the_plain_augmentation_is_counted():
    images = 2 * 16 * 3 * 32 * 32 * 4
    assert 2 * images < augmentation_peak(RECIPE) < 20 * images


def test_a_process_does_not_report_its_parents_memory():
    """The system's largest resident set of a process starts with its parent's."""
    held = np.ones(180_000_000)  # 1.4 GB
    code = (
        "import torch; from fastmoco.system.hardware import used_memory; "
        "print(used_memory(torch.device('cpu')))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50e6 < int(child.stdout) < held.nbytes / 1.3
