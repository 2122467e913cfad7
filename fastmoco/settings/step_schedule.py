"""The step schedule of the learning rate: it drops after 60 % and 80 % of the training."""

from __future__ import annotations

DROPS = (0.6, 0.8)
"""Fractions of the training after which the rate drops: epochs 120 and 160 of 200 (main_moco.py of
facebookresearch/moco), 60 and 80 of 100 (main_lincls.py), 12 and 16 of 20 (eval_semisup.py of
facebookresearch/swav)."""


def drop_epochs(epochs: int) -> list[int]:
    """The epochs at whose start the rate drops, for evaluations, which change it once per epoch."""
    return [round(drop * epochs) for drop in DROPS]
