"""The device and the ranks of a run, and the settings of torch that must come before anything else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastmoco.run_options import RunOptions
from fastmoco.system.compiler import settle
from fastmoco.system.device import choose_deterministic, make_current, pick_device
from fastmoco.system.ranks import Ranks
from fastmoco.system.torchrun import join


@dataclass(frozen=True)
class Machine:
    """The part of the hardware that this process trains on."""

    device: torch.device
    ranks: Ranks

    @property
    def first(self) -> bool:
        """True on the rank that writes files and reports events."""
        return self.ranks.rank == 0


def prepare_machine(options: RunOptions, shapes: int) -> Machine:
    """Join the ranks, choose the device, and set torch up for it.

    shapes: number of view sizes that the model is compiled for. Raises UserError if the device is
    not there or the other ranks cannot be reached.
    """
    ranks = join()
    device = pick_device(options.device)
    # Before the first allocation: torch and NCCL put a context on the current GPU, which is
    # number 0 for all ranks until this line.
    make_current(device)
    choose_deterministic(device)
    # Before the first torch.compile: graphs that exist already do not see these settings.
    if options.compile or device.type == "cuda":
        settle(shapes)
    return Machine(device, ranks)
