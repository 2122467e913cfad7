"""The cache of features: its keys, kills, ranks, a full disk."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import fastmoco.evaluation.feature_cache as cache_module
from data_tools.errors import UserError
from data_tools.subset import Subset
from fastmoco.evaluation.feature_cache import Extraction, features_of, opened, place, sweep
from fastmoco.evaluation.features import extract
from fastmoco.system.ranks import Ranks
from fastmoco.weights.encoders import initial_encoder, load_encoder
from tests.support.evaluation_parts import CPU, RECIPE, untrained


@pytest.fixture(scope="module")
def store(store):
    return Subset(store, np.arange(0, 96, 8))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fastmoco" / "features"


def test_the_second_time_nothing_is_extracted(store, cache, monkeypatch):
    encoder = load_encoder(untrained(), CPU)
    first = features_of(encoder, store, RECIPE, Extraction(CPU))
    assert torch.equal(first, extract(encoder, store, RECIPE, CPU))
    assert [p.suffix for p in cache.iterdir()] == [".npy"]
    monkeypatch.setattr(cache_module, "extract", None)
    second = features_of(encoder, store, RECIPE, Extraction(CPU))
    assert torch.equal(first, second)
    second += 1  # stays in memory
    assert torch.equal(first, features_of(encoder, store, RECIPE, Extraction(CPU)))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(keep, value, store):
    """The second call takes them from the cache."""
    encoder = load_encoder(untrained(), CPU)
    encoder.trunk.bn1.bias.data[0] = value
    for _ in range(2):
        with pytest.raises(UserError, match=f"features of {store.path.name}: not finite"):
            features_of(encoder, store, RECIPE, Extraction(CPU, keep=keep))


def test_unkept_features_leave_no_file(store, cache):
    features_of(load_encoder(untrained(), CPU), store, RECIPE, Extraction(CPU, keep=False))
    assert not cache.exists()


def test_a_file_is_known_by_weights_images_and_view(store):
    encoder = load_encoder(untrained(), CPU)
    same = load_encoder(untrained(), CPU)
    other = initial_encoder(dataclasses.replace(RECIPE, seed=1), CPU)
    statistics = load_encoder(untrained(), CPU)
    statistics.trunk.bn1.running_mean[3] += 1e-3
    aug = dataclasses.replace(RECIPE.augmentation, mean=(0.5, 0.5, 0.5))
    places = [
        place(encoder, store, RECIPE, "auto"),
        place(other, store, RECIPE, "auto"),
        place(statistics, store, RECIPE, "auto"),
        place(encoder, Subset(store, np.arange(5)), RECIPE, "auto"),
        place(encoder, Subset(store, np.arange(6)), RECIPE, "auto"),
        place(encoder, store, dataclasses.replace(RECIPE, eval_size=40), "auto"),
        place(encoder, store, dataclasses.replace(RECIPE, eval_crop=0.8), "auto"),
        place(encoder, store, dataclasses.replace(RECIPE, augmentation=aug), "auto"),
        place(encoder, store, dataclasses.replace(RECIPE, precision="bfloat16"), "auto"),
        place(encoder, store, RECIPE, "dali"),
    ]
    assert len(set(places)) == len(places)
    assert place(same, store, dataclasses.replace(RECIPE, lr=9), "auto") == places[0]


def test_a_killed_extraction_is_not_taken_for_whole(store, cache, monkeypatch):
    encoder = load_encoder(untrained(), CPU)
    whole = extract(encoder, store, RECIPE, CPU)

    def killed(*args, **kwargs):
        extract(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "extract", killed)
        # as after kill -9: no clean-up code runs
        patch.setattr(Path, "unlink", lambda *args, **kwargs: None)
        with pytest.raises(KeyboardInterrupt):
            features_of(encoder, store, RECIPE, Extraction(CPU))
    (left,) = cache.iterdir()
    assert left.name.endswith(f".{os.getpid()}.partial")
    gone = left.with_name(left.name.replace(str(os.getpid()), "4194304"))  # above any pid
    left.rename(gone)
    assert torch.equal(features_of(encoder, store, RECIPE, Extraction(CPU)), whole)
    assert [p.suffix for p in cache.iterdir()] == [".npy"]


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    path = tmp_path / "a.npy"
    living = tmp_path / f"a.{os.getppid()}.partial"
    living.touch()
    sweep(path)
    assert living.exists()


def test_a_damaged_file_is_extracted_again(store, cache):
    encoder = load_encoder(untrained(), CPU)
    whole = features_of(encoder, store, RECIPE, Extraction(CPU)).clone()
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    assert torch.equal(features_of(encoder, store, RECIPE, Extraction(CPU)), whole)


class TakingTurns(Ranks):
    """One rank; the others fill their parts of the same file before or after it."""

    def barrier(self):
        pass

    def share(self, value):
        return 77.0


def test_ranks_share_the_images(store, cache, monkeypatch):
    encoder = load_encoder(untrained(), CPU)
    whole = extract(encoder, store, RECIPE, CPU)
    path = place(encoder, store, RECIPE, "auto")
    seen = []

    def watched(encoder, share, *args):
        seen.append(len(share))
        return extract(encoder, share, *args)

    monkeypatch.setattr(cache_module, "extract", watched)
    # rank 0 makes the file; it would rename it at once, but its name is asked for by the others
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda a, b: None)
        patch.setattr(Path, "unlink", lambda *args, **kwargs: None)
        for rank in range(3):
            how = Extraction(CPU, ranks=TakingTurns(rank, 3))
            cache_module.fill(path, encoder, store, RECIPE, how)
    assert seen == [4, 4, 4]
    (left,) = cache.iterdir()
    torch.testing.assert_close(torch.from_numpy(np.load(left)), whole, rtol=1e-4, atol=1e-5)


def test_a_full_disk_is_one_line(store, monkeypatch):
    def full(fd, offset, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    encoder = load_encoder(untrained(), CPU)
    with pytest.raises(UserError, match="No space left.*--no-keep"):
        features_of(encoder, store, RECIPE, Extraction(CPU))


@pytest.mark.parametrize("held", [np.zeros((3, 4), np.float32), np.zeros((3, 5), np.float64)])
def test_a_file_of_another_shape_or_type_is_none(held, tmp_path):
    np.save(tmp_path / "a.npy", held)
    assert opened(tmp_path / "a.npy", (3, 5)) is None
    np.save(tmp_path / "a.npy", np.ones((3, 5), np.float32))
    assert opened(tmp_path / "a.npy", (3, 5)).sum() == 15


def test_a_cache_that_is_no_folder_is_one_line(store, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.raises(UserError, match=r"/dev/null.*another cache with XDG_CACHE_HOME, or use "):
        features_of(load_encoder(untrained(), CPU), store, RECIPE, Extraction(CPU))
