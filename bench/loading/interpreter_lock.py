"""How long the threads engine holds the interpreter lock an image, and to how many cores it scales.

    python -m bench.loading.interpreter_lock [DATA] [--out RESULT.json]

Held time is measured by doing everything but the work: the same calls on an 8-pixel JPEG and a
16-pixel crop, whose own work is next to nothing, give an upper bound of what is done under the lock
(arguments, dispatch, the queue); the loader's thread is timed whole. Free time is the rest of a
real image. A simulation then lets N threads and the loader's thread share one lock, each waiting
its turn and paying for a wake-up where it had to wait. It knows nothing of memory bandwidth or of
clock speeds that fall with more cores: an upper bound, a model, not a measurement.
"""

from __future__ import annotations

import dataclasses
import heapq
import io
import json
import platform
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from bench.loading.stages import PHOTOS
from bench.shared.command import Flags, finish
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from data_tools.store import Store
from fastmoco.loading.engines.threads import ThreadsEngine, cut_windows, decode
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.measuring.load_rate import endless
from fastmoco.recipe import MOCO_V2
from fastmoco.system.device import pick_device
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table

CORES = (1, 2, 4, 8, 16, 32, 64)
WAKE = 5e-6  # seconds that a thread which waited for the lock needs to run again
CALLS = 3  # times an image takes the lock: the queue, the decode's return, the crops' return


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds an image."""

    held: float  # under the lock, in a decoding thread
    loader: float  # under the lock, in the loader's thread (the whole of what it does)
    free: float  # decode and crops, without the lock


def each(work: Callable[[], None], count: int) -> float:
    """Seconds of this thread's processor for one call: the least of five."""
    best = float("inf")
    for _ in range(5):
        begun = time.thread_time()
        for _ in range(count):
            work()
        best = min(best, (time.thread_time() - begun) / count)
    return best


class TinyStore:
    """A store of one 8-pixel JPEG, read through the real one's code."""

    def __init__(self, store: Store) -> None:
        encoded = io.BytesIO()
        Image.new("RGB", (8, 8)).save(encoded, "JPEG")
        self.tiny = np.frombuffer(encoded.getvalue(), np.uint8)
        self.store, self.kinds = store, store.kinds

    def encoded(self, i: int) -> np.ndarray:
        self.store.encoded(i)
        return self.tiny


def measure(store: Store) -> Costs:
    """On one thread, by processor time: other work on the machine counts little."""
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
        begun = time.thread_time()
        for batch in batches:
            images += len(batch.index)
            if images >= 20 * recipe.batch:
                break
        work = time.thread_time() - begun
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
    """Images/s of so many threads, and of the loader's, that share one lock.

    Each image takes the lock CALLS times for an equal part and works freely in between; the
    loader's thread takes it once an image. Who asked first gets it first.
    """
    part, gap = costs.held / CALLS, costs.free / CALLS
    lock_free_at, done = 0.0, 0
    # (time at which it asks, who, how many of its parts are done); the loader is -1
    asking = [(i * costs.free / threads, i, 0) for i in range(threads)] + [(0.0, -1, 0)]
    heapq.heapify(asking)
    now = 0.0
    while done < images:
        wanted, who, parts = heapq.heappop(asking)
        now = max(wanted, lock_free_at) + (WAKE if lock_free_at > wanted else 0.0)
        if who == -1:
            lock_free_at = now + costs.loader
            # as often as images are done: it cannot run ahead of the threads
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
    parser = Flags(__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data = args.data
        if data is None:
            data = Path(temporary) / "data"
            prepare(PHOTOS, data, Policy(max_side=500, quality=90, reencode="always"))
        costs = measure(open_store(data))
    say(f"an image: {costs.free * 1e6:.0f} us without the lock, {costs.held * 1e6:.0f} us under it "
        f"at most, {costs.loader * 1e6:.0f} us of the loader's thread")
    one = simulate(costs, 1)
    rates = {threads: simulate(costs, threads) for threads in CORES}
    table(("cores", "images/s", "of linear"),
          [(str(n), f"{rate:,.0f}", f"{rate / one / n:.0%}") for n, rate in rates.items()])
    say(f"the lock alone allows {1 / (costs.held + costs.loader):,.0f} images/s; the table is a "
        "simulation")
    if args.out:
        content = dataclasses.asdict(costs) | {
            "simulated": rates, "wake": WAKE, "machine": describe(pick_device("cpu")),
            "platform": platform.platform(), **versions(),
        }  # fmt: skip
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    finish(main)
