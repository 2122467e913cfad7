"""Builds the model, its optimizer, and its compiled parts."""

from __future__ import annotations

import torch

from fastmoco.model.dictionaries import Dictionary, EndToEnd, MemoryBank, Queue
from fastmoco.model.encoder import build_encoder
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe
from fastmoco.system.ranks import ALONE, Ranks


def build_moco(
    recipe: Recipe, samples: int, device: torch.device, ranks: Ranks = ALONE, pieces: int = 1
) -> MoCo:
    """Build the model of a recipe, on the device, for a dataset of `samples` images.

    Initial weights and the first queue come from torch's global generator. The parts of BatchNorm
    are those of the whole batch, shared out over the ranks and the pieces.
    """
    parts = recipe.bn_splits // (ranks.size * pieces)
    encoder = build_encoder(recipe, parts if recipe.split == "both" else 1)
    dictionary: Dictionary = EndToEnd()
    if recipe.mechanism == "queue":
        dictionary = Queue(recipe.K, recipe.dim)
    elif recipe.mechanism == "memory-bank":
        dictionary = MemoryBank(samples, recipe.dim)
    return MoCo(
        encoder, dictionary, recipe.m, recipe.T, recipe.symmetric, recipe.shared,
        parts if recipe.split == "keys" else 1, ranks,
    ).to(device)


def make_optimizer(moco: MoCo, recipe: Recipe) -> torch.optim.SGD:
    """Return SGD over the trained parameters, all of them with weight decay, as in main_moco.py."""
    optimizer = torch.optim.SGD(
        moco.trained(), lr=recipe.lr, momentum=recipe.momentum,
        weight_decay=recipe.weight_decay, fused=True,
    )
    # Zeros now: torch's fused SGD sets its momentum at the first step, and leaves garbage in it if
    # float16's scaler skips that step.
    if recipe.momentum > 0:
        for p in moco.trained():
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def compile_parts(moco: MoCo, graphs: bool = False) -> None:
    """Compile the encoders and the enqueue; with graphs, record them as CUDA graphs too.

    Shapes are fixed. With dynamic shapes the code would depend on the sizes seen so far, which a
    resumed run has not seen. Evaluation calls the trunks by themselves, which stay eager.
    """
    mode = "reduce-overhead" if graphs else None
    if graphs:  # a new step may write over the results of the last step's graphs
        moco.begin_step = torch.compiler.cudagraph_mark_step_begin
    for encoder in (moco.encoder_q, moco.encoder_k):
        if encoder is not None:
            encoder.compile(dynamic=False, mode=mode)
    moco.dictionary.compile_write()
