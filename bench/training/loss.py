"""The streaming InfoNCE against the plain one: time, memory, gradient; where to change over.

    python -m bench.training.loss [--rounds 7] [--out RESULT.json]

Forward and backward at N = 256, K = 65,536, 128 dimensions, rounds interleaved, medians. Memory is
what a process of its own takes at its peak beyond what it took before (its resident set). The grid
gives the size, in logits, from which on the streaming form is the faster: LARGE in
fastmoco/model/info_nce.py. Exit code 1 where a promise is not kept.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from bench.shared.command import Flags, finish
from fastmoco.model.info_nce import LARGE, info_nce_plain, info_nce_streaming
from fastmoco.system.device import pick_device
from fastmoco.system.hardware import describe
from fastmoco.system.streams import synchronize
from fastmoco.system.versions import versions
from fastmoco.terminal.console import progress, say, table

FORMS: dict[str, Callable] = {"plain": info_nce_plain, "streaming": info_nce_streaming}
N, K, C, T = 256, 65536, 128, 0.2
GRID = [(n, k) for n in (32, 256, 1024) for k in (256, 1024, 4096, 16384)]
FASTER, LEANER, ALIKE = 3.0, 0.1, 1e-6  # what is promised


def inputs(n: int, keys: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """q with gradient, k, queue: unit vectors."""
    torch.manual_seed(0)
    q, k, queue = (F.normalize(torch.randn(rows, C, device=device), dim=1) for rows in (n, n, keys))
    return q.requires_grad_(), k, queue


def gradient(form: Callable, q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor) -> torch.Tensor:
    """Forward and backward: dL/dq."""
    loss, _ = form(q, k, queue, T)
    return torch.autograd.grad(loss, q)[0]


def rates(
    n: int, keys: int, rounds: int, device: torch.device, repeat: int = 1
) -> dict[str, list[float]]:
    """Seconds of each form in each round, interleaved."""
    given = inputs(n, keys, device)
    found: dict[str, list[float]] = {name: [] for name in FORMS}
    for number in range(rounds + 1):
        for name, form in FORMS.items():
            synchronize(device)
            begun = time.perf_counter()
            for _ in range(repeat):
                gradient(form, *given)
            synchronize(device)
            if number > 0:  # the first round allocates
                found[name].append((time.perf_counter() - begun) / repeat)
    return found


def peak(name: str) -> int:
    """Bytes of a form at its peak beyond its inputs, in a process of its own."""
    code = f"from bench.training.loss import own_peak; print(own_peak({name!r}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(out.stdout)


def own_peak(name: str) -> int:
    """The same, of this process: its first large call, after small ones have loaded everything."""
    device = torch.device("cpu")
    for _ in range(3):
        gradient(FORMS[name], *inputs(N, 8, device))
    given = inputs(N, K, device)
    before = most_resident()
    gradient(FORMS[name], *given)
    return most_resident() - before


def most_resident() -> int:
    """Bytes of this process in memory at the most so far (getrusage's figure is inherited)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def change_over(grid: list[dict]) -> int:
    """The least number of logits from which on the streaming form is faster by a tenth or more."""
    sizes = sorted({row["logits"] for row in grid})
    good = [s for s in sizes if all(r["times"] >= 1.1 for r in grid if r["logits"] >= s)]
    return min(good, default=0)


def main() -> int:
    """Measure, print; exit 1 where a promise is not kept."""
    parser = Flags(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args()
    device = pick_device(args.device)
    with progress("measuring", "sizes") as tick:
        seconds = rates(N, K, args.rounds, device)
        grid = []
        for i, (n, keys) in enumerate(GRID):
            each = rates(n, keys, args.rounds, device, max(1, 2**22 // (n * keys)))
            times = statistics.median(
                p / s for p, s in zip(each["plain"], each["streaming"], strict=True)
            )
            grid.append({"N": n, "K": keys, "logits": n * keys, "times": times})
            tick(i + 1, len(GRID))
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    faster = middle["plain"] / middle["streaming"]
    memory = {name: peak(name) for name in FORMS}
    plain, streaming = (gradient(form, *inputs(N, K, device)) for form in FORMS.values())
    apart = float((plain - streaming).norm() / plain.norm())
    say(f"N {N}, K {K:,}, {C} dimensions, forward and backward, on {describe(device)}")
    table(
        ("form", "ms", "least", "most", "peak MB"),
        [(name, *(f"{1e3 * f(seconds[name]):.1f}" for f in (statistics.median, min, max)),
          f"{memory[name] / 1e6:,.1f}") for name in FORMS],
    )
    rows = [(f"{r['N']} x {r['K']:,}", f"{r['logits']:,}", f"{r['times']:.2f}") for r in grid]
    table(("N x K", "logits", "streaming is x times as fast"), rows)
    say(f"a tenth faster from {change_over(grid):,} logits on; LARGE is {LARGE:,}")
    share = memory["streaming"] / memory["plain"]
    kept = [
        (f"{faster:.2f} times as fast ({FASTER:g} promised)", faster >= FASTER),
        (f"{share:.1%} of the memory ({LEANER:.0%} promised)", share <= LEANER),
        (f"gradients {apart:.1e} apart, relative ({ALIKE:.0e} promised)", apart <= ALIKE),
    ]
    for line, good in kept:
        say(f"{'kept' if good else 'NOT KEPT'}: {line}")
    if args.out:
        content = {
            "N": N, "K": K, "C": C, "T": T, "seconds": seconds, "peak_bytes": memory,
            "gradient_apart": apart, "grid": grid, "large": LARGE,
            "promises": [{"line": line, "kept": good} for line, good in kept],
            "machine": describe(device), **versions(),
        }  # fmt: skip
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(good for _, good in kept) else 1


if __name__ == "__main__":
    finish(main)
