"""fastmoco compare: runs side by side."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.quantities import duration
from data_tools.safe_reading.json_file import shown_json
from fastmoco.terminal.flags import positional
from fastmoco.terminal.parse import parse

if TYPE_CHECKING:
    from fastmoco.reporting.compare import Comparison


@dataclass(frozen=True)
class Args:
    """Show runs side by side: the differences between their recipes, and their results. Runs that
    differ only in the seed are summarised by mean and standard deviation."""

    runs: positional("RUN...", tuple[Path, ...])  # type: ignore[valid-type]
    """Run directories."""
    json: bool = False
    """Print the comparison as JSON."""


BESIDE = 2  # differing fields that fit beside the results


def run(argv: list[str]) -> None:
    """Run `fastmoco compare RUN...`."""
    args = parse(Args, argv, "compare")
    from fastmoco.reporting.compare import compare

    found = compare(args.runs)
    if args.json:
        print(shown_json(dataclasses.asdict(found)))
    else:
        print_comparison(found)


def print_comparison(found: Comparison) -> None:
    """Print the result of `fastmoco compare`."""
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
                "-" if r.train_seconds is None else duration(r.train_seconds),
                *([r.state] if unfinished else []),
            )
            for r in found.runs
        ],
    )
    if names != beside:  # as rows, because this many columns would not fit
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
    """Return the shortest ends of the runs' paths that differ from each other, by run."""
    parts = {run: Path(run).parts for run in runs}
    count = 1
    while count < max(map(len, parts.values())):
        if len({p[-count:] for p in parts.values()}) == len(runs):
            break
        count += 1
    return {run: str(Path(*p[-count:])) for run, p in parts.items()}


def shown(value: Any, name: str) -> str:
    """Return a recipe's value as text for the table."""
    if name == "data":  # the table has no room for a whole path; --json has it
        return Path(value).name
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def number(value: float | None, form: str) -> str:
    """Return a number in a format, or "-" if there is none."""
    return "-" if value is None else f"{value:{form}}"
