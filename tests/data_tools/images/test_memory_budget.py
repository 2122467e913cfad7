"""Memory over all threads: large images take turns, none waits for ever, nothing else changes."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.images.memory_budget import DECODING, SMALL, MemoryBudget
from data_tools.images.prepare_image import BadImage, prepare_image
from data_tools.policy import Policy
from data_tools.prepare import prepare
from tests.support.made_files.sample_images import encode, jpeg, smooth

Write = Callable[..., Path]
ROOT = Path(__file__).parents[3]
MB = 1 << 20


def run_threads(budget: MemoryBudget, sizes: list[int]) -> int:
    """The most bytes that were held at once by threads that each take one of these sizes."""
    lock, held, most = threading.Lock(), 0, 0

    def work(size: int) -> None:
        nonlocal held, most
        with budget.take(size):
            with lock:
                held += size
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return most


def test_what_is_held_stays_within_the_budget() -> None:
    sizes = np.random.default_rng(0).integers(SMALL, 80 * MB, 60).tolist()
    assert 60 * MB < run_threads(MemoryBudget(100 * MB), sizes) <= 100 * MB


def test_one_above_the_budget_runs_alone() -> None:
    assert run_threads(MemoryBudget(100 * MB), [500 * MB, 20 * MB] * 10) == 500 * MB
    assert run_threads(MemoryBudget(0), [20 * MB] * 5) == 20 * MB


def test_a_large_one_is_not_passed_by_small_ones_for_ever() -> None:
    budget = MemoryBudget(100 * MB)
    stop, served = threading.Event(), threading.Event()

    def small() -> None:
        while not stop.is_set():
            with budget.take(40 * MB):
                time.sleep(0.001)

    def large() -> None:
        with budget.take(90 * MB):
            served.set()

    threads = [threading.Thread(target=small) for _ in range(4)]
    threads.append(threading.Thread(target=large))
    for thread in threads:
        thread.start()
    assert served.wait(10)
    stop.set()
    for thread in threads:
        thread.join(10)


def test_an_error_gives_back_what_was_taken() -> None:
    budget = MemoryBudget(100 * MB)
    for _ in range(3):
        with pytest.raises(ValueError), budget.take(90 * MB):
            raise ValueError
    # A small request never waits.
    with budget.take(90 * MB), budget.take(SMALL - 1):
        pass


def test_turns_change_no_byte(
    write_tree: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(smooth(1500, 1600))
    files = {f"a/{i}.png": encode(image, "PNG", compress_level=1) for i in range(4)}
    files |= {f"b/{i}.jpg": jpeg(30, 40, i) for i in range(20)}
    source = write_tree(files)
    want = prepare(source, tmp_path / "1", Policy(workers=1))
    monkeypatch.setattr("data_tools.preparation.workers.free_memory", lambda: 0)
    taken: list[int] = []
    take = MemoryBudget.take
    monkeypatch.setattr(MemoryBudget, "take", lambda self, n: taken.append(n) or take(self, n))
    assert prepare(source, tmp_path / "2", Policy(workers=4)) == want
    assert max(taken) > SMALL and DECODING._total == 1


PEAK = """
import sys
from data_tools.images.prepare_image import BadImage, prepare_image
from data_tools.images.memory_budget import MemoryBudget
from data_tools.policy import Policy
from data_tools.images.codec import quiet_pillow

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) << 10

taken = []
take = MemoryBudget.take
MemoryBudget.take = lambda self, size: taken.append(size) or take(self, size)
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    for side in (None, 500):
        with quiet_pillow():
            open("/proc/self/clear_refs", "w").write("5")
            before = peak()
            taken.clear()
            prepare_image(data, Policy(max_side=side))
        print(peak() - before, max(taken, default=0))
"""
PREDICTED = [
    ("PNG", "RGBA", {"compress_level": 1}), ("PNG", "L", {"compress_level": 1}),
    ("WEBP", "RGBA", {"method": 0}), ("AVIF", "RGB", {"speed": 10}), ("JPEG2000", "RGB", {}),
    ("JPEG", "CMYK", {}), ("TIFF", "I;16", {}), ("GIF", "P", {}),
    ("JPEG", "RGB", {"progressive": True}),
]  # fmt: skip


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux's own figures")
def test_the_prediction_holds(tmp_path: Path) -> None:
    height, width = 1024, 1536
    rgba = smooth(height, width, channels=4)
    paths = []
    for i, (form, mode, options) in enumerate(PREDICTED):
        if mode == "I;16":
            image = Image.fromarray(rgba[..., 0].astype(np.uint16) << 8)
        else:
            image = Image.fromarray(rgba if mode == "RGBA" else rgba[..., :3]).convert(mode)
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(encode(image, form, **options))
    # The first one loads what a decoder loads once.
    command = [sys.executable, "-c", PEAK, *paths, *paths]
    output = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    for i, (form, mode, _) in enumerate(PREDICTED):
        for line in output[-2 * len(PREDICTED) :][2 * i : 2 * i + 2]:
            used, predicted = map(int, line.split())
            assert used <= predicted + (4 << 20), (form, mode)
            # One that is far too large would keep threads waiting.
            assert predicted < 32 * height * width, (form, mode)


LIMITED = """
import resource, sys
import numpy, PIL.Image, simplejpeg
from data_tools.errors import Interrupted
from data_tools.policy import Policy
from data_tools.prepare import prepare

PIL.Image.init()
for i, source in enumerate(sys.argv[2:]):
    for megabytes in (30, 2000):
        used = int(open("/proc/self/status").read().split("VmSize:")[1].split()[0]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), -1))
        try:
            manifest = prepare(source, sys.argv[1] + str(i), Policy(workers=1))
            print("done", manifest.samples, manifest.quarantined)
        except Interrupted as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
def test_a_valid_image_that_does_not_fit_is_not_called_damaged(
    write_tree: Write, tmp_path: Path
) -> None:
    """Under `ulimit -v`: prep stops, names image and size, and goes on when there is memory."""
    image = Image.new("RGB", (4000, 3000))
    files = {
        "png": encode(image, "PNG", compress_level=1),
        "webp": encode(image, "WEBP", method=0),
        "avif": encode(image, "AVIF", speed=10),
        "jpg": encode(image, "JPEG", progressive=True),
    }
    sources = [
        write_tree({f"a/big.{name}": data, "a/small.jpg": jpeg()}, name)
        for name, data in files.items()
    ]
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "out"), *sources]
    # One arena: those of threads reserve 64 MB each, in which a second image might fit by chance.
    one_arena = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    output = subprocess.check_output(
        command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL, env=one_arena
    )
    lines = output.splitlines()
    for name, poor, rich in zip(files, lines[::2], lines[1::2], strict=True):
        assert poor.startswith(f"a/big.{name}: not enough memory for 4000 x 3000 pixels: give")
        assert rich == "done 2 {}", name


def test_a_damaged_image_is_still_called_damaged() -> None:
    data = encode(Image.fromarray(smooth(60, 80)), "PNG")
    with pytest.raises(BadImage, match="^damaged PNG"):
        prepare_image(data[: len(data) // 2], Policy())
