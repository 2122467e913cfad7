"""A short run of bench.faults; and the faults themselves: each strikes, and a wrong end fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.faults.shim import PRELOADED, compile_shim
from bench.faults.tasks import Task
from bench.faults.trial import LONGEST, Ended, judge_first, judge_left

TRIALS = 12
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc, LD_PRELOAD")


def test_commands_under_faults_lose_nothing():
    """A kill, a full disk, an I/O error and a stop of each of three commands."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.faults", "--trials", str(TRIALS), "--minutes", "20",
         "--task", "prep", "train", "export", "--seed", "2", "--json"],
        capture_output=True, text=True, timeout=900,
    )
    assert done.stdout, done.stderr
    trials = json.loads(done.stdout)["trials"]
    wrong = [t for t in trials if t["outcome"] not in ("struck", "missed", "skipped")]
    assert not wrong and done.returncode == 0
    assert len(trials) == TRIALS
    outcomes = {f: {t["outcome"] for t in trials if t["fault"] == f} for f in ("kill", "disk")}
    assert "struck" in outcomes["kill"]
    # where no file system may be mounted, and nothing compiled, no disk can be filled
    assert "struck" in outcomes["disk"] or outcomes["disk"] == {"skipped"}


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> str:
    """The library, compiled."""
    if shutil.which(os.environ.get("CC", "gcc")) is None:
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("shim")
    assert compile_shim(folder) == ""
    return str(folder / "shim.so")


def under(shim: str, folder: Path, code: str) -> str:
    """The output of a process that has the library before all others."""
    head = "import os, sys, time\nfrom bench.faults.shim import fault_hits, set_fault\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code, str(folder)], capture_output=True, text=True,
        env={**os.environ, "LD_PRELOAD": shim, PRELOADED: shim}, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_counted_disk_fills_up(shim, tmp_path):
    assert under(shim, tmp_path, """
set_fault(sys.argv[1], budget=10)
file = os.open(sys.argv[1] + "/a", os.O_WRONLY | os.O_CREAT)
assert os.write(file, b"1234567") == 7 and os.write(file, b"89abc") == 3
for again in range(2):
    try:
        os.write(file, b"x")
    except OSError as error:
        print(error.strerror)
with open("/dev/null", "wb", buffering=0) as other:
    assert other.write(bytes(100)) == 100  # not under the folder
print(fault_hits())
""").split("\n") == ["No space left on device"] * 2 + ["2"]
    assert (tmp_path / "a").read_bytes() == b"123456789a"


def test_every_third_call_fails(shim, tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    assert under(shim, tmp_path, """
set_fault(sys.argv[1], read=3, sync=1)
file = os.open(sys.argv[1] + "/a", os.O_RDWR)
def ends(call):
    try:
        return call() and "read"
    except OSError as error:
        return error.strerror
print([ends(lambda: os.pread(file, 3, 0)) for _ in range(4)], ends(lambda: os.fsync(file)))
""") == "['read', 'read', 'Input/output error', 'read'] Input/output error"


def test_the_clock_of_the_day_goes_back_and_the_monotonic_one_does_not(shim, tmp_path):
    assert under(shim, tmp_path, """
before, steady = time.time(), time.monotonic()
set_fault(sys.argv[1], clock_after=2, clock_back=3600.0)
first, second = time.time(), time.time()
print(first >= before, round((first - second) / 600), time.monotonic() >= steady, fault_hits())
""") == "True 6 True 1"


@pytest.mark.parametrize(
    ("code", "errors", "hits", "killed", "verdict"),
    [
        (0, "", 0, False, "missed"),
        (0, "", 3, False, "struck"),
        (2, "fastmoco: x: No space left on device; make room", 0, False, "struck"),
        (-signal.SIGKILL, "", 0, True, "struck"),
        (-signal.SIGKILL, "", 0, False, "ended with -9: nothing was printed"),
        (-signal.SIGBUS, "", 0, True, "ended with -7: nothing was printed"),
        (1, "Traceback ...\nOSError: [Errno 5] Input/output error", 1, False,
         "ended with 1: OSError: [Errno 5] Input/output error"),
        (2, "Traceback ...\nfastmoco: x", 1, False, "a traceback before its line"),
        (2, "", 1, False, "ended with 2: nothing was printed"),
        (None, "", 0, True, f"hangs: more than {LONGEST:.0f} s"),
    ],
)
def test_how_a_command_may_end(code, errors, hits, killed, verdict):
    assert judge_first(Ended(code, "", errors, hits), killed) == verdict


def test_other_bits_and_what_is_missing_are_seen(tmp_path):
    task = Task("some", lambda inputs, place: [], lambda place, _: (place / "a").read_bytes(), ())
    ended = Ended(0, "", "", 0)
    (tmp_path / "a").write_bytes(b"right")
    assert judge_left(task, tmp_path, ended, b"right") == ""
    (tmp_path / "a").write_bytes(b"wrong")
    assert judge_left(task, tmp_path, ended, b"right") == "OTHER BITS"
    (tmp_path / "a").unlink()
    assert judge_left(task, tmp_path, ended, b"right").startswith("left behind: FileNotFoundError")
