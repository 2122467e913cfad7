"""Features of a store's images: one forward pass of the trunk on the centred view of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco.augment import centre_view
from fastmoco.checkpoint import Checkpoint
from fastmoco.device import autocast
from fastmoco.encoder import Encoder, build_encoder
from fastmoco.engines.threads import ThreadsEngine
from fastmoco.loader import EvalLoader
from fastmoco.recipe import Recipe

Tick = Callable[[int, int], None]  # (done, total)


class Subset:
    """Some samples of a store, as a store: ids [n] in the order given."""

    def __init__(self, store: Store, ids: np.ndarray) -> None:
        self.ids = np.asarray(ids, dtype=np.int64)
        self.path, self.classes, self.fingerprint = store.path, store.classes, store.fingerprint
        self.sizes, self.labels, self.kinds = (
            store.sizes[self.ids], store.labels[self.ids], store.kinds[self.ids]
        )
        self.lengths, self.data = store.lengths[self.ids], store.data
        self._store = store

    def __len__(self) -> int:
        return len(self.ids)

    def encoded(self, i: int) -> np.ndarray:
        return self._store.encoded(int(self.ids[i]))

    def key(self, i: int) -> str:
        return self._store.key(int(self.ids[i]))

    def places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._store.places(self.ids[ids])


@torch.no_grad()
def extract(
    encoder: Encoder,
    store: Store,
    recipe: Recipe,
    device: torch.device,
    threads: int = 0,
    tick: Tick | None = None,
) -> torch.Tensor:
    """Pooled trunk outputs, float32 [N, width] on the device, of length 1, in the store's order.

    The trunk runs in evaluation mode (running BatchNorm statistics) and is left as it was.
    """
    was_training = encoder.training
    encoder.eval()
    engine = ThreadsEngine(store, threads)
    try:
        out = torch.empty(len(store), encoder.width, device=device)
        done = 0
        for batch in EvalLoader(store, recipe, engine, device):
            images = centre_view(batch.views, recipe.augmentation, torch.float32)
            with autocast(device, recipe.precision):
                features = encoder.trunk(images)
            out[done : done + len(features)] = F.normalize(features.float(), dim=1)
            done += len(features)
            if tick is not None:
                tick(done, len(store))
        return out
    finally:
        engine.close()
        encoder.train(was_training)


def raw_pixels(
    store: Store, recipe: Recipe, centre: torch.Tensor | None = None, threads: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """What an encoder must beat: pixels of the 32 x 32 centred view, less their mean, of length 1.

    Returns float32 [N, 3072] and the mean [3072]; give the training set's mean for the other set.
    """
    small = Recipe(size=32, eval_crop=recipe.eval_crop, augmentation=recipe.augmentation)
    engine = ThreadsEngine(store, threads)
    try:
        parts = [
            batch.views[:, 0].flatten(1).float() / 255
            for batch in EvalLoader(store, small, engine, torch.device("cpu"))
        ]
    finally:
        engine.close()
    pixels = torch.cat(parts)
    centre = pixels.mean(dim=0) if centre is None else centre
    pixels -= centre
    return F.normalize(pixels, dim=1, out=pixels), centre


def load_encoder(checkpoint: Checkpoint, device: torch.device) -> Encoder:
    """The query encoder of a checkpoint, ready for extract; where other systems' checkpoints have
    no head (fastmoco.interop), its head is an untrained one."""
    encoder = build_encoder(checkpoint.recipe)
    prefix = "encoder_q."
    state = {k[len(prefix) :]: v for k, v in checkpoint.moco.items() if k.startswith(prefix)}
    encoder.load_state_dict(dict(encoder.state_dict()) | state)
    return encoder.to(device).eval()


def initial_encoder(recipe: Recipe, device: torch.device) -> Encoder:
    """The query encoder of a recipe before its first step."""
    torch.manual_seed(recipe.seed)
    return build_encoder(recipe).to(device)


def shared_labels(train: Store, val: Store) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Labels of both stores by class name, int64, and the number of classes.

    Raises UserError where either is unlabelled or val has a class that train lacks.
    """
    for store in (train, val):
        if len(store) == 0 or int(store.labels.min()) < 0:
            raise UserError(f"{store.path}: has images without a label; kNN needs class folders")
    if train.classes and val.classes:
        strange = [name for name in val.classes if name not in set(train.classes)]
        if strange:
            raise UserError(f"{val.path}: class {strange[0]!r} is not in {train.path}")
        place = np.array([train.classes.index(name) for name in val.classes])
        val_labels = place[val.labels]
    else:
        val_labels = val.labels
    count = int(max(train.labels.max(), val_labels.max())) + 1
    return torch.from_numpy(train.labels.copy()), torch.from_numpy(val_labels.copy()), count
