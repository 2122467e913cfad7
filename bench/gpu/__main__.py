"""Measures on a GPU and checks it against the CPU: results, memory, and the rate of each form.

    python -m bench.gpu [DATA] [--device cuda] [--quick] [--tests JUNIT.xml] [--out RESULT.json]

DATA is a prepared dataset; without it the demo's images are drawn. bench/gpu/gpu.sh first runs the
gpu tests and passes their report on; the checks that those tests contain are then skipped. On a GPU
the result goes to bench/results/gpu_NAME.json. Exits with 1 if a check fails; the file's "passed"
records it. Only a file that passed could justify CUDA graphs as the default. All of the project's
GPU figures come from this script; nobody has run it yet. With --device cpu --quick everything that
needs no compiler runs on tiny sizes, which tests the script and measures nothing.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("data", type=Path, nargs="?", help="a prepared dataset")
    flags.add_argument("--device", default="cuda", help="[default: cuda]")
    flags.add_argument("--quick", action="store_true", help="tiny sizes, which test the script")
    flags.add_argument("--tests", type=Path, metavar="JUNIT.xml",
                       help="pytest's report, which the result includes")
    flags.add_argument("--tests-exit", type=int, default=0, help="pytest's exit code")
    flags.add_out("the result's file [default: bench/results/gpu_NAME.json on a GPU]")

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterable
from xml.etree import ElementTree

import torch

from bench.demo.images import generate
from bench.gpu.checks import Check, all_checks
from bench.gpu.rates import augmentation_rates, first_line, fitting, memory_checks, step_rates
from bench.shared.results import write_json
from bench.training.loss import rates as loss_rates
from data_tools.prepare import prepare
from fastmoco.commands.bench import print_report
from fastmoco.measuring.bench import bench
from fastmoco.recipe import MOCO_V2, Recipe
from fastmoco.run_options import RunOptions
from fastmoco.system.compiler import settle
from fastmoco.system.device import pick_device, pick_precision
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table


def test_counts(report: Path) -> dict[str, int]:
    """Return the counts of pytest's JUnit report: tests, failures, errors, skipped."""
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    return {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}


def guarded(name: str, checks: Callable[[], Iterable[Check]]) -> list[Check]:
    """Make the checks; if an error stops them, return one failed check with its message."""
    try:
        return list(checks())
    except Exception as error:  # a compiler, a driver, Kornia; the other checks still count
        return [Check(name, math.nan, 0.0, first_line(error))]


def write(result: dict, out: Path | None) -> None:
    """Write the result so far."""
    if out is not None:
        write_json(out, result)


def quick_recipe(recipe: Recipe) -> Recipe:
    """Return tiny sizes, which test the script."""
    return dataclasses.replace(recipe, arch="resnet-mini", size=32, batch=16, bn_splits=4, K=64)


def made_checks(args: argparse.Namespace, device: torch.device, recipe: Recipe) -> list[Check]:
    """Make the checks, except those that the tests' report covers, and print them."""
    checks = [] if args.tests is not None else [
        check for name, make in all_checks(device, args.quick) for check in guarded(name, make)
    ]
    checks += guarded("memory", lambda: memory_checks(recipe, device, args.quick))
    rows = [(c.name, f"{c.measured:.2g}", f"{c.allowed:.2g}", "kept" if c.kept else "NOT KEPT",
             c.note) for c in checks]  # fmt: skip
    table(("check", "measured", "allowed", "", ""), rows)
    return checks


def pipeline(args: argparse.Namespace, recipe: Recipe, seconds: float) -> dict:
    """Run `fastmoco bench` on the given dataset, or on drawn images; return its report."""
    with tempfile.TemporaryDirectory() as temporary:
        data = args.data or Path(temporary) / "data"
        if args.data is None:
            made = (48, 12) if args.quick else (3600, 480)
            generate(Path(temporary) / "images", 0, *made)
            prepare(Path(temporary) / "images" / "train", data)
        report = bench(data, recipe, RunOptions(device=args.device), 1 if args.quick else 3,
                       min(seconds, 1.0))
        print_report(report)
        return dataclasses.asdict(report) | {"data": str(args.data or "drawn")}


def main() -> int:
    """Check, measure, write; return 1 if a check or a test failed, or a form did not run."""
    args = flags.parse_args()
    device, seconds = pick_device(args.device), 0.05 if args.quick else 3.0
    recipe = dataclasses.replace(MOCO_V2, precision=pick_precision("auto", device))
    say(f"checks on {describe(device)}")
    if device.type == "cuda":
        settle()
    recipe = fitting(quick_recipe(recipe) if args.quick else recipe, device)
    checks = made_checks(args, device, recipe)
    out = args.out
    if out is None and device.type == "cuda" and not args.quick:
        name = f"gpu_{describe(device).replace(' ', '-')}.json"
        out = Path(__file__).parents[1] / "results" / name
    # written after each stage, so that a run that is cut off leaves the stages before
    result: dict = {
        "passed": False, "device": describe(device), "quick": args.quick, "batch": recipe.batch,
        "checks": [dataclasses.asdict(c) | {"kept": c.kept} for c in checks], **versions(),
    }  # fmt: skip
    passed = all(c.kept for c in checks)
    if args.tests is not None:
        result["tests"] = test_counts(args.tests) | {"exit": args.tests_exit}
        # a report of tests that were cut off shows no failure, so the exit code counts too
        passed &= args.tests_exit == 0
        passed &= result["tests"]["tests"] > result["tests"]["skipped"]
        passed &= not result["tests"]["failures"] + result["tests"]["errors"]
    write(result, out)
    for name, rates in (("step_images_per_s", step_rates), ("views_per_s", augmentation_rates)):
        result[name] = rates(recipe, device, seconds)
        table((name.replace("_", " "), ""), [(k, f"{v:,.0f}") for k, v in result[name].items()])
        passed &= all(v > 0 for v in result[name].values())  # a form that failed has rate 0
        write(result, out)
    sizes = ((32, 256), (32, 1024)) if args.quick else ((256, 4096), (256, 65536))
    result["loss_seconds"] = {
        f"{n} x {k}": loss_rates(n, k, 3 if args.quick else 20, device) for n, k in sizes
    }
    result["pipeline"] = pipeline(args, recipe, seconds)
    result["passed"] = passed
    write(result, out)
    if out is not None:
        say(f"written to {out}")
    say("passed" if passed else "NOT PASSED")
    return 0 if passed else 1


if __name__ == "__main__":
    finish(main)
