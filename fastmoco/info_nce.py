"""The InfoNCE loss (1807.03748; equation 1 of 1911.05722) in its plain form."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def info_nce(
    q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, T: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (mean, []) and pretext accuracy (share of positives above all negatives, []).

    q, k: [N, C] unit vectors, k the positive of q; queue: [K, C] negatives. Computed in the
    dtype given, also under autocast: logits over T in bfloat16 would lose the small differences.
    """
    with torch.autocast(q.device.type, enabled=False):
        l_pos = (q * k).sum(dim=1, keepdim=True)  # [N, 1]
        l_neg = q @ queue.T  # [N, K]
        logits = torch.cat([l_pos, l_neg], dim=1) / T  # [N, 1+K]
        labels = torch.zeros(q.shape[0], dtype=torch.int64, device=q.device)
        accuracy = (l_pos[:, 0] > l_neg.amax(dim=1)).float().mean()
        return F.cross_entropy(logits, labels), accuracy
