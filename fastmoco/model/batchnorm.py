"""Split BatchNorm and shuffled keys, because BatchNorm leaks (1911.05722, section 3.3).

The statistics of a batch reveal to a query which key is its own: training looks good and learns
little. The official code shuffles the keys over GPUs. On one device the batch is split instead:
each part has its own statistics, and the keys go to the parts in another order than the queries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class SplitBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over `splits` equal parts of the batch, each with its own statistics.

    Input and output are [N, C, H, W]; in training N is a multiple of splits. Running statistics are
    the mean over the parts; evaluation is plain BatchNorm.
    """

    def __init__(self, num_features: int, splits: int = 1) -> None:
        super().__init__(num_features)
        self.splits = splits
        self.again = False
        """True while a batch passes a second time (model.activation_checkpointing): the running
        statistics then stay."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or (self.splits == 1 and not self.again):
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        # Parts are slices, and a slice of a channels-last batch is channels last. The usual view to
        # [N/S, S C, H, W] would lose that memory format.
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
    """Shuffle the rows of x [N, ...] before the key encoder: row order[i] goes to place i."""
    if x.dim() == 4:  # index_select on [N, C, H, W] would lose channels last
        return x.permute(0, 2, 3, 1).index_select(0, order).permute(0, 3, 1, 2)
    return x.index_select(0, order)


def undeal(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Undo deal: row i goes to place order[i]."""
    return torch.empty_like(x).index_copy_(0, order, x)
