"""Runs the papers' comparisons at CIFAR's scale: a grid of short trainings, tables and a chart.

    nice -n 19 python -m bench.learning.ablation FOLDER DIR --minutes 60

FOLDER holds cifar10-train.tar (split/class/number.jpg). DIR keeps a JSON file per finished
training, so that the next call continues where this one ended; a training that runs out of time
continues from its checkpoint. A training is a fixed number of epochs of a small net on 45,000
images, however busy the machine is; kNN (k = 200, T = 0.1) classifies the other 5,000.

The parts are: the mechanism by the number of negatives (1911.05722 figure 3), the key encoder's
momentum (1911.05722 section 4.1), and the steps from v1 to v2 (2003.04297 table 1). Seeds run one
after another.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("folder", type=Path, help="folder of cifar10-train.tar")
    flags.add_argument("dir", type=Path, help="folder that keeps cells, tables and chart")
    flags.add_argument("--minutes", type=float, default=60.0,
                       help="when to stop; 0 only shows the results [default: 60]")
    flags.add_argument("--epochs", type=int, default=4, help="epochs per training [default: 4]")
    flags.add_argument("--seeds", type=int, default=3, help="[default: 3]")

import datetime
import json
import os
import shutil
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench.learning.ablation.grid import MECHANISMS, STEPS_TO_V2, Cell, grid
from bench.shared.charts import Curve, Panel, draw_curves
from bench.shared.cifar_split import split
from bench.shared.results import write_json
from data_tools.files import write_whole
from data_tools.open import open_store
from data_tools.quantities import duration
from fastmoco.evaluation.knn import CIFAR_DEMO, knn
from fastmoco.recipe import to_dict
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Event, Progress
from fastmoco.system.device import pick_device
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say
from fastmoco.training.stopping import asked_to_stop
from fastmoco.training.train import train

Results = list[dict[str, Any]]
LOG_EVERY = 100  # steps
ROWS = sorted(STEPS_TO_V2, key=lambda row: row.startswith("v2"))  # in the table v2 comes last


def main() -> int:
    """Run missing cells until the time is up; then write the tables and the chart."""
    args = flags.parse_args()
    cells = [cell for seed in range(args.seeds) for cell in grid(args.epochs, seed)]
    (args.dir / "cells").mkdir(parents=True, exist_ok=True)
    with asked_to_stop() as stop:
        end = time.monotonic() + 60 * args.minutes

        def over() -> bool:
            return stop.is_set() or time.monotonic() >= end

        for i, cell in enumerate(cells):
            if over():
                break
            if result_of(cell, read(args.dir)) is None:
                say(f"{i + 1} of {len(cells)}: {cell.name}")
                if not run(cell, args.folder, args.dir, over):
                    break
    results = read(args.dir)
    write_table(cells, results, args.dir)
    write_chart(cells, results, args.dir / "ablation.png")
    done = sum(result_of(cell, results) is not None for cell in cells)
    say(f"{done} of {len(cells)} cells; {args.dir / 'ablation.md'}, {args.dir / 'ablation.png'}")
    return 0


def run(cell: Cell, folder: Path, kept: Path, over: Callable[[], bool]) -> bool:
    """Train a cell and keep its result. Return False if the time was up first; then its checkpoint
    waits for the next call."""
    data, held_out = split(folder, kept / "data")
    out, device = kept / "running" / cell.name, pick_device("auto")
    options = RunOptions(
        out=str(out), resume=(out / "checkpoint.pt").is_file(), log_every=LOG_EVERY,
        checkpoint_minutes=5,
    )
    events: list[Progress] = []

    def listen(event: Event) -> None:
        if isinstance(event, Progress):
            if len(events) % 10 == 0 or event.step == event.steps:
                say(
                    f"  step {event.step:,} of {event.steps:,}, {event.images_per_s:,.0f} images/s,"
                    f" loss {event.loss:.2f}, {duration(event.seconds_left)} left"
                )
            events.append(event)
            if over():  # at SIGTERM train writes a checkpoint and returns
                os.kill(os.getpid(), signal.SIGTERM)

    last = train(data, cell.recipe, options, [listen])
    steps = cell.recipe.epochs * (last.samples // cell.recipe.batch)
    if last.step < steps:
        return False
    rows = knn(last, open_store(data), open_store(held_out), device, companions=False)
    top1 = next(r.top1 for r in rows if r.protocol == CIFAR_DEMO.name)
    content = {
        "part": cell.part, "row": cell.row, "column": cell.column, "knn": top1,
        "seconds": last.clock["train_seconds"], "steps": steps,
        "loss": events[-1].loss if events else None,
        "pretext_accuracy": events[-1].pretext_accuracy if events else None,
        "machine": describe(device), **versions(), "recipe": to_dict(cell.recipe),
    }
    write_json(kept / "cells" / f"{cell.name}.json", content)
    shutil.rmtree(out)
    say(f"  kNN {top1:.1%}")
    return True


def read(kept: Path) -> Results:
    """Return all results so far."""
    return [json.loads(p.read_text()) for p in sorted((kept / "cells").glob("*.json"))]


def result_of(cell: Cell, results: Results) -> float | None:
    """Return the kNN of a cell, or of a cell in another part with the same recipe."""
    wanted = json.loads(json.dumps(to_dict(cell.recipe)))
    return next((r["knn"] for r in results if r["recipe"] == wanted), None)


def by_row(cells: list[Cell], results: Results, part: str) -> dict[str, dict[str, list[float]]]:
    """Return the kNN of every finished seed, by row and column of a part."""
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        top1 = result_of(cell, results)
        if cell.part == part and top1 is not None:
            found.setdefault(cell.row, {}).setdefault(cell.column, []).append(top1)
    return found


def write_table(cells: list[Cell], results: Results, kept: Path) -> None:
    """Write the three tables as ablation.md, and all results as ablation.json."""
    columns = list(dict.fromkeys(c.column for c in cells if c.part == "mechanism"))
    columns.sort(key=int)
    mechanism = by_row(cells, results, "mechanism")
    momenta = by_row(cells, results, "momentum").get("queue", {})
    rows = by_row(cells, results, "v1 to v2")
    first = cells[0].recipe
    lines = [
        f"kNN after {first.epochs} epochs of {first.size}-pixel views of 45,000 CIFAR-10 images "
        f"({first.arch}): the mean over seeds, then the least, the most and the number of seeds.",
        "",
        "| negatives | " + " | ".join(f"{int(c):,}" for c in columns) + " |",
        "|" + "---|" * (len(columns) + 1),
        *(
            f"| {m} | " + " | ".join(shown(mechanism.get(m, {}).get(c)) for c in columns) + " |"
            for m in MECHANISMS
        ),
        "",
        "| momentum | " + " | ".join(sorted(momenta, key=float)) + " |",
        "|" + "---|" * (len(momenta) + 1),
        "| queue | " + " | ".join(shown(momenta[m]) for m in sorted(momenta, key=float)) + " |",
        "",
        "| v1 with | kNN |",
        "|---|---|",
        *(f"| {row} | {shown(rows.get(row, {}).get(''))} |" for row in ROWS),
        "",
    ]
    write_whole(kept / "ablation.md", "\n".join(lines).encode())
    write_json(kept / "ablation.json", results)


def shown(values: list[float] | None) -> str:
    """Return the mean, and for several seeds the least, the most and their number in brackets."""
    if not values:
        return ""
    mean = f"{100 * statistics.mean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f}, {len(values)})"


def write_chart(cells: list[Cell], results: Results, out: Path) -> None:
    """Draw the three parts below each other."""
    panels = []
    mechanism = by_row(cells, results, "mechanism")
    if mechanism:
        curves = [
            Curve(m, [point(int(c), v) for c, v in sorted(
                mechanism[m].items(), key=lambda item: int(item[0])
            )])
            for m in MECHANISMS if m in mechanism
        ]
        ticks = [(p[0], f"{p[0]:,.0f}") for p in max((c.points for c in curves), key=len)]
        title = "kNN by mechanism and number of negatives"
        panels.append(Panel(title, "negatives", curves, ticks, log=True))
    for part, title in (("momentum", "by the key encoder's momentum"), ("v1 to v2", "from v1 on")):
        found = by_row(cells, results, part)
        values = found.get("queue") if part == "momentum" else {
            row: found[row][""] for row in ROWS if row in found
        }
        if values:
            names = sorted(values, key=float) if part == "momentum" else list(values)
            points = [point(i, values[name]) for i, name in enumerate(names)]
            ticks = [(i, name) for i, name in enumerate(names)]
            curve = Curve("queue", points, joined=part == "momentum")
            panels.append(Panel(f"kNN {title}", "", [curve], ticks))
    if panels:
        date = datetime.date.today().strftime("%Y-%m")
        foot = f"{describe(pick_device('auto'))}, {date}; lines: least to most of seeds"
        draw_curves(panels, out, foot)


def point(x: float, values: list[float]) -> tuple[float, float, float, float]:
    """Return a chart's point: x, the mean, the least and the most."""
    return x, statistics.mean(values), min(values), max(values)


if __name__ == "__main__":
    finish(main)
