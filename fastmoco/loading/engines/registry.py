"""The table of engines, and open_engine, which also chooses the engine for `auto`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from data_tools.errors import UserError, one_line
from data_tools.store import JPEG, Store
from fastmoco import draws
from fastmoco.loading.engines.dali import DaliEngine
from fastmoco.loading.engines.engine import Engine, Pending
from fastmoco.loading.engines.ffcv import FfcvEngine
from fastmoco.loading.engines.resident_cpu import DecodedEngine
from fastmoco.loading.engines.resident_gpu import ResidentEngine, are_small
from fastmoco.loading.engines.threads import ThreadsEngine

SIZE, SECONDS = 224, 0.5  # trial: side of the views in pixels; seconds per engine


@dataclass(frozen=True)
class Row:
    """An engine that can be opened."""

    open: Callable[[Store, int, torch.device], Engine]
    """Takes the store, the number of threads (0: one per core) and the device. Raises ImportError
    if the engine's library is not installed."""
    install: str = ""
    """The command that installs its library; empty if it needs none."""


def _resident(store: Store, threads: int, device: torch.device) -> Engine:
    if device.type == "cpu":
        return DecodedEngine(store, threads)
    return ResidentEngine(store, threads, device)


TABLE = {
    "threads": Row(lambda store, threads, _: ThreadsEngine(store, threads)),
    "resident": Row(_resident),
    "dali": Row(
        lambda store, threads, device: DaliEngine(store, threads, device),
        "pip install 'fastmoco[dali]'",
    ),
    "ffcv": Row(
        lambda store, threads, _: FfcvEngine(store, threads),
        "apt-get install libopencv-dev libturbojpeg0-dev pkg-config, then "
        "pip install 'fastmoco[ffcv]'",
    ),
}


class Opened(NamedTuple):
    """An engine, its name, and a line: its number of threads and, for auto, the reason of the
    choice."""

    engine: Engine
    name: str
    line: str


def open_engine(
    name: str, store: Store, threads: int = 0, device: torch.device | None = None
) -> Opened:
    """Open the engine called `name` (auto, threads, resident, dali, ffcv) on a store.

    auto keeps small images decoded on the device, all of them. For larger images it takes our
    threads, the fastest engine on CPUs (bench/README.md). On a CUDA device nvJPEG may be faster: if
    DALI is installed, both are timed on this store, half a second each, and the faster is taken.
    Raises UserError for an engine that is unknown, not installed, or cannot read the store.
    """
    device = device or torch.device("cpu")
    if name != "auto":
        engine = _open(name, store, threads, device)
        return _opened(name, engine)
    if are_small(store, device):
        return _opened("resident", _open("resident", store, threads, device), "small images")
    ours = ThreadsEngine(store, threads)
    if device.type != "cuda":
        return _opened("threads", ours, "the fastest on CPUs")
    if not bool((store.kinds == JPEG).all()):
        return _opened("threads", ours, "not all images are JPEGs, which DALI is for")
    engines: dict[str, Engine] = {"threads": ours}
    try:
        rates = {"threads": rate(ours, store)}
    except UserError:  # a bad sample, which DALI could not decode either
        ours.close()
        raise
    try:
        engines["dali"] = _open("dali", store, threads, device)
        rates["dali"] = rate(engines["dali"], store)
        why = "tried here: " + ", ".join(f"{k} {v:,.0f} images/s" for k, v in rates.items())
    except Exception as error:  # from nvJPEG, DALI or the driver: a failed trial must not end a run
        why = str(error) if isinstance(error, UserError) else (
            f"DALI does not work here: {(str(error).splitlines() or [repr(error)])[0][:200]}"
        )
    best = max(rates, key=lambda k: rates[k])
    for other in engines.keys() - {best}:
        engines[other].close()
    return _opened(best, engines[best], why)


def _open(name: str, store: Store, threads: int, device: torch.device) -> Engine:
    if name not in TABLE:
        raise UserError(f"--engine {name}: there are auto, {', '.join(TABLE)}")
    try:
        return TABLE[name].open(store, threads, device)
    except ImportError as error:
        if not TABLE[name].install:
            raise
        raise UserError(
            f"--engine {name}: not installed here ({one_line(error)}); {TABLE[name].install}, "
            f"or use --engine threads"
        ) from None


def _opened(name: str, engine: Engine, why: str = "") -> Opened:
    count = f"{engine.threads} thread{'' if engine.threads == 1 else 's'}"
    return Opened(engine, name, f"{name} ({'; '.join(filter(None, (count, why)))})")


def rate(engine: Engine, store: Store, seconds: float = SECONDS) -> float:
    """Measure images/s for about `seconds`: two views of random samples of the store."""
    order = draws.permutation(0, 0, len(store))[:4096]
    batch = min(64, len(order))
    out = np.empty((2, batch, 2, SIZE, SIZE, 3), np.uint8)

    def submit(n: int) -> Pending:
        ids = np.take(order, np.arange(n * batch, (n + 1) * batch), mode="wrap")
        windows = draws.crop_windows(0, 0, ids, store.sizes[ids], 2, (0.2, 1), (3 / 4, 4 / 3))
        return engine.submit(ids, windows, out[n % 2])

    submit(0).result()  # threads start, pipelines are built
    started, n, pending = time.perf_counter(), 0, submit(1)
    while time.perf_counter() - started < seconds:
        following = submit(n + 2)  # two batches in flight, as in a ring
        pending.result()
        pending, n = following, n + 1
    spent = time.perf_counter() - started
    pending.result()
    return n * batch / spent
