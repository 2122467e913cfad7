"""SIGSTOP and SIGCONT amid prep and train, and a clock that is set back: the same bits."""

import dataclasses
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Ended, Progress
from fastmoco.training.train import train
from fastmoco.weights.checkpoint import load
from tests.support.training_runs import RECIPE

TINY = ["--arch", "resnet-mini", "--size", "16", "--batch", "16", "--bn-splits", "2", "--K", "32",
        "--device", "cpu", "--threads", "1", "--engine", "threads", "--log-every", "2"]
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
/* The time of day is an hour back once the file SET_BACK is there; other clocks go on. */
int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int found = real(which, now);
    if (which == CLOCK_REALTIME && !access(getenv("SET_BACK"), F_OK)) now->tv_sec -= 3600;
    return found;
}
"""
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture
def set_back(tmp_path):
    """The environment of a process whose clock goes back by an hour when its SET_BACK is made."""
    shim = tmp_path / "shim.so"
    shim.with_suffix(".c").write_text(SHIM)
    command = ["gcc", "-shared", "-fPIC", "-o", shim, shim.with_suffix(".c"), "-ldl"]
    subprocess.run(command, check=True)
    return {**os.environ, "LD_PRELOAD": str(shim), "SET_BACK": str(tmp_path / "set back")}


def start(*argv, env=None):
    command = [sys.executable, "-m", "fastmoco", *map(str, argv), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**(env or os.environ), "OMP_NUM_THREADS": "1"})  # tiny tensors


def stop_and_go_on(process, seconds):
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)


@needs_gcc
def test_the_shim_sets_the_time_of_day_back_and_no_other_clock(set_back):
    code = ("import os, time; a, b = time.time(), time.monotonic();"
            "open(os.environ['SET_BACK'], 'w').close();"
            "print(time.time() - a, time.monotonic() - b)")
    done = subprocess.run([sys.executable, "-c", code], env=set_back, text=True, check=True,
                          capture_output=True)
    day, up = map(float, done.stdout.split())
    assert day < -3500 and 0 <= up < 3000


@needs_gcc
def test_training_is_the_same_to_the_bit(dataset, tmp_path, set_back):
    flags = ["train", dataset, *TINY, "--epochs", "10"]
    whole = start(*flags, "--out", tmp_path / "whole")
    stopped = start(*flags, "--out", tmp_path / "stopped", env=set_back)
    lines = []
    for line in stopped.stdout:
        lines.append(json.loads(line))
        if lines[-1]["event"] == "progress" and lines[-1]["step"] in (10, 30):
            Path(set_back["SET_BACK"]).touch()
            stop_and_go_on(stopped, 1.5)
    for process in (whole, stopped):
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    one, other = (load(tmp_path / name) for name in ("whole", "stopped"))
    assert one.step == other.step == 60
    same_tensors(vars(one), vars(other))
    left = [line["seconds_left"] for line in lines if line["event"] == "progress"]
    assert all(0 <= seconds < 600 for seconds in left)
    rates = [line["images_per_s"] for line in lines if line["event"] == "progress"]
    assert all(rate > 0 for rate in rates)


def same_tensors(one, other, at=""):
    """All tensors of two nested states are equal to the bit, but for what clocks say."""
    assert type(one) is type(other), at
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), at
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), at
        for key in one:
            same_tensors(one[key], other[key], f"{at}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), at
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            same_tensors(a, b, f"{at}/{i}")


def test_until_ends_in_time_though_the_clock_is_set_back(dataset, tmp_path, monkeypatch):
    """The hour that the clock goes back is no hour more, and a second's stop breaks nothing."""
    def pause():
        pid = os.getpid()
        command = f"kill -STOP {pid}; sleep 1; kill -CONT {pid}"
        subprocess.run(["sh", "-c", command], check=True)

    def listen(event):
        told.append(event)
        if isinstance(event, Progress) and event.step == 10:
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() - 3600)
            pause()

    told, begun = [], time.monotonic()
    end = datetime.datetime.now() + datetime.timedelta(seconds=8)
    options = RunOptions(out=str(tmp_path / "run"), until=end.isoformat(), device="cpu")
    train(dataset, dataclasses.replace(RECIPE, epochs=100_000), options, [listen])
    assert time.monotonic() - begun < 8 + 20  # on a machine with much else to do
    assert isinstance(told[-1], Ended) and told[-1].finished and told[-1].step > 10


def test_prep_is_the_same_to_the_bit(folder, tmp_path):
    whole = start("prep", folder, tmp_path / "whole", "--shard-size", "0.01")
    stopped = start("prep", folder, tmp_path / "stopped", "--shard-size", "0.01")
    journal = tmp_path / "stopped" / "journal"
    while stopped.poll() is None and not any(journal.glob("*.npz")):
        time.sleep(0.002)
    if stopped.poll() is None:
        stop_and_go_on(stopped, 0.5)
    for process in (whole, stopped):
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "stopped").iterdir()}
