"""Our own engine: threads decode each sample once, exactly, and cut every view from it.

simplejpeg (libjpeg-turbo) decodes. kernels.resample cuts and resizes as Pillow does (antialiased
bilinear). Both release the interpreter lock, so threads share the store and nothing is copied
between processes. Pillow itself cuts float boxes (evaluation).
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image

from data_tools.errors import UserError
from data_tools.machine import cores
from data_tools.store import OTHER, RAW, Store
from fastmoco.kernels.resample import crop_views, fits
from fastmoco.loading.engines.engine import CropOnDevice

One = tuple[int, NDArray, NDArray[np.uint8]]  # a sample id, its windows [V, 4], its views
Part = TypeVar("Part")
_resize = torch.ops.aten._upsample_bilinear2d_aa


class ThreadsEngine:
    """Fills slots from a store with a pool of decoding threads (see engine.Engine)."""

    crop_on_device: CropOnDevice | None = None

    def __init__(self, store: Store, threads: int = 0) -> None:
        self.store = store
        self.threads = threads or cores()
        # Compile it (or load it from numba's cache) here, so that the first batch does not wait.
        crop_views(
            np.zeros((16, 16, 3), np.uint8), np.array([[0, 0, 16, 16]], np.int32),
            np.empty((1, 16, 16, 3), np.uint8),
        )
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="fastmoco-decode")

    def submit(
        self, ids: NDArray[np.int64], windows: NDArray, out: NDArray[np.uint8]
    ) -> Work:
        """Start to fill out [B, V, S, S, 3] with windows [B, V, 4] of the samples ids [B]."""
        store = self.store
        cut = cut_boxes if windows.dtype.kind == "f" else cut_windows
        # One buffer per thread, as large as the largest image: fresh memory pages cost time.
        most = int(store.sizes[ids].prod(axis=1, dtype=np.int64).max(initial=0)) * 3

        def begin() -> Callable[[One], None]:
            buffer = np.empty(most, np.uint8)
            return lambda one: cut(decode(store, one[0], buffer), one[1], one[2])

        return Work(self._pool, self.threads, zip(ids.tolist(), windows, out, strict=True), begin)

    def close(self) -> None:
        """Stop all threads; drop batches that were not started."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Work(Generic[Part]):
    """The work of one batch, split into parts. Each thread calls begin() for its own function, and
    applies it to parts from a shared queue until the queue is empty.

    So large and small images balance out, and a thread that finds no more parts continues with the
    next batch at once.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, threads: int, parts: Iterable[Part],
        begin: Callable[[], Callable[[Part], None]],
    ) -> None:
        self._left, self._begin = deque(parts), begin
        self.futures = [pool.submit(self._run) for _ in range(min(threads, len(self._left)))]

    def _run(self) -> None:
        do = self._begin()
        while True:
            try:
                part = self._left.popleft()
            except IndexError:  # none is left
                return
            do(part)

    def result(self) -> None:
        """Wait for all threads, then raise the first failure: by then nothing writes any more."""
        wait(self.futures)
        for future in self.futures:
            future.result()


def decode(store: Store, i: int, buffer: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Decode sample i to pixels, uint8 [H, W, 3] RGB, in the buffer if one is given.

    Raises UserError, which names the sample, if it cannot be decoded.
    """
    encoded = store.encoded(i)
    if store.kinds[i] == RAW:
        height, width = store.sizes[i]
        pixels = np.empty(len(encoded), np.uint8) if buffer is None else buffer[: len(encoded)]
        pixels[:] = encoded  # copied, since torch cannot hold the file's read-only map
        return pixels.reshape(height, width, 3)
    try:
        if store.kinds[i] == OTHER:  # datasets of others may hold PNG and other formats
            return np.array(Image.open(io.BytesIO(encoded.tobytes())).convert("RGB"))
        return simplejpeg.decode_jpeg(encoded, buffer=buffer)
    except (ValueError, OSError) as error:
        raise UserError(
            f"{store.key(i)} (sample {i} of {store.path}) cannot be decoded: {error}; "
            f"prepare the dataset again with --check decode"
        ) from None


def cut_windows(image: NDArray[np.uint8], windows: NDArray, out: NDArray[np.uint8]) -> None:
    """Cut integer windows [V, 4] from an image [H, W, 3] into views [V, S, S, 3]."""
    if fits(image, windows, out):
        crop_views(image, windows, out)
    else:
        cut_windows_plain(image, windows, out)


def cut_windows_plain(image: NDArray[np.uint8], windows: NDArray, out: NDArray[np.uint8]) -> None:
    """cut_windows by torch's uint8 kernel: for views and windows of any size; crop_views'
    reference."""
    for (top, left, height, width), view in zip(windows.tolist(), out, strict=True):
        crop = np.ascontiguousarray(image[top : top + height, left : left + width])
        # channels-last [1, 3, H, W]: the uint8 kernel
        resized = _resize(
            torch.from_numpy(crop).permute(2, 0, 1).unsqueeze(0), list(view.shape[:2]), False
        )
        view[:] = resized[0].permute(1, 2, 0).numpy()


def cut_boxes(image: NDArray[np.uint8], windows: NDArray, out: NDArray[np.uint8]) -> None:
    """Cut float boxes [V, 4] from an image [H, W, 3] into views [V, S, S, 3] by Pillow. A view of
    the whole image in its own size is a copy."""
    whole = (0, 0, *image.shape[:2])
    for box, view in zip(windows.tolist(), out, strict=True):
        if view.shape == image.shape and tuple(box) == whole:
            view[:] = image
            continue
        top, left, height, width = box
        resized = Image.fromarray(image).resize(
            view.shape[1::-1], Image.Resampling.BILINEAR,
            box=(left, top, left + width, top + height),
        )
        view[:] = np.asarray(resized)
