"""One training step, and the record of those that went wrong. Nothing in it waits for the device.

A loss, key or gradient that is not finite moves no trained weight: the fused optimizer's own flag
for overflow skips the step on the device, BatchNorm's running statistics are put back, and the ids
of the batch stay in a ring until the next log line. Momentum and dictionary go on as after any
step: the key encoder nears the query encoder, and the keys that are finite are enqueued.
"""

from __future__ import annotations

import contextlib

import torch

from fastmoco.loading.batch import Batch, Prepared
from fastmoco.model.geometry import geometry
from fastmoco.model.moco import MoCo, Out, added
from fastmoco.recipe import Precision, Recipe
from fastmoco.system.device import autocast


def training_step(
    moco: MoCo,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    im_q: torch.Tensor,
    im_k: torch.Tensor,
    batch: Batch | Prepared,
    recipe: Recipe,
    pieces: int = 1,
    watch: bool = False,
) -> Out:
    """One step on two views [N, 3, S, S] of this rank's part of the batch, in so many pieces.

    Pieces accumulate gradients: all keys first, then queries and their gradients a piece at a
    time, one step of the optimizer, one enqueue; BatchNorm's parts are then parts of the pieces.
    stats["skipped"] is 1 where the step was skipped; with watch, stats also hold what
    fastmoco.runs.health looks at.
    """
    moco.begin_step()
    shuffle = batch.shuffle if recipe.bn_splits > 1 else None  # one part: nothing to deal
    precision = (im_q.device, recipe.precision)
    before = _flat(moco.statistics)
    if pieces == 1:
        with autocast(*precision):
            out = moco(im_q, im_k, batch.index, shuffle, batch.drawn)
        scaler.scale(out.loss).backward()
        outs = [out]
    else:
        outs = _in_pieces(moco, scaler, im_q, im_k, batch, shuffle, precision, pieces)
        out = _joined(outs)
    out.stats.update(loss=out.loss.detach(), pretext_accuracy=out.accuracy)
    if watch:
        out.stats.update(_mean([geometry(o.q, o.k) for o in outs]))
    finite = out.loss.isfinite() & out.q.isfinite().all() & out.keys.isfinite().all()
    gradients = [p.grad for p in moco.trained() if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(gradients)).norm()
    if watch:
        out.stats["grad_norm"] = norm / scaler.scale(torch.ones_like(norm))
    if not scaler.is_enabled():  # the scaler overflows by design, finds it and skips by itself
        finite &= norm.isfinite()
    bad = moco.ranks.any_(1 - finite.float())
    out.stats["skipped"] = bad
    if not scaler.is_enabled():
        optimizer.found_inf = bad  # type: ignore[attr-defined]
    _put_back(moco.statistics, before, bad)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    moco.update(out)
    return out


def _flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors]) if tensors else torch.empty(0)


def _put_back(statistics: list[torch.Tensor], before: torch.Tensor, bad: torch.Tensor) -> None:
    """BatchNorm's running statistics as they were `before`, where `bad` is 1: one image that is
    not finite would be in them for good. A few launches for all layers together."""
    if statistics:
        kept = torch.where(bad > 0, before, _flat(statistics))
        parts = kept.split([s.numel() for s in statistics])
        views = [part.view_as(s) for part, s in zip(parts, statistics, strict=True)]
        torch._foreach_copy_(statistics, views)


def _in_pieces(
    moco: MoCo, scaler: torch.amp.GradScaler, im_q: torch.Tensor, im_k: torch.Tensor,
    batch: Batch | Prepared, shuffle: torch.Tensor | None,
    precision: tuple[torch.device, Precision], pieces: int,
) -> list[Out]:
    """Forward and backward passes of one piece of the batch after the other. All keys are encoded
    before, because a piece's queries see the whole batch's."""
    with autocast(*precision):
        keys = moco.encode_keys(im_k, shuffle, pieces)
        keys_of_q = moco.encode_keys(im_q, shuffle, pieces) if moco.symmetric else None
    n = im_q.shape[0] // pieces
    outs = []
    for i in range(pieces):
        rows = slice(i * n, (i + 1) * n)
        index = batch.index[rows]
        # Gradients are exchanged between ranks once, with the last piece.
        later = moco.gradients_stay() if i < pieces - 1 else contextlib.nullcontext()
        with later:
            with autocast(*precision):
                here = None if keys is None else keys.rows(i * n, n)
                out = moco.contrast(im_q[rows], here, index, batch.drawn)
                if keys_of_q is not None:
                    there = keys_of_q.rows(i * n, n)
                    out = added(out, moco.contrast(im_k[rows], there, index, batch.drawn))
            scaler.scale(out.loss / pieces).backward()
        outs.append(out)
    return outs


def _joined(outs: list[Out]) -> Out:
    """The pieces of a batch as one. Every piece has the keys of the whole batch."""
    last = outs[-1]
    index = None if last.index is None else torch.cat([o.index for o in outs])  # type: ignore
    return Out(
        torch.stack([o.loss.detach() for o in outs]).mean(),
        torch.stack([o.accuracy for o in outs]).mean(),
        torch.cat([o.q for o in outs]), None, last.keys, index,
    )


def _mean(stats: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([s[name] for s in stats]).mean() for name in stats[0]}
