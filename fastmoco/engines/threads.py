"""Our own engine: one exact decode a sample, every view cut from it, in threads.

simplejpeg (libjpeg-turbo) decodes and torch's uint8 kernel resizes as Pillow does (antialiased
bilinear); both release the interpreter lock, so threads share the store and nothing is copied
between processes. Float boxes (evaluation) go through Pillow, which takes them exactly.
"""

from __future__ import annotations

import io
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image

from data_tools.errors import UserError
from data_tools.store import OTHER, RAW, Store
from data_tools.workers import cores

_resize = torch.ops.aten._upsample_bilinear2d_aa.out


class ThreadsEngine:
    """Fills slots from a store with a pool of decoding threads (see batch.Engine)."""

    def __init__(self, store: Store, threads: int = 0) -> None:
        self.store = store
        self.threads = threads or cores()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="fastmoco-decode")

    def submit(
        self, ids: NDArray[np.int64], windows: NDArray, out: NDArray[np.uint8]
    ) -> Chunks:
        """Begin to fill out [B, V, S, S, 3] with windows [B, V, 4] of the samples ids [B]."""
        n = len(ids)
        # Small chunks even out images of different size; too small ones cost hand-overs.
        step = max(1, min(32, -(-n // (4 * self.threads))))
        return Chunks(
            [
                self._pool.submit(self._fill, ids[part], windows[part], out[part])
                for part in (slice(i, i + step) for i in range(0, n, step))
            ]
        )

    def close(self) -> None:
        """Stop all threads; what has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self, ids: NDArray[np.int64], windows: NDArray, out: NDArray[np.uint8]) -> None:
        cut = _cut_box if windows.dtype.kind == "f" else _cut_window
        # Two buffers for the chunk, image and crop: fresh pages for every image cost time.
        most = int(self.store.sizes[ids].prod(axis=1, dtype=np.int64).max())
        pixels, scratch = np.empty((2, most * 3), np.uint8)
        rows = windows.tolist()
        for sample, i in enumerate(ids.tolist()):
            image = decode(self.store, i, pixels)
            for view, window in enumerate(rows[sample]):
                cut(image, window, out[sample, view], scratch)


class Chunks:
    """The parts of one batch under way."""

    def __init__(self, futures: list[Future[None]]) -> None:
        self._futures = futures

    def result(self) -> None:
        """Wait for all; raise the first failure, after the rest has stopped writing."""
        wait(self._futures)  # wakes once, not at every chunk: a wake-up takes a core from a decode
        for future in self._futures:
            future.result()


def decode(store: Store, i: int, buffer: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """One sample's pixels, uint8 [H, W, 3] RGB, in the buffer where one is given.

    Raises UserError that names the sample where no decoder takes it.
    """
    encoded = store.encoded(i)
    if store.kinds[i] == RAW:
        height, width = store.sizes[i]
        pixels = np.empty(len(encoded), np.uint8) if buffer is None else buffer[: len(encoded)]
        pixels[:] = encoded  # the map of the file is read-only, which torch does not know
        return pixels.reshape(height, width, 3)
    try:
        if store.kinds[i] == OTHER:  # files of others may hold PNG and the like
            return np.array(Image.open(io.BytesIO(encoded.tobytes())).convert("RGB"))
        return simplejpeg.decode_jpeg(encoded, buffer=buffer)
    except (ValueError, OSError) as error:
        raise UserError(
            f"{store.key(i)} (sample {i} of {store.path}) cannot be decoded: {error}; "
            f"prepare the dataset again with --check decode"
        ) from None


def _cut_window(
    image: NDArray[np.uint8], window: list[int], out: NDArray[np.uint8], scratch: NDArray[np.uint8]
) -> None:
    top, left, height, width = window
    # The kernel would copy a crop with gaps between its rows into new memory; ours is at hand.
    crop = scratch[: height * width * 3].reshape(height, width, 3)
    np.copyto(crop, image[top : top + height, left : left + width])
    target = torch.from_numpy(out)
    # channels-last [1, 3, H, W] on both sides: the vectorised uint8 kernel, written in place
    _resize(
        torch.from_numpy(crop).permute(2, 0, 1).unsqueeze(0), out.shape[:2], False, None, None,
        out=target.permute(2, 0, 1).unsqueeze(0),
    )


def _cut_box(
    image: NDArray[np.uint8], window: list[float], out: NDArray[np.uint8], _: NDArray[np.uint8]
) -> None:
    top, left, height, width = window
    resized = Image.fromarray(image).resize(
        out.shape[1::-1], Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
    )
    out[:] = np.asarray(resized)
