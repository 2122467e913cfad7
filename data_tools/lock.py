"""One writer for each folder: a lock that ends with its process, and a record of who holds it.

flock keeps out other processes of this machine and, on network file systems that pass it on (NFS,
Lustre with -o flock), of other machines. A file system may accept flock without passing it on, or
have no locks at all. So the lock file also names its holder, who touches it every few seconds: a
holder on another machine counts as alive as long as the file's time moves.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import Damaged, parse, typed
from data_tools.safe_reading.regular import open_binary, open_regular, read_all, refuse_other

BEAT = 5.0  # seconds between two touches of a lock file
WATCH = 4 * BEAT  # seconds without a touch after which a holder counts as dead
PATIENCE = 1.0  # seconds that a lock may still be held by a process that is being killed
POLL = 0.05
TRIES = 50
Say = Callable[[str], None]


@dataclass(frozen=True)
class Holder:
    """Who holds, or held, a lock: the content of its file."""

    what: str
    """The command: train, prep."""
    host: str
    pid: int
    boot: str
    """The kernel's boot id. Processes under one kernel see each other's flock for sure."""
    started: str

    def __str__(self) -> str:
        return f"{self.what} (process {self.pid} on {self.host}, since {self.started})"


@dataclass
class Lock:
    """A lock that this process holds."""

    path: Path
    file: int
    """The open file's descriptor; -1 after release, and in processes that were forked since."""
    notes: list[str] = field(default_factory=list)
    """Lines for the user: whose lock was taken over, or why nothing keeps others out."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def beat(self) -> None:
        """Touch the file every few seconds, in a thread that ends with the process."""
        def run() -> None:
            while not self._stop.wait(BEAT):
                with contextlib.suppress(OSError):  # a full disk, a server that is restarting
                    os.utime(self.file)

        with contextlib.suppress(RuntimeError):  # no more threads: flock alone must do
            threading.Thread(target=run, name="lock", daemon=True).start()

    def release(self, remove: bool) -> None:
        """Give the lock back; `remove` its file too, if it still has its name."""
        self._stop.set()
        if self.file < 0:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self.file, 0)  # nobody has to be told that the holder is gone
            if remove and _same_file(self.file, self.path):
                self.path.unlink()
        self._close()

    def _close(self) -> None:
        file, self.file = self.file, -1
        LOCKS.pop(id(self), None)
        if file >= 0:
            os.close(file)


LOCKS: dict[int, Lock] = {}  # that this process holds


def _forget() -> None:
    """In a forked process: it must not keep its parent's locks after the parent was killed."""
    for lock in list(LOCKS.values()):
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def locked(
    path: Path, what: str, remedy: str, remove: bool, shared: bool = False, say: Say | None = None
) -> Iterator[Lock]:
    """Hold the lock file `path`, which is made if it is missing, while the block runs.

    what: the command that holds it. remedy: what a second process can do, for its error. shared:
    together with others that also share; nobody is named then. say: gets a line before this waits
    to see whether a holder on another machine is alive.

    Raises UserError if another process holds it or if `path` is no plain file, and OSError if the
    file can't be opened.
    """
    lock = acquire(path, what, remedy, shared, say)
    LOCKS[id(lock)] = lock
    try:
        yield lock
    finally:
        lock.release(remove and not shared)


def acquire(path: Path, what: str, remedy: str, shared: bool, say: Say | None) -> Lock:
    """The lock; see `locked`."""
    folder = path.parent
    for attempt in range(TRIES):
        refuse_other(path)
        file = open_regular(path, os.O_RDWR | os.O_CREAT)
        lock = Lock(path, file)
        try:
            lacking = _flock(file, shared)
            # Its last holder may have removed the file between our opening it and our locking it.
            # A file system whose file numbers are not stable would never pass: not for ever.
            if not lacking and not _same_file(file, path) and attempt < TRIES - 1:
                os.close(file)
                continue
            last = _read_holder(path)
            if last is not None and (lacking or last.boot != _boot_id()):
                if say is not None:
                    say(f"{folder}: {last} was at work here; looking for {WATCH:.0f} s whether it "
                        "still is")
                if _beats(path):
                    raise BlockingIOError
        except BlockingIOError:
            holder = _read_holder(path) or f"another {what}"
            os.close(file)
            raise UserError(f"{folder}: {holder} is at work here; {remedy}") from None
        except BaseException:
            os.close(file)
            raise
        break
    if lacking:
        lock.notes.append(f"{folder}: this file system has no locks ({lacking}): a second {what} "
                          "that starts here at the same moment would not be noticed")
    if last is not None:
        lock.notes.append(f"{folder}: taken over from {last}, which was killed")
    if not shared:
        _write_holder(file, what)
        lock.beat()
    return lock


def _flock(file: int, shared: bool) -> str:
    """Lock an open file; why not, if its file system has no locks. Raises BlockingIOError if
    another process holds it."""
    try:
        import fcntl
    except ImportError:
        return "this system has no flock"
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return ""
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL)
        except OSError as error:
            return error.strerror or str(error)


def _same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _read_holder(path: Path) -> Holder | None:
    """Who a lock file names; None if nobody, or if it is not readable (it is being written)."""
    try:
        return typed(Holder, parse(read_all(path)))
    except (OSError, Damaged):
        return None


def _write_holder(file: int, what: str) -> None:
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    holder = Holder(what, socket.gethostname(), os.getpid(), _boot_id(), started)
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name on it
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(asdict(holder)).encode() + b"\n", 0)
        os.fsync(file)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _beats(path: Path) -> bool:
    """Whether the holder of a lock file touches it within WATCH seconds."""
    def touched() -> int:
        # Opened each time: only that makes NFS ask the server for the file's time.
        with open_binary(path) as file:
            return os.fstat(file.fileno()).st_mtime_ns

    before, until = touched(), time.monotonic() + WATCH
    while time.monotonic() < until:
        time.sleep(min(POLL * 10, WATCH / 10))
        if touched() != before:
            return True
    return False
