"""How features spread over the sphere: figures for health."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def geometry(q: torch.Tensor, k: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """How the queries [N, C] lie (2005.10242): alignment, the mean of |q - k|^2 over positives (0
    is best, 2 unrelated); uniformity, log of the mean of exp(-2 |q_i - q_j|^2) over pairs (-4 is
    spread out, 0 collapsed); feature_std, the mean over dimensions of their deviation, times
    sqrt(C) (1 is spread out, 0 collapsed). Each [], on the device."""
    n = q.shape[0]
    near = torch.exp(4 * (q @ q.T) - 4)  # |q_i - q_j|^2 = 2 - 2 q_i q_j
    return {
        "alignment": (q - k).square().sum(dim=1).mean() if k is not None else q.new_zeros(()),
        "uniformity": ((near.sum() - n) / (n * (n - 1))).log(),
        "feature_std": q.std(dim=0).mean() * q.shape[1] ** 0.5,
    }


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, [N, C], in float32 or wider whatever the encoder computed in."""
    return F.normalize(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, dim=1)
