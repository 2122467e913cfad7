"""What a long evaluation has learnt so far, in the cache after every epoch: run again, go on."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
import zipfile
from typing import Any

import torch

from data_tools.open import cache_dir


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
            return torch.load(self.path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError):
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state of tensors and plain values, if it is time; atomic."""
        if time.monotonic() - self._saved < self._seconds:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        try:
            torch.save(state, partial)
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)
        self._saved = time.monotonic()

    def drop(self) -> None:
        """The evaluation is done."""
        self.path.unlink(missing_ok=True)
