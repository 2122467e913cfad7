"""Runs one side of bench.learning.time_to_knn: trains for a turn, measures kNN, and waits.

    python -m bench.learning.time_to_knn.sides '{"kind": "plain", "lr": 0.03, ...}' < turns > lines

It prints one JSON line after each turn and starts the next turn when it reads a line. Its clock
counts only turns: not the start of Python, the reading of the images, kNN, or the wait, during
which its loading workers are stopped.

kNN with all 45,000 images in the bank takes longer than a turn. So each turn is measured with 5,000
of them, and with all only once that comes near the goal.
"""

from __future__ import annotations

import json

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("side", type=json.loads, help="a JSON object, which time_to_knn gives")

import dataclasses
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import fastmoco.training.build as starting
from bench.learning.time_to_knn.plain_moco import (
    BATCH,
    DIM,
    WEIGHT_DECAY,
    K,
    M,
    T,
    decoded,
    plain_training,
    small_encoder,
)
from bench.shared.cifar_split import HELD_OUT, TRAIN
from data_tools.open import open_store
from fastmoco import draws
from fastmoco.evaluation.knn import CIFAR_DEMO, weighted_knn
from fastmoco.model.dictionaries import Queue
from fastmoco.model.moco import MoCo
from fastmoco.recipe import CIFAR_MEAN, CIFAR_STD, MOCO_CIFAR
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Ended, Event, Progress, Started
from fastmoco.system.device import autocast, pick_precision
from fastmoco.training.train import train

TICKS = os.sysconf("SC_CLK_TCK")
CPU = torch.device("cpu")
FEW = 5000  # images of the small bank
MARGIN = 0.06  # kNN with the small bank is less than this below kNN with all images
# The plain reference's recipe; a side adds its epochs, its rate and its own changes.
SAME = dataclasses.replace(
    MOCO_CIFAR, K=K, m=M, T=T, dim=DIM, batch=BATCH, weight_decay=WEIGHT_DECAY, bn_splits=1,
    schedule_by="step",
)


class Turns:
    """A side's clock, and its measurement after each turn."""

    def __init__(self, work: Path, every: float, goal: float) -> None:
        self.every, self.goal, self.seconds, self.cpu = every, goal, 0.0, 0.0
        stores = [open_store(work / part) for part in (TRAIN, HELD_OUT)]
        mixed = draws.permutation(0, 0, len(stores[0]))  # so that the first FEW are of all classes
        order = mixed, np.arange(len(stores[1]))
        self.images, self.labels = [], []
        for store, ids in zip(stores, order, strict=True):
            self.images.append(decoded(store)[ids])
            self.labels.append(torch.from_numpy(store.labels[ids]))
        self.trunk: nn.Module = nn.Identity()
        self.batch = 0

    def ready(self, trunk: nn.Module, batch: int) -> None:
        """Measure before the first step, then start the clock. `batch`: images per step."""
        self.trunk, self.batch = trunk, batch
        self.say(step=0)
        self._begin()

    def after(self, step: int, over: bool = False) -> None:
        """End the turn if its time is up or the training is over; call it after steps."""
        if not over and time.perf_counter() - self._begun < self.every:
            return
        self.seconds += time.perf_counter() - self._begun
        self.cpu += cpu_seconds() - self._cpu_begun
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGSTOP)
        self.say(step, over)
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGCONT)
        self._begin()

    def say(self, step: int, over: bool = False) -> None:
        """Measure, print the result, and wait for the next turn."""
        queries = self._features(self.images[1])
        bank = self._features(self.images[0][:FEW])
        few = self._knn(bank, queries)
        every = None
        if over or few >= self.goal - MARGIN:
            rest = self._features(self.images[0][FEW:])
            every = self._knn(torch.cat([bank, rest]), queries)
        line = {
            "step": step, "images": step * self.batch, "seconds": self.seconds,
            "cpu_seconds": self.cpu, "knn_few": few, "knn": every, "over": over,
        }
        print(json.dumps(line), flush=True)
        if not sys.stdin.readline():  # the parent process has ended
            os._exit(0)

    def _knn(self, bank: torch.Tensor, queries: torch.Tensor) -> float:
        labels = self.labels[0][: len(bank)]
        found = weighted_knn(bank, labels, queries, self.labels[1], 10, CIFAR_DEMO, CPU)
        return next(iter(found.values()))

    @torch.no_grad()
    def _features(self, images: np.ndarray) -> torch.Tensor:
        mean, std = (torch.tensor(x).view(3, 1, 1) * 255 for x in (CIFAR_MEAN, CIFAR_STD))
        was_training, out = self.trunk.training, []
        self.trunk.eval()
        for part in torch.from_numpy(images).split(512):
            x = (part.permute(0, 3, 1, 2) - mean) / std  # a view, so channels last
            with autocast(CPU, pick_precision("auto", CPU)):
                out.append(F.normalize(self.trunk(x).float(), dim=1))
        self.trunk.train(was_training)
        return torch.cat(out)

    def _begin(self) -> None:
        self._begun, self._cpu_begun = time.perf_counter(), cpu_seconds()


def cpu_seconds() -> float:
    """Return the processor seconds of this process and its workers so far."""
    pids = [os.getpid(), *(p.pid for p in multiprocessing.active_children())]
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(f[11]) + int(f[12]) for f in fields) / TICKS  # utime, stime


def plain(turns: Turns, side: dict[str, Any]) -> None:
    """Train the reference."""
    step = 0
    for step in plain_training(
        turns.images[0], side["lr"], side["epochs"], side["seed"],
        lambda model: turns.ready(model.encoder_q.trunk, BATCH), side["least"],
    ):
        turns.after(step)
    turns.after(step, over=True)


def ours(turns: Turns, side: dict[str, Any], work: Path) -> None:
    """Run fastmoco's train, with the reference's encoder instead of its own."""
    made: list[MoCo] = []

    def build(recipe, samples, device, ranks, pieces) -> MoCo:
        encoder = small_encoder().to(memory_format=torch.channels_last)
        made.append(MoCo(encoder, Queue(recipe.K, recipe.dim), recipe.m, recipe.T))
        return made[0]

    def listen(event: Event) -> None:
        if isinstance(event, Started):
            turns.ready(made[0].encoder_q.trunk, recipe.batch)
        elif isinstance(event, Progress) and event.step != event.steps:
            turns.after(event.step)
        elif isinstance(event, Ended):
            turns.after(event.step, over=True)

    changes = {k: tuple(v) if isinstance(v, list) else v for k, v in side["recipe"].items()}
    views = {k: changes.pop(k) for k in list(changes) if hasattr(SAME.augmentation, k)}
    recipe = dataclasses.replace(
        SAME, **changes, seed=side["seed"],
        augmentation=dataclasses.replace(SAME.augmentation, **views),
    )
    starting.build_moco = build  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as out:
        # force: the reference's K may exceed a small test's number of images
        options = RunOptions(
            out=f"{out}/run", log_every=12, checkpoint_minutes=600, force=True
        )
        train(work / TRAIN, recipe, options, [listen])


def main() -> None:
    """Run the side that the argument describes."""
    side = flags.parse_args().side
    work = Path(side["work"])
    turns = Turns(work, side["every"], side["goal"])
    if side["kind"] == "plain":
        plain(turns, side)
    else:
        ours(turns, side, work)


if __name__ == "__main__":
    finish(main)
