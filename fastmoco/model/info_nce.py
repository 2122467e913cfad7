"""The InfoNCE loss (1807.03748; equation 1 of 1911.05722): plain, streaming, and in the batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

CHUNK = 2**17  # logits at a time on a CPU: 512 kB in float32, which its caches hold
LAUNCHED = 2**22  # on a GPU, where a chunk is five launches: 16 MB, a quarter of 256 x 65536
LARGE = 2**15  # logits, from which on the streaming form is faster by a tenth (bench.training.loss)
COLDEST = 0.025  # temperature below which sums of exp(1/T) near the end of float32's range


def info_nce(
    q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, T: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (mean, []) and pretext accuracy (share of positives above all negatives, []).

    q, k: [N, C] unit vectors, k the positive of q; queue: [K, C] negatives, without gradient like
    k. Computed in the dtype given, also under autocast: logits over T in bfloat16 would lose the
    small differences. The form is chosen by size.
    """
    if q.shape[0] * queue.shape[0] >= LARGE and T >= COLDEST:
        return info_nce_streaming(q, k, queue, T)
    return info_nce_plain(q, k, queue, T)


def info_nce_plain(
    q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, T: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss as the paper writes it, on logits [N, 1+K]: the reference."""
    with torch.autocast(q.device.type, enabled=False):
        l_pos = (q * k).sum(dim=1, keepdim=True)  # [N, 1]
        l_neg = q @ queue.T  # [N, K]
        logits = torch.cat([l_pos, l_neg], dim=1) / T  # [N, 1+K]
        labels = torch.zeros(q.shape[0], dtype=torch.int64, device=q.device)
        accuracy = (l_pos[:, 0] > l_neg.amax(dim=1)).float().mean()
        return F.cross_entropy(logits, labels), accuracy


def info_nce_streaming(
    q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, T: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for any K in the memory of a chunk: [N, K] is never there.

    Without gradient to the keys, the gradient is attention over them:
    dL/dq = (sum_j p_j k_j - k_+) / (T N). So the pass that sums the exponentials sums the keys they
    weigh, and nothing is left for the backward pass. Unit vectors bound every logit by 1/T, hence
    no maximum is subtracted: T must be COLDEST or more in float32.
    """
    with torch.autocast(q.device.type, enabled=False):
        loss, accuracy = _Streaming.apply(q, k, queue, T)
        return loss, accuracy


class _Streaming(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, queue, T):
        N, chunk = q.shape[0], CHUNK if q.device.type == "cpu" else LAUNCHED
        rows = max(1, chunk // N)  # keys at a time
        scaled = q * (math.log2(math.e) / T)  # exp2 is cheaper than exp: logits in base 2
        l_pos = (scaled * k).sum(dim=1)  # [N]
        total = torch.exp2(l_pos)  # [N]: sum of exp(logit)
        weighed = total[:, None] * k  # [N, C]: sum of the keys, weighed by the same
        best = torch.full_like(l_pos, -torch.inf)
        for part in queue.split(rows):
            logits = scaled @ part.T  # [N, rows]
            best = torch.maximum(best, logits.amax(dim=1))
            p = logits.exp2_()
            total += p.sum(dim=1)
            weighed.addmm_(p, part)
        gradient = (weighed / total[:, None] - k) / (T * N)
        ctx.save_for_backward(gradient)
        accuracy = (l_pos > best).float().mean()
        ctx.mark_non_differentiable(accuracy)
        return (total.log2() - l_pos).mean() * math.log(2), accuracy

    @staticmethod
    def backward(ctx, grad_loss, _):
        (gradient,) = ctx.saved_tensors
        return grad_loss * gradient, None, None, None


def info_nce_in_batch(
    q: torch.Tensor, keys: torch.Tensor, first: int, T: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """End-to-end: the positive of q[i] is keys[first + i], its negatives are all other keys.

    q: [N, C], keys: [M, C] of the whole batch, both with gradients. As info_nce otherwise.
    """
    with torch.autocast(q.device.type, enabled=False):
        logits = q @ keys.T / T  # [N, M]
        labels = torch.arange(first, first + q.shape[0], device=q.device)
        own = logits.gather(1, labels[:, None])[:, 0]
        others = logits.scatter(1, labels[:, None], -torch.inf)
        return F.cross_entropy(logits, labels), (own > others.amax(dim=1)).float().mean()
