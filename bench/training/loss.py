"""Compares the streaming InfoNCE with the plain one: time, memory, gradient, and the turning point.

    python -m bench.training.loss [--rounds 7] [--out RESULT.json]

Measures forward and backward at N = 256, K = 65,536 and 128 dimensions in interleaved rounds;
medians count. Memory is the peak of a fresh process (its resident set) above what it held before
the call. A grid of sizes shows from how many logits on the streaming form is faster: LARGE in
fastmoco/model/info_nce.py. Exits with 1 if a promise is not kept.
"""

from __future__ import annotations

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_rounds(7)
    flags.add_argument("--device", default="cpu", help="device to measure on [default: cpu]")
    flags.add_out()

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from bench.shared.promises import Promise, in_json, verdict
from bench.shared.results import write_json
from bench.shared.rounds import alternate, ratio, spread
from fastmoco.model.info_nce import LARGE, info_nce_plain, info_nce_streaming
from fastmoco.system.device import pick_device
from fastmoco.system.hardware import describe
from fastmoco.system.streams import synchronize
from fastmoco.system.versions import versions
from fastmoco.terminal.console import progress, say, table

FORMS: dict[str, Callable] = {"plain": info_nce_plain, "streaming": info_nce_streaming}
N, K, C, T = 256, 65536, 128, 0.2
GRID = [(n, k) for n in (32, 256, 1024) for k in (256, 1024, 4096, 16384)]
FASTER, LEANER, ALIKE = 3.0, 0.1, 1e-6  # promised: speed-up, share of memory, distance


def inputs(n: int, keys: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return q [n, C] with gradient, k [n, C] and the queue [keys, C], all unit vectors."""
    torch.manual_seed(0)
    q, k, queue = (F.normalize(torch.randn(rows, C, device=device), dim=1) for rows in (n, n, keys))
    return q.requires_grad_(), k, queue


def gradient(form: Callable, q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor) -> torch.Tensor:
    """Run forward and backward; return dL/dq [N, C]."""
    loss, _ = form(q, k, queue, T)
    return torch.autograd.grad(loss, q)[0]


def rates(
    n: int, keys: int, rounds: int, device: torch.device, repeat: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of each form in each interleaved round: means of `repeat` calls."""
    given = inputs(n, keys, device)

    def seconds(form: Callable) -> float:
        synchronize(device)
        started = time.perf_counter()
        for _ in range(repeat):
            gradient(form, *given)
        synchronize(device)
        return (time.perf_counter() - started) / repeat

    found = alternate({name: partial(seconds, form) for name, form in FORMS.items()}, rounds + 1,
                      quiet=True)
    return {name: each[1:] for name, each in found.items()}  # the first round allocates


def peak(name: str) -> int:
    """Return the bytes of a form at its peak beyond its inputs, in a fresh process."""
    code = f"from bench.training.loss import own_peak; print(own_peak({name!r}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(out.stdout)


def own_peak(name: str) -> int:
    """Return peak() of this process: its first large call, after small ones loaded all code."""
    device = torch.device("cpu")
    for _ in range(3):
        gradient(FORMS[name], *inputs(N, 8, device))
    given = inputs(N, K, device)
    before = most_resident()
    gradient(FORMS[name], *given)
    return most_resident() - before


def most_resident() -> int:
    """Return this process's peak resident bytes. A child inherits getrusage's peak, not VmHWM."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def change_over(grid: list[dict]) -> int:
    """Return the number of logits from which on streaming is at least 1.1 times as fast."""
    sizes = sorted({row["logits"] for row in grid})
    good = [s for s in sizes if all(r["times"] >= 1.1 for r in grid if r["logits"] >= s)]
    return min(good, default=0)


def main() -> int:
    """Measure, print; return 1 if a promise is not kept."""
    args = flags.parse_args()
    device = pick_device(args.device)
    with progress("measuring", "sizes") as tick:
        seconds = rates(N, K, args.rounds, device)
        grid = []
        for i, (n, keys) in enumerate(GRID):
            each = rates(n, keys, args.rounds, device, max(1, 2**22 // (n * keys)))
            times = ratio(each["plain"], each["streaming"])
            grid.append({"N": n, "K": keys, "logits": n * keys, "times": times})
            tick(i + 1, len(GRID))
    faster = spread(seconds["plain"])[0] / spread(seconds["streaming"])[0]
    memory = {name: peak(name) for name in FORMS}
    plain, streaming = (gradient(form, *inputs(N, K, device)) for form in FORMS.values())
    apart = float((plain - streaming).norm() / plain.norm())
    say(f"N {N}, K {K:,}, {C} dimensions, forward and backward, on {describe(device)}")
    table(
        ("form", "ms", "least", "most", "peak MB"),
        [(name, *(f"{1e3 * x:.1f}" for x in spread(seconds[name])),
          f"{memory[name] / 1e6:,.1f}") for name in FORMS],
    )
    rows = [(f"{r['N']} x {r['K']:,}", f"{r['logits']:,}", f"{r['times']:.2f}") for r in grid]
    table(("N x K", "logits", "streaming is x times as fast"), rows)
    say(f"at least 1.1 times as fast from {change_over(grid):,} logits on; LARGE is {LARGE:,}")
    share = memory["streaming"] / memory["plain"]
    promises: list[Promise] = [
        (f"{faster:.2f} times as fast ({FASTER:g} promised)", faster >= FASTER),
        (f"{share:.1%} of the memory ({LEANER:.0%} promised)", share <= LEANER),
        (f"gradients {apart:.1e} apart, relative ({ALIKE:.0e} promised)", apart <= ALIKE),
    ]
    if args.out:
        write_json(args.out, {
            "N": N, "K": K, "C": C, "T": T, "seconds": seconds, "peak_bytes": memory,
            "gradient_apart": apart, "grid": grid, "large": LARGE,
            "promises": in_json(promises), "machine": describe(device), **versions(),
        })  # fmt: skip
    return verdict(promises)


if __name__ == "__main__":
    finish(main)
