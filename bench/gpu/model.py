"""A counted model of the augmentation on a GPU: launches and bytes a batch, and what they predict.

    python -m bench.gpu.model [--out RESULT.json]

Nothing here runs on a GPU. Eager forms run on the CPU under a mode that counts every op as one
launch, with the bytes of its tensors. Compiled forms are lowered by Inductor for CUDA, on fake
tensors, as far as its scheduler fuses: each node left is a launch, its bytes are what it reads and
writes once (Inductor's own count: what a loop reads again is taken to come from the cache). Time is
the longer of the bytes over four fifths of the memory's peak bandwidth, and 4 us a launch.
Every millisecond below is a prediction, not a measurement.
"""

from __future__ import annotations

import contextlib
import json
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch._dynamo.utils import counters
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from bench.shared.command import Flags, finish
from fastmoco import draws
from fastmoco.augmentation.gpu import augment_fast
from fastmoco.augmentation.plain import augment
from fastmoco.draws import Colour
from fastmoco.recipe import MOCO_V2
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table

BATCH, SIZE = 256, 224
LAUNCH = 4e-6  # seconds of the host for one kernel of eager torch
REACHED = 0.8  # of the peak bandwidth
# Peak memory bandwidth, bytes/s (the makers' data sheets), and streaming multiprocessors.
CARDS = {"H100 SXM": 3.35e12, "A100 40 GB": 1.555e12, "RTX 3070 8 GB": 448e9, "T4": 320e9}
AUG = MOCO_V2.augmentation


@dataclass(frozen=True)
class Count:
    """What one batch costs."""

    form: str
    launches: int
    bytes: int

    def seconds(self, bandwidth: float) -> float:
        """The longer of the memory's time and the host's."""
        return max(self.bytes / (REACHED * bandwidth), self.launches * LAUNCH)


def inputs(batch: int, size: int) -> tuple[torch.Tensor, Colour]:
    """Views and draws of the v2 augmentation."""
    c = draws.colour(0, 0, np.arange(batch), 2, AUG)
    tensors = {k: torch.from_numpy(v) for k, v in c.arrays().items()}
    rows = torch.from_numpy(draws.blur_rows(c.sigma, AUG.blur_p))
    views = torch.zeros(batch, 2, size, size, 3, dtype=torch.uint8)
    return views, Colour(**tensors, blur_rows=rows)


class Counting(TorchDispatchMode):
    """Counts ops that touch memory, and the bytes of their tensors; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given, made = (
            [t for t in torch.utils._pytree.tree_leaves(x) if isinstance(t, torch.Tensor)]
            for x in ((args, kwargs), out)
        )
        is_view = any(m.data_ptr() == g.data_ptr() for m in made for g in given)
        if made and (not is_view or func.overloadpacket.__name__.endswith("_")):
            self.launches += 1
            self.bytes += sum(t.numel() * t.element_size() for t in [*given, *made])
        return out


def eager(form: Callable, name: str, batch: int = BATCH, size: int = 64) -> Count:
    """Counted on small views; all but a few bytes grow with the pixels. The batch is the real one:
    the share of rows that are kept for the blur depends on it."""
    views, colour = inputs(batch, size)
    with Counting() as counted:
        form(views, colour, AUG, torch.bfloat16)
    per_pixel = counted.bytes / (batch * size * size)
    return Count(name, counted.launches, round(per_pixel * BATCH * SIZE * SIZE))


@contextlib.contextmanager
def as_if_cuda() -> Iterator[None]:
    """Inductor asks the card for a few numbers; an H100's are given."""
    card = types.SimpleNamespace(
        major=9, minor=0, name="H100", multi_processor_count=132, total_memory=80 << 30,
        regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, warp_size=32,
        shared_memory_per_block_optin=232448, L2_cache_size=50 << 20, gcnArchName="",
    )
    hints = DeviceProperties(
        type="cuda", index=0, multi_processor_count=132, cc=90, major=9,
        regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048,
        max_threads_per_block=1024, warp_size=32,
    )
    answers = {
        "get_device_properties": lambda device=None: card,
        "get_device_capability": lambda device=None: (9, 0),
        "current_device": lambda: 0, "device_count": lambda: 1, "_lazy_init": lambda: None,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        create = classmethod(lambda cls, device: hints)
        stack.enter_context(mock.patch.object(DeviceProperties, "create", create))
        stack.enter_context(mock.patch("torch._inductor.scheduler.has_triton", lambda: True))
        yield


def compiled(form: Callable, name: str, batch: int = BATCH, size: int = SIZE) -> Count:
    """Lowered for a CUDA device, fused, and counted; no kernel is built."""
    views, colour = inputs(batch, 8)
    names, tensors = list(colour.arrays()), list(colour.arrays().values())
    with as_if_cuda(), FakeTensorMode() as mode, torch.device("cuda"):
        fakes = [torch.empty(batch, 2, size, size, 3, dtype=torch.uint8, device="cuda")]
        fakes += [torch.empty(t.shape, dtype=t.dtype, device="cuda")
                  for t in (colour.blur_rows, *tensors)]

        def run(views: torch.Tensor, rows: torch.Tensor, *drawn: torch.Tensor) -> torch.Tensor:
            given = Colour(**dict(zip(names, drawn, strict=True)), blur_rows=rows)
            return form(views, given, AUG, torch.bfloat16)

        traced = make_fx(run, decomposition_table=select_decomp_table())(*fakes)
        post_grad_passes(traced, is_inference=True)
        graph = GraphLowering(traced, example_inputs=fakes)
        with V.set_graph_handler(graph), V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
            graph.run(*fakes)
            graph.init_wrapper_code()
            graph._update_scheduler()
            total, _, _ = graph.count_bytes()
            launches = len(graph.scheduler.nodes)
    counters.clear()
    return Count(name, launches, int(total))


def counts() -> list[Count]:
    """Every form, for a batch of BATCH images at SIZE."""
    return [
        eager(augment, "plain, eager"),
        eager(augment_fast, "fast, eager"),
        compiled(augment, "plain, compiled"),
        compiled(augment_fast, "fast, compiled"),
    ]


def main() -> int:
    """Count, predict, print."""
    parser = Flags(__doc__)
    parser.add_argument("--out", type=Path, help="write the counts as JSON")
    args = parser.parse_args()
    found = counts()
    pixels = 2 * BATCH * SIZE * SIZE
    say(f"v2 augmentation of {BATCH} images, two views at {SIZE}, to bfloat16; predictions")
    heads = ("form", "launches", "bytes a pixel", *(f"{card}, ms" for card in CARDS))
    rows = [
        (c.form, str(c.launches), f"{c.bytes / pixels:,.0f}",
         *(f"{c.seconds(b) * 1e3:.2f}" for b in CARDS.values()))
        for c in found
    ]
    table(heads, rows)
    least = 3 + 6  # bytes a pixel: uint8 in, bfloat16 out
    say(f"assumed: {REACHED:.0%} of each card's bandwidth; of the bytes of {found[-1].form}, "
        f"{least * pixels / found[-1].bytes:.0%} are the views and the images themselves")
    if args.out:
        content = {
            "batch": BATCH, "size": SIZE, "predicted": True,
            "counts": [{"form": c.form, "launches": c.launches, "bytes": c.bytes,
                        "predicted_ms": {card: round(c.seconds(b) * 1e3, 3)
                                         for card, b in CARDS.items()}} for c in found],
            **versions(),
        }  # fmt: skip
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    finish(main)
