"""A ring on the device that records which steps were skipped."""

from __future__ import annotations

import torch

from fastmoco.system.ranks import Ranks

MOST_STEPS = 1000  # in the ring: 2 MB of sample ids for a batch of 256


class BadSteps:
    """The sample ids of the last steps, with a flag for the skipped ones, on the device.

    It has room for `steps` steps, and for MOST_STEPS at most. Read it when it is full.
    """

    def __init__(self, steps: int, batch: int, device: torch.device) -> None:
        steps = min(steps, MOST_STEPS)
        self._ids = torch.zeros(steps, batch, dtype=torch.int64, device=device)
        self._skipped = torch.zeros(steps, device=device)
        self._in_a_row = torch.zeros((), device=device)
        self._count = 0

    def add(self, index: torch.Tensor, skipped: torch.Tensor) -> None:
        """Record a step: its sample ids, int64 [batch], and its flag, []; no sync."""
        place = self._count % len(self._ids)
        self._ids[place].copy_(index)
        self._skipped[place].copy_(skipped)
        self._in_a_row.add_(1).mul_(skipped)  # a good step sets it back to 0
        self._count += 1

    @property
    def full(self) -> bool:
        """True if the next step would overwrite one that was not read."""
        return self._count >= len(self._ids)

    def in_a_row(self) -> int:
        """Return the length of the current series of skipped steps; waits for the device."""
        return int(self._in_a_row)

    def read(self, step: int, ranks: Ranks) -> list[tuple[int, list[int]]]:
        """Return (step, sample ids of all ranks) for each step that was skipped since the last
        call; `step` is the number of the last one added. Waits for the device."""
        n = min(self._count, len(self._ids))
        places = [i for i, flag in enumerate(self._skipped[:n].tolist()) if flag > 0]
        self._count = 0
        return [(step - n + 1 + i, ranks.gather(self._ids[i]).tolist()) for i in places]
