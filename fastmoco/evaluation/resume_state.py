"""Resume file of a long evaluation, saved after its epochs: run again, it continues from there."""

from __future__ import annotations

import hashlib
import io
import time
from typing import Any

import torch

from data_tools.errors import UserError
from data_tools.files import cache_dir, write_whole
from data_tools.safe_reading.checksum import Say, sealed, unsaid, unsealed
from data_tools.safe_reading.regular import read_all, refuse_other
from fastmoco.weights.read import read_weights


class EpochState:
    """One evaluation's state, keyed by everything that determines its result; removed when the
    evaluation is done.

    The file is written at most every `seconds`. Epochs after the last save are repeated, to the
    same bits. A file with a changed bit counts as missing.
    """

    def __init__(self, identity: object, seconds: float = 30.0) -> None:
        name = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
        self.path = cache_dir() / "evaluations" / f"{name}.state"
        self._old = self.path.with_suffix(".pt")  # file of an older release, without a checksum
        self._seconds, self._saved = seconds, time.monotonic()

    def load(self, device: torch.device, say: Say = unsaid) -> dict[str, Any] | None:
        """The last saved state; None if there is none, or if it is damaged, which say(line)
        reports."""
        try:
            content = unsealed(read_all(self.path), self.path.stem)
        except OSError:
            refuse_other(self.path)
            return self._load_old(device, say)
        if content is None:
            say(f"{self.path}: damaged; the evaluation starts over")
            return None
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)

    def _load_old(self, device: torch.device, say: Say) -> dict[str, Any] | None:
        if not self._old.is_file():
            return None
        try:
            state: dict[str, Any] = read_weights(self._old, device).content
        except UserError:
            say(f"{self._old}: damaged; the evaluation starts over")
            return None
        say(f"{self._old}: written by an older release, without checksums; going on with it")
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Save a state of tensors and plain values, atomically, unless the last save was less than
        `seconds` ago."""
        if time.monotonic() - self._saved < self._seconds:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_whole(self.path, sealed(buffer.getvalue(), self.path.stem))
        self._saved = time.monotonic()

    def drop(self) -> None:
        """Remove the file: the evaluation is done."""
        self.path.unlink(missing_ok=True)
        self._old.unlink(missing_ok=True)
