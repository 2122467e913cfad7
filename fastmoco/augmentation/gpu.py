"""The augmentation for GPUs: few passes over the pixels, and blur only for the images that drew it.

A fast form of fastmoco.augmentation.plain, which a test compares with it; it can be removed. It is
plain torch, written for torch.compile: one reduction for contrast's mean (the statistics pass), one
pointwise pass from uint8 to planes, two passes of blur over the rows that drew one, and a pass that
normalises.

Every image runs the same instructions, in its own order of ops: an op that is not due gets a factor
that changes nothing. The host knows which rows are blurred, so nothing waits for the device.
bench/gpu/model.py counts the kernels that Inductor generates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from fastmoco.augmentation.plain import Planes, turn_hue
from fastmoco.draws import CONTRAST, HUE, SATURATION, Colour
from fastmoco.recipe import Augmentation


class Slots(NamedTuple):
    """The colour ops of each view, tensors [..., 1, 1], in the order that it drew: up to three
    blends, the turn of the hue, up to three more blends. A blend that is not due has factor 1."""

    factor: list[torch.Tensor]  # six blends, of which at most three are due
    to_mean: list[torch.Tensor]  # bool: this blend is contrast
    to_gray: list[torch.Tensor]  # bool: this blend is saturation
    due: list[torch.Tensor]  # bool: comes before contrast (for the statistics pass)
    hue: torch.Tensor  # in turns, -0.5..0.5
    hue_due: torch.Tensor  # bool: comes before contrast


def augment_fast(
    views: torch.Tensor,
    colour: Colour,
    aug: Augmentation,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Augment uint8 views [B, V, S, S, 3] to images [V, B, 3, S, S]; see plain.augment.

    colour.blur_rows lists the images to blur; if it is None, all are convolved, as in the plain
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
    """Mean grey of each view at the moment when contrast is due: float32 [...] for pixels [..., S,
    S, 3]. A pass of its own: it applies the ops before contrast, and keeps only the mean."""
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
    """Apply all ops except the blur to pixels [..., S, S, 3]; return planes in 0..1.

    The flip comes first here, to save a pass: flipping commutes with the colour ops and with the
    symmetric blur.
    """
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
    """Convert uint8 pixels to planes in 0..1, flip the views that drew it, and turn views grey if
    grey comes first (v1)."""
    flip = c["flip"][..., None, None]
    planes = []
    for i in range(3):
        plane = pixels[..., i]
        planes.append(torch.where(flip, plane.flip(-1), plane).float() / 255)
    return _grayed(planes, c) if aug.gray_first else planes


def in_order(c: dict[str, torch.Tensor]) -> Slots:
    """Sort the drawn factors into slots by each view's order of ops."""
    factors = torch.stack([c["brightness"], c["contrast"], c["saturation"], c["hue"]], dim=-1)
    order = c["order"].long()
    ordered = factors.gather(-1, order)
    hue_place = (order == HUE).long().argmax(dim=-1)
    contrast_place = (order == CONTRAST).long().argmax(dim=-1)
    factor, to_mean, to_gray, due = [], [], [], []
    # The hue is at one of the places 0 to 3. Blends before it are at places 0 to 2, blends after it
    # at 1 to 3.
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
    """clamp(f x + (1 - f) y): y is black (brightness), the mean grey `level` (contrast), or each
    pixel's grey (saturation)."""
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
    """Convolve images [N, S, S], or only the given rows [R] of them, each with its own symmetric
    kernel [R, t] along both axes; edges are repeated.

    Uses clamped indices instead of padding: compiled, each pass reads one plane and writes one.
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
    """Normalise planes [..., S, S] by the mean and deviation to channels-last images
    [..., 3, S, S]."""
    scaled = [
        ((p - m) / s).to(dtype) for p, m, s in zip(planes, aug.mean, aug.std, strict=True)
    ]
    return torch.stack(scaled, dim=-1).movedim(-1, -3)
