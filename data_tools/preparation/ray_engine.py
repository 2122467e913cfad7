"""Runs the parts of a preparation on a Ray cluster: the same parts and bytes, on many machines.

Every node must see the source and the output under the same paths, and have this package installed.
If a worker or a node dies, another one does its part again; nothing else is lost.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.errors import Interrupted, UserError, one_line
from data_tools.machine import cores
from data_tools.preparation.journal import Journal
from data_tools.preparation.parts import Job, Part, write_part
from data_tools.preparation.workers import work_through
from data_tools.sources.registry import open_source
from data_tools.sources.source import Source

if TYPE_CHECKING:
    from data_tools.preparation.run import Run

# Number of times that a part goes to another worker after its own has died.
RETRIES = 3
TIMEOUT_S = 10


def run_on_ray(run: Run, labels: str | os.PathLike[str] | None, address: str) -> None:
    """Does the parts of a run that are missing. address: of a cluster that runs; "": start one.

    Raises UserError where Ray is not installed or the address does not answer.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray: Ray is not installed: pip install 'fastmoco[ray]'") from None
    missing = run.missing()
    if not missing:
        return
    if not isinstance(run.path, str | os.PathLike):
        raise UserError("--engine ray: nodes open the source by its path, and this one has none")
    started = not ray.is_initialized()
    handler = signal.getsignal(signal.SIGTERM)
    if started:
        connect(ray, address)
    try:
        part_on_a_node = ray.remote(num_cpus=1, max_retries=RETRIES)(do_part)
        source, out = str(run.path), str(run.out.resolve())
        labels = None if labels is None else absolute(labels)
        waiting = {
            part_on_a_node.remote(absolute(source), labels, run.job, out, part): part
            for part in missing
        }
        while waiting:
            ready, _ = ray.wait(list(waiting))
            for future in ready:
                part = waiting.pop(future)
                result(ray, future, part)
                run.done.add(part.number)
                run.tell(part.stop - part.start)
    finally:
        if started:
            ray.shutdown()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray puts its own there


def connect(ray: Any, address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:  # a quick look first, because Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S).close()
        except OSError as error:
            raise UserError(
                f"--ray-address {address}: no cluster answers: {one_line(error)}") from None
    quiet = {"include_dashboard": False} if not address else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, configure_logging=False, **quiet)
    except Exception as error:  # Ray raises its own types of error and plain ones
        raise UserError(f"--ray-address {address}: no cluster answers: {one_line(error)}") from None


def result(ray: Any, future: Any, part: Part) -> None:
    try:
        ray.get(future)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, UserError):
            raise type(cause)(str(cause)) from None
        raise Interrupted(f"part {part.number}: failed on a node ({cause}); what is done stays: "
                          "run prep again") from None
    except ray.exceptions.RayError as error:
        first = str(error).splitlines()[0]
        raise Interrupted(f"part {part.number}: its worker died {RETRIES + 1} times ({first}); "
                          "what is done stays: run prep again") from None


def absolute(path: str | os.PathLike[str]) -> str:
    """The path made absolute, since a node has another working directory; a URL stays."""
    return str(path) if "://" in str(path) else str(Path(path).absolute())


def do_part(source: str, labels: str | None, job: Job, out: str, part: Part) -> None:
    """Does one part; runs on a node. Raises Interrupted if the node sees other files."""
    files = opened(source, labels)
    if files.fingerprint != job.fingerprint:
        raise Interrupted(f"{source}: is not the same on every node")
    journal = Journal(Path(out), job.header())
    if not journal.matches():
        raise Interrupted(f"{out}: is not the same folder on every node")
    ranges = [range(part.start, part.stop)]
    # Ray starts one process per core, and they share the machine's memory.
    results = work_through(files, ranges, job.policy, job.page_size, processes=cores())
    write_part(files, job, Path(out), journal, part, results)


@lru_cache(maxsize=1)
def opened(source: str, labels: str | None) -> Source:
    """The source, opened once per worker: a worker does many parts of it."""
    return open_source(source, labels)
