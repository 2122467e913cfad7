"""A ring of slots: batches are decoded ahead, and copied while a step runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import torch
from numpy.typing import NDArray

from fastmoco.loading.engines.engine import Engine, Pending
from fastmoco.system.streams import Field, Slot, copy_stream

RING = 4  # slots: one in use, one copied, two being filled


class Ring:
    """Batches from an engine through a ring of slots; data_wait is the time spent waiting.

    Without an engine the slots carry the plans alone.
    """

    def __init__(
        self, engine: Engine | None, layout: dict[str, Field], device: torch.device
    ) -> None:
        self._engine = engine
        self._slots = [Slot(layout, device) for _ in range(RING)]
        self._stream = copy_stream(device)
        self.data_wait = 0.0

    def end(self) -> None:
        """Wait until nothing that was launched needs the slots any more: they may go."""
        for slot in self._slots:
            slot.wait_unused()

    def batches(self, plans: Iterator[dict[str, NDArray]]) -> Iterator[dict[str, torch.Tensor]]:
        """For each plan (index [B], windows [B, V, 4] and what else the slot holds): its tensors,
        which hold until the next one is asked for."""
        waiting: deque[tuple[Slot, Pending | None, dict[str, int]]] = deque()
        free = deque(self._slots)

        def begin() -> None:
            plan = next(plans, None)
            if plan is None:
                return
            slot = free.popleft()
            slot.wait_writable()
            lengths = {name: len(plan[name]) for name in slot.arrays if name in plan}
            for name, n in lengths.items():
                slot.arrays[name][:n] = plan[name]
            pending = None
            if self._engine is not None:
                lengths["views"] = len(plan["index"])
                views = slot.arrays["views"][: lengths["views"]]
                pending = self._engine.submit(plan["index"], plan["windows"], views)
            waiting.append((slot, pending, lengths))

        try:
            for _ in range(RING - 1):
                begin()
            while waiting:
                slot, pending, lengths = waiting.popleft()
                if pending is not None:
                    begun = time.perf_counter()
                    pending.result()  # the one place where a step can wait for data
                    self.data_wait += time.perf_counter() - begun
                tensors = slot.to_device(self._stream)
                begin()
                try:
                    yield {name: tensors[name][:n] for name, n in lengths.items()}
                finally:  # also where the consumer breaks off
                    slot.mark_used()
                free.append(slot)
        finally:  # an early break: nothing may still write into the slots
            for _, pending, _ in waiting:
                if pending is not None:
                    pending.result()
