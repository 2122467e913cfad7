"""One training step. Nothing in it makes the host wait for the device.

A step whose loss, keys or gradients are not finite is skipped on the device: the fused optimizer
reads a flag and moves no weight, and BatchNorm's running statistics are put back. The momentum
update and the dictionary go on as after any step: the key encoder moves towards the query encoder,
and the finite keys are enqueued. training.bad_steps keeps the sample ids of skipped steps until
the next log line.
"""

from __future__ import annotations

import contextlib

import torch

from fastmoco.loading.batch import Prepared
from fastmoco.model.geometry import geometry
from fastmoco.model.moco import MoCo, Out, added
from fastmoco.recipe import Recipe
from fastmoco.system.device import autocast


def training_step(
    moco: MoCo,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: Prepared,
    recipe: Recipe,
    pieces: int = 1,
    watch: bool = False,
) -> Out:
    """Take one step on the two views batch.images [2, N, 3, S, S] of this rank's part of the batch.

    With several pieces the gradients are accumulated: all keys first, then the queries and their
    gradients piece by piece, then one optimizer step and one enqueue. BatchNorm's parts are then
    parts of the pieces. stats["skipped"] is 1 if the step was skipped. With watch, stats also
    contain the figures that fastmoco.runs.health reads.
    """
    moco.begin_step()
    before = _flat(moco.statistics)
    if pieces == 1:
        with autocast(batch.images.device, recipe.precision):
            im_q, im_k = batch.images
            out = moco(im_q, im_k, batch.index, _shuffle(batch, recipe), batch.drawn)
        scaler.scale(out.loss).backward()
        outs = [out]
    else:
        outs = _in_pieces(moco, scaler, batch, recipe, pieces)
        out = _joined(outs)
    out.stats.update(loss=out.loss.detach(), pretext_accuracy=out.accuracy)
    if watch:
        out.stats.update(_mean([geometry(o.q, o.k) for o in outs]))
    finite = out.loss.isfinite() & out.q.isfinite().all() & out.keys.isfinite().all()
    gradients = [p.grad for p in moco.trained() if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(gradients)).norm()
    if watch:
        out.stats["grad_norm"] = norm / scaler.scale(torch.ones_like(norm))
    # float16's scaler makes gradients overflow on purpose, finds them and skips the step itself.
    if not scaler.is_enabled():
        finite &= norm.isfinite()
    # All ranks skip or none: else their weights would differ from here on.
    bad = moco.ranks.any_(1 - finite.float())
    out.stats["skipped"] = bad
    if not scaler.is_enabled():
        # The fused optimizer reads this flag on the device. An `if` here would wait for it.
        optimizer.found_inf = bad  # type: ignore[attr-defined]
    _put_back(moco.statistics, before, bad)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    moco.update(out)
    return out


def _shuffle(batch: Prepared, recipe: Recipe) -> torch.Tensor | None:
    # With a single part all keys share their statistics: there is nothing to shuffle.
    return batch.shuffle if recipe.bn_splits > 1 else None


def _flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors]) if tensors else torch.empty(0)


def _put_back(statistics: list[torch.Tensor], before: torch.Tensor, bad: torch.Tensor) -> None:
    """Restore BatchNorm's running statistics to `before` if `bad` is 1.

    A single image that is not finite would stay in these running means for ever. One tensor for
    all layers keeps this at a few launches per step.
    """
    if statistics:
        kept = torch.where(bad > 0, before, _flat(statistics))
        parts = kept.split([s.numel() for s in statistics])
        views = [part.view_as(s) for part, s in zip(parts, statistics, strict=True)]
        torch._foreach_copy_(statistics, views)


def _in_pieces(
    moco: MoCo, scaler: torch.amp.GradScaler, batch: Prepared, recipe: Recipe, pieces: int
) -> list[Out]:
    """Run forward and backward passes piece by piece."""
    im_q, im_k = batch.images
    shuffle = _shuffle(batch, recipe)
    # All keys are encoded first, because the queries of each piece see the keys of the whole batch.
    with autocast(im_q.device, recipe.precision):
        keys = moco.encode_keys(im_k, shuffle, pieces)
        keys_of_q = moco.encode_keys(im_q, shuffle, pieces) if moco.symmetric else None
    n = im_q.shape[0] // pieces
    outs = []
    for i in range(pieces):
        rows = slice(i * n, (i + 1) * n)
        index = batch.index[rows]
        # The ranks exchange gradients once, with the last piece.
        later = moco.gradients_stay() if i < pieces - 1 else contextlib.nullcontext()
        with later:
            with autocast(im_q.device, recipe.precision):
                here = None if keys is None else keys.rows(i * n, n)
                out = moco.contrast(im_q[rows], here, index, batch.drawn)
                if keys_of_q is not None:
                    there = keys_of_q.rows(i * n, n)
                    out = added(out, moco.contrast(im_k[rows], there, index, batch.drawn))
            # The loss is a mean over the batch, and gradients add up: each piece counts 1/pieces.
            scaler.scale(out.loss / pieces).backward()
        outs.append(out)
    return outs


def _joined(outs: list[Out]) -> Out:
    """Return the pieces of a batch as one result. Each piece has the keys of the whole batch."""
    last = outs[-1]
    index = None if last.index is None else torch.cat([o.index for o in outs])  # type: ignore
    return Out(
        torch.stack([o.loss.detach() for o in outs]).mean(),
        torch.stack([o.accuracy for o in outs]).mean(),
        torch.cat([o.q for o in outs]), None, last.keys, index,
    )


def _mean(stats: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([s[name] for s in stats]).mean() for name in stats[0]}
