"""The augmentation for GPUs: few passes over the pixels, blur only where it was drawn.

A removable fast form of fastmoco.augmentation.plain (a test holds the two to each other), still
plain torch, meant for torch.compile: a reduction for contrast's mean (the statistics pass), a
pointwise pass from uint8 to planes, two passes of taps over the rows that drew a blur, and one that
normalises.
What is due when is a factor an image, so every image runs the same instructions, in its own order;
which rows blur is known on the host, so nothing waits. bench/gpu/model.py counts what Inductor
makes of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from fastmoco.augmentation.plain import Planes, turn_hue
from fastmoco.draws import CONTRAST, HUE, SATURATION, Colour
from fastmoco.recipe import Augmentation


class Slots(NamedTuple):
    """The colour ops of views [..., 1, 1] in their own order: up to three blends before the hue's
    turn, the turn, up to three after it. A blend that is not due has factor 1."""

    factor: list[torch.Tensor]  # six of them
    to_mean: list[torch.Tensor]  # bool: contrast
    to_gray: list[torch.Tensor]  # bool: saturation
    due: list[torch.Tensor]  # bool: before contrast's turn (for the statistics pass)
    hue: torch.Tensor
    hue_due: torch.Tensor


def augment_fast(
    views: torch.Tensor,
    colour: Colour,
    aug: Augmentation,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """uint8 views [B, V, S, S, 3] to images [V, B, 3, S, S]; see fastmoco.augmentation.plain.

    colour.blur_rows says which images draw a blur; without it all are convolved, as by the plain
    form.
    """
    pixels = views.transpose(0, 1)
    c = {name: t.transpose(0, 1) for name, t in colour.arrays().items()}
    planes = coloured(pixels, c, contrast_mean(pixels, c, aug), aug)
    if aug.blur_p > 0:
        rows, lead = colour.blur_rows, pixels.shape[:2]
        flat = [plane.flatten(0, 1) for plane in planes]
        taps = c["taps"].flatten(0, 1)
        if rows is None or len(rows) == len(taps):
            flat = [blurred(plane, taps) for plane in flat]
        else:
            soft = [blurred(plane, taps[rows], rows) for plane in flat]
            flat = [plane.index_put((rows,), s) for plane, s in zip(flat, soft, strict=True)]
        planes = [plane.unflatten(0, lead) for plane in flat]
    return normalised(planes, aug, dtype)


def contrast_mean(
    pixels: torch.Tensor, c: dict[str, torch.Tensor], aug: Augmentation
) -> torch.Tensor:
    """The mean grey of each view when contrast's turn comes: float32 [...] for pixels
    [..., S, S, 3]."""
    slots = in_order(c)
    planes = loaded(pixels, c, aug)
    for j in range(3):
        planes = _blend(planes, slots, j, torch.where(slots.due[j], slots.factor[j], 1.0), None)
    planes = turn_hue(planes, torch.where(slots.hue_due, slots.hue, 0.0)[..., 0, 0])
    for j in range(3, 6):
        planes = _blend(planes, slots, j, torch.where(slots.due[j], slots.factor[j], 1.0), None)
    return _gray(planes).mean(dim=(-2, -1))


def coloured(
    pixels: torch.Tensor, c: dict[str, torch.Tensor], mean: torch.Tensor, aug: Augmentation
) -> Planes:
    """Pixels [..., S, S, 3] to planes 0..1 with all but the blur done, and flipped already:
    a mirror image has the same colours, and its blur is the blur's mirror image."""
    slots = in_order(c)
    planes = loaded(pixels, c, aug)
    level = mean[..., None, None]
    for j in range(3):
        planes = _blend(planes, slots, j, slots.factor[j], level)
    planes = turn_hue(planes, slots.hue[..., 0, 0])
    for j in range(3, 6):
        planes = _blend(planes, slots, j, slots.factor[j], level)
    if not aug.gray_first:
        planes = _grayed(planes, c)
    return planes


def loaded(pixels: torch.Tensor, c: dict[str, torch.Tensor], aug: Augmentation) -> Planes:
    """uint8 to planes 0..1, flipped where that was drawn, grey where grey comes first."""
    flip = c["flip"][..., None, None]
    planes = []
    for i in range(3):
        plane = pixels[..., i]
        planes.append(torch.where(flip, plane.flip(-1), plane).float() / 255)
    return _grayed(planes, c) if aug.gray_first else planes


def in_order(c: dict[str, torch.Tensor]) -> Slots:
    """The draws as slots."""
    factors = torch.stack([c["brightness"], c["contrast"], c["saturation"], c["hue"]], dim=-1)
    order = c["order"].long()
    ordered = factors.gather(-1, order)
    hue_place = (order == HUE).long().argmax(dim=-1)
    contrast_place = (order == CONTRAST).long().argmax(dim=-1)
    factor, to_mean, to_gray, due = [], [], [], []
    for slot, j in enumerate((0, 1, 2, 1, 2, 3)):
        op = order[..., j]
        mine = c["jitter"] & ((j < hue_place) if slot < 3 else (j > hue_place))
        factor.append(torch.where(mine, ordered[..., j], 1.0)[..., None, None])
        to_mean.append((op == CONTRAST)[..., None, None])
        to_gray.append((op == SATURATION)[..., None, None])
        due.append((j < contrast_place)[..., None, None])
    hue = torch.where(c["jitter"], c["hue"], 0.0)[..., None, None]
    return Slots(factor, to_mean, to_gray, due, hue, (hue_place < contrast_place)[..., None, None])


def _blend(
    planes: Planes, slots: Slots, j: int, factor: torch.Tensor, level: torch.Tensor | None
) -> Planes:
    """clamp(f x + (1 - f) y): y is black, the mean grey, or each pixel's grey."""
    towards = torch.where(slots.to_gray[j], _gray(planes), 0.0)
    if level is not None:
        towards = torch.where(slots.to_mean[j], level, towards)
    rest = (1 - factor) * towards
    return [(factor * p + rest).clamp(0, 1) for p in planes]


def _gray(planes: Planes) -> torch.Tensor:
    r, g, b = planes
    return 0.299 * r + 0.587 * g + 0.114 * b


def _grayed(planes: Planes, c: dict[str, torch.Tensor]) -> Planes:
    gray, due = _gray(planes), c["gray"][..., None, None]
    return [torch.where(due, gray, p) for p in planes]


def blurred(
    plane: torch.Tensor, taps: torch.Tensor, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """Images [N, S, S], or only these rows [R] of them, each with its own symmetric kernel
    [R, t] along both axes, edges extended.

    By clamped indices: compiled, a pass reads its plane and writes one; nothing is padded or
    gathered before.
    """
    size, half = plane.shape[-1], taps.shape[1] // 2
    place = torch.arange(size, device=plane.device)
    weight = [taps[:, half + t, None, None] for t in range(half + 1)]

    def down(t: int) -> torch.Tensor:
        line = (place + t).clamp(0, size - 1)
        return plane.index_select(1, line) if rows is None else plane[rows[:, None], line]

    total = weight[0] * down(0)
    for t in range(1, half + 1):
        total = total + weight[t] * (down(-t) + down(t))
    soft = weight[0] * total
    for t in range(1, half + 1):
        left, right = ((place + step).clamp(0, size - 1) for step in (-t, t))
        soft = soft + weight[t] * (total.index_select(2, left) + total.index_select(2, right))
    return soft


def normalised(planes: Planes, aug: Augmentation, dtype: torch.dtype) -> torch.Tensor:
    """Planes [..., S, S] to images [..., 3, S, S], channels last, of mean 0 and deviation 1."""
    scaled = [
        ((p - m) / s).to(dtype) for p, m, s in zip(planes, aug.mean, aug.std, strict=True)
    ]
    return torch.stack(scaled, dim=-1).movedim(-1, -3)
