"""Locks a folder for one writer. The lock ends with its process, and its file names the holder.

flock keeps out other processes of this machine. Network file systems that pass it on (NFS, Lustre
with -o flock) also keep out those of other machines, but others accept it without effect, or have
no locks. So the lock file also names its holder, who touches it every few seconds: a holder on
another machine counts as alive as long as the file's modification time changes.
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
    """The holder of a lock, or the last one: the content of the lock file."""

    what: str
    """Name of the command, such as train or prep."""
    host: str
    pid: int
    boot: str
    """Boot id of the kernel. Processes under the same kernel always see each other's flock."""
    started: str

    def __str__(self) -> str:
        return f"{self.what} (process {self.pid} on {self.host}, since {self.started})"


@dataclass
class Lock:
    """A lock that this process holds."""

    path: Path
    file: int
    """Descriptor of the open file; -1 after release, and in forked processes."""
    notes: list[str] = field(default_factory=list)
    """Lines for the user, for example that the lock of a killed process was taken over."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def beat(self) -> None:
        """Touches the file every few seconds, in a thread that ends with the process."""
        def run() -> None:
            while not self._stop.wait(BEAT):
                with contextlib.suppress(OSError):  # a full disk, a server that is restarting
                    os.utime(self.file)

        with contextlib.suppress(RuntimeError):  # no more threads: only flock protects then
            threading.Thread(target=run, name="lock", daemon=True).start()

    def release(self, remove: bool) -> None:
        """Releases the lock. remove: also removes its file, if that still has its name."""
        self._stop.set()
        if self.file < 0:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self.file, 0)  # without a holder, the next process need not wait
            if remove and _same_file(self.file, self.path):
                self.path.unlink()
        self._close()

    def _close(self) -> None:
        file, self.file = self.file, -1
        LOCKS.pop(id(self), None)
        if file >= 0:
            os.close(file)


LOCKS: dict[int, Lock] = {}  # held by this process


def _forget() -> None:
    """Closes all locks in a forked process, which must not keep them after its parent is killed."""
    for lock in list(LOCKS.values()):
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def locked(
    path: Path, what: str, remedy: str, remove: bool, shared: bool = False, say: Say | None = None
) -> Iterator[Lock]:
    """Holds the lock file `path` while the block runs. Creates it if it is missing.

    what: the name of this command. remedy: advice for a second process, for its error. remove:
    remove the file afterwards. shared: hold it together with others that also share it; the file
    names no holder then. say(line): called before a wait to see if another machine's holder lives.

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
    """Takes the lock; see `locked`."""
    folder = path.parent
    for attempt in range(TRIES):
        refuse_other(path)
        file = open_regular(path, os.O_RDWR | os.O_CREAT)
        lock = Lock(path, file)
        try:
            lacking = _flock(file, shared)
            # The last holder may have removed the file after we opened it and before we locked it.
            # The number of attempts is limited: on a file system with unstable inode numbers, the
            # two never look the same.
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
    """Locks an open file. Returns "", or the reason if its file system has no locks. Raises
    BlockingIOError if another process holds it."""
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
    """The holder that a lock file names; None if there is none, or it is being written."""
    try:
        return typed(Holder, parse(read_all(path)))
    except (OSError, Damaged):
        return None


def _write_holder(file: int, what: str) -> None:
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    holder = Holder(what, socket.gethostname(), os.getpid(), _boot_id(), started)
    with contextlib.suppress(OSError):  # a full disk: the lock works without a name too
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(asdict(holder)).encode() + b"\n", 0)
        os.fsync(file)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _beats(path: Path) -> bool:
    """True if the holder of a lock file touches it within WATCH seconds."""
    def touched() -> int:
        # NFS asks the server for the file's time only when the file is opened.
        with open_binary(path) as file:
            return os.fstat(file.fileno()).st_mtime_ns

    before, until = touched(), time.monotonic() + WATCH
    while time.monotonic() < until:
        time.sleep(min(POLL * 10, WATCH / 10))
        if touched() != before:
            return True
    return False
