"""Figures on the distribution of features over the unit sphere, for fastmoco.runs.health."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def geometry(q: torch.Tensor, k: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return three figures on queries q and their positive keys k, each [N, C], on the device.

    alignment (2005.10242): mean of |q - k|^2 over positives; 0 is best, 2 is unrelated.
    uniformity (2005.10242): log of the mean of exp(-2 |q_i - q_j|^2) over pairs; -4 is spread out,
    0 collapsed. feature_std: standard deviation, averaged over dimensions, times sqrt(C); 1 is
    spread out, 0 collapsed.
    """
    n = q.shape[0]
    near = torch.exp(4 * (q @ q.T) - 4)  # |q_i - q_j|^2 = 2 - 2 q_i q_j
    return {
        "alignment": (q - k).square().sum(dim=1).mean() if k is not None else q.new_zeros(()),
        "uniformity": ((near.sum() - n) / (n * (n - 1))).log(),
        "feature_std": q.std(dim=0).mean() * q.shape[1] ** 0.5,
    }


def unit(x: torch.Tensor) -> torch.Tensor:
    """Normalise rows [N, C] to length 1, in float32 or wider also under autocast."""
    return F.normalize(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, dim=1)
