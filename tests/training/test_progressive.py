"""Views that grow while a run lasts: each size is what a run of that size alone would see."""

import dataclasses
import os
import signal

import numpy as np
import pytest
import torch

from data_tools.errors import UserError
from fastmoco.loading.engines.resident_gpu import ResidentEngine
from fastmoco.loading.engines.threads import ThreadsEngine
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.recipe import MOCO_V2
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Noted, Saved
from fastmoco.training import pipeline
from fastmoco.training import train as training
from fastmoco.training.train import train
from fastmoco.weights import checkpoint as checkpoints
from tests.support.training_runs import GROWING, RECIPE, assert_equal, metrics, run_python

CPU = torch.device("cpu")

KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Saved
from fastmoco.training.train import train
from tests.support.training_runs import GROWING

def kill(event):
    if isinstance(event, Saved) and event.step == 9:
        os.kill(os.getpid(), signal.SIGKILL)

options = RunOptions(out=sys.argv[2], log_every=4, checkpoint_minutes=0)
train(sys.argv[1], GROWING, options, [kill])
"""


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """A run of three sizes, never stopped; its directory and the sides that its steps saw."""
    out, sides = tmp_path_factory.mktemp("whole") / "run", []
    with pytest.MonkeyPatch.context() as patch:
        step = training.training_step

        def watched(moco, optimizer, scaler, batch, *rest, **options):
            im_q, im_k = batch.images
            assert im_q.shape == im_k.shape and im_q.shape[2] == im_q.shape[3]
            sides.append(im_q.shape[-1])
            return step(moco, optimizer, scaler, batch, *rest, **options)

        patch.setattr(training, "training_step", watched)
        train(dataset, GROWING, RunOptions(out=str(out), log_every=4))
    return out, sides


def test_each_size_has_its_equal_part_of_the_steps(whole):
    assert whole[1] == [8] * 8 + [12] * 8 + [16] * 8


def resumed_equals(whole, dataset, out, step):
    assert checkpoints.load(out).step == step
    train(dataset, GROWING, RunOptions(out=str(out), log_every=4, resume=True))
    a, b = (vars(checkpoints.load(p)) for p in (whole, out))
    assert a.pop("clock").keys() == b.pop("clock").keys() and a["step"] == 24
    assert_equal(a, b)
    assert metrics(whole) == metrics(out)


def test_killed_in_the_second_size_and_resumed_equals_undisturbed(dataset, whole, tmp_path):
    assert run_python(KILLED, dataset, tmp_path / "run").wait() == -signal.SIGKILL
    resumed_equals(whole[0], dataset, tmp_path / "run", 9)


def test_stopped_where_the_size_changes_and_resumed_equals_undisturbed(dataset, whole, tmp_path):
    def stop(event):
        if isinstance(event, Saved) and event.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    options = RunOptions(out=str(tmp_path / "run"), log_every=4, checkpoint_minutes=0)
    train(dataset, GROWING, options, [stop])
    resumed_equals(whole[0], dataset, tmp_path / "run", 8)


@pytest.mark.parametrize("engine", [ThreadsEngine, ResidentEngine])
def test_views_of_a_size_are_those_of_a_run_of_that_size(store, engine):
    """The same windows, cut to another size, in one loader after another size and in a new one."""
    recipe = dataclasses.replace(RECIPE, size=24)
    with_engine = [engine(store, 1, CPU) if engine is ResidentEngine else engine(store, 1)
                   for _ in range(2)]
    try:
        growing = TrainLoader(store, recipe, with_engine[0], CPU)
        for size in (12, 24, 12):
            alone = TrainLoader(store, dataclasses.replace(recipe, size=size), with_engine[1], CPU)
            seen = 0
            pairs = zip(growing.epoch(1, 2, size), alone.epoch(1, 2), strict=True)
            for ours, theirs in pairs:
                assert ours.views.shape == (16, 2, size, size, 3)
                assert torch.equal(ours.views, theirs.views)
                assert_equal(ours.colour.arrays(), theirs.colour.arrays())
                assert torch.equal(ours.index, theirs.index)
                seen += 1
            assert seen == 4  # of 6 steps
    finally:
        for e in with_engine:
            e.close()


def test_a_slot_of_one_size_is_never_read_as_another(store):
    """Broken off in the middle, as a stop does; the next size's slots are its own, and the time
    that was waited is kept."""
    engine = ThreadsEngine(store, 1)
    try:
        loader = TrainLoader(store, dataclasses.replace(RECIPE, size=16), engine, CPU)
        for batch in loader.epoch(0, 0, 16):
            first = batch.views
            kept = first.clone()
            break
        waited = loader.data_wait
        for batch in loader.epoch(1, 0, 8):
            assert batch.views.shape[2] == 8
            assert batch.views.data_ptr() != first.data_ptr()
        assert torch.equal(first, kept)  # nothing wrote into the slots of before
        assert loader.data_wait >= waited > 0
    finally:
        engine.close()


def test_blur_follows_the_size_of_the_moment(dataset, store, monkeypatch, tmp_path):
    """None below 64 pixels, in proportion above: in the draws, and in the pixels of a run."""
    recipe = dataclasses.replace(
        RECIPE, size=96, progressive=(32, 64, 96), batch=48,
        augmentation=dataclasses.replace(MOCO_V2.augmentation, jitter_p=0.0, gray_p=0.0),
    )
    engine = ThreadsEngine(store, 1)
    try:
        loader = TrainLoader(store, recipe, engine, CPU)
        sigmas = {
            size: np.concatenate([b.colour.sigma.flatten() for b in loader.epoch(0, 0, size)])
            for size in recipe.progressive
        }
    finally:
        engine.close()
    assert sigmas[32].max() == 0
    for size in (64, 96):
        drawn = sigmas[size][sigmas[size] > 0]
        assert 60 < len(drawn) < 132  # half of 192 views
        assert 0.1 <= drawn.min() and 0.9 * 2 * size / 224 < drawn.max() <= 2 * size / 224 + 0.01

    blurred: dict[int, int] = {}
    real = pipeline.augmentation

    def watched(options, device):
        to_images, form, note = real(options, device)

        def keep(views, colour, augmentation, dtype):
            images = to_images(views, colour, augmentation, dtype).clone()
            none = dataclasses.replace(colour, sigma=torch.zeros_like(colour.sigma))
            sharp = to_images(views, none, augmentation, dtype)
            size = views.shape[2]
            changed = (images != sharp).flatten(2).any(-1).sum()
            blurred[size] = blurred.get(size, 0) + int(changed)
            return images

        return keep, form, note

    monkeypatch.setattr(pipeline, "augmentation", watched)
    told = []
    train(dataset, recipe, RunOptions(out=str(tmp_path / "run"), threads=1), [told.append])
    assert blurred[32] == 0 and 60 < blurred[64] < 132 and 60 < blurred[96] < 132
    notes = [e.text for e in told if isinstance(e, Noted)]
    assert [n for n in notes if "no blur: views of 32 pixels" in n]
    assert [n for n in notes if "up to 0.57 pixels" in n and "views of 64" in n]


@pytest.mark.parametrize("sides", [(8, 12), (0, 16), (8, 10, 12, 14, 16)])
def test_sizes_that_cannot_be_are_one_line(sides):
    with pytest.raises(UserError, match="--progressive .*: give sides in pixels, at most one an"):
        dataclasses.replace(GROWING, progressive=sides).check()
