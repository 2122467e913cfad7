"""The lines of --dry-run, and the advice if memory runs out."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
import torch

from fastmoco.cli import main
from fastmoco.measuring.dry_run import (
    advise,
    dry_run,
    largest_batch,
    last_that_fits,
    what_fits,
)
from fastmoco.measuring.step_memory import estimate
from fastmoco.recipe import MOCO_CIFAR, MOCO_V2
from fastmoco.run_options import RunOptions
from fastmoco.system.ranks import Ranks
from fastmoco.training.checks import check_parts
from tests.support.deadlines import deadline
from tests.support.measured_step import RECIPE

CUDA = torch.device("cuda")  # estimates do not touch it


@pytest.mark.parametrize("share", [0.8, 2.5])
def test_the_largest_batch_fits_and_the_next_does_not(share):
    options = RunOptions()
    room = int(share * (estimate(RECIPE, 1000, options, CUDA).bytes - 700e6) + 700e6)
    found = largest_batch(RECIPE, 1000, options, CUDA, room)
    assert found.batch % RECIPE.bn_splits == 0 and found.bytes <= room
    following = dataclasses.replace(RECIPE, batch=found.batch + RECIPE.bn_splits, K=1000)
    assert estimate(following, 1000, options, CUDA).bytes > room


@pytest.mark.parametrize(
    "bytes_of",
    [
        lambda b: 1000 + 7 * b,
        lambda b: 50 * b**2,  # far from a straight line
        lambda b: 10**6 + 3 * b + (b > 200) * 5 * 10**5,
        lambda b: 10**6,  # nothing depends on the batch
    ],
    ids=["line", "square", "jump", "flat"],
)
def test_the_search_finds_what_trying_all_batches_finds(bytes_of):
    batches = range(16, 801, 8)
    for room in [bytes_of(16), *(bytes_of(b) + d for b in range(16, 801, 40) for d in (-1, 0, 1))]:
        expected = [b for b in batches if bytes_of(b) <= room]
        if not expected:
            continue
        for first_guess in (1, 16, 100, 256, 10**6):
            probed = []

            def counted(b, probed=probed):
                probed.append(b)
                return bytes_of(b)

            assert last_that_fits(counted, room, batches, first_guess) == expected[-1]
            assert len(set(probed)) <= 1 + 4 + 7  # the least, four guesses, 99 batches halved


def test_the_search_takes_few_estimates_of_a_straight_line():
    probed = set()

    def bytes_of(batch):
        probed.add(batch)
        return 700_000_000 + 51_234_567 * batch

    assert last_that_fits(bytes_of, 40 * 10**9, range(16, 10**6, 8), 256) == 760
    assert len(probed) <= 5


def test_the_largest_batch_is_that_of_trying_all():
    options, sizes = RunOptions(), range(2 * RECIPE.bn_splits, 97, RECIPE.bn_splits)
    recipes = {b: dataclasses.replace(RECIPE, batch=b, K=max(RECIPE.K, b)) for b in sizes}
    all_bytes = {b: estimate(r, 96, options, CUDA).bytes for b, r in recipes.items()}
    for room in (all_bytes[sizes[3]], all_bytes[sizes[9]] - 1, all_bytes[sizes[-1]] + 1):
        found = largest_batch(RECIPE, 96, options, CUDA, room)
        assert found.batch == max(b for b in sizes if all_bytes[b] <= room)


def test_the_largest_batch_is_the_dataset_or_none():
    assert largest_batch(RECIPE, 50, RunOptions(), CUDA, 10**12).batch == 48
    assert largest_batch(RECIPE, 50, RunOptions(), CUDA, 10**8) is None


def test_the_line_names_changes_that_fit():
    line = what_fits(RECIPE, 1000, RunOptions(), CUDA, 10**12)  # it ran out all the same
    assert line.startswith("out of memory: a step with --batch 16 takes about 0.7 GB; use ")
    assert "no batch fits" in line
    large = dataclasses.replace(RECIPE, size=256, batch=64, K=64, bn_splits=2)
    room = int(0.89 * estimate(large, 1000, RunOptions(), CUDA).bytes)
    line = what_fits(large, 1000, RunOptions(), CUDA, room)
    assert "--activation-checkpointing" in line and "--accumulate 2 " in line and "--batch " in line


def test_what_fits_on_each_of_several_ranks():
    """The advice has flags for the whole run, which divide by the ranks."""
    large = dataclasses.replace(RECIPE, size=256, batch=128, K=128, bn_splits=4)
    own = dataclasses.replace(large, batch=64, bn_splits=2)
    room = int(0.89 * estimate(own, 500, RunOptions(), CUDA).bytes)
    line = what_fits(large, 1000, RunOptions(), CUDA, room, ranks=2)
    assert line.startswith("out of memory: a step with --batch 128 takes about ")
    assert "GB on each of 2 ranks; use " in line
    pieces = int(re.search(r"--accumulate (\d+) ", line)[1])
    batch = int(re.search(r"--batch (\d+) --lr", line)[1])
    alone = largest_batch(own, 500, RunOptions(), CUDA, room)
    assert batch == 2 * alone.batch < 128
    check_parts(large, Ranks(0, 2), pieces)
    check_parts(dataclasses.replace(large, batch=batch), Ranks(0, 2), 1)


def test_resident_images_count(store):
    def dry(**options):
        return dry_run(RECIPE, store, RunOptions(device="cuda", **options), room=2 * 10**9)

    auto, threads = dry(), dry(engine="threads")
    height, width = store.sizes.max(axis=0).tolist()
    images = len(store) * height * width * 3
    assert auto.estimate.bytes - threads.estimate.bytes == images
    assert [p.name for p in auto.estimate.parts if p.bytes == images] == [
        "the dataset's images, resident"
    ]
    little = dry_run(RECIPE, store, RunOptions(device="cuda"), room=images)
    assert little.estimate == threads.estimate  # auto lays down what fits into a quarter


def test_published_settings_are_what_is_advised_for_their_datasets():
    for recipe, samples, expected in (
        (MOCO_V2, 1_281_167, {"K": 65536, "m": 0.999, "lr": 0.03, "epochs": 200}),
        (MOCO_CIFAR, 50_000, {"K": 4096, "m": 0.99, "lr": 0.06, "epochs": 800}),
    ):
        assert {a.setting: a.suggested for a in advise(recipe, samples)} == expected
    small = {a.setting: a.suggested for a in advise(MOCO_V2, 5_000)}
    assert small["K"] == 256 and small["m"] == 0.99


def test_the_command_reports_and_trains_nothing(dataset, tmp_path, capsys):
    argv = ["train", str(dataset), "--dry-run", "--arch", "resnet-mini", "--size", "32", "--batch",
            "16", "--bn-splits", "4", "--device", "cuda", "--out", str(tmp_path / "run")]
    assert main([*argv, "--memory", "1GB"]) == 0
    said = capsys.readouterr().out
    assert "activations" in said and "the largest batch that fits is 96" in said
    assert "train refuses it: --K 65536 is larger than the dataset (96 images)" in said
    assert not (tmp_path / "run").exists()
    assert main([*argv, "--json", "--K", "64"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == sum(p["bytes"] for p in found["estimate"]["parts"])
    assert found["refused"] == "" and [a["setting"] for a in found["advice"]][0] == "K"
    assert main([*argv, "--memory", "lots"]) == 2
    assert "--memory lots: give a size" in capsys.readouterr().err
    assert main(["train", str(dataset), "--memory", "1GB"]) == 2
    assert "--memory goes with --dry-run" in capsys.readouterr().err


def test_a_step_without_room_says_what_would_fit(dataset, tmp_path):
    """Real: a process that may have 1 GB more, and a step that takes 1.5."""
    code = f"""
import resource, sys
import fastmoco.training.train, fastmoco.measuring.dry_run
from fastmoco.cli import main
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
sys.exit(main(["train", {str(dataset)!r}, "--out", {str(tmp_path / "run")!r}, "--size", "160",
               "--batch", "96", "--K", "96", "--arch", "resnet-mini", "--threads", "1",
               "--precision", "float32", "--bn-splits", "2", "--json"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("fastmoco: out of memory: a step with --batch 96 takes about")
    assert "--accumulate" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("keys", [10**11, 10**15, 10**30])
def test_a_queue_larger_than_the_memory_is_refused_at_once(keys, dataset, tmp_path, capsys):
    argv = ["train", str(dataset), "--arch", "resnet-mini", "--size", "32", "--batch", "16",
            "--bn-splits", "4", "--force", "--K", str(keys), "--out", str(tmp_path / "run")]
    for more in ([], ["--dry-run"], ["--dry-run", "--device", "cuda"]):
        with deadline(20):
            assert main([*argv, *more]) == 2
        said = capsys.readouterr().err
        assert "out of memory: the queue's keys alone take" in said and f"--K {keys}" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
