"""The threads engine against Pillow; the loader's order, resume, last batches and errors."""

import dataclasses
import subprocess
import sys
import threading

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.prepare import prepare
from data_tools.subset import Subset
from fastmoco import draws
from fastmoco.loading.engines.threads import ThreadsEngine, decode
from fastmoco.loading.eval_loader import EvalLoader
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.system.ranks import Ranks
from tests.support.loaded_batches import CPU, RECIPE, assert_same, copy
from tests.support.made_files.sample_images import smooth_image


def epoch(store, recipe=RECIPE, threads=2, number=1, first_step=0):
    engine = ThreadsEngine(store, threads)
    try:
        loader = TrainLoader(store, recipe, engine, CPU)
        return [copy(b) for b in loader.epoch(number, first_step)]
    finally:
        engine.close()


def test_views_equal_pillows_antialiased_resize(store):
    size = 32
    ids = np.arange(len(store))
    windows = draws.crop_windows(0, 0, ids, store.sizes, 2, (0.2, 1), (3 / 4, 4 / 3))
    out = np.empty((len(ids), 2, size, size, 3), np.uint8)
    engine = ThreadsEngine(store, 2)
    engine.submit(ids, windows, out).result()
    engine.close()
    difference = []
    for i in ids:
        image = Image.fromarray(simplejpeg.decode_jpeg(store.encoded(i)))
        for view in range(2):
            top, left, height, width = windows[i, view].tolist()
            cut = image.crop((left, top, left + width, top + height))
            expected = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR), float)
            difference.append(np.abs(out[i, view] - expected).mean())
    assert max(difference) < 0.5  # of 255: the law of the design


def test_every_sample_at_most_once_and_all_but_the_last_batch(store):
    batches = epoch(store)
    index = torch.cat([b["index"] for b in batches])
    assert len(batches) == 96 // 20 and len(index.unique()) == len(index) == 80
    assert torch.equal(index, torch.from_numpy(draws.permutation(11, 1, 96)[:80]))
    assert np.array_equal(torch.cat([b["label"] for b in batches]), store.labels[index])


def test_any_number_of_threads_gives_the_same_bits(store):
    assert_same(epoch(store, threads=1), epoch(store, threads=5))


def test_a_sample_does_not_depend_on_its_batch(store):
    views = {}
    for batch_size in (20, 12):
        recipe = dataclasses.replace(RECIPE, batch=batch_size)
        for b in epoch(store, recipe):
            for i, index in enumerate(b["index"].tolist()):
                views.setdefault(index, []).append(torch.cat([b["views"][i].flatten(),
                                                              b["hue"][i] * 1000]))
    pairs = [v for v in views.values() if len(v) == 2]
    assert len(pairs) > 60 and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("ranks", [2, 5])
@pytest.mark.parametrize("order", ["random", "blocks"])
def test_ranks_share_the_batch_of_one(store, ranks, order):
    """The parts are disjoint and cover the batch; each sample has the views and draws of one
    process."""
    recipe = dataclasses.replace(RECIPE, order=order)
    alone = epoch(store, recipe)
    engine = ThreadsEngine(store, 2)
    parts = [
        [copy(b) for b in TrainLoader(store, recipe, engine, CPU, Ranks(rank, ranks)).epoch(1)]
        for rank in range(ranks)
    ]
    engine.close()
    for number, whole in enumerate(alone):
        assert len(parts[0][number]["index"]) == recipe.batch // ranks
        for name in whole:
            if name == "shuffle":  # of the keys of all ranks
                assert all(torch.equal(p[number][name], whole[name]) for p in parts)
            else:
                assert torch.equal(torch.cat([p[number][name] for p in parts]), whole[name])


def test_ranks_must_divide_the_batch(store):
    engine = ThreadsEngine(store, 1)
    with pytest.raises(UserError, match="--batch 20 does not divide into 3 ranks"):
        TrainLoader(store, RECIPE, engine, CPU, Ranks(0, 3))
    with pytest.raises(UserError, match="or fewer ranks"):
        TrainLoader(store, RECIPE, engine, CPU, Ranks(0, 97))
    engine.close()


def test_an_epoch_can_begin_in_its_middle(store):
    whole = epoch(store)
    assert_same(whole[2:], epoch(store, first_step=2))
    assert not torch.equal(whole[0]["index"], epoch(store, number=2)[0]["index"])


def test_the_two_views_differ_and_a_slot_is_written_again(store):
    engine = ThreadsEngine(store, 2)
    recipe = dataclasses.replace(RECIPE, batch=8)
    held = []
    for batch in TrainLoader(store, recipe, engine, CPU).epoch(0):
        assert not torch.equal(batch.views[:, 0], batch.views[:, 1])
        held.append(batch.views)
    engine.close()
    assert len({t.data_ptr() for t in held}) < len(held)  # a ring, as the docstring says


def test_an_early_break_leaves_no_thread_behind(store):
    before = threading.active_count()
    engine = ThreadsEngine(store, 3)
    for _ in TrainLoader(store, RECIPE, engine, CPU).epoch(0):
        break
    engine.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 128), (96, 64)])
def test_evaluation_is_resize_and_centre_crop(tmp_path, height, width):
    (tmp_path / "in").mkdir()
    for i in range(5):
        image = smooth_image(np.random.default_rng(i), height, width)
        Image.fromarray(image).save(tmp_path / "in" / f"{i}.jpg")
    prepare(tmp_path / "in", tmp_path / "out")
    store = open_store(tmp_path / "out")
    engine = ThreadsEngine(store, 2)
    recipe = dataclasses.replace(RECIPE, size=28)
    # sizes for which torchvision's rounding to whole pixels changes nothing: 28 of 32
    views = torch.cat([b.views.clone() for b in EvalLoader(store, recipe, engine, CPU, batch=2)])
    engine.close()
    assert views.shape == (5, 1, 28, 28, 3)  # to the last, incomplete batch
    reference = Compose([Resize(32, InterpolationMode.BILINEAR), CenterCrop(28)])
    for i in range(5):
        expected = np.asarray(reference(Image.fromarray(decode(store, i))), float)
        assert np.abs(views[i, 0].numpy() - expected).mean() < 0.5


def test_at_full_size_evaluation_is_the_image_itself(tmp_path):
    (tmp_path / "in").mkdir()
    image = smooth_image(np.random.default_rng(0), 24, 24)
    Image.fromarray(image).save(tmp_path / "in" / "a.jpg", quality=95)
    prepare(tmp_path / "in", tmp_path / "out")
    store = open_store(tmp_path / "out")
    engine = ThreadsEngine(store, 1)
    recipe = dataclasses.replace(RECIPE, eval_crop=1.0)
    (batch,) = EvalLoader(store, recipe, engine, CPU)
    assert np.array_equal(batch.views[0, 0].numpy(), decode(store, 0))
    engine.close()


def test_a_bad_sample_names_itself(store):
    class Damaged(Subset):
        def encoded(self, i):
            good = super().encoded(i)
            return good[: len(good) // 2] if i == third else good

    third = int(draws.permutation(RECIPE.seed, 1, len(store))[2])
    damaged = Damaged(store, np.arange(len(store)))
    with pytest.raises(UserError) as error:
        epoch(damaged)
    assert store.key(third) in str(error.value) and "cannot be decoded" in str(error.value)


def test_raw_images_are_cut_as_jpegs_are(store):
    """A store may hold raw RGB, in a read-only map of its file."""
    pixels = [decode(store, i) for i in range(40)]

    class Raw(Subset):
        def encoded(self, i):
            flat = pixels[i].reshape(-1)
            flat.flags.writeable = False
            return flat

    raw = Raw(store, np.arange(40))
    raw.kinds = np.ones(40, np.uint8)
    assert_same(epoch(Subset(store, np.arange(40))), epoch(raw))


def test_data_wait_is_counted(store):
    engine = ThreadsEngine(store, 1)
    loader = TrainLoader(store, RECIPE, engine, CPU)
    assert loader.data_wait == 0
    for _ in loader.epoch(0):
        pass
    assert loader.data_wait > 0
    engine.close()


def test_memory_that_is_not_there_is_one_line(dataset, tmp_path):
    """A real limit: the process may take 3 GB more, and each slot needs 2.4 GB."""
    code = f"""
import resource, sys
import fastmoco.training.train
from fastmoco.cli import main
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + (3 << 30)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
sys.exit(main(["train", {str(dataset)!r}, "--out", {str(tmp_path / "run")!r}, "--size", "2048",
               "--batch", "96", "--K", "96", "--arch", "resnet-mini", "--threads", "1"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "MiB of host memory for a batch: use a smaller --batch" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
