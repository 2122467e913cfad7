"""FFCV as an engine: its reader, memory manager, decoder and resize, with our windows.

ffcv.reader.Reader and ffcv.memory_managers.OSCacheManager map the beton. ffcv.libffcv's imdecode
and resize_crop run in a loop compiled by ffcv's Compiler. FFCV's own ResizedCropRGBImageDecoder
does the same, but draws its windows itself and decodes once per view. FFCV's Loader is not used: it
runs whole epochs by itself, reserves (batches ahead + 2) x batch x the largest image, and ignores
the decoder's return code.

imdecode uses a fast DCT. resize_crop averages over areas (OpenCV's INTER_AREA) and only takes whole
pixels, so evaluation's float boxes are rounded. On 150 photographs of 500 pixels the views differ
from Pillow's by 1.4/255 in windows and 2.2/255 in boxes, and by 5.2/255 in the worst case.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.errors import UserError
from data_tools.formats.beton import NAME, is_beton
from data_tools.machine import cores
from data_tools.store import Store
from data_tools.subset import Subset
from fastmoco.loading.engines.bad_sample import bad_sample
from fastmoco.loading.engines.engine import CropOnDevice
from fastmoco.loading.engines.threads import Work


class FfcvEngine:
    """Fills slots from a beton by FFCV's compiled functions in threads (see engine.Engine).

    Raises UserError if the store is no beton.
    """

    crop_on_device: CropOnDevice | None = None

    def __init__(self, store: Store, threads: int = 0) -> None:
        beton = beton_of(store)
        self.store = store
        self.threads = threads or cores()
        self._decode = compiled()
        from ffcv.fields import RGBImageField
        from ffcv.memory_managers import OSCacheManager
        from ffcv.reader import Reader

        reader = Reader(str(beton))
        images = [
            (name.rstrip("\0") != "image", n)  # the field named "image" sorts first
            for n, (name, field) in enumerate(reader.handlers.items())
            if isinstance(field, RGBImageField)
        ]
        self._metadata = reader.metadata[f"f{min(images)[1]}"]
        self._context = OSCacheManager(reader).schedule_epoch([])
        self._context.__enter__()  # maps the file; there is nothing to leave
        # FFCV reads by the position in the file, which a subset knows for its samples.
        self._places: NDArray[np.int64] = (
            store.ids if isinstance(store, Subset) else np.arange(len(store))
        )
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="fastmoco-ffcv")

    def submit(
        self, ids: NDArray[np.int64], windows: NDArray, out: NDArray[np.uint8]
    ) -> Work:
        """Start to fill out [B, V, S, S, 3] with windows [B, V, 4] of the samples ids [B]."""
        n = len(ids)
        step = max(1, min(32, -(-n // (4 * self.threads))))
        parts = (slice(i, i + step) for i in range(0, n, step))
        windows = whole_pixels(windows)

        def fill_part(p: slice) -> None:
            self._fill(ids[p], windows[p], out[p])

        return Work(self._pool, self.threads, parts, lambda: fill_part)

    def close(self) -> None:
        """Stop all threads; drop batches that were not started."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill(
        self, ids: NDArray[np.int64], windows: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> None:
        for i in ids.tolist():
            self.store.encoded(i)  # raises if the file was cut short; FFCV's map would not
        most = int(self.store.sizes[ids].prod(axis=1, dtype=np.int64).max())
        codes = np.zeros(len(ids), np.int64)
        self._decode(
            self._places[ids], windows, out, np.empty(most * 3, np.uint8), codes,
            self._metadata, self._context.state,
        )
        if codes.any():
            first = int(codes.argmax()) if codes.max() > 0 else int(codes.argmin())
            raise bad_sample(
                self.store, ids[first : first + 1], "FFCV", f"its decoder returned {codes[first]}"
            )


def beton_of(store: Store) -> Path:
    """The beton that holds a store's samples. Raises UserError if the store is in another
    format."""
    path = store.path / NAME if store.path.is_dir() else store.path
    if not path.is_file() or not is_beton(path):
        raise UserError(
            f"{store.path}: --engine ffcv reads betons only; prepare with --format beton, or use "
            f"--engine threads"
        )
    return path


def whole_pixels(windows: NDArray) -> NDArray[np.int64]:
    """Windows [B, V, 4] (top, left, height, width) as integers, by rounding their corners."""
    if windows.dtype.kind != "f":
        return windows.astype(np.int64)
    start = np.rint(windows[..., :2])
    end = np.rint(windows[..., :2] + windows[..., 2:])
    return np.concatenate([start, np.maximum(end - start, 1)], axis=-1).astype(np.int64)


@functools.cache
def compiled() -> Callable[..., None]:
    """Compile FFCV's decoder and crops to one function, which releases the interpreter lock.

    Its arguments: places int64 [n], windows int64 [n, V, 4], out uint8 [n, V, S, S, 3], space uint8
    [pixels of the largest image x 3], codes int64 [n], the beton's metadata, the memory manager's
    state. It writes the views to out and the decoder's return codes (0: no error) to codes.
    """
    threads = torch.get_num_threads()
    try:
        from ffcv.fields.rgb_image import IMAGE_MODES
        from ffcv.libffcv import imdecode, resize_crop
        from ffcv.pipeline.compiler import Compiler
    finally:
        torch.set_num_threads(threads)  # importing ffcv sets it to 1
    decode_c, crop_c = Compiler.compile(imdecode), Compiler.compile(resize_crop)
    jpeg = IMAGE_MODES["jpg"]

    def read(address, state):  # state: the file's bytes, starts of its regions, their lengths
        length = state[2][np.searchsorted(state[1], address)]
        return state[0][address : address + length]

    # Not OSCacheManager.compile_reader: its state_type marks the process-wide numba type uint8[::1]
    # as read-only. After that, numba does not find functions that were compiled for it before.
    read = Compiler.compile(read)

    def decode(places, windows, out, space, codes, metadata, state):
        for n in range(len(places)):
            field = metadata[places[n]]
            encoded = read(field["data_ptr"], state)
            height, width = np.uint32(field["height"]), np.uint32(field["width"])
            if field["mode"] == jpeg:
                image = space[: 3 * height * width].reshape(height, width, 3)
                codes[n] = decode_c(
                    encoded, image, height, width, height, width, 0, 0, 1, 1, False, False
                )
            else:
                image = encoded.reshape(height, width, 3)
            for view in range(windows.shape[1]):
                top, left, rows, columns = windows[n, view]
                crop_c(image, top, top + rows, left, left + columns, out[n, view])

    return Compiler.compile(decode)
