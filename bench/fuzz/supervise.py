"""Deals files to worker processes, watches them, and keeps the files that break a reader."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from bench.fuzz.limits import Limits
from bench.fuzz.reader import Reader
from bench.fuzz.worker import Fault, Place, State, prepare_process, run_forked, serve

POLL = 0.2  # seconds between two looks at a worker
BATCH_SECONDS = 1.5
STUCK = 90.0  # seconds by the clock on one file, whatever the processor did
KEPT = 3  # files kept per cause
KINDS = ("uncaught", "crash", "hang", "memory", "silent")
PAGE = os.sysconf("SC_PAGE_SIZE")
# Bytes that a worker may take beyond the limit per file before it is killed while it reads.
MOST_MEMORY = 1 << 30
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Tally:
    """The outcomes of one reader's files, counted."""

    files: int = 0
    accepted: int = 0
    refused: int = 0
    faults: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    seconds: float = 0.0


@dataclass
class Found:
    """Faults of one cause."""

    count: int
    first: Fault
    files: list[str]


class Keeper:
    """Keeps files that broke a reader, a few of each cause, with what is needed to replay them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.found: dict[tuple[str, str, str], Found] = {}

    def keep(self, fault: Fault, data: bytes) -> None:
        key = (fault.reader, fault.kind, fault.cause)
        found = self.found.setdefault(key, Found(0, fault, []))
        found.count += 1
        if len(found.files) >= KEPT:
            return
        name = f"{fault.kind}-{fault.number:07}-{Path(fault.target).name}"
        path = self.folder / fault.reader / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        about = {**asdict(fault), "seed": self.seed}
        path.with_name(name + ".json").write_text(json.dumps(about, indent=1) + "\n")
        found.files.append(str(path))


class Worker:
    """A forked process that reads files, and this side's end of its pipe."""

    def __init__(self, folder: Path, work: Callable[[Connection, State], None]) -> None:
        self.folder = folder
        """The worker's own folder for the changed files."""
        self.state = State()
        self.pipe, theirs = multiprocessing.Pipe()

        def child() -> None:
            self.pipe.close()
            work(theirs, self.state)

        self.pid = run_forked(child)
        theirs.close()
        self.ended = False
        self.reader = ""
        self.first = 0
        self.began = 0.0
        self._last = (-2, 0.0, 0.0)

    def ask(self, reader: str, first: int, count: int, seconds: float) -> None:
        self.reader, self.first, self.began = reader, first, time.monotonic()
        self.pipe.send((reader, first, count, seconds))

    def too_long(self, limits: Limits) -> bool:
        """Return whether the file being read has used up its time."""
        number, now, spent = self.state.get()[0], time.monotonic(), self._processor_seconds()
        if number != self._last[0] or number < 0:
            self._last = (number, now, spent)
            return False
        return spent - self._last[2] > limits.seconds or now - self._last[1] > STUCK

    def too_large(self, most: int) -> bool:
        """Return whether it takes more than this much memory while it reads."""
        try:
            with open(f"/proc/{self.pid}/statm") as file:
                return int(file.read().split()[1]) * PAGE > most
        except (OSError, IndexError):
            return False

    def _processor_seconds(self) -> float:
        try:
            with open(f"/proc/{self.pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / TICKS

    def end(self) -> int:
        """Kill the process if it still runs; return a text on its end."""
        self.ended = True
        self.pipe.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Supervisor:
    """Runs readers on changed files until the time or the number of files is used up."""

    def __init__(
        self, readers: Sequence[Reader], scratch: Path, keep: Path, seed: int = 0,
        limits: Limits | None = None, flips: bool = False,
    ) -> None:
        self.readers = {reader.name: reader for reader in readers}
        self.scratch, self.seed, self.flips = scratch, seed, flips
        self.limits = limits or Limits()
        self.keeper = Keeper(keep, seed)
        self.tallies = {name: Tally() for name in self.readers}
        self._next = dict.fromkeys(self.readers, 0)
        self._most = dict.fromkeys(self.readers, 0)
        self._forks = 0
        self._targets: dict[str, list[str]] = {}

    def build(self) -> None:
        """Write the valid files of all readers in a process of its own, so that this one stays
        without threads and can fork."""
        told = self.scratch / "targets.json"

        def work() -> None:
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
            found = {}
            for name, reader in self.readers.items():
                folder = self.scratch / "built" / name
                folder.mkdir(parents=True)
                found[name] = reader.build(folder)
            told.write_text(json.dumps(found))

        _, status = os.waitpid(run_forked(work), 0)
        if status:
            raise SystemExit("the valid files could not be written: see above")
        self._targets = json.loads(told.read_text())

    def run(self, minutes: float, files: int, workers: int) -> None:
        """Read at most `files` files per reader, and an eighth of that for slow readers."""
        self._most = {n: max(1, files // 8) if r.slow else files for n, r in self.readers.items()}
        until = time.monotonic() + 60 * minutes
        active = [self._start() for _ in range(workers)]
        idle = list(active)
        try:
            while True:
                while idle and time.monotonic() < until and (name := self._due(active)):
                    left = self._most[name] - self._next[name]
                    idle.pop().ask(name, self._next[name], left, BATCH_SECONDS)
                busy = [worker for worker in active if worker not in idle]
                if not busy:
                    return
                ready = wait([worker.pipe for worker in busy], POLL)
                for worker in busy:
                    self._look(worker, worker.pipe in ready, active, idle)
        finally:
            for worker in active:
                if not worker.ended:
                    worker.end()

    def _due(self, active: list[Worker]) -> str:
        """Return the idle reader that had the least time so far."""
        taken = {worker.reader for worker in active}
        left = [name for name in self.readers
                if self._next[name] < self._most[name] and name not in taken]
        return min(left, key=lambda name: self.tallies[name].seconds, default="")

    def _start(self) -> Worker:
        self._forks += 1
        own = self.scratch / f"worker-{self._forks}"

        def work(pipe: Connection, state: State) -> None:
            own.mkdir()
            prepare_process(own / "crash.txt")
            places: dict[str, Place] = {}

            def place_of(name: str) -> Place:
                if name not in places:
                    places[name] = self._place(name, own)
                return places[name]

            try:
                serve(pipe, state, place_of, self.limits, self.seed, self.flips)
            except Exception:  # the valid files can't be read; only this reports it
                (own / "crash.txt").write_text(traceback.format_exc())
                raise

        return Worker(own, work)

    def _place(self, name: str, parent: Path) -> Place:
        built = self.scratch / "built" / name
        place = Place(self.readers[name], built, self._targets[name], parent / name)
        (parent / f"{name}.json").write_text(json.dumps(sorted(place.originals)))
        return place

    def _look(self, worker: Worker, ready: bool, active: list[Worker], idle: list[Worker]) -> None:
        """Take a worker's messages; kill it if it is stuck, and replace it if it has ended."""
        kind = "crash"
        try:
            if ready:
                said, more = worker.pipe.recv()
                if isinstance(said, Fault):
                    self._count(said, more)
                    return
                self._close_batch(worker, said)
                if not more:
                    idle.append(worker)
                    return
                raise EOFError
            if worker.too_long(self.limits):
                kind = "hang"
            elif worker.too_large(MOST_MEMORY + self.limits.bytes):
                kind = "memory"
            else:
                return
        except (EOFError, ConnectionResetError):
            pass
        if worker.reader:
            self._lose(worker, kind)
        else:
            worker.end()
        active[active.index(worker)] = new = self._start()
        idle.append(new)

    def _lose(self, worker: Worker, kind: str) -> None:
        """Count the file at which a worker ended or got stuck."""
        number, _, _, target = worker.state.get()
        code = worker.end()
        log = worker.folder / "crash.txt"
        trace = log.read_text() if log.exists() else ""
        if number < 0:
            raise SystemExit(
                f"{worker.reader}: the unchanged files can't be read ({code})\n{trace}")
        how = signal.Signals(-code).name if code < 0 and kind == "crash" else kind
        name = json.loads((worker.folder / f"{worker.reader}.json").read_text())[target]
        data = (worker.folder / worker.reader / name).read_bytes()
        cause = f"{worker.reader}: {how}"
        self._count(Fault(worker.reader, number, kind, cause, trace, name), data)
        self._close_batch(worker, number + 1)
        shutil.rmtree(worker.folder, ignore_errors=True)

    def _close_batch(self, worker: Worker, upto: int) -> None:
        tally = self.tallies[worker.reader]
        _, accepted, refused, _ = worker.state.get()
        tally.files += upto - worker.first
        tally.accepted += accepted
        tally.refused += refused
        tally.seconds += time.monotonic() - worker.began
        self._next[worker.reader] = upto
        worker.reader = ""

    def _count(self, fault: Fault, data: bytes) -> None:
        self.tallies[fault.reader].faults[fault.kind] += 1
        self.keeper.keep(fault, data)
