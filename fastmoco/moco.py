"""Algorithm 1 of Momentum Contrast (1911.05722), in the paper's letters.

    out = moco(im_q, im_k, index, shuffle)
    out.loss.backward(); optimizer.step()
    moco.update(out)

N images a batch, C dimensions, K keys in the queue.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fastmoco.batchnorm import deal, undeal
from fastmoco.dictionaries import Queue
from fastmoco.info_nce import info_nce
from fastmoco.recipe import Recipe


@dataclass(frozen=True)
class Out:
    """What a step gives: everything stays on the device."""

    loss: torch.Tensor
    """[], with its graph."""
    keys: torch.Tensor
    """[N, C] float, no gradient: what update enqueues."""
    stats: dict[str, torch.Tensor]
    """Scalars for the log, each []."""


class MoCo(nn.Module):
    """The query encoder f_q, the momentum encoder f_k, and the queue between them."""

    def __init__(
        self, encoder_q: nn.Module, dim: int = 128, K: int = 65536, m: float = 0.999,
        T: float = 0.07,
    ) -> None:
        super().__init__()
        self.m, self.T = m, T
        self.encoder_q = encoder_q
        self.encoder_k = copy.deepcopy(encoder_q).requires_grad_(False)
        self.queue = Queue(K, dim)

    def forward(
        self,
        im_q: torch.Tensor,
        im_k: torch.Tensor,
        index: torch.Tensor | None = None,
        shuffle: torch.Tensor | None = None,
    ) -> Out:
        """im_q, im_k: [N, 3, S, S], two views of the same images; shuffle: int64 [N], how the
        keys are dealt to the parts of split BatchNorm. index (sample ids) is for dictionaries
        that keep a key a sample; the queue has no use for it."""
        q = unit(self.encoder_q(im_q))  # queries: NxC
        with torch.no_grad():  # no gradient to keys
            if shuffle is None:
                k = unit(self.encoder_k(im_k))  # keys: NxC
            else:
                k = undeal(unit(self.encoder_k(deal(im_k, shuffle))), shuffle)
        loss, accuracy = info_nce(q, k, self.queue.keys, self.T)
        return Out(loss, k, {"loss": loss.detach(), "pretext_accuracy": accuracy})

    @torch.no_grad()
    def update(self, out: Out) -> None:
        """After the optimizer's step: f_k = m f_k + (1 - m) f_q, then enqueue the keys."""
        torch._foreach_lerp_(
            list(self.encoder_k.parameters()), list(self.encoder_q.parameters()), 1 - self.m
        )
        self.queue.enqueue(out.keys)


def make_optimizer(moco: MoCo, recipe: Recipe) -> torch.optim.SGD:
    """SGD on the query encoder, every parameter decayed, as main_moco.py has it.

    The momentum starts as zeros: torch's fused SGD would leave it unset where float16's scaler
    skips the first step.
    """
    optimizer = torch.optim.SGD(
        moco.encoder_q.parameters(), lr=recipe.lr, momentum=recipe.momentum,
        weight_decay=recipe.weight_decay, fused=True,
    )
    if recipe.momentum > 0:
        for p in moco.encoder_q.parameters():
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def compile_parts(moco: MoCo) -> None:
    """Compile both encoders and the enqueue, for fixed shapes: what a run saw before a resume
    can then not change its code. Evaluation calls the trunks by themselves, which stay eager."""
    moco.encoder_q.compile(dynamic=False)
    moco.encoder_k.compile(dynamic=False)
    moco.queue.compile_write()


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, [N, C], in float32 or wider whatever the encoder computed in."""
    return F.normalize(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, dim=1)
