"""The one file that knows that BatchNorm leaks (1911.05722 section 3.3).

Statistics of a batch tell a query which key is its own: training looks good and learns little.
The official code shuffles the keys over GPUs. On one device the batch is split instead: every
part has its own statistics, and the keys are dealt to the parts in another order than the queries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class SplitBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over `splits` equal parts of the batch, each with its own statistics.

    Input [N, C, H, W], N a multiple of splits, in training; a slice of a channels-last batch is
    itself channels last, so the memory format survives (the usual view to [N/S, S C, H, W] does
    not allow it). Running statistics are the mean over the parts; evaluation is plain BatchNorm.
    """

    def __init__(self, num_features: int, splits: int = 1) -> None:
        super().__init__(num_features)
        self.splits = splits
        self.again = False
        """The batch was here before (model.activation_checkpointing): running statistics stay."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or (self.splits == 1 and not self.again):
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        means = self.running_mean.repeat(self.splits, 1)
        variances = self.running_var.repeat(self.splits, 1)
        parts = [
            F.batch_norm(
                part, mean, variance, self.weight, self.bias, True, self.momentum, self.eps
            )
            for part, mean, variance in zip(
                x.chunk(self.splits), means.unbind(), variances.unbind(), strict=True
            )
        ]
        if not self.again:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.copy_(means.mean(0))
                self.running_var.copy_(variances.mean(0))
        return torch.cat(parts)


def deal(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Put row order[i] at place i, [N, ...]: the shuffle before the key encoder.

    Images keep channels last, which index_select on [N, C, H, W] would lose.
    """
    if x.dim() == 4:
        return x.permute(0, 2, 3, 1).index_select(0, order).permute(0, 3, 1, 2)
    return x.index_select(0, order)


def undeal(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """The inverse of deal."""
    return torch.empty_like(x).index_copy_(0, order, x)
