"""The commands that look at a machine and at runs: doctor, compare, report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmoco.compare import Comparison


def compare(argv: list[str]) -> None:
    """fastmoco compare RUN..."""
    from fastmoco.flags import parse
    from fastmoco.report_flags import CompareArgs

    args = parse(CompareArgs, argv, "compare")
    from fastmoco.compare import compare

    found = compare(args.runs)
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        print_comparison(found)


def print_comparison(found: Comparison) -> None:
    from fastmoco import console

    names = list(found.runs[0].differs)
    unfinished = any(r.state != "done" for r in found.runs)
    same = "" if len(found.runs) == 1 or names else ": the same recipe on the same data"
    console.say(f"{len(found.runs)} run{'s' if len(found.runs) > 1 else ''}{same}")
    console.table(
        ("run", *names, "epochs", "loss", "chance", "kNN best", "at epoch", "kNN last", "images/s",
         "time", *(["state"] if unfinished else [])),
        [
            (
                r.run, *(shown(r.differs[n], n) for n in names), f"{r.epochs:.1f}",
                number(r.loss, ".3f"), number(r.chance, ".3f"), number(r.knn_best, ".1%"),
                number(r.knn_best_epoch, ".1f"), number(r.knn_last, ".1%"),
                number(r.images_per_s, ",.0f"),
                "-" if r.train_seconds is None else console.duration(r.train_seconds),
                *([r.state] if unfinished else []),
            )
            for r in found.runs
        ],
    )
    formats = {"loss": ".3f", "knn_best": ".1%", "knn_last": ".1%", "images_per_s": ",.0f",
               "train_seconds": ",.0f"}
    for group in found.groups:
        what = ", ".join(f"{k} {shown(v, k)}" for k, v in group.differs.items())
        seeds = ", ".join(map(str, group.seeds))
        console.say(f"over seeds {seeds}{f' ({what})' if what else ''}: " + "; ".join(
            f"{name.replace('_', ' ')} {s.mean:{formats[name]}} +- {s.std:{formats[name]}}"
            for name, s in group.spread.items()
        ))


def shown(value: Any, name: str) -> str:
    if name == "data":  # the table has no room for a whole path; --json has it
        return Path(value).name
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def doctor(argv: list[str]) -> None:
    """fastmoco doctor"""
    from fastmoco.flags import parse
    from fastmoco.report_flags import DoctorArgs

    args = parse(DoctorArgs, argv, "doctor")
    from fastmoco import console
    from fastmoco.doctor import doctor, lines

    found = doctor(args.dir)
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
        return
    for line in lines(found):
        console.say(line)


def report(argv: list[str]) -> None:
    """fastmoco report RUN"""
    from fastmoco.flags import parse
    from fastmoco.report_flags import ReportArgs

    args = parse(ReportArgs, argv, "report")
    from fastmoco import console
    from fastmoco.report import report

    with console.progress("features", "images") as tick:
        out, lacking = report(
            args.run, args.out, args.data, args.count, args.device, args.threads, tick
        )
    for line in lacking:
        console.say(f"left out: {line}")
    console.say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
