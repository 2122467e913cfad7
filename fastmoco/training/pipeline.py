"""From the dataset to batches that a step can take: engine, loader and augmentation of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from data_tools.machine import cores
from data_tools.store import Store
from fastmoco.augmentation.choose import augmentation
from fastmoco.loading.batch import Batch, Prepared
from fastmoco.loading.engines.registry import Opened, open_engine
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.system.device import DTYPES
from fastmoco.system.streams import one_ahead
from fastmoco.training.machine import Machine
from fastmoco.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class Pipeline:
    """Loads and augments the batches of a run."""

    recipe: Recipe
    device: torch.device
    opened: Opened
    loader: TrainLoader
    augment: Callable[..., torch.Tensor]
    form: str
    """Name of the augmentation's form, such as numba."""
    note: str | None
    """Reason why the augmentation is not compiled, if it should be."""

    def epoch(self, number: int, first_step: int, size: int) -> Iterator[Prepared]:
        """Yield the augmented batches of an epoch from first_step on, with views of `size` pixels.

        On a GPU each batch is prepared on a side stream while the step before it runs.
        """
        augmentation, dtype = self.recipe.augmentation_at(size), DTYPES[self.recipe.precision]

        # The augmentation belongs to the preparation, so that it too runs beside the step before.
        def prepare(batch: Batch) -> Prepared:
            return batch.prepared(self.augment(batch.views, batch.colour, augmentation, dtype))

        return one_ahead(self.loader.epoch(number, first_step, size), prepare, self.device)

    def close(self) -> None:
        """Stop the engine's threads."""
        self.opened.engine.close()

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Close the pipeline if the block fails: nobody else has it yet."""
        try:
            yield
        except BaseException:
            self.close()
            raise


def open_pipeline(
    store: Store, recipe: Recipe, machine: Machine, options: RunOptions, saved: Checkpoint | None
) -> Pipeline:
    """Open the engine, the loader and the augmentation. Raises UserError if one cannot work."""
    opened = _open_engine(store, machine, options, saved)
    loader = TrainLoader(store, recipe, opened.engine, machine.device, machine.ranks)
    augment, form, note = augmentation(options, machine.device)
    return Pipeline(recipe, machine.device, opened, loader, augment, form, note)


def _open_engine(
    store: Store, machine: Machine, options: RunOptions, saved: Checkpoint | None
) -> Opened:
    """Open one engine for all ranks: with `auto` the one that rank 0 finds fastest. A resumed run
    takes the engine of its checkpoint, because another decoder gives other bits."""
    device, ranks = machine.device, machine.ranks
    wanted: str = options.engine
    if saved is not None and wanted == "auto":
        wanted = saved.versions.get("engine", wanted)
    # The ranks of a machine share its cores.
    threads = options.threads or max(1, cores() // ranks.here)
    # Rank 0 tries the engines alone: trials on all ranks at once would slow each other down.
    opened = open_engine(wanted, store, threads, device) if machine.first else None
    wanted = ranks.share(wanted if opened is None else opened.name)
    return opened or open_engine(wanted, store, threads, device)
