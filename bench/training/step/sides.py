"""The sides of bench.training.step: our step, the official way, lightly's example, and `train`.

Each side is a function that takes a number of steps and returns images/s.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from data_tools.store import Store
from fastmoco.loading.engines.registry import open_engine
from fastmoco.loading.ring import RING
from fastmoco.measuring.stages import Stages
from fastmoco.model.encoder import build_encoder
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Event, Progress
from fastmoco.system.device import DTYPES, pick_device
from fastmoco.terminal.console import say
from fastmoco.training.train import train

CPU = pick_device("cpu")
WORKERS, PREFETCHED = 2, 2  # of lightly's DataLoader; the second is torch's default
Side = Callable[[int], float]
"""Takes a number of steps, returns images/s."""


class Official(nn.Module):
    """The model of facebookresearch/moco's moco/builder.py, on one device."""

    queue: torch.Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.r = recipe
        self.encoder_q = build_encoder(recipe, 1).to(memory_format=torch.contiguous_format)
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(recipe.dim, recipe.K), dim=0))
        self.place = 0

    def forward(self, im_q: torch.Tensor, im_k: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, 1+K]."""
        q = F.normalize(self.encoder_q(im_q), dim=1)
        with torch.no_grad():
            pairs = zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True)
            for param_q, param_k in pairs:
                param_k.data = param_k.data * self.r.m + param_q.data * (1.0 - self.r.m)
            k = F.normalize(self.encoder_k(im_k), dim=1)
        l_pos = torch.einsum("nc,nc->n", [q, k]).unsqueeze(-1)
        l_neg = torch.einsum("nc,ck->nk", [q, self.queue.clone().detach()])
        logits = torch.cat([l_pos, l_neg], dim=1) / self.r.T
        self.queue[:, self.place : self.place + len(k)] = k.T
        self.place = (self.place + len(k)) % self.r.K
        return logits


def official(recipe: Recipe) -> Side:
    """Return the official training step on images in memory."""
    model = Official(recipe)
    optimizer = torch.optim.SGD(
        model.encoder_q.parameters(), recipe.lr, momentum=recipe.momentum,
        weight_decay=recipe.weight_decay, foreach=False,
    )
    im_q, im_k = torch.randn(2, recipe.batch, 3, recipe.size, recipe.size)

    def step() -> None:
        logits = model(im_q, im_k)
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        (logits.argmax(1) == 0).float().mean().item()  # the official meters read it
        loss.item()

    step()  # the first step allocates
    return in_steps(step, recipe.batch)


def flops_an_image(recipe: Recipe) -> float:
    """Return a training step's floating-point operations per image, the same for every side."""
    model, n = Official(recipe), 2
    images = torch.randn(2, n, 3, recipe.size, recipe.size)
    with FlopCounterMode(display=False) as counter:
        logits = model(*images)
        F.cross_entropy(logits, torch.zeros(n, dtype=torch.long)).backward()
    return counter.get_total_flops() / n


def product_rate(precision: str, side: int = 2048, rounds: int = 5) -> float:
    """Return the FLOP/s of large matrix products, which no convolution exceeds."""
    x = torch.randn(side, side, dtype=DTYPES[precision])
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        x @ x
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(seconds)


def in_steps(
    step: Callable[[], object], batch: int, before: Callable[[], object] = lambda: None
) -> Side:
    """Return a side that calls `before`, then times all steps together."""

    def side(count: int) -> float:
        before()
        started = time.perf_counter()
        for _ in range(count):
            step()
        return count * batch / (time.perf_counter() - started)

    return side


def ours(recipe: Recipe, store: Store, close: contextlib.ExitStack) -> tuple[Side, Side, Side]:
    """Return our step on images, on uint8 views, and from the store's encoded images."""
    engine, _, _ = open_engine("threads", store, 0, CPU)
    close.callback(engine.close)
    stages = Stages(store, recipe, RunOptions(device="cpu"), CPU, engine)
    stages.warm_up()
    alone = in_steps(lambda: stages.step(stages.ready), recipe.batch)
    bare = in_steps(lambda: stages.step(stages.prepare(stages.fixed)), recipe.batch)
    batches = stages.batches()

    def whole() -> None:
        batch = next(batches)
        stages.step(stages.prepare(batch))

    return alone, bare, in_steps(whole, recipe.batch, lambda: skip(batches, RING))


def skip(batches: Iterator, count: int) -> None:
    """Drop batches that were loaded before the clock started."""
    for _ in range(count):
        next(batches)


def lightly(recipe: Recipe, folder: Path) -> Side | None:
    """Return lightly's examples/pytorch/moco.py with our trunk; None if lightly is missing."""
    try:
        from lightly.data import LightlyDataset
    except ImportError:
        say("no lightly here: left out (pip install 'lightly>=1.5')")
        return None
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.transforms import MoCoV2Transform
    from lightly.utils.scheduler import cosine_schedule

    encoder = build_encoder(recipe, 1)
    backbone = encoder.trunk.to(memory_format=torch.contiguous_format)
    head = MoCoProjectionHead(encoder.width, encoder.width, recipe.dim)
    backbone_k, head_k = copy.deepcopy(backbone), copy.deepcopy(head)
    for momentum_net in (backbone_k, head_k):
        deactivate_requires_grad(momentum_net)
    criterion = NTXentLoss(temperature=recipe.T, memory_bank_size=(recipe.K, recipe.dim))
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=recipe.lr)
    # the example leaves out the blur for tiny images; our recipe has none either
    transform = MoCoV2Transform(input_size=recipe.size, gaussian_blur=0.0)
    loader = torch.utils.data.DataLoader(
        LightlyDataset(str(folder), transform=transform), recipe.batch, shuffle=True,
        drop_last=True, num_workers=WORKERS, prefetch_factor=PREFETCHED,
        persistent_workers=True, multiprocessing_context="spawn",
    )

    def endless() -> Iterator:
        while True:
            yield from loader

    batches, count = endless(), itertools.count()

    def step() -> None:
        x_q, x_k = next(batches)[0]
        m = cosine_schedule(next(count) % 1000, 1000, 0.996, 1)
        update_momentum(backbone, backbone_k, m=m)
        update_momentum(head, head_k, m=m)
        query = head(backbone(x_q).flatten(start_dim=1))
        with torch.no_grad():
            key = head_k(backbone_k(x_k).flatten(start_dim=1))
        loss = criterion(query, key.detach())
        loss.detach().item()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return in_steps(step, recipe.batch, lambda: skip(batches, WORKERS * PREFETCHED))


def trained(recipe: Recipe, data: Path, engine: str, waits: list[float]) -> Side:
    """Return `fastmoco train` as a side: the rate of its second log line, the later half."""

    def side(count: int) -> float:
        events: list[Progress] = []

        def listen(event: Event) -> None:
            if isinstance(event, Progress):
                events.append(event)

        with tempfile.TemporaryDirectory() as run:
            options = RunOptions(
                device="cpu", engine=engine, log_every=count, out=run + "/run", force=True,  # type: ignore[arg-type]
            )
            train(data, dataclasses.replace(recipe, epochs=1), options, [listen])
        waits.append(events[1].data_wait)
        return events[1].images_per_s

    return side


def unpack(store: Store, ids: range, folder: Path) -> None:
    """Write images of a store as files, by class."""
    for i in ids:
        (folder / str(store.labels[i])).mkdir(parents=True, exist_ok=True)
        (folder / str(store.labels[i]) / f"{i}.jpg").write_bytes(bytes(store.encoded(i)))
