"""Measures kNN accuracy while a run trains."""

from __future__ import annotations

import threading
import time
from typing import cast

import torch

from data_tools.open import open_store
from data_tools.store import Store
from data_tools.subset import Subset
from fastmoco import draws
from fastmoco.evaluation.features import extract
from fastmoco.evaluation.knn import CIFAR_DEMO, weighted_knn
from fastmoco.evaluation.labels import shared_labels
from fastmoco.model.encoder import Encoder
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Evaluated

BANK = 50_000  # images of the memory bank, at most


class _Stopped(Exception):
    pass


class Monitor:
    """kNN on a labelled store (--val), by the official CIFAR demo's protocol on pooled features.

    The memory bank, in which neighbours are searched, is the training set, or BANK images of it. If
    that has no labels, one half of the validation store is the bank of the other.
    """

    def __init__(
        self, store: Store, options: RunOptions, recipe: Recipe, device: torch.device
    ) -> None:
        val: Store = open_store(options.val)
        bank: Store = store
        if len(store.labels) and int(store.labels.min()) < 0:
            bank = Subset(val, draws.permutation(recipe.seed, 0, len(val))[::2])
            val = Subset(val, draws.permutation(recipe.seed, 0, len(val))[1::2])
        elif len(store) > BANK:
            bank = Subset(store, draws.permutation(recipe.seed, 0, len(store))[:BANK])
        self.bank, self.val = bank, val
        self.labels = shared_labels(bank, val)
        self.recipe, self.device, self.threads = recipe, device, options.threads
        self.every = options.val_every or max(1, recipe.epochs // 10)

    def due(self, step: int, per_epoch: int, steps: int) -> bool:
        """Return whether kNN is due after a step: every `every` epochs and at the end."""
        epoch, rest = divmod(step, per_epoch)
        return step == steps or (rest == 0 and epoch % self.every == 0)

    def __call__(
        self, moco: MoCo, step: int, per_epoch: int, stop: threading.Event
    ) -> Evaluated | None:
        """Measure kNN. Returns None if `stop` is set before all features are extracted."""
        started = time.perf_counter()
        bank_labels, labels, classes = self.labels
        encoder = cast(Encoder, moco.encoder_q)

        def tick(_done: int, _total: int) -> None:
            if stop.is_set():
                raise _Stopped

        try:
            bank, queries = (
                # The threads engine for all: figures of one run must come from one decoder.
                extract(encoder, s, self.recipe, self.device, self.threads, tick, "threads")
                for s in (self.bank, self.val)
            )
        except _Stopped:
            return None
        top1 = weighted_knn(
            bank, bank_labels, queries, labels, classes, CIFAR_DEMO, self.device
        )
        k, accuracy = next(iter(top1.items()))
        return Evaluated(
            step, step / per_epoch, accuracy, f"k={k}, T={CIFAR_DEMO.T}, bank {len(bank):,}",
            time.perf_counter() - started,
        )
