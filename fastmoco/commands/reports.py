"""The commands that look at a machine and at runs: doctor, compare, report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import shown_json

if TYPE_CHECKING:
    from fastmoco.reporting.compare import Comparison

BESIDE = 2  # fields that differ, which have room beside the results


def compare(argv: list[str]) -> None:
    """fastmoco compare RUN..."""
    from fastmoco.commands.report_flags import CompareArgs
    from fastmoco.terminal.parse import parse

    args = parse(CompareArgs, argv, "compare")
    from fastmoco.reporting.compare import compare

    found = compare(args.runs)
    if args.json:
        print(shown_json(dataclasses.asdict(found)))
    else:
        print_comparison(found)


def print_comparison(found: Comparison) -> None:
    from fastmoco.terminal import console

    names, labels = list(found.runs[0].differs), short([r.run for r in found.runs])
    beside = names if len(names) <= BESIDE else []
    unfinished = any(r.state != "done" for r in found.runs)
    same = "" if len(found.runs) == 1 or names else ": the same recipe on the same data"
    console.say(f"{len(found.runs)} run{'s' if len(found.runs) > 1 else ''}{same}")
    console.table(
        ("run", *beside, "epochs done", "loss", "chance", "kNN best", "at epoch", "kNN last",
         "images/s", "time", *(["state"] if unfinished else [])),
        [
            (
                labels[r.run], *(shown(r.differs[n], n) for n in beside), f"{r.epochs:.1f}",
                number(r.loss, ".3f"), number(r.chance, ".3f"), number(r.knn_best, ".1%"),
                number(r.knn_best_epoch, ".1f"), number(r.knn_last, ".1%"),
                number(r.images_per_s, ",.0f"),
                "-" if r.train_seconds is None else console.duration(r.train_seconds),
                *([r.state] if unfinished else []),
            )
            for r in found.runs
        ],
    )
    if names != beside:  # in rows: so many columns would have no width
        console.table(
            ("differs", *labels.values()),
            [(n, *(shown(r.differs[n], n) for r in found.runs)) for n in names],
        )
    for line in found.damaged:
        console.say(f"note: {line}")
    formats = {"loss": ".3f", "knn_best": ".1%", "knn_last": ".1%", "images_per_s": ",.0f",
               "train_seconds": ",.0f"}
    for group in found.groups:
        what = ", ".join(f"{k} {shown(v, k)}" for k, v in group.differs.items())
        seeds = ", ".join(map(str, group.seeds))
        console.say(f"over seeds {seeds}{f' ({what})' if what else ''}: " + "; ".join(
            f"{name.replace('_', ' ')} {s.mean:{formats[name]}} +- {s.std:{formats[name]}}"
            for name, s in group.spread.items()
        ))


def short(runs: list[str]) -> dict[str, str]:
    """Runs by the shortest ends of their paths that tell them apart."""
    parts = {run: Path(run).parts for run in runs}
    count = 1
    while count < max(map(len, parts.values())):
        if len({p[-count:] for p in parts.values()}) == len(runs):
            break
        count += 1
    return {run: str(Path(*p[-count:])) for run, p in parts.items()}


def shown(value: Any, name: str) -> str:
    if name == "data":  # the table has no room for a whole path; --json has it
        return Path(value).name
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def doctor(argv: list[str]) -> None:
    """fastmoco doctor"""
    from fastmoco.commands.report_flags import DoctorArgs
    from fastmoco.terminal.parse import parse

    args = parse(DoctorArgs, argv, "doctor")
    from fastmoco.checks.doctor import doctor, lines
    from fastmoco.terminal import console

    if not args.dir.is_dir():
        raise UserError(f"--dir {args.dir}: no such folder; give a folder on the disk to be tried")
    found = doctor(args.dir)
    if args.json:
        print(shown_json(dataclasses.asdict(found)))
        return
    for line in lines(found):
        console.say(line)


def report(argv: list[str]) -> None:
    """fastmoco report RUN"""
    from fastmoco.commands.report_flags import ReportArgs
    from fastmoco.terminal.parse import parse

    args = parse(ReportArgs, argv, "report")
    from fastmoco.reporting.report import report
    from fastmoco.terminal import console

    with console.progress("features", "images") as tick:
        out, lacking = report(
            args.run, args.out, args.data, args.count, args.device, args.threads, tick
        )
    for line in lacking:
        console.say(f"left out: {line}")
    console.say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
