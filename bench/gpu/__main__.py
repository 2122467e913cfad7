"""What only a GPU can show, as one file: checks, memory, rates of each form.

    python -m bench.gpu [DATA] [--device cuda] [--quick] [--tests JUNIT.xml] [--out RESULT.json]

DATA is a prepared dataset; without it a synthetic one is made. bench/gpu/gpu.sh runs the gpu tests
before and hands their report over: the checks that they hold are then not made again. On a card it
writes bench/results/gpu_NAME.json; exit code 1 where a check is not kept, and "passed" then says
so: a file that passed is what would let CUDA graphs be on by default. Nothing of this was measured
before it was run: the project's figures for GPUs come from this script alone. With --device cpu
--quick everything but what is compiled runs on tiny sizes, which tests this script and measures
nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.etree import ElementTree

import torch

from bench.demo.images import generate
from bench.gpu.checks import (
    FORMS,
    SAMPLES,
    Check,
    How,
    all_checks,
    compile_it,
    narrower,
    prepared,
    views,
)
from bench.shared.command import Flags, finish
from bench.training.loss import rates as loss_rates
from data_tools.prepare import prepare
from fastmoco.commands.bench import print_report
from fastmoco.measuring.bench import bench
from fastmoco.measuring.step_memory import Walk, walk, walked
from fastmoco.model.activation_checkpointing import recompute_blocks
from fastmoco.model.build import build_moco, make_optimizer
from fastmoco.recipe import MOCO_V2, Recipe
from fastmoco.run_options import RunOptions
from fastmoco.system.compiler import settle
from fastmoco.system.device import (
    DTYPES,
    choose_deterministic,
    grad_scaler,
    pick_device,
    pick_precision,
)
from fastmoco.system.hardware import describe, free_memory
from fastmoco.system.streams import synchronize
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table
from fastmoco.training.step import training_step

GOES = 0.15  # that a step's memory may be away from what was predicted, either way
STEP = {"eager": How(), "compiled": How(compiled=True), "CUDA graphs": How(compiled=True,
                                                                           graphs=True)}


def rate(work: Callable[[], object], images: int, device: torch.device, seconds: float) -> float:
    """Images/s of work repeated for about so long, after three times that are not counted."""
    for _ in range(3):
        work()
    synchronize(device)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        work()
        synchronize(device)
        count += 1
    return count * images / (time.perf_counter() - begun)


def augmentation_rates(recipe: Recipe, device: torch.device, seconds: float) -> dict[str, float]:
    """Views/s of each form of the augmentation."""
    forms = {f"{name}, eager": form for name, form in FORMS.items()}
    if device.type == "cuda":
        for name in ("torch", "fast"):
            forms[f"{name}, compiled"] = torch.compile(FORMS[name], fullgraph=True, dynamic=False)
    pixels, colour = views(recipe, device)
    dtype = DTYPES[recipe.precision]
    return {
        name: rate(
            lambda form=form: form(pixels, colour, recipe.augmentation, dtype),
            2 * recipe.batch, device, seconds,
        )
        for name, form in forms.items()
    }


class Taken:
    """A model that takes steps on images that are there."""

    def __init__(self, recipe: Recipe, how: How, device: torch.device) -> None:
        choose_deterministic(device)  # as train does
        torch.manual_seed(0)
        self.moco = build_moco(recipe, SAMPLES, device, pieces=how.pieces)
        if how.recomputed:
            recompute_blocks(self.moco)
        compile_it(self.moco, how)
        self.recipe, self.pieces = recipe, how.pieces
        self.optimizer = make_optimizer(self.moco, recipe)
        self.scaler = grad_scaler(device, recipe.precision)
        shape = (2, recipe.batch, recipe.size, recipe.size, 3)
        images = torch.randn(shape, device=device).to(DTYPES[recipe.precision])
        self.batch = prepared(recipe, images.permute(0, 1, 4, 2, 3))

    def step(self) -> None:
        """One."""
        training_step(
            self.moco, self.optimizer, self.scaler, self.batch, self.recipe, self.pieces
        )


def step_rates(recipe: Recipe, device: torch.device, seconds: float) -> dict[str, float]:
    """Images/s of the step in each precision, and in each form."""
    types = ("float32", *narrower(device)) if device.type == "cuda" else ("float32",)
    wanted = [(p, "eager") for p in types]
    rows = [(f"{p}, {form}", p, form, recipe.bn_splits) for p, form in wanted]
    if device.type == "cuda":  # eight parts a layer compile for minutes: the forms by one
        rows += [
            (f"{recipe.precision}, {form}, BatchNorm whole", recipe.precision, form, 1)
            for form in STEP
        ]
    found = {}
    for name, precision, form, splits in rows:
        own = dataclasses.replace(recipe, precision=precision, bn_splits=splits)
        taken: Taken | None = None
        try:
            taken = Taken(own, STEP[form], device)
            found[name] = rate(taken.step, recipe.batch, device, seconds)
        except Exception as error:  # one form that fails must not hide the others
            say(f"{name}: {first_line(error)}")
            found[name] = 0.0
        del taken
        gc.collect()
    return found


def total(step: Walk) -> int:
    """Bytes of a step at its peak."""
    return sum(step.lasting.values()) + sum(step.peak.values())


def memory_checks(recipe: Recipe, device: torch.device, quick: bool) -> list[Check]:
    """The peak of a step against the prediction of fastmoco.measuring.step_memory: how far away, as
    a share. On the CPU, which has no such counter, a real step is counted as it is taken."""
    found, ways = [], {"": How(), ", activation checkpointing": How(recomputed=True)}
    if not quick:
        ways[", in two pieces"] = How(pieces=2)
    if device.type == "cuda":  # cuBLAS and cuDNN keep working space of their own from here on
        Taken(dataclasses.replace(recipe, arch="resnet-mini", size=32), How(), device).step()
    for name, how in ways.items():
        predicted = total(walked(recipe, SAMPLES, how.pieces, how.recomputed))
        if device.type == "cuda":
            gc.collect()
            before = torch.cuda.memory_allocated(device)
            taken = Taken(recipe, how, device)
            taken.step()
            torch.cuda.reset_peak_memory_stats(device)
            taken.step()
            synchronize(device)
            measured = torch.cuda.max_memory_allocated(device) - before
            del taken
        else:
            measured = total(walk(recipe, SAMPLES, how.pieces, how.recomputed, real=True))
        note = f"{measured / 1e9:.3f} GB, {predicted / 1e9:.3f} predicted"
        found.append(Check(f"memory of {recipe.arch} at {recipe.size}, batch {recipe.batch}{name}",
                           abs(predicted / measured - 1), GOES, note))
    return found


def fitting(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with a batch that is at home on the device: half of its memory at the most, in
    float32, in which it is measured too."""
    while device.type == "cuda" and recipe.batch > 32:
        wide = dataclasses.replace(recipe, precision="float32")
        if total(walked(wide, SAMPLES)) < 0.5 * free_memory(device):
            break
        recipe = dataclasses.replace(recipe, batch=recipe.batch // 2)
    return recipe


def tests_told(report: Path) -> dict[str, int]:
    """Counts of pytest's JUnit report: tests, failures, errors, skipped."""
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    return {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    return next((x for x in str(error).splitlines() if x.strip()), repr(error)).strip()[:200]


def guarded(name: str, checks: Callable[[], Iterable[Check]]) -> list[Check]:
    """The checks, or one that is not kept and says what stopped them."""
    try:
        return list(checks())
    except Exception as error:  # of a compiler, a driver, Kornia: what comes after is still wanted
        return [Check(name, math.nan, 0.0, first_line(error))]


def write(result: dict, out: Path | None) -> None:
    """What is known so far."""
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = Flags(__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="a prepared dataset")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tests the script")
    parser.add_argument("--tests", type=Path, help="pytest's JUnit report, to be written down too")
    parser.add_argument("--tests-exit", type=int, default=0, help="what pytest ended with")
    parser.add_argument("--out", type=Path, help="the result's file")
    return parser.parse_args()


def main() -> int:
    """Check, measure, write; exit 1 where a check or a test was not kept, or a form failed."""
    args = arguments()
    device, seconds = pick_device(args.device), 0.05 if args.quick else 3.0
    recipe = dataclasses.replace(MOCO_V2, precision=pick_precision("auto", device))
    if args.quick:
        recipe = dataclasses.replace(
            recipe, arch="resnet-mini", size=32, batch=16, bn_splits=4, K=64
        )
    say(f"checks on {describe(device)}")
    if device.type == "cuda":
        settle()
    checks = [] if args.tests is not None else [
        check for name, make in all_checks(device, args.quick) for check in guarded(name, make)
    ]
    recipe = fitting(recipe, device)
    checks += guarded("memory", lambda: memory_checks(recipe, device, args.quick))
    rows = [(c.name, f"{c.measured:.2g}", f"{c.allowed:.2g}", "kept" if c.kept else "NOT KEPT",
             c.note) for c in checks]  # fmt: skip
    table(("check", "measured", "allowed", "", ""), rows)
    out = args.out
    if out is None and device.type == "cuda" and not args.quick:
        name = f"gpu_{describe(device).replace(' ', '-')}.json"
        out = Path(__file__).parents[1] / "results" / name
    # written after each stage: one that is cut off leaves what came before
    result: dict = {
        "passed": False, "device": describe(device), "quick": args.quick, "batch": recipe.batch,
        "checks": [dataclasses.asdict(c) | {"kept": c.kept} for c in checks], **versions(),
    }  # fmt: skip
    passed = all(c.kept for c in checks)
    if args.tests is not None:
        result["tests"] = tests_told(args.tests) | {"exit": args.tests_exit}
        passed &= args.tests_exit == 0  # the report of tests that were cut off tells no failure
        passed &= result["tests"]["tests"] > result["tests"]["skipped"]
        passed &= not result["tests"]["failures"] + result["tests"]["errors"]
    write(result, out)
    for name, rates in (("step_images_per_s", step_rates), ("views_per_s", augmentation_rates)):
        result[name] = rates(recipe, device, seconds)
        table((name.replace("_", " "), ""), [(k, f"{v:,.0f}") for k, v in result[name].items()])
        passed &= all(v > 0 for v in result[name].values())  # a form that failed has no rate
        write(result, out)
    sizes = ((32, 256), (32, 1024)) if args.quick else ((256, 4096), (256, 65536))
    result["loss_seconds"] = {
        f"{n} x {k}": loss_rates(n, k, 3 if args.quick else 20, device) for n, k in sizes
    }
    with tempfile.TemporaryDirectory() as temporary:
        data = args.data or Path(temporary) / "data"
        if args.data is None:
            made = (48, 12) if args.quick else (3600, 480)
            generate(Path(temporary) / "images", 0, *made)
            prepare(Path(temporary) / "images" / "train", data)
        report = bench(data, recipe, RunOptions(device=args.device), 1 if args.quick else 3,
                       min(seconds, 1.0))
        print_report(report)
        result["pipeline"] = dataclasses.asdict(report) | {"data": str(args.data or "drawn")}
    result["passed"] = passed
    write(result, out)
    if out is not None:
        say(f"written to {out}")
    say("passed" if passed else "NOT PASSED")
    return 0 if passed else 1


if __name__ == "__main__":
    finish(main)
