"""The augmentation by Kornia's functional ops, on the same draws.

Kornia's own containers draw one order per call and wait for the device. Here its functional ops run
on our draws instead, each on the rows that are due. Selecting rows also waits for the device, so
this form is for comparison and for users who want Kornia's numerics, not for speed. Its blur is a
true Gaussian with 13 taps and repeated edges, not PIL's box approximation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from kornia import color, enhance, filters

from fastmoco.augmentation.plain import normalise
from fastmoco.draws import Colour
from fastmoco.recipe import Augmentation


def augment_kornia(
    views: torch.Tensor,
    colour: Colour,
    aug: Augmentation,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Augment uint8 views [B, V, S, S, 3] to normalised images [V, B, 3, S, S]; see
    plain.augment."""
    x = views.transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    c = Colour(**{k: t.transpose(0, 1).flatten(0, 1) for k, t in colour.arrays().items()})
    if aug.gray_first:
        x = _on(x, c.gray, _gray)
    ops = (
        (enhance.adjust_brightness_accumulative, c.brightness, 1.0),
        (enhance.adjust_contrast_with_mean_subtraction, c.contrast, 1.0),
        (enhance.adjust_saturation_with_gray_subtraction, c.saturation, 1.0),
        (enhance.adjust_hue, c.hue, 2 * torch.pi),  # kornia counts hue in radians
    )
    for place in range(4):
        for op, (function, factor, unit) in enumerate(ops):
            rows = c.jitter & (c.order[:, place] == op)
            x = _on(x, rows, lambda y, f=function, k=factor[rows] * unit: f(y, k))
    if not aug.gray_first:
        x = _on(x, c.gray, _gray)
    blurred = c.sigma > 0
    sigma = c.sigma[blurred][:, None].expand(-1, 2)
    size = c.taps.shape[1]
    x = _on(x, blurred, lambda y: filters.gaussian_blur2d(y, size, sigma, "replicate"))
    x = torch.where(c.flip[:, None, None, None], x.flip(-1), x)
    return normalise(list(x.unbind(1)), aug, dtype).unflatten(
        0, (views.shape[1], views.shape[0])
    )


def _on(
    x: torch.Tensor, rows: torch.Tensor, function: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """Apply a function to the rows that a mask selects; the others stay."""
    if not bool(rows.any()):
        return x
    out = x.clone()
    out[rows] = function(x[rows])
    return out


def _gray(x: torch.Tensor) -> torch.Tensor:
    return color.rgb_to_grayscale(x).expand_as(x)
