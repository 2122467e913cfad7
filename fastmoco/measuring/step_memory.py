"""Predicts the memory of a training step, by running the real step once on tensors without data.

Fake tensors have shapes but no bytes, so that a ResNet-50 at any batch takes seconds. A dispatch
mode counts the live bytes at each moment: as for the allocator, a storage is born with the
operation that makes it and dies with its last reference. No table of layers can be wrong.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastmoco import draws
from fastmoco.augmentation.plain import augment
from fastmoco.draws import Colour
from fastmoco.loading.batch import Prepared
from fastmoco.loading.ring import RING
from fastmoco.model.activation_checkpointing import recompute_blocks
from fastmoco.model.build import build_moco
from fastmoco.model.info_nce import LARGE, LAUNCHED
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.system.device import DTYPES, grad_scaler
from fastmoco.system.hardware import used_memory
from fastmoco.training.step import training_step

CUDA_ITSELF = 700_000_000  # bytes of a context, its libraries and cuDNN's workspaces; assumed
# Bytes per pixel of both views that the compiled augmentation's kernels keep for each other;
# assumed from the 107 bytes that they move (bench/gpu/model.py). Without a compiler the bytes are
# counted.
COMPILED = 48


class Living(TorchDispatchMode):
    """Counts the live bytes of the storages that operations make, by the phase of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.doing = ""
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._known: dict[int, object] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        return out

    def leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """Do not count these tensors: they were there before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = storage  # kept alive, so that no other gets its number

    def see(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor from now on, once however many views share it."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:  # a view, or the result of an operation in place
            return
        doing, size = self.doing, storage.nbytes()

        # Freed bytes leave the phase that allocated them, whichever phase frees them.
        def died(_: weakref.ref) -> None:
            del self._known[key]
            self.now[doing] -= size

        self._known[key] = weakref.ref(storage, died)
        self.now[doing] += size
        if self.now.total() > self.most.total():
            self.most = self.now.copy()


@dataclass(frozen=True)
class Walk:
    """Memory of one step, in bytes."""

    lasting: dict[str, int]
    """Memory that stays between steps: encoders, momentum, keys."""
    peak: dict[str, int]
    """Live memory at the peak, by the phase of the step that allocated it."""
    kept: int
    """Activations that the queries' forward pass of one piece keeps for the backward pass."""


class _InPlace:
    """Stands in for the fused optimizer, which works in place and allocates nothing."""

    def __init__(self, moco: MoCo) -> None:
        self.moco = moco

    def step(self) -> None:
        """Nothing is allocated."""

    def zero_grad(self, set_to_none: bool) -> None:
        """Free the gradients."""
        for p in self.moco.trained():
            p.grad = None


@functools.cache
def walked(recipe: Recipe, samples: int, pieces: int = 1, recomputed: bool = False) -> Walk:
    """Return the result of walk, from a cache if it is known."""
    return walk(recipe, samples, pieces, recomputed)


def walk(
    recipe: Recipe, samples: int, pieces: int = 1, recomputed: bool = False, real: bool = False
) -> Walk:
    """Return the memory of one step of a recipe, whose precision must be settled.

    With real=True the tensors have data: the same count on a real step, for tests.
    """
    device = torch.device("cpu")
    # Built on the meta device, so that the initial weights take neither time nor memory. Then
    # _without_data makes fakes of a CPU of them: a step would refuse meta tensors.
    with contextlib.nullcontext() if real else torch.device("meta"):
        moco = build_moco(recipe, samples, torch.get_default_device(), pieces=pieces)
    with contextlib.nullcontext() if real else FakeTensorMode():
        if not real:
            _without_data(moco)
        if recomputed:
            recompute_blocks(moco)
        trained = sum(p.nbytes for p in moco.trained())
        lasting = {
            "query encoder": _bytes(moco.encoder_q),
            "key encoder": 0 if moco.encoder_k is None else _bytes(moco.encoder_k),
            "momentum of SGD": trained if recipe.momentum > 0 else 0,
            "queue" if recipe.mechanism == "queue" else "memory bank": _bytes(moco.dictionary),
        }
        living = Living()
        living.leave_out([*moco.parameters(), *moco.buffers()])  # they are in `lasting`
        kept = _name_what_is_done(moco, living)
        n, size = recipe.batch, recipe.size
        with living:
            living.doing = "images"
            # As the augmentation leaves them: two views, channels last in memory.
            images = torch.zeros(2, n, size, size, 3, dtype=DTYPES[recipe.precision])
            batch = Prepared(
                images.permute(0, 1, 4, 2, 3), torch.arange(n), torch.arange(n),
                torch.zeros(recipe.K, dtype=torch.int64),
            )
            # With watch: a step before a log line also holds the figures of the log.
            training_step(
                moco, _InPlace(moco), grad_scaler(device, "float32"),  # type: ignore[arg-type]
                batch, recipe, pieces, watch=True,
            )
    return Walk({k: v for k, v in lasting.items() if v}, dict(+living.most), max(kept))


@dataclass(frozen=True)
class Part:
    """A row of an estimate."""

    name: str
    bytes: int
    source: str
    """Source of the number: counted, measured or assumed."""


@dataclass(frozen=True)
class Estimate:
    """Peak memory of a step: of the GPU, or of the process on a CPU."""

    batch: int
    parts: list[Part]
    kept: int
    """Activations that the queries' forward pass keeps for the backward pass, in bytes."""

    @property
    def bytes(self) -> int:
        """Sum of all parts, in bytes."""
        return sum(part.bytes for part in self.parts)

    def with_resident(self, images: int) -> Estimate:
        """Return the estimate with this many bytes of a dataset on the device added."""
        if not images:
            return self
        resident = Part("the dataset's images, resident", images, "counted")
        return replace(self, parts=[*self.parts, resident])


def estimate(
    recipe: Recipe, samples: int, options: RunOptions, device: torch.device
) -> Estimate:
    """Return the memory that training takes on a device, which need not exist here.

    The recipe's precision must be settled.
    """
    found = walked(recipe, samples, options.accumulate, options.activation_checkpointing)
    parts = [Part(name, size, "counted") for name, size in (found.lasting | found.peak).items()]
    pixels = 2 * recipe.batch * recipe.size**2
    parts.append(Part("loader's ring", RING * 3 * pixels, "counted"))
    if device.type == "cpu":
        parts.append(Part("Python, torch and what else is here", used_memory(device), "measured"))
        return Estimate(recipe.batch, parts, found.kept)
    # While one step runs, the next batch waits and one more is being prepared.
    ahead, made = 3 * pixels * DTYPES[recipe.precision].itemsize, "counted"
    if options.augment == "auto" or options.compile:
        peak, made = ahead + COMPILED * pixels, "assumed"
    else:
        peak = max(ahead, augmentation_peak(recipe))
    parts.append(Part("augmentation, two batches ahead", ahead + peak, made))
    negatives = recipe.batch * recipe.K
    if recipe.mechanism != "end-to-end" and negatives >= LARGE:  # the walk counted a CPU's chunks
        parts.append(Part("loss, a chunk of logits", 4 * min(LAUNCHED, negatives), "counted"))
    parts.append(Part("CUDA itself", CUDA_ITSELF, "assumed"))
    return Estimate(recipe.batch, parts, found.kept)


def augmentation_peak(recipe: Recipe) -> int:
    """Return the peak bytes of the plain augmentation without a compiler, its result included."""
    n, size, aug = recipe.batch, recipe.size, recipe.augmentation_at(recipe.size)
    arrays = draws.colour(0, 0, np.arange(n), 2, aug).arrays()
    with FakeTensorMode():
        colour = Colour(**{
            k: torch.empty(a.shape, dtype=torch.from_numpy(a).dtype) for k, a in arrays.items()
        })
        views, living = torch.empty(n, 2, size, size, 3, dtype=torch.uint8), Living()
        living.leave_out([views, *colour.arrays().values()])
        with living:
            augment(views, colour, aug, DTYPES[recipe.precision])
    return living.most.total()


def _name_what_is_done(moco: MoCo, living: Living) -> list[int]:
    """Add hooks that set the phase of the step in `living`. Returns a list that gets the kept bytes
    of each forward pass of the queries."""
    kept: list[int] = []

    def now(what: str) -> None:
        living.doing = what

    def queries_done(module: nn.Module, args: object, out: torch.Tensor) -> None:
        if out.requires_grad:
            # The output's gradient is the first of the backward pass, where its phase begins.
            kept.append(living.now["activations"])
            out.register_hook(lambda _: now("gradients and working space"))
        now("loss")

    moco.encoder_q.register_forward_pre_hook(lambda *_: now("activations"))
    moco.encoder_q.register_forward_hook(queries_done)
    if moco.encoder_k is not None:
        name = "activations" if moco.dictionary.trains_keys else "keys' forward pass"
        moco.encoder_k.register_forward_pre_hook(lambda *_: now(name))
        moco.encoder_k.register_forward_hook(lambda *_: now("loss"))
    return kept


def _without_data(moco: MoCo) -> None:
    """Replace parameters and buffers of the meta device by fake tensors of a CPU."""
    # Into the modules' own tables: a meta parameter does not accept the data of another device.
    for module in moco.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(
                    torch.empty_strided(p.shape, p.stride(), dtype=p.dtype), p.requires_grad
                )
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = torch.empty_strided(b.shape, b.stride(), dtype=b.dtype)


def _bytes(module: nn.Module) -> int:
    return sum(t.nbytes for t in [*module.parameters(), *module.buffers()])
