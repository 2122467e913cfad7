"""Two runs never share a directory: real processes hold its lock, are killed, and others follow."""

import dataclasses
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from data_tools import lock as locks
from data_tools.errors import UserError
from data_tools.lock import Holder, locked
from fastmoco.cli import main
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Noted
from fastmoco.runs.lock import LOCK, own_run
from fastmoco.training.train import train
from tests.support.command_line import TINY, refused
from tests.support.deadlines import deadline
from tests.support.training_runs import RECIPE, STEPS

# Trains, and sleeps after a checkpoint in mid-epoch.
HOLDS = """
import sys, time, torch
torch.set_num_threads(1)
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Saved
from fastmoco.training.train import train
from tests.support.training_runs import RECIPE

def stay(event):
    if isinstance(event, Saved) and event.step == 9:
        print("holds", flush=True)
        time.sleep(600)

train(sys.argv[1], RECIPE, RunOptions(out=sys.argv[2], log_every=4, checkpoint_minutes=0), [stay])
"""
# Holds a lock, and starts a child that outlives it.
FORKS = """
import os, pathlib, sys, time
from data_tools.lock import locked

with locked(pathlib.Path(sys.argv[1]), "train", "", remove=True):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


def started(code, *args):
    """Start a process; return it and its first line of output."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process.stdout:
        return process, process.stdout.readline().strip()


def test_a_second_run_and_a_resume_are_refused_and_a_killed_one_is_taken_over(
    dataset, tmp_path, capsys
):
    out = tmp_path / "run"
    process, line = started(HOLDS, dataset, out)
    assert line == "holds"
    try:
        before = (out / "metrics.jsonl").read_bytes()
        for more in ([], ["--resume"]):
            said = refused(capsys, "train", dataset, *TINY, "--out", out, *more)
            assert f"train (process {process.pid} on {socket.gethostname()}, since 2" in said
            assert "is at work here; wait for it, stop it, or give another --out" in said
        # another path to the same directory, and the function instead of the command
        (tmp_path / "link").symlink_to(out)
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            train(dataset, RECIPE, RunOptions(out=str(tmp_path / "link"), resume=True))
        assert (out / "metrics.jsonl").read_bytes() == before
        # commands that only read, or write other files, still work
        assert main(["compare", str(out)]) == main(["report", str(out), "--count", "4"]) == 0
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    events = []
    options = RunOptions(out=str(out), log_every=4, resume=True)
    assert train(dataset, RECIPE, options, [events.append]).step == STEPS
    notes = [e.text for e in events if isinstance(e, Noted)]
    assert any(f"taken over from train (process {process.pid} on" in n for n in notes)
    assert not (out / LOCK).exists()
    events.clear()
    train(dataset, RECIPE, options, [events.append])
    assert not any("taken over" in e.text for e in events if isinstance(e, Noted))


# The command, stopped where it would load torch.
EARLY = """
import pathlib, sys
from fastmoco import cli
from fastmoco.commands import train

lock = pathlib.Path(sys.argv[1], "run.lock")
train.train_in = lambda *_: print("torch" in sys.modules, lock.exists())
cli.main(["train", "no data", "--out", sys.argv[1]])
"""


def test_the_command_locks_its_directory_before_torch_is_loaded(tmp_path):
    process, line = started(EARLY, tmp_path / "run")
    assert process.wait() == 0 and line == "False True"


def test_a_directory_is_locked_before_the_data_is_opened(tmp_path, capsys):
    with own_run(tmp_path / "run", resume=False):
        said = []
        thread = threading.Thread(  # a thread does not share this thread's lock
            target=lambda: said.append(main(["train", "no data", "--out", str(tmp_path / "run")]))
        )
        thread.start()
        thread.join()
    assert said == [2] and "is at work here" in capsys.readouterr().err
    assert "no such" in refused(capsys, "train", "no data", "--out", tmp_path / "a" / "run")
    assert list(tmp_path.iterdir()) == []  # both directories are removed again


def test_a_refused_run_leaves_the_directory_as_it_was(tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert "is a file" in refused(capsys, "train", "x", "--out", tmp_path / "file")
    assert "no such" in refused(capsys, "train", "x", "--out", tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert not list((tmp_path / "folder").iterdir())


def test_children_of_a_killed_process_hold_nothing(tmp_path):
    process, child = started(FORKS, tmp_path / "lock")
    try:
        with pytest.raises(UserError, match=f"process {process.pid}"):
            locks.acquire(tmp_path / "lock", "train", "", False, None)
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(int(child), 0)  # it is there
        with locked(tmp_path / "lock", "train", "", remove=True) as held:
            assert f"taken over from train (process {process.pid}" in held.notes[0]
    finally:
        os.kill(int(child), signal.SIGKILL)
    assert not (tmp_path / "lock").exists()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.1)
    monkeypatch.setattr(locks, "WATCH", 0.6)
    monkeypatch.setattr(locks, "PATIENCE", 0.1)


def elsewhere(path):
    """Write the lock file of another machine, whose flock does not reach this one."""
    there = Holder("train", "far", 7, "another boot", "2026-11-01 12:00:00 +0000")
    path.write_text(json.dumps(dataclasses.asdict(there)))


def test_a_holder_on_another_machine_is_alive_as_long_as_it_touches_its_file(tmp_path, quick):
    path, said = tmp_path / "lock", []
    elsewhere(path)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="train .process 7 on far, since 2026-11-01.* at work"):
            locks.acquire(path, "train", "", False, said.append)
    finally:
        stop.set()
        thread.join()
    assert "looking for 1 s whether it still is" in said[0]
    with locked(path, "train", "", remove=True) as held:
        assert "taken over from train (process 7 on far" in held.notes[0]
        ours = json.loads(path.read_text())
        assert (ours["pid"], ours["host"]) == (os.getpid(), socket.gethostname())
        first = path.stat().st_mtime_ns
        until = time.monotonic() + 10
        while path.stat().st_mtime_ns == first and time.monotonic() < until:
            time.sleep(0.05)
        assert path.stat().st_mtime_ns > first


def test_a_file_system_without_locks_is_reported_and_its_lock_files_still_count(
    tmp_path, monkeypatch, quick
):
    def none(_file, _how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    path = tmp_path / "lock"
    with locked(path, "train", "", remove=True) as held:
        assert len(held.notes) == 1 and "has no locks (No locks available)" in held.notes[0]
        with pytest.raises(UserError, match=f"process {os.getpid()}"):
            locks.acquire(path, "train", "", False, None)
    assert not path.exists()


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_on_the_new_one(tmp_path, monkeypatch):
    path, plain = tmp_path / "lock", locks._flock

    def removed_first(file, shared):
        monkeypatch.setattr(locks, "_flock", plain)
        path.unlink()  # as a last holder may do after we open the file and before we lock it
        return plain(file, shared)

    monkeypatch.setattr(locks, "_flock", removed_first)
    with locked(path, "train", "", remove=True):
        assert path.exists()
        with pytest.raises(UserError):
            locks.acquire(path, "train", "", False, None)


def test_a_disk_that_is_full_or_read_only_is_one_line(dataset, tmp_path, capsys):
    (tmp_path / "run").symlink_to("/proc/self")  # no file can be created there
    said = refused(capsys, "train", dataset, *TINY, "--out", tmp_path / "run")
    assert "the run's directory must be writable" in said and "run.lock" in said


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_pipe_or_folder_in_place_of_a_lock_is_named(make, tmp_path):
    make(tmp_path / "run.lock")
    with deadline(20), pytest.raises(UserError, match="run.lock: not a plain file; remove it"):
        with own_run(tmp_path, resume=True):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["run.lock"]
