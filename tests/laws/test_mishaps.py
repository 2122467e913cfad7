"""Whole runs with a mishap: numbers that are not finite, signals, a full disk."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from data_tools.errors import UserError
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Evaluated, Judged, Noted, Progress, Skipped
from fastmoco.training import pipeline
from fastmoco.training.train import train
from fastmoco.weights import checkpoint as checkpoints
from tests.support.full_disk import files_up_to
from tests.support.run_events import points
from tests.support.training_runs import RECIPE, STEPS, assert_equal, metrics

EVERY_STEP = {"log_every": 4, "checkpoint_minutes": 0}


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """The directory of a run without a mishap."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(dataset, RECIPE, RunOptions(out=str(out), **EVERY_STEP))
    return out


def assert_same_run(a, b):
    left, right = (vars(checkpoints.load(path)) for path in (a, b))
    assert left.pop("clock").keys() == right.pop("clock").keys()
    assert_equal(left, right)
    assert metrics(a) == metrics(b)


def spoil(monkeypatch, *steps):
    """Infinite pixels in the first image of the batches of these steps (from 1)."""
    plain = pipeline.augmentation

    def augmentation(*args):
        to_images, form, note = plain(*args)
        count = 0

        def spoiled(*args):
            nonlocal count
            count += 1
            images = to_images(*args)
            if count in steps:
                images[0][0, 0, :3] = torch.inf
            return images

        return spoiled, form, note

    monkeypatch.setattr(pipeline, "augmentation", augmentation)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_that_is_not_finite_moves_nothing_and_is_named(
    dataset, store, tmp_path, monkeypatch
):
    spoil(monkeypatch, 6, 7)
    told, run = [], tmp_path / "run"
    last = train(dataset, RECIPE, RunOptions(out=str(run), **EVERY_STEP), [told.append])
    assert last.step == STEPS
    # BatchNorm's statistics too, which would never recover
    assert all(t.isfinite().all() for t in last.moco.values() if t.is_floating_point())
    skipped = [e for e in told if isinstance(e, Skipped)]
    assert [e.step for e in skipped] == [6, 7]
    assert all(len(e.ids) == 16 and e.keys == [store.key(i) for i in e.ids] for e in skipped)
    assert [(r["step"], r["ids"]) for r in rows(run / "skipped.jsonl")] == [
        (e.step, e.ids) for e in skipped
    ]
    assert [e.skipped for e in told if isinstance(e, Progress)] == [0, 2, 0, 0, 0]
    assert [(e.name, e.over) for e in told if isinstance(e, Judged) and e.name == "skipping"] == [
        ("skipping", False)
    ]


def test_log_lines_of_one_step_outlive_a_bad_batch(dataset, tmp_path, monkeypatch):
    """With a log line per step: no line for a skipped step, and no number that is NaN."""
    spoil(monkeypatch, 3, 9, 10)
    told, run = [], tmp_path / "run"
    train(dataset, RECIPE, RunOptions(out=str(run), log_every=1), [told.append])
    lines = [e for e in told if isinstance(e, Progress)]
    assert [e.step for e in lines] == [s for s in range(1, STEPS + 1) if s not in (3, 9, 10)]
    assert {e.step: e.skipped for e in lines if e.skipped} == {4: 1, 11: 2}
    assert [r["step"] for r in rows(run / "skipped.jsonl")] == [3, 9, 10]


@pytest.mark.parametrize("log_every", [10**12, 10**21])
def test_log_lines_may_be_any_number_of_steps_apart(log_every, dataset, tmp_path, monkeypatch):
    """The device has room for the ids of a few steps, and no skipped step is forgotten."""
    spoil(monkeypatch, 2, 9)
    monkeypatch.setattr("fastmoco.training.bad_steps.MOST_STEPS", 4)
    told, run = [], tmp_path / "run"
    train(dataset, RECIPE, RunOptions(out=str(run), log_every=log_every), [told.append])
    assert [(e.step, e.skipped) for e in told if isinstance(e, Progress)] == [(STEPS, 2)]
    assert [r["step"] for r in rows(run / "skipped.jsonl")] == [2, 9]


def test_a_bad_batch_at_a_log_line_raises_no_false_alarm(dataset, tmp_path, monkeypatch):
    spoil(monkeypatch, 8)
    told, run = [], tmp_path / "run"
    train(dataset, RECIPE, RunOptions(out=str(run), log_every=2), [told.append])
    lines = {e.step: e for e in told if isinstance(e, Progress)}
    assert lines[8].skipped == 1 and lines[8].feature_std == lines[6].feature_std > 0
    assert "collapse" not in {e.name for e in told if isinstance(e, Judged)}

    def no_number(text):
        raise AssertionError(f"{text} is no JSON")

    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=no_number)


def test_a_run_that_stays_bad_ends_in_one_line_and_goes_on_from_the_last_good_step(
    dataset, whole, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        spoil(patch, *range(10, 100))
        with pytest.raises(UserError, match="not finite at step 16, nor in the 6 steps before: "
                                            "lower --lr.*skipped.jsonl.*checkpoint is whole"):
            train(dataset, RECIPE, RunOptions(out=str(run), **EVERY_STEP))
    assert [r["step"] for r in rows(run / "skipped.jsonl")] == list(range(10, 17))
    assert checkpoints.load(run).step == 9
    train(dataset, RECIPE, RunOptions(out=str(run), resume=True, **EVERY_STEP))
    assert_same_run(whole, run)
    assert not (run / "skipped.jsonl").exists()  # of steps that were repeated, and were good


# Runs that signal themselves at moments that a test from outside could not hit.
SIGNALLED = """
import os, signal, sys, time, torch
torch.set_num_threads(1)
from fastmoco import cli
from fastmoco.training import knn_monitor, stopping, train

def before(module, name, signals=1):
    plain = getattr(module, name)
    def wrapped(*args, **kwargs):
        setattr(module, name, plain)
        for i in range(signals):
            time.sleep(i * 1.1 * stopping.AT_ONCE)
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args, **kwargs)
    setattr(module, name, wrapped)

data, out, *flags = sys.argv[1:]
for moment, what in (("knn", (knn_monitor, "extract")), ("step", (train, "training_step")),
                     ("save", (torch, "save")), ("twice", (train, "training_step", 2))):
    before(*what)
    code = cli.main(["train", data, "--out", f"{out}/{moment}", "--val", data, *flags])
    print("exit", moment, code, flush=True)
"""
FLAGS = (
    "--arch resnet-mini --size 16 --batch 16 --bn-splits 2 --K 40 --epochs 1 --lr 0.01 "
    "--log-every 4 --val-every 1 --checkpoint-minutes 0 --threads 1"
).split()


def test_signals_stop_a_run_within_a_step_wherever_it_is(dataset, tmp_path, capsys):
    from fastmoco.cli import main

    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(dataset), str(tmp_path), *FLAGS],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )
    exits = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("exit")]
    assert exits == [["knn", "0"], ["step", "0"], ["save", "0"]], done.stderr
    assert done.returncode == -signal.SIGTERM  # the second signal in one step
    steps = {m: checkpoints.load(tmp_path / m).step for m in ("knn", "step", "save")}
    assert steps == {"knn": 0, "step": 1, "save": 2}
    assert not (tmp_path / "twice" / "checkpoint.pt").exists()
    argv = ["train", str(dataset), "--val", str(dataset), *FLAGS]
    assert main([*argv, "--out", str(tmp_path / "whole")]) == 0
    for moment in steps:
        assert main([*argv, "--out", str(tmp_path / moment), "--resume"]) == 0
        assert_same_run(tmp_path / "whole", tmp_path / moment)
    capsys.readouterr()


def test_a_knn_that_was_cut_off_by_a_kill_is_measured_on_resume(dataset, tmp_path):
    options = RunOptions(out=str(tmp_path / "run"), val=str(dataset), val_every=1, **EVERY_STEP)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    train(dataset, recipe, options)
    file = tmp_path / "run" / "metrics.jsonl"
    kept = rows(file)
    assert [r["event"] for r in kept[-3:]] == ["progress", "evaluated", "ended"]
    file.write_text("".join(json.dumps(r) + "\n" for r in kept[:-2]))  # as a kill leaves it
    told = []
    train(dataset, recipe, dataclasses.replace(options, resume=True), [told.append])
    assert [e.step for e in told if isinstance(e, Evaluated)] == [6]
    clocks = ("seconds", "train_seconds")
    again = rows(file)
    for row in (*kept, *again):
        for name in clocks:
            row.pop(name, None)
    assert again == kept
    # killed between the two: the kNN is in metrics.jsonl and not yet in TensorBoard's file
    for events in (tmp_path / "run").glob("events.*"):
        events.unlink()
    train(dataset, recipe, dataclasses.replace(options, resume=True))
    assert [s for s, _ in points(tmp_path / "run")["kNN/top-1"]] == [6]


def test_a_checkpoint_that_has_no_room_leaves_the_last_one(dataset, whole, tmp_path):
    run = tmp_path / "run"
    options = RunOptions(out=str(run), **EVERY_STEP)
    with files_up_to(100_000), pytest.raises(UserError, match="make room and start again"):
        train(dataset, RECIPE, options)
    assert not list(run.glob("checkpoint*"))

    def fill(event):
        if isinstance(event, Progress) and event.step == 8:
            limit.__enter__()

    limit = files_up_to(100_000)
    try:
        with pytest.raises(UserError, match="cannot write the checkpoint.*--resume"):
            train(dataset, RECIPE, options, [fill])
    finally:
        limit.__exit__(None, None, None)
    assert checkpoints.load(run).step == 7 and not list(run.glob("*.partial"))
    train(dataset, RECIPE, dataclasses.replace(options, resume=True))
    assert_same_run(whole, run)


@pytest.mark.parametrize("room_again", [True, False])
def test_metrics_on_a_full_disk_wait_in_memory(dataset, whole, tmp_path, room_again):
    run, told = tmp_path / "run", []
    file, aside = run / "metrics.jsonl", run / "aside"

    def listen(event):
        told.append(event)
        if isinstance(event, Progress) and event.step == 4:
            file.rename(aside)
            file.symlink_to("/dev/full")
        if isinstance(event, Progress) and event.step == 12 and room_again:
            aside.rename(file)

    options = RunOptions(out=str(run), **EVERY_STEP)
    if room_again:
        train(dataset, RECIPE, options, [listen])
        assert metrics(whole) == metrics(run)
    else:
        with pytest.raises(UserError, match=r"metrics.jsonl: its last records are not on disk "
                                            r".No space left on device.; the checkpoint is whole"):
            train(dataset, RECIPE, options, [listen])
    lines = [e.text for e in told if isinstance(e, Noted) and "metrics.jsonl" in e.text]
    assert len(lines) == 1 + room_again and "No space left on device" in lines[0]
    assert checkpoints.load(run).step == STEPS


def test_a_reader_that_has_gone_does_not_end_a_run(dataset, tmp_path):
    def gone(_event):
        raise BrokenPipeError

    recipe = dataclasses.replace(RECIPE, epochs=1)
    last = train(dataset, recipe, RunOptions(out=str(tmp_path / "run")), [gone])
    assert last.step == 6


def test_a_run_on_a_budget_begins_and_knows_what_is_left(dataset, tmp_path):
    told = []

    def listen(event):
        told.append(event)
        if isinstance(event, Progress) and event.steps:  # its rate is known
            os.kill(os.getpid(), signal.SIGTERM)

    options = RunOptions(out=str(tmp_path / "run"), budget="1h", log_every=4)
    last = train(dataset, RECIPE, options, [listen])
    progress = [e for e in told if isinstance(e, Progress)]
    assert last.step < STEPS < progress[-1].steps  # as many as an hour has
    assert all(0 < p.budget_left < 3600 for p in progress)


def test_damaged_rows_do_not_stop_a_resume(dataset, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    before = metrics(tmp_path / "run")
    damage = b'{"event": "progress"}\n[1]\n7\n{"step": "x", "event": "judged"}\n\xff\xfe\n{"st'
    path.write_bytes(path.read_bytes() + damage)
    train(dataset, RECIPE, RunOptions(out=str(tmp_path / "run"), resume=True, **EVERY_STEP))
    assert metrics(tmp_path / "run") == before
