"""Models the augmentation on a GPU: counts launches and bytes per batch, and predicts the time.

    python -m bench.gpu.model [--out RESULT.json]

Nothing here runs on a GPU, so every millisecond is a prediction and not a measurement. Eager forms
run on the CPU under a mode that counts every op as one launch, with the bytes of its tensors.
Inductor lowers the compiled forms for CUDA, on fake tensors, up to its scheduler's fusion. Each
remaining node is a launch, and its bytes are what it reads and writes once (Inductor's own count,
which assumes that a loop's second read comes from the cache). The predicted time is the larger of
two: the bytes at four fifths of the memory's peak bandwidth, and 4 us per launch.
"""

from __future__ import annotations

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_out()

import contextlib
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

from bench.shared.results import write_json
from fastmoco import draws
from fastmoco.augmentation.gpu import augment_fast
from fastmoco.augmentation.plain import augment
from fastmoco.draws import Colour
from fastmoco.recipe import MOCO_V2
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table

BATCH, SIZE = 256, 224
LAUNCH = 4e-6  # seconds of the host per kernel of eager torch
REACHED = 0.8  # share of the peak bandwidth
# Peak memory bandwidth in bytes/s, from the makers' data sheets.
CARDS = {"H100 SXM": 3.35e12, "A100 40 GB": 1.555e12, "RTX 3070 8 GB": 448e9, "T4": 320e9}
AUG = MOCO_V2.augmentation


@dataclass(frozen=True)
class Count:
    """The cost of one batch."""

    form: str
    launches: int
    bytes: int

    def seconds(self, bandwidth: float) -> float:
        """Return the larger of the memory's time and the host's."""
        return max(self.bytes / (REACHED * bandwidth), self.launches * LAUNCH)


def inputs(batch: int, size: int) -> tuple[torch.Tensor, Colour]:
    """Return uint8 views [batch, 2, S, S, 3] of zeros, and draws of the v2 augmentation."""
    c = draws.colour(0, 0, np.arange(batch), 2, AUG)
    tensors = {k: torch.from_numpy(v) for k, v in c.arrays().items()}
    rows = torch.from_numpy(draws.blur_rows(c.sigma, AUG.blur_p))
    views = torch.zeros(batch, 2, size, size, 3, dtype=torch.uint8)
    return views, Colour(**tensors, blur_rows=rows)


class Counting(TorchDispatchMode):
    """Counts the ops that touch memory, and the bytes of their tensors; views cost nothing."""

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
    """Count on small views and scale up, since almost all bytes grow with the pixels.

    The batch is the real one: the share of rows that the blur gets depends on it.
    """
    views, colour = inputs(batch, size)
    with Counting() as counted:
        form(views, colour, AUG, torch.bfloat16)
    per_pixel = counted.bytes / (batch * size * size)
    return Count(name, counted.launches, round(per_pixel * BATCH * SIZE * SIZE))


@contextlib.contextmanager
def as_if_cuda() -> Iterator[None]:
    """Answer Inductor's questions about the card with an H100's numbers."""
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
    """Lower a form for a CUDA device, fuse and count it; no kernel is built."""
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
    """Return the count of every form, for a batch of BATCH images at SIZE."""
    return [
        eager(augment, "plain, eager"),
        eager(augment_fast, "fast, eager"),
        compiled(augment, "plain, compiled"),
        compiled(augment_fast, "fast, compiled"),
    ]


def main() -> int:
    """Count, predict, print."""
    args = flags.parse_args()
    found = counts()
    pixels = 2 * BATCH * SIZE * SIZE
    say(f"v2 augmentation of {BATCH} images, two views at {SIZE}, to bfloat16; predictions")
    heads = ("form", "launches", "bytes per pixel", *(f"{card}, ms" for card in CARDS))
    rows = [
        (c.form, str(c.launches), f"{c.bytes / pixels:,.0f}",
         *(f"{c.seconds(b) * 1e3:.2f}" for b in CARDS.values()))
        for c in found
    ]
    table(heads, rows)
    least = 3 + 6  # bytes per pixel: uint8 in, bfloat16 out
    say(f"assumed: {REACHED:.0%} of each card's bandwidth; the views and the images themselves are "
        f"{least * pixels / found[-1].bytes:.0%} of the bytes of {found[-1].form}")
    if args.out:
        write_json(args.out, {
            "batch": BATCH, "size": SIZE, "predicted": True,
            "counts": [{"form": c.form, "launches": c.launches, "bytes": c.bytes,
                        "predicted_ms": {card: round(c.seconds(b) * 1e3, 3)
                                         for card, b in CARDS.items()}} for c in found],
            **versions(),
        })  # fmt: skip
    return 0


if __name__ == "__main__":
    finish(main)
