"""The InfoNCE loss (1807.03748; 1911.05722, equation 1): plain, streaming, and in the batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

CHUNK = 2**17  # logits per chunk on a CPU: 512 kB in float32, which fit into its caches
LAUNCHED = 2**22  # logits per chunk on a GPU, where each costs five launches: 16 MB
LARGE = 2**15  # logits, from which on the streaming form is faster by a tenth (bench.training.loss)
COLDEST = 0.025  # lowest temperature: below it sums of exp(1/T) come close to float32's largest


def info_nce(
    q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, T: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean loss [] and the pretext accuracy [], by the form that suits the size.

    q: [N, C] unit vectors; k: [N, C], their positive keys; queue: [K, C], the negatives. k and
    queue get no gradient. Pretext accuracy is the share of queries whose positive is nearer than
    all negatives. The dtype is q's, also under autocast.
    """
    if q.shape[0] * queue.shape[0] >= LARGE and T >= COLDEST:
        return info_nce_streaming(q, k, queue, T)
    return info_nce_plain(q, k, queue, T)


def info_nce_plain(
    q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, T: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss as the paper writes it, on logits [N, 1+K]: the reference for the streaming form."""
    # No autocast: logits / T in bfloat16 would lose the small differences between keys.
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
    """The same loss in the memory of one chunk of keys: the logits [N, K] never exist as a whole.

    Keys get no gradient, so the gradient of q is attention over the keys:
    dL/dq = (sum_j p_j k_j - k_+) / (T N). The pass that sums the exponentials also sums the keys
    that they weigh, and the backward pass has nothing left to compute. No maximum is subtracted,
    because unit vectors bound every logit by 1/T: T must be at least COLDEST in float32.
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
    """End-to-end: the positive of q[i] is keys[first + i], and all other keys are its negatives.

    q: [N, C]; keys: [M, C], of the whole batch; both get gradients. Returns the same as info_nce.
    """
    with torch.autocast(q.device.type, enabled=False):
        logits = q @ keys.T / T  # [N, M]
        labels = torch.arange(first, first + q.shape[0], device=q.device)
        own = logits.gather(1, labels[:, None])[:, 0]
        others = logits.scatter(1, labels[:, None], -torch.inf)
        return F.cross_entropy(logits, labels), (own > others.amax(dim=1)).float().mean()
