"""The GPU form against the plain form, on the CPU; the rows that are blurred; the choice of a
form."""

import dataclasses

import numpy as np
import pytest
import torch

from fastmoco import draws
from fastmoco.augmentation import choose
from fastmoco.augmentation.gpu import augment_fast
from fastmoco.augmentation.plain import augment
from fastmoco.draws import Colour, blur_room, blur_rows
from fastmoco.loading.engines.threads import ThreadsEngine
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.recipe import AUGMENT_V2, AUGMENTATIONS, MOCO_V1, MOCO_V2
from fastmoco.run_options import RunOptions
from fastmoco.system import compiler
from tests.support.augmented_views import some_views
from tests.support.loaded_batches import CPU


def drawn(aug, count, seed=0, rows=True):
    c = draws.colour(seed, 0, np.arange(count), 2, aug)
    return Colour(
        **{k: torch.from_numpy(v) for k, v in c.arrays().items()},
        blur_rows=torch.from_numpy(blur_rows(c.sigma, aug.blur_p)) if rows else None,
    )


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_equal_to_the_plain_form(name, size, rows):
    aug = AUGMENTATIONS[name]
    for seed in range(3):
        views, c = some_views(40, size, seed), drawn(aug, 40, seed, rows)
        ours, plain = augment_fast(views, c, aug), augment(views, c, aug)
        torch.testing.assert_close(ours, plain, atol=2e-5, rtol=0)
        assert ours.stride() == plain.stride() and ours.dtype == torch.float32
    half = augment_fast(views, c, aug, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), plain, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("change", [{"blur_p": 1.0}, {"blur_p": 0.02}, {"gray_first": True},
                                    {"jitter_p": 0.0}, {"blur_sigma": (0.1, 3.0)}])
def test_equal_for_rare_draws(change):
    aug = dataclasses.replace(AUGMENT_V2, **change)
    views, c = some_views(24, 20), drawn(aug, 24)
    torch.testing.assert_close(
        augment_fast(views, c, aug), augment(views, c, aug), atol=2e-5, rtol=0
    )


def test_rows_that_blur_come_first_and_have_one_length():
    lengths = set()
    for seed in range(50):
        sigma = draws.colour(seed, 0, np.arange(64), 2, AUGMENT_V2).sigma
        rows = blur_rows(sigma, 0.5)
        lengths.add(len(rows))
        by_view = sigma.T.ravel()
        count = int((by_view > 0).sum())
        assert set(np.flatnonzero(by_view > 0)) == set(rows[:count].tolist())
        assert len(set(rows.tolist())) == len(rows) and (by_view[rows[count:]] == 0).all()
    assert lengths == {blur_room(128, 0.5)} == {98}
    everyone = np.ones((64, 2), np.float32)  # once in a billion batches: all rows, a longer list
    assert sorted(blur_rows(everyone, 0.5).tolist()) == list(range(128))
    assert blur_room(512, 0.0) == 0 and blur_room(512, 1.0) == 512


def test_the_loader_brings_them(store):
    engine = ThreadsEngine(store, 2)
    for base, expected in ((MOCO_V2, True), (MOCO_V1, False)):
        recipe = dataclasses.replace(base, size=64, batch=32, bn_splits=2, K=64)
        for batch in TrainLoader(store, recipe, engine, CPU).epoch(0):
            if not expected:
                assert batch.colour.blur_rows is None
                continue
            rows = blur_rows(batch.colour.sigma.numpy(), 0.5)
            assert np.array_equal(batch.colour.blur_rows.numpy(), rows) and len(rows) < 64
    engine.close()


def test_it_compiles_to_one_graph():
    views, c = some_views(24, 16), drawn(AUGMENT_V2, 24)
    assert len(c.blur_rows) < 48
    compiled = torch.compile(augment_fast, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(
        compiled(views, c, AUGMENT_V2), augment(views, c, AUGMENT_V2), atol=2e-5, rtol=0
    )


def test_which_form_is_taken(monkeypatch):
    cuda = torch.device("cuda")
    pick = lambda device, **o: choose.augmentation(RunOptions(**o), device)[1:]  # noqa: E731
    assert pick(CPU) == ("numba", None)
    assert pick(CPU, augment="torch") == ("torch", None)
    assert pick(cuda, augment="kornia") == ("kornia", None)
    assert pick(cuda, augment="torch") == ("torch", None)
    monkeypatch.setattr(choose, "lacks_compiler", lambda device: None)
    assert pick(cuda) == ("augment_fast, compiled", None)
    assert pick(cuda, augment="torch", compile=True) == ("augment, compiled", None)
    monkeypatch.setattr(choose, "lacks_compiler", lambda device: "no C compiler here")
    assert pick(cuda) == ("torch", "the augmentation is not compiled: no C compiler here")


def test_a_function_is_compiled_for_as_many_shapes_as_a_run_has():
    """Progressive resolution with more sides than Dynamo's own limit."""
    from torch._dynamo import config
    from torch._inductor import config as inductor

    torch.compiler.reset()
    double = torch.compile(lambda x: 2 * x, fullgraph=True, dynamic=False, backend="eager")
    with config.patch(recompile_limit=8), inductor.patch(deterministic=False):
        compiler.settle(12)
        assert inductor.deterministic  # no timing decides the order of a sum
        for side in range(1, 13):
            assert double(torch.ones(side)).sum() == 2 * side


def test_what_compiling_lacks_is_told(monkeypatch):
    lacks = compiler.lacks_compiler.__wrapped__  # without the cache of its answers
    line = lacks(torch.device("cuda"))  # really tried: this machine has no such device, or it works
    assert (line is None) == torch.cuda.is_available()
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    assert "no C compiler" in lacks(torch.device("cuda"))
    assert "no C++ compiler" in lacks(CPU) and "apt-get" in lacks(CPU)
