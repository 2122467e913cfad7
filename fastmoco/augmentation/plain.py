"""The v1 and v2 augmentations after the crop, as plain torch: the reference for every faster form.

Pure functions of (views, draws): nothing is drawn here, nothing waits for the device, and every
view has its own factors and its own order of ops. The formulas are torchvision's (functional
adjust_* on tensors): blends clamped to [0, 1], hue as a turn in HSV, and PIL's blur.

The colour planes r, g, b are separate tensors [N, S, S] until the last line, which writes
channels-last images. So the whole batch is never permuted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fastmoco.draws import CONTRAST, HUE, SATURATION, Colour
from fastmoco.recipe import Augmentation

Planes = list[torch.Tensor]  # r, g, b: each [N, S, S], 0..1


def augment(
    views: torch.Tensor,
    colour: Colour,
    aug: Augmentation,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Augment uint8 views [B, V, S, S, 3] to normalised images [V, B, 3, S, S], channels last.

    colour holds the draws, tensors [B, V, ...] on the device of the views; dtype is the result's.

    Source: moco/loader.py and main_moco.py of facebookresearch/moco (2003.04297 for v2).
    """
    planes = [views[..., i].transpose(0, 1).flatten(0, 1).float() / 255 for i in range(3)]
    c = Colour(**{k: t.transpose(0, 1).flatten(0, 1) for k, t in colour.arrays().items()})
    if aug.gray_first:
        planes = _select(c.gray, [_gray(planes)] * 3, planes)
    planes = _jitter(planes, c)
    if not aug.gray_first:
        planes = _select(c.gray, [_gray(planes)] * 3, planes)
    if aug.blur_p > 0:
        planes = [blur(p, c.taps) for p in planes]
    planes = _select(c.flip, [p.flip(-1) for p in planes], planes)
    return normalise(planes, aug, dtype).unflatten(0, (views.shape[1], views.shape[0]))


def normalise(planes: Planes, aug: Augmentation, dtype: torch.dtype) -> torch.Tensor:
    """Normalise planes in 0..1 by the mean and deviation to channels-last images [N, 3, S, S]."""
    scaled = [
        ((p - m) / s).to(dtype) for p, m, s in zip(planes, aug.mean, aug.std, strict=True)
    ]
    return torch.stack(scaled, dim=-1).permute(0, 3, 1, 2)


def centre_view(views: torch.Tensor, aug: Augmentation, dtype: torch.dtype) -> torch.Tensor:
    """Normalise uint8 views [B, 1, S, S, 3] of an evaluation to images [B, 3, S, S]."""
    return normalise([views[:, 0, ..., i].float() / 255 for i in range(3)], aug, dtype)


def _per_image(x: torch.Tensor) -> torch.Tensor:
    return x[..., None, None]


def _select(mask: torch.Tensor, yes: Planes, no: Planes) -> Planes:
    return [torch.where(_per_image(mask), y, n) for y, n in zip(yes, no, strict=True)]


def _gray(planes: Planes) -> torch.Tensor:
    r, g, b = planes
    return 0.299 * r + 0.587 * g + 0.114 * b


def _jitter(planes: Planes, c: Colour) -> Planes:
    """Apply the four ops in each image's own order: blends before its hue, hue, blends after it.

    Every image runs the same instructions: an op that is not due gets factor 1, which changes
    nothing.
    """
    factors = torch.stack([c.brightness, c.contrast, c.saturation, c.hue], dim=1)  # [N, 4]
    order = c.order.long()  # [N, 4]
    hue_place = (order == HUE).long().argmax(dim=1)
    ordered = factors.gather(1, order)
    for j in (0, 1, 2):
        planes = _blend(planes, order[:, j], ordered[:, j], c.jitter & (j < hue_place))
    planes = turn_hue(planes, torch.where(c.jitter, c.hue, 0.0))
    for j in (1, 2, 3):
        planes = _blend(planes, order[:, j], ordered[:, j], c.jitter & (j > hue_place))
    return planes


def _blend(planes: Planes, op: torch.Tensor, factor: torch.Tensor, due: torch.Tensor) -> Planes:
    """clamp(f x + (1 - f) y). The op [N] decides y: black (brightness), the mean grey (contrast),
    or each pixel's grey (saturation)."""
    f = _per_image(torch.where(due, factor, 1.0))
    gray = _gray(planes)
    mean = gray.mean(dim=(1, 2), keepdim=True)
    flat = torch.where(_per_image(op == CONTRAST), mean, torch.zeros_like(mean))
    towards = torch.where(_per_image(op == SATURATION), gray, flat)
    return [(f * p + (1 - f) * towards).clamp(0, 1) for p in planes]


def turn_hue(planes: Planes, turns: torch.Tensor) -> Planes:
    """Shift the hue in HSV by turns [N] (-0.5..0.5), as torchvision's adjust_hue does."""
    r, g, b = planes
    high, low = torch.maximum(torch.maximum(r, g), b), torch.minimum(torch.minimum(r, g), b)
    chroma = high - low
    safe = torch.where(chroma == 0, 1.0, chroma)
    sextant = torch.where(
        high == r, (g - b) / safe, torch.where(high == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )
    # hexcone formula: channel n of HSV is V - C * clamp(min(k, 4 - k), 0, 1), k = (n + 6 H) mod 6
    sextant = sextant + 6 * _per_image(turns)

    def channel(n: int) -> torch.Tensor:
        k = torch.remainder(n + sextant, 6)
        return high - chroma * torch.minimum(k, 4 - k).clamp(0, 1)

    return [channel(5), channel(3), channel(1)]


def blur(plane: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Convolve each image [N, S, S] with its own symmetric kernel [N, t] along both axes; edges are
    repeated."""
    n, size, _ = plane.shape
    t = taps.shape[1]
    for axis in (1, 2):
        pad = (0, 0, t // 2, t // 2) if axis == 1 else (t // 2, t // 2, 0, 0)
        padded = F.pad(plane[:, None], pad, mode="replicate")[:, 0]
        parts = [padded.narrow(axis, i, size) * _per_image(taps[:, i]) for i in range(t)]
        plane = sum(parts[1:], start=parts[0])
    return plane
