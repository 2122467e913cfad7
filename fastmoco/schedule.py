"""The learning rate, as a function of where the run is."""

from __future__ import annotations

import math

from fastmoco.recipe import Recipe

DROPS = (0.6, 0.8)  # 120 and 160 of 200 epochs in main_moco.py


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The rate of a step (from 0): x0.1 at 60 % and 80 %, or lr (1 + cos(pi epoch/epochs)) / 2.

    The official code moves it once an epoch; schedule_by='step' moves it every step.
    """
    at = step / steps_per_epoch
    if at < recipe.warmup:
        return recipe.lr * (step + 1) / (recipe.warmup * steps_per_epoch + 1)
    if recipe.schedule_by == "epoch":
        at = math.floor(at)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * at / recipe.epochs))
    return recipe.lr * 0.1 ** sum(at >= drop * recipe.epochs for drop in DROPS)
