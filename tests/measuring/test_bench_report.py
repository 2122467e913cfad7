"""Conclusions of bench from its figures: bounds, advice, the guard on a saved report."""

import dataclasses
import json
import os

import pytest

from data_tools.planning.rates import in_threads
from fastmoco.cli import main
from fastmoco.measuring import roofline
from fastmoco.measuring.roofline import WHOLE
from fastmoco.measuring.stages import read_rates
from fastmoco.recipe import MOCO_V2
from tests.support.command_line import TINY, refused, run

SMALL = dataclasses.replace(MOCO_V2, size=16)
RATES = {
    "read, from disk": 20_000.0, "read, in memory": 100_000.0, "decode": 1_000.0, "crop": 5_000.0,
    "two views": 800.0, "augmentation alone": 20_000.0, "step alone": 5_000.0,
    "two views + augmentation": 750.0, WHOLE: 780.0,
}


def test_a_gpu_waits_for_the_slower_side(store):
    """Loading at 800 images/s and a GPU that could do 4,000: raw images leave only the crops."""
    found = roofline.changes(RATES, store, SMALL, overlap=True, cores=2)
    by = {c.what.split(":")[0].split(" (")[0]: c.predicted for c in found}
    assert [c.predicted for c in found] == sorted((c.predicted for c in found), reverse=True)
    assert by["twice the cores"] == pytest.approx(780 * 2)
    raw = next(c for c in found if "--raw-fraction" in c.what)
    plain = float(store.sizes.astype(float).prod(axis=1).mean() * 3 / store.lengths.mean())
    limit = min(4_000, 4_000, 20_000 / plain)  # the crops', the GPU's, the disk's
    assert raw.predicted == pytest.approx(780 * limit / 800, rel=1e-6)
    assert "decode" in roofline.binds(RATES, True) and "loader" in roofline.binds(RATES, True)
    fast = RATES | {"step alone": 400.0, WHOLE: 390.0}
    assert roofline.changes(fast, store, SMALL, overlap=True, cores=2) == []
    assert "GPU is the slower side" in roofline.binds(fast, True)
    (change,) = roofline.changes(
        fast, store, dataclasses.replace(SMALL, precision="float32"), True, 2, True
    )
    assert "bfloat16" in change.what and change.predicted == pytest.approx(390 * 1.96, rel=0.01)


def test_on_a_cpu_the_times_add_up(store):
    found = roofline.changes(RATES, store, SMALL, overlap=False, cores=2)
    assert not any("cores" in c.what for c in found)  # the stages share them already
    before = 1 / 800 + 1 / 20_000 + 1 / 5_000
    raw = next(c for c in found if "--raw-fraction" in c.what)
    plain = float(store.sizes.astype(float).prod(axis=1).mean() * 3 / store.lengths.mean())
    after = max(1 / 800 - 1 / 1_000, plain / 20_000) + 1 / 20_000 + 1 / 5_000  # crops, or the disk
    assert raw.predicted == pytest.approx(780 * before / after, rel=1e-6)
    assert f"{raw.predicted:,.0f} images/s" in roofline.advice([raw], RATES)
    assert "encoder is what the time goes into" in roofline.advice([], RATES)


def test_decoded_images_in_memory_are_not_decoded_again(store):
    """Neither the disk nor the decoder bounds a step; on a CPU the crops take their own time."""
    lying = roofline.without_decoding(RATES)
    found = roofline.changes(lying, store, SMALL, overlap=False, cores=2)
    assert not any("--raw-fraction" in c.what for c in found)
    names = {b.name: b.share for b in roofline.bounds(lying, False)}
    assert names.keys() == {"cores (crops)", "augmentation", "step"}
    assert names["cores (crops)"] == pytest.approx(780 / 800)
    share = (1 / 800) / (1 / 800 + 1 / 20_000 + 1 / 5_000)
    assert roofline.binds(lying, False).startswith(f"crops ({share:.0%} of the time")


def test_bounds_are_shares_of_what_each_resource_allows():
    found = {b.name: b.share for b in roofline.bounds(RATES | {"copy": 7_800.0}, overlap=True)}
    assert found["cores (libjpeg's decode)"] == pytest.approx(0.78)
    assert found["bus (copy)"] == pytest.approx(0.1)
    assert found["GPU (augmentation and step)"] == pytest.approx(780 / 4_000)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert "bus (copy)" not in {b.name for b in roofline.bounds(RATES, overlap=False)}


def test_reading_touches_every_sample_and_leaves_no_file_open(store):
    before = len(os.listdir("/proc/self/fd"))
    cold, warm = read_rates(store, 2, 0.05)
    assert cold > 0 and warm > 0 and len(os.listdir("/proc/self/fd")) == before
    seen = []
    assert in_threads(seen.append, 2, 0.02) > 0
    assert sorted(seen) == list(range(len(seen)))


def test_the_guard_names_what_became_slower(dataset, tmp_path, capsys):
    argv = ["bench", str(dataset), *TINY, "--rounds", "1", "--seconds", "0.05"]
    _, text, _ = run(capsys, *argv, "--json")
    saved = tmp_path / "saved.json"
    report = json.loads(text)
    for stage in report["stages"]:  # as if all but the decode had been slow then
        stage["images_per_s"] /= 1 if stage["name"] == "decode" else 100
    saved.write_text(json.dumps(report))
    assert main([*argv, "--against", str(saved)]) == 0
    for stage in report["stages"]:
        stage["images_per_s"] *= 10_000 if stage["name"] == "crop" else 1
    saved.write_text(json.dumps(report))
    capsys.readouterr()
    assert main([*argv, "--against", str(saved)]) == 1
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("slower: crop: ")]
    assert "slower: two views" not in err
    report["size"] = 99
    saved.write_text(json.dumps(report))
    assert "measured with size 99, not 16" in refused(capsys, *argv, "--against", saved)
    saved.write_text("{}")
    assert "not a report" in refused(capsys, *argv, "--against", saved)
    assert "not a report" in refused(capsys, *argv, "--against", tmp_path / "none.json")
