"""Bad samples and files cut short: every engine names the sample, and goes on."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_tools.errors import UserError
from data_tools.open import open_store
from fastmoco import draws
from fastmoco.loading.engines.bad_sample import bad_sample
from tests.support.engine_parts import RECIPE, SAMPLES, each_engine, epoch, start


def damage(path: Path, i: int, how: str) -> tuple[Path, str]:
    """Damages sample i in the file of a prepared beton. Returns the dataset and the sample's
    key."""
    store = open_store(path)
    key, image = store.key(i), store.encoded(i).tobytes()
    middle = len(image) // 2
    spoiled = {
        # an end-of-image marker in the middle of the scan: all segments stay well formed
        "scan": image[:middle] + b"\xff\xd9" + image[middle + 2 :],
        "cut": image[:middle] + bytes(len(image) - middle),
        "replaced": bytes(len(image)),
    }[how]
    file = path / "train.beton"
    file.write_bytes(file.read_bytes().replace(image, spoiled))
    return path, key


@each_engine
@pytest.mark.parametrize("how", ["scan", "cut", "replaced"])
def test_a_bad_sample_names_itself_and_nothing_hangs(prepared, engine, how, tmp_path):
    shutil.copytree(prepared["beton"], tmp_path / "spoiled")
    third = int(draws.permutation(RECIPE.seed, 1, SAMPLES)[2])
    path, key = damage(tmp_path / "spoiled", third, how)
    if (engine, how) == ("dali", "scan"):  # libjpeg only warns, and DALI takes no notice
        assert len(epoch(engine, open_store(path))) == 2
        return
    with pytest.raises(UserError) as error:
        epoch(engine, open_store(path), dataclasses.replace(RECIPE, batch=4))
    assert key in str(error.value) and "cannot be decoded" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("engine", ["threads", "dali", "ffcv"])  # resident does not start with one
def test_an_engine_goes_on_after_a_bad_sample(prepared, engine, tmp_path):
    shutil.copytree(prepared["beton"], tmp_path / "spoiled")
    path, _ = damage(tmp_path / "spoiled", 0, "replaced")
    opened = start(engine, open_store(path)).engine
    windows = np.tile(np.array([0, 0, 30, 30]), (3, 1, 1))
    out = np.zeros((2, 3, 1, 16, 16, 3), np.uint8)
    bad = opened.submit(np.array([0, 1, 2]), windows, out[0])
    good = opened.submit(np.array([1, 2, 3]), windows, out[1])
    with pytest.raises(UserError):
        bad.result()
    good.result()
    opened.submit(np.array([1, 2, 3]), windows, out[0]).result()
    opened.close()
    fresh = start(engine, open_store(path)).engine
    expected = np.empty_like(out[0])
    fresh.submit(np.array([1, 2, 3]), windows, expected).result()
    fresh.close()
    assert np.array_equal(out[0], expected) and np.array_equal(out[1], expected)


@each_engine
def test_a_file_cut_short_while_it_is_read_is_one_line(prepared, engine, tmp_path):
    shutil.copytree(prepared["beton"], tmp_path / "short")
    opened = start(engine, open_store(tmp_path / "short")).engine
    windows = np.tile(np.array([0, 0, 30, 30]), (4, 1, 1))
    out = np.zeros((4, 1, 16, 16, 3), np.uint8)
    opened.submit(np.arange(4), windows, out).result()
    os.truncate(tmp_path / "short" / "train.beton", 4096)
    if engine == "resident":  # it has read everything already
        opened.submit(np.arange(4), windows, out).result()
        opened.close()
        return
    with pytest.raises(UserError, match="became shorter"):
        opened.submit(np.arange(4), windows, out).result()
    opened.close()


def test_what_dali_does_not_take_is_told_in_its_words(prepared):
    store = open_store(prepared["beton"])
    opened = start("dali", store).engine
    beyond = np.tile(np.array([0, 0, 500, 500]), (3, 1, 1))
    with pytest.raises(UserError) as error:
        opened.submit(np.arange(3), beyond, np.empty((3, 1, 16, 16, 3), np.uint8)).result()
    opened.close()
    assert "batch of 3 samples" in str(error.value) and "out of bounds" in str(error.value)


def test_a_file_changed_for_another_is_told(prepared):
    store = open_store(prepared["beton"])
    store.sizes[:] += 1  # as if the file held another image
    told = bad_sample(store, np.arange(3), "DALI", "no")
    assert store.key(0) in str(told) and "not of the size in the index" in str(told)
