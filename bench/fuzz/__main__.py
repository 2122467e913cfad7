"""Tests that no changed file makes a reader crash, hang, or use memory without limit.

    python -m bench.fuzz --minutes 20 [--files 5000] [--reader tar ...] [--seed 1] [--json]
    python -m bench.fuzz --replay fuzz-found/tar/uncaught-0000042-images.tar

Valid files are changed by single bits, bytes, numbers and blocks, and by edits that know the format
(lengths, offsets and counts, with corrected checksums; JSON values of other types). Each changed
file is read in a watched process. A fault is a traceback, a crash, a hang, too much memory, or
content that differs without an error. --keep receives a few files per cause. Exits with 1 if there
was a fault.
"""

from __future__ import annotations

import os
from pathlib import Path

from bench.fuzz.limits import Limits
from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("--minutes", type=float, default=5, help="time limit [default: 5]")
    flags.add_argument("--files", type=int, default=1 << 40,
                       help="limit per reader; slow readers get an eighth [default: no limit]")
    flags.add_argument("--reader", nargs="+", default=[], metavar="NAME",
                       help="only these readers; a wrong name lists all [default: all]")
    flags.add_argument("--seed", type=int, default=0, help="seed of every draw [default: 0]")
    flags.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)),
                       help="number of processes [default: one per core]")
    flags.add_argument("--flips", action="store_true", help="change exactly one bit per file")
    flags.add_argument("--seconds", type=float, default=Limits.seconds,
                       help=f"processor time allowed per file [default: {Limits.seconds}]")
    flags.add_argument("--megabytes", type=int, default=Limits.bytes >> 20,
                       help="memory allowed per file, above the base "
                            f"[default: {Limits.bytes >> 20}]")
    flags.add_argument("--keep", type=Path, default=Path("fuzz-found"),
                       help="folder for the files that were found [default: fuzz-found]")
    flags.add_argument("--replay", type=Path, metavar="FILE", help="read one kept file again")
    flags.add_argument("--json", action="store_true", help="print the results as JSON")

import contextlib
import dataclasses
import json
import sys
import tempfile
import time
import traceback

from bench.fuzz.reader import Case, Reader
from bench.fuzz.readers import READERS
from bench.fuzz.supervise import KINDS, Supervisor
from bench.fuzz.worker import Place, judge, prepare_process, run_forked
from data_tools.errors import UserError
from fastmoco.terminal import console

SHARED_MEMORY = Path("/dev/shm")


def main() -> int:
    """Fuzz and print; return 1 if there was a fault."""
    args = flags.parse_args()
    known = {reader.name: reader for reader in READERS}
    for name in args.reader:
        if name not in known:
            raise UserError(f"--reader {name}: there are {', '.join(known)}")
    limits = Limits(args.seconds, args.megabytes << 20)
    where = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=where) as scratch:
        if args.replay is not None:
            return replay(args.replay, known, Path(scratch), limits)
        readers = [known[name] for name in args.reader] or list(READERS)
        supervisor = Supervisor(
            readers, Path(scratch), args.keep, args.seed, limits, args.flips
        )
        supervisor.build()
        began = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):  # then the results so far are shown
            supervisor.run(args.minutes, args.files, args.workers)
        show(supervisor, time.monotonic() - began, args.json)
    return 1 if supervisor.keeper.found else 0


def show(supervisor: Supervisor, seconds: float, as_json: bool) -> None:
    """Print a row per reader and a line per cause, or JSON."""
    found = sorted(supervisor.keeper.found.values(), key=lambda f: (f.first.reader, -f.count))
    if as_json:
        print(json.dumps({
            "seconds": round(seconds), "seed": supervisor.seed,
            "readers": {name: dataclasses.asdict(t) for name, t in supervisor.tallies.items()},
            "found": [dataclasses.asdict(one) for one in found],
        }, indent=1))
        return
    rows = [
        (name, f"{t.files:,}", f"{t.accepted:,}", f"{t.refused:,}",
         *(f"{t.faults[kind]:,}" for kind in KINDS), f"{1e3 * t.seconds / max(1, t.files):.1f}")
        for name, t in supervisor.tallies.items()
    ]
    tallies = supervisor.tallies.values()
    rows.append((
        "all", *(f"{sum(getattr(t, n) for t in tallies):,}" for n in ("files", "accepted",
                                                                      "refused")),
        *(f"{sum(t.faults[kind] for t in tallies):,}" for kind in KINDS), "",
    ))
    console.table(("reader", "files", "accepted", "refused", *KINDS, "ms per file"), rows)
    for one in found:
        console.say(f"{one.first.reader}: {one.first.kind}, {one.count} times: {one.first.cause}; "
                    f"{one.files[0]}")
    console.say(f"{sum(t.files for t in tallies):,} files in {seconds:.0f} s, "
                f"seed {supervisor.seed}: {len(found)} causes of faults")


def replay(path: Path, known: dict[str, Reader], scratch: Path, limits: Limits) -> int:
    """Read one kept file as the run did, and print the outcome; return 1 if it is a fault."""
    try:
        about = json.loads(path.with_name(path.name + ".json").read_text())
        reader, target = known[about["reader"]], about["target"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: no file that bench.fuzz kept, with its .json beside it") from None
    report = scratch / "told"

    def work() -> None:
        import faulthandler

        (scratch / "built").mkdir()
        targets = reader.build(scratch / "built")
        copy = os.dup(2)
        prepare_process(None)
        os.dup2(copy, 2)
        faulthandler.enable()
        faulthandler.dump_traceback_later(limits.seconds, exit=True)
        place = Place(reader, scratch / "built", targets, scratch / "place")
        try:
            case = Case(target, path.read_bytes(), False)
            report.write_text("\n".join(judge(place, case, limits)))
        except Exception:
            report.write_text(traceback.format_exc())

    _, status = os.waitpid(run_forked(work), 0)
    ended = f"ended with {os.waitstatus_to_exitcode(status)}"
    text = report.read_text() if report.exists() else ended
    print(text, file=sys.stdout)
    return 0 if text.split("\n")[0] in ("accepted", "refused") else 1


if __name__ == "__main__":
    finish(main)
