"""Engine `resident` on a CPU: all images stay decoded in memory, and the threads only cut.

The views equal those of the threads engine bit for bit. A batch is cut in a few parts, since
cutting a small image takes less time than a call from Python.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.store import Store
from fastmoco.kernels.resample import LEAST_SIDE, LEAST_WIDTH, crop_images
from fastmoco.loading.engines.bad_sample import bad_sample
from fastmoco.loading.engines.resident_gpu import check_room
from fastmoco.loading.engines.threads import (
    One,
    ThreadsEngine,
    Work,
    cut_boxes,
    cut_windows,
    decode,
)

CPU = torch.device("cpu")
PARTS = 4  # parts of a batch per thread: enough that all threads end at about the same time
TOGETHER = 512  # images per part when the store is decoded


class DecodedEngine(ThreadsEngine):
    """Decodes every image of a store once; the threads cut windows from them.

    Raises UserError if the images don't fit into memory, or one is bad.
    """

    def __init__(self, store: Store, threads: int = 0) -> None:
        check_room(store, CPU)
        super().__init__(store, threads)
        lengths = store.sizes.prod(axis=1, dtype=np.int64) * 3
        self._starts = np.cumsum(lengths) - lengths
        self._pixels = np.empty(lengths.sum(), np.uint8)

        def decode_part(ids: range) -> None:
            for i in ids:
                pixels, place = decode(store, i), self._image(i)
                if pixels.shape != place.shape:
                    raise bad_sample(store, np.array([i]), "resident", "its size")
                place[:] = pixels

        parts = (range(i, min(i + TOGETHER, len(store))) for i in range(0, len(store), TOGETHER))
        try:
            Work(self._pool, self.threads, parts, lambda: decode_part).result()
        except BaseException:
            self.close()
            raise
        # compile it (or load it from numba's cache) here, so that the first batch does not wait
        crop_images(
            self._pixels, self._starts, store.sizes, np.empty(0, np.int64),
            np.empty((0, 1, 4), np.int32), np.empty((0, 1, LEAST_SIDE, LEAST_SIDE, 3), np.uint8),
        )

    def _image(self, i: int) -> NDArray[np.uint8]:
        height, width = self.store.sizes[i].tolist()
        start = self._starts[i]
        return self._pixels[start : start + height * width * 3].reshape(height, width, 3)

    def submit(
        self, ids: NDArray[np.int64], windows: NDArray, out: NDArray[np.uint8]
    ) -> Work:
        """Start to fill out [B, V, S, S, 3] with windows [B, V, 4] of the samples ids [B]."""
        boxes = windows.dtype.kind == "f"
        # The compiled loop only takes what crop_views takes; see resample.fits.
        if boxes or out.shape[2] < LEAST_SIDE or int(windows[..., 3].min()) < LEAST_WIDTH:
            cut = cut_boxes if boxes else cut_windows

            def begin_one() -> Callable[[One], None]:
                return lambda one: cut(self._image(one[0]), one[1], one[2])

            images = zip(ids.tolist(), windows, out, strict=True)
            return Work(self._pool, self.threads, images, begin_one)

        def cut_part(part: slice) -> None:
            crop_images(
                self._pixels, self._starts, self.store.sizes, ids[part], windows[part], out[part]
            )

        step = max(1, len(ids) // (self.threads * PARTS))
        parts = (slice(i, i + step) for i in range(0, len(ids), step))
        return Work(self._pool, self.threads, parts, lambda: cut_part)
