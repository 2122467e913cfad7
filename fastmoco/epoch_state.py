"""What a long evaluation has learnt so far, in the cache after every epoch: run again, go on."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import torch

from data_tools.errors import UserError
from data_tools.open import cache_dir
from fastmoco.weights_file import read_weights
from fastmoco.weights_write import write_weights


class EpochState:
    """One evaluation's state, known by all that decides its result; gone when it is done.

    Written at most every `seconds`: what lies between is done again, to the same bits.
    """

    def __init__(self, identity: object, seconds: float = 30.0) -> None:
        name = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
        self.path = cache_dir() / "evaluations" / f"{name}.pt"
        self._seconds, self._saved = seconds, time.monotonic()

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """What save() kept last; None where there is nothing, or nothing whole."""
        try:
            content: dict[str, Any] = read_weights(self.path, device).content
        except (OSError, UserError):
            return None
        return content

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state of tensors and plain values, if it is time; atomic."""
        if time.monotonic() - self._saved < self._seconds:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        own = self.path.with_suffix(f".{os.getpid()}.part")  # two evaluations may be the same
        write_weights(state, own)
        os.replace(own, self.path)
        self._saved = time.monotonic()

    def drop(self) -> None:
        """The evaluation is done."""
        self.path.unlink(missing_ok=True)
