"""A process that reads changed files, one after another, and reports the outcome of each.

It is forked from a process that has imported all readers, so that a new one takes milliseconds. It
keeps its state in memory that it shares with its parent, which so knows which file ended or stopped
it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.fuzz.limits import Limits
from bench.fuzz.reader import Case, Reader

# The case's number (-1: none is being read), how many were accepted and refused, and the place of
# the changed file among the reader's.
STATE = struct.Struct("<qqqq")
# Bytes above the process's own, so that no case takes the machine's memory. Far above the limit per
# file: allocators (pyarrow's) reserve gigabytes that they never touch.
ADDRESS_SPACE = 10 << 30
OURS = ("/data_tools/", "/fastmoco/")


@dataclass
class Fault:
    """A file that a reader did not handle as it should."""

    reader: str
    number: int
    kind: str
    """uncaught, crash, hang, memory or silent."""
    cause: str
    """A text that is equal for faults with the same origin."""
    trace: str = ""
    target: str = ""
    """Name of the changed file in the reader's folder."""


class State:
    """The state of a worker, in memory that both processes see."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, STATE.size)
        self.set(-1, 0, 0)

    def set(self, number: int, accepted: int, refused: int, target: int = 0) -> None:
        STATE.pack_into(self._memory, 0, number, accepted, refused, target)

    def get(self) -> tuple[int, int, int, int]:
        number, accepted, refused, target = STATE.unpack_from(self._memory, 0)
        return number, accepted, refused, target


class Place:
    """A reader's valid files in a folder of this process."""

    def __init__(self, reader: Reader, built: Path, targets: list[str], folder: Path) -> None:
        self.reader, self.folder = reader, folder
        shutil.copytree(built, folder)
        targets = reader.settle(folder) if reader.settle else targets
        self.originals = {name: (folder / name).read_bytes() for name in targets}
        self._tree = self._files() if reader.writes else {}
        self.whole = {name: self.read(name, self.originals[name]) for name in targets}
        """The content of the unchanged files."""

    def _files(self) -> dict[Path, bytes]:
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in paths}

    def read(self, name: str, data: bytes) -> Any:
        path = self.folder / name
        path.write_bytes(data)
        try:
            return self.reader.read(self.folder, name)
        finally:
            if self.reader.writes:
                self._restore()
            else:
                path.write_bytes(self.originals[name])

    def as_written(self, name: str, found: Any) -> bool:
        """Return whether accepted content is right; without checksums any content is."""
        return self.reader.same is None or self.reader.same(found, self.whole[name])

    def _restore(self) -> None:
        """Restore the files that reading changed."""
        for path in self.folder.rglob("*"):
            if path.is_file() and path not in self._tree:
                path.unlink()
        for path, data in self._tree.items():
            if not path.exists() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def prepare_process(crash_log: Path | None) -> None:
    """Limit a worker's memory, and silence it: libraries print much about damage."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with its parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm") as file:
        own = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + ADDRESS_SPACE, own + ADDRESS_SPACE))
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    if crash_log is not None:
        faulthandler.enable(open(crash_log, "w"), all_threads=True)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def peak() -> int:
    """Return the peak memory of this process since `forget_peak`, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def forget_peak() -> None:
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:  # not allowed here: then only what goes beyond all before is seen
        pass


def cause_of(error: BaseException) -> str:
    """Return the exception's type and the last line of our code in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if any(part in f.filename for part in OURS)] or list(frames)
    if not ours:
        return type(error).__name__
    last = ours[-1]
    file = "/".join(Path(last.filename).parts[-2:])
    return f"{type(error).__name__} in {file}:{last.name}"


def judge(place: Place, case: Case, limits: Limits) -> tuple[str, str, str]:
    """Read one changed file; return (outcome, cause, traceback). The outcome is "accepted",
    "refused" or a kind of fault."""
    forget_peak()
    before, began = peak(), time.process_time()
    outcome, cause, trace = "accepted", "", ""
    try:
        found = place.read(case.target, case.data)
        if found is None:
            outcome = "refused"
        elif not (case.mended or place.as_written(case.target, found)):
            outcome, cause = "silent", f"{case.target}: accepted with other content"
    except place.reader.refusals as error:
        outcome = "refused"
        if "\n" in str(error):
            outcome, cause = "uncaught", f"{cause_of(error)}: a message of several lines"
    except MemoryError as error:
        outcome, cause, trace = "memory", cause_of(error), traceback.format_exc()
    except BaseException as error:
        outcome, cause, trace = "uncaught", cause_of(error), traceback.format_exc()
    grown, spent = peak() - before, time.process_time() - began
    if outcome in ("accepted", "refused") and grown > limits.bytes:
        outcome, cause = "memory", f"{place.reader.name}: {grown >> 20} MB above the base"
    if outcome in ("accepted", "refused") and spent > limits.seconds:
        outcome, cause = "hang", f"{place.reader.name}: {spent:.0f} s"
    return outcome, cause, trace


def serve(
    connection: Any, state: State, place_of: Callable[[str], Place], limits: Limits, seed: int,
    flips: bool,
) -> None:
    """Answer requests (reader, first number, count, seconds) until the other side closes.

    Send (Fault, the file's bytes) for each fault, and after the last case (next number, whether the
    process ends). The process ends after a fault of memory, since the rest of that memory would
    count against later files.
    """
    while True:
        try:
            name, first, count, seconds = connection.recv()
        except EOFError:
            return
        place = place_of(name)
        names = sorted(place.originals)
        accepted = refused = 0
        until = time.monotonic() + seconds
        number = first
        while number < first + count and (number == first or time.monotonic() < until):
            case = place.reader.mutate(number, seed, place.originals, flips)
            state.set(number, accepted, refused, names.index(case.target))
            outcome, cause, trace = judge(place, case, limits)
            accepted += outcome == "accepted"
            refused += outcome == "refused"
            number += 1
            if outcome not in ("accepted", "refused"):
                fault = Fault(name, number - 1, outcome, cause, trace, case.target)
                connection.send((fault, case.data))
                if outcome == "memory":
                    break
        state.set(-1, accepted, refused)
        connection.send((number, outcome == "memory"))
        if outcome == "memory":
            return


def run_forked(work: Callable[[], None]) -> int:
    """Fork a child that does the work and ends; return its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(70)
