"""What only a GPU can show, in one run: the gpu tests, then images/s and memory of each form.

    python -m bench.gpu [DATA]

DATA is a prepared dataset; without it a synthetic one is made. Prints a table and writes
bench/results/gpu_NAME.json. Nothing of this was measured before it was run: the project's figures
for GPUs come from this script alone.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench.demo_images import generate
from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco import draws
from fastmoco.augment import augment
from fastmoco.augment_fast import augment_fast
from fastmoco.augment_kornia import augment_kornia
from fastmoco.checkpoint import versions
from fastmoco.console import print_report, say, table
from fastmoco.device import describe, peak_memory, pick_device, synchronize
from fastmoco.draws import Colour
from fastmoco.recipe import MOCO_V2, RunOptions
from fastmoco.throughput import bench


def augmentation_rates(device: torch.device, batch: int = 256) -> dict[str, float]:
    """Views/s of the v2 augmentation at 224 in each form."""
    aug = MOCO_V2.augmentation
    arrays = draws.colour(0, 0, np.arange(batch), 2, aug).arrays()
    rows = torch.from_numpy(draws.blur_rows(arrays["sigma"], aug.blur_p)).to(device)
    colour = Colour(
        **{k: torch.from_numpy(a).to(device) for k, a in arrays.items()}, blur_rows=rows
    )
    views = torch.randint(0, 256, (batch, 2, 224, 224, 3), dtype=torch.uint8, device=device)
    forms = {
        "torch, eager": augment,
        "torch, compiled": torch.compile(augment, fullgraph=True, dynamic=False),
        "fast, eager": augment_fast,
        "fast, compiled": torch.compile(augment_fast, fullgraph=True, dynamic=False),
        "kornia": augment_kornia,
    }
    rates = {}
    for name, form in forms.items():
        for _ in range(3):
            form(views, colour, aug, torch.bfloat16)
        synchronize(device)
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < 3:
            form(views, colour, aug, torch.bfloat16)
            synchronize(device)
            count += 1
        rates[name] = count * batch * 2 / (time.perf_counter() - begun)
    return rates


def main() -> int:
    """Run it all; exit 1 where a gpu test fails."""
    device = pick_device("cuda")
    tests = subprocess.run([sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_gpu.py"])
    result: dict = {"device": describe(device), "versions": versions()}
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary) / "data"
        if len(sys.argv) < 2:
            generate(Path(temporary) / "images", seed=0)
            prepare(Path(temporary) / "images" / "train", data)
        say(f"{len(open_store(data)):,} images on {describe(device)}")
        result["views_per_s"] = augmentation_rates(device)
        for compiled in (False, True):
            for precision in ("float32", "bfloat16", "float16"):
                torch.cuda.reset_peak_memory_stats(device)
                recipe = dataclasses.replace(MOCO_V2, precision=precision)
                report = bench(data, recipe, RunOptions(device="cuda", compile=compiled))
                name = f"{precision}{', compiled' if compiled else ''}"
                say(f"== {name}, {peak_memory(device) / 2**30:.1f} GiB at the most")
                print_report(report)
                result[name] = dataclasses.asdict(report)
    table(("form", "views/s"), [(k, f"{v:,.0f}") for k, v in result["views_per_s"].items()])
    out = Path(__file__).parent / "results" / f"gpu_{describe(device).replace(' ', '-')}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    say(f"written to {out}")
    return tests.returncode


if __name__ == "__main__":
    raise SystemExit(main())
