"""A ring of slots: batches are decoded ahead of their use, and copied while a step runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import torch
from numpy.typing import NDArray

from fastmoco.loading.engines.engine import Engine, Pending
from fastmoco.system.streams import Field, Slot, copy_stream

RING = 4  # slots: one in use, one being copied, two being filled


class Ring:
    """Passes batches from an engine through a ring of slots.

    If there is no engine, the slots hold only the plans (draws without pixels).
    """

    def __init__(
        self, engine: Engine | None, layout: dict[str, Field], device: torch.device
    ) -> None:
        self._engine = engine
        self._slots = [Slot(layout, device) for _ in range(RING)]
        self._stream = copy_stream(device)
        self.data_wait = 0.0
        """Seconds that the consumer has waited for the engine."""

    def end(self) -> None:
        """Wait until no launched work needs the slots, so that they can be deleted."""
        for slot in self._slots:
            slot.wait_unused()

    def batches(self, plans: Iterator[dict[str, NDArray]]) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the tensors of each plan on the device. They are valid until the next are
        requested.

        A plan holds index [B], windows [B, V, 4], and the other arrays of the slot's layout. Arrays
        may be shorter than their slot: the tensors are cut to the same length.
        """
        waiting: deque[tuple[Slot, Pending | None, dict[str, int]]] = deque()
        free = deque(self._slots)

        def begin() -> None:
            plan = next(plans, None)
            if plan is None:
                return
            slot = free.popleft()
            slot.wait_writable()  # its last copy to the device has ended
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
            for _ in range(RING - 1):  # the last slot stays free for the begin() in the loop
                begin()
            while waiting:
                slot, pending, lengths = waiting.popleft()
                if pending is not None:
                    started = time.perf_counter()
                    pending.result()  # the only place where a step can wait for data
                    self.data_wait += time.perf_counter() - started
                tensors = slot.to_device(self._stream)
                begin()  # before the step, so that the engine works while it runs
                try:
                    yield {name: tensors[name][:n] for name, n in lengths.items()}
                finally:  # also if the consumer stops early
                    slot.mark_used()
                free.append(slot)
        finally:  # after an early stop the engine must no longer write into the slots
            for _, pending, _ in waiting:
                if pending is not None:
                    pending.result()
