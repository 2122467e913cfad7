"""Runs one command under one fault, then again without it, and judges both ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.faults.shim import fault_hits
from bench.faults.tasks import Aim, Task
from bench.training.kills import same
from fastmoco.cli import main as fastmoco

LONGEST = 300.0  # seconds; a command that takes longer counts as hanging
UNLIMITED = "1g"  # size of a small disk after it gets room

Arm = Callable[[Path], None]
"""Called in the command's process with its output folder."""


@dataclass
class Ended:
    """The end of a command."""

    code: int | None
    """Exit code, below 0 for a signal; None for a hang."""
    printed: str
    errors: str
    hits: int
    """Number of faults that the library caused."""


@dataclass
class Trial:
    """The outcome of one fault."""

    task: str
    fault: str
    detail: str
    outcome: str
    """struck, missed, or a sentence on the error."""

    @property
    def good(self) -> bool:
        return self.outcome in ("struck", "missed")


def kill_at(aim: Aim, count: int, delay: float) -> Arm:
    """Kill the process at the count-th event of a kind: before it happens, or `delay` seconds
    later."""
    def arm(_: Path) -> None:
        left = count

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal left
            if event != aim.event or not args:
                return
            target = args[1] if event == "os.rename" else args[0]
            if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                return
            if not isinstance(target, str | bytes | os.PathLike):
                return
            if aim.part not in os.fsdecode(target):
                return
            left -= 1
            if left == 0 and delay:
                signal.setitimer(signal.ITIMER_REAL, delay)  # SIGALRM, which nothing handles
            elif left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return arm


def start(argv: list[str], place: Path, arm: Arm | None) -> int:
    """Run the command in a forked process, with its output in files beside `place`; return its
    process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        for number, suffix in ((1, ".out"), (2, ".err")):
            file = os.open(place.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        sys.stdout = os.fdopen(1, "w")
        sys.stderr = os.fdopen(2, "w")
        if arm is not None:
            arm(place)
        code = fastmoco(argv)
        place.with_suffix(".hits").write_text(str(fault_hits()))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def finish(pid: int, place: Path, seconds: float = LONGEST) -> Ended:
    until = time.monotonic() + seconds
    code: int | None = None
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.01)
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    texts = [place.with_suffix(s).read_text(errors="replace") for s in (".out", ".err")]
    hits = place.with_suffix(".hits")
    # A kill may come between the opening of this file and its first byte.
    struck = int(hits.read_text() or 0) if hits.exists() else 0
    return Ended(code, texts[0], texts[1], struck)


def stop_and_go(pid: int, after: float, pause: float) -> bool:
    """Send SIGSTOP and SIGCONT; return False if the process had already ended."""
    time.sleep(after)
    with open(f"/proc/{pid}/stat") as file:
        if file.read().rsplit(")", 1)[1].split()[0] == "Z":
            return False
    os.kill(pid, signal.SIGSTOP)
    time.sleep(pause)
    os.kill(pid, signal.SIGCONT)
    return True


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Callable[[], None]]:
    """Mount a file system of `size` bytes at a folder; yield a function that makes room on it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True,
                   capture_output=True)
    try:
        yield lambda: make_room(place)
    finally:  # -l: a killed process may still be exiting
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def make_room(place: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={UNLIMITED}", str(place)], check=True,
                   capture_output=True)


def can_mount(folder: Path) -> bool:
    probe = folder / "probe"
    probe.mkdir()
    try:
        with small_disk(probe, 1 << 20):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def judge_first(ended: Ended, killed: bool) -> str:
    """Judge the run that met the fault: struck, missed, or a sentence on the error."""
    if ended.code is None:
        return f"hangs: more than {LONGEST:.0f} s"
    if ended.code == 0:
        return "struck" if ended.hits else "missed"
    if killed and ended.code in (-signal.SIGKILL, -signal.SIGALRM):
        return "struck"
    lines = ended.errors.strip().splitlines()
    if ended.code == 2 and lines and lines[-1].startswith("fastmoco:"):
        return "struck" if "Traceback" not in ended.errors else "a traceback before its line"
    last = lines[-1] if lines else "nothing was printed"
    return f"ended with {ended.code}: {last[:200]}"


def judge_left(task: Task, place: Path, ended: Ended, whole: Any) -> str:
    """Return a sentence on wrong output of a run that ended with 0; empty if there is none."""
    try:
        found = task.left(place, ended.printed)
    except Exception as error:
        return f"left behind: {type(error).__name__}: {error}"
    return "" if same(found, whole) else "OTHER BITS"


def judge_again(task: Task, inputs: Path, place: Path, whole: Any) -> str:
    """Run the command again; return a sentence on the error, or an empty string."""
    ended = finish(start(task.argv(inputs, place), place, None), place)
    if ended.code != 0:
        last = (ended.errors.strip().splitlines() or ["nothing was printed"])[-1]
        return f"run again: ended with {ended.code}: {last[:200]}"
    wrong = judge_left(task, place, ended, whole)
    return f"run again: {wrong}" if wrong else ""
