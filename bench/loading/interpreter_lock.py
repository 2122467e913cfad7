"""Measures how long the threads engine holds the interpreter lock per image; models its scaling.

    python -m bench.loading.interpreter_lock [DATA] [--out RESULT.json]

DATA is a prepared dataset; without it ../shared/data/photos-300.tar is prepared, or drawn images.
Held time is measured with the work left out: the same calls on an 8-pixel JPEG and a 16-pixel crop
take next to no time for the pixels, so their time is an upper bound of the time under the lock
(arguments, dispatch, the queue). The loader's thread is timed as a whole. The rest of a real
image's time is free time. A simulation then lets N threads and the loader's thread share one lock:
each waits its turn, and pays for a wake-up if it had to wait. The simulation ignores memory
bandwidth and clock speeds that fall with more cores. So its rates are an upper bound from a model,
not a measurement.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("data", type=Path, nargs="?", help="a prepared dataset")
    flags.add_out()

import dataclasses
import heapq
import io
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing

import numpy as np
from PIL import Image

from bench.demo.photographs import POLICY, photographs
from bench.shared.results import environment, write_json
from data_tools.open import open_store
from data_tools.prepare import prepare
from data_tools.store import Store
from fastmoco.loading.engines.threads import ThreadsEngine, cut_windows, decode
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.measuring.load_rate import endless
from fastmoco.recipe import MOCO_V2
from fastmoco.system.device import pick_device
from fastmoco.terminal.console import say, table

CORES = (1, 2, 4, 8, 16, 32, 64)
WAKE = 5e-6  # seconds until a thread that waited for the lock runs again
CALLS = 3  # times that an image takes the lock: queue, end of the decode, end of the crops


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds per image."""

    held: float  # under the lock, in a decoding thread
    loader: float  # under the lock, in the loader's thread: all of its work
    free: float  # decode and crops, without the lock


def each(work: Callable[[], None], count: int) -> float:
    """Return the processor seconds of one call in this thread: the least of five measurements."""
    best = float("inf")
    for _ in range(5):
        started = time.thread_time()
        for _ in range(count):
            work()
        best = min(best, (time.thread_time() - started) / count)
    return best


class TinyStore:
    """A store that runs the real store's reading code, then returns an 8-pixel JPEG."""

    def __init__(self, store: Store) -> None:
        encoded = io.BytesIO()
        Image.new("RGB", (8, 8)).save(encoded, "JPEG")
        self.tiny = np.frombuffer(encoded.getvalue(), np.uint8)
        self.store, self.kinds = store, store.kinds

    def encoded(self, i: int) -> np.ndarray:
        self.store.encoded(i)
        return self.tiny


def measure(store: Store) -> Costs:
    """Measure on one thread, by processor time, so that other work on the machine counts little."""
    tiny, count = TinyStore(store), min(len(store), 200)
    image, view = np.zeros((16, 16, 3), np.uint8), np.empty((1, 16, 16, 3), np.uint8)
    window, buffer = np.array([[0, 0, 16, 16]], np.int32), np.empty(1 << 20, np.uint8)
    queue = deque([(0, window, view)] * 10_000)

    def held() -> None:
        i, w, out = queue.popleft()
        queue.append((i, w, out))
        decode(tiny, i, buffer)  # type: ignore[arg-type]
        cut_windows(image, w, out)

    held()
    under_lock = each(held, 2000)
    recipe = dataclasses.replace(MOCO_V2, batch=min(64, len(store)))
    engine = ThreadsEngine(store, 1)
    loader = TrainLoader(store, recipe, engine, pick_device("cpu"))
    work, images = 0.0, 0
    with closing(endless(loader)) as batches:
        next(batches)
        started = time.thread_time()
        for batch in batches:
            images += len(batch.index)
            if images >= 20 * recipe.batch:
                break
        work = time.thread_time() - started
    engine.close()
    room = np.empty((count, 2, 224, 224, 3), np.uint8)
    ids = np.arange(count)
    engine = ThreadsEngine(store, 1)
    windows = np.stack([np.zeros(count), np.zeros(count), store.sizes[:count, 0] * 0.7,
                        store.sizes[:count, 1] * 0.7], axis=1).astype(np.int32)
    both = np.repeat(windows[:, None], 2, axis=1)
    pixels = np.empty(int(store.sizes[ids].prod(axis=1).max()) * 3, np.uint8)

    def all_of_it() -> None:
        for i in range(count):
            cut_windows(decode(store, i, pixels), both[i], room[i])

    all_of_it()
    whole = each(all_of_it, 1) / count
    engine.close()
    return Costs(under_lock, work / images, whole - under_lock)


def simulate(costs: Costs, threads: int, images: int = 4000) -> float:
    """Return the images/s of `threads` decoding threads and the loader's, which share one lock.

    Each image takes the lock CALLS times, for an equal part each time, and works freely in between.
    The loader's thread takes it once per image. The lock is first come, first served.
    """
    part, gap = costs.held / CALLS, costs.free / CALLS
    lock_free_at, done = 0.0, 0
    # (time of the request, thread, parts of its image that are done); the loader is thread -1
    asking = [(i * costs.free / threads, i, 0) for i in range(threads)] + [(0.0, -1, 0)]
    heapq.heapify(asking)
    now = 0.0
    while done < images:
        wanted, who, parts = heapq.heappop(asking)
        now = max(wanted, lock_free_at) + (WAKE if lock_free_at > wanted else 0.0)
        if who == -1:
            lock_free_at = now + costs.loader
            # at the pace of finished images, since it cannot run ahead of the threads
            spacing = now / max(done, 1) if done else costs.free / threads
            heapq.heappush(asking, (lock_free_at + spacing, who, 0))
            continue
        lock_free_at = now + part
        parts += 1
        if parts == CALLS:
            parts, done = 0, done + 1
        heapq.heappush(asking, (lock_free_at + gap, who, parts))
    return images / now


def main() -> int:
    """Measure, simulate, print."""
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data = args.data
        if data is None:
            data = Path(temporary) / "data"
            prepare(photographs(None, Path(temporary), train=240), data, POLICY)
        costs = measure(open_store(data))
    say(f"per image: {costs.free * 1e6:.0f} us without the lock, at most {costs.held * 1e6:.0f} us "
        f"under it, {costs.loader * 1e6:.0f} us of the loader's thread")
    one = simulate(costs, 1)
    rates = {threads: simulate(costs, threads) for threads in CORES}
    table(("cores", "images/s", "of linear"),
          [(str(n), f"{rate:,.0f}", f"{rate / one / n:.0%}") for n, rate in rates.items()])
    say(f"the lock alone allows {1 / (costs.held + costs.loader):,.0f} images/s; the table is a "
        "simulation")
    if args.out:
        write_json(args.out, dataclasses.asdict(costs) | {
            "simulated": rates, "wake": WAKE, **environment(pick_device("cpu")),
        })  # fmt: skip
    return 0


if __name__ == "__main__":
    finish(main)
