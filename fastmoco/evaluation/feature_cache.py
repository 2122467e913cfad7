"""Features are extracted once and cached in memory-mapped files, keyed by a hash of everything that
determines their values.

A file is renamed when it is complete, so an incomplete one is never used; the next extraction
deletes the remains of a killed one. Every rank extracts its own share of the images into the same
file. After the array there is a CRC-32 per block. A file that does not match its checksums counts
as missing. Opening reads the whole file once, which its users do anyway: 10 GB take 2 s of one
core.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.errors import UserError
from data_tools.files import cache_dir
from data_tools.machine import cores
from data_tools.progress import ShowProgress, silent
from data_tools.quantities import human
from data_tools.safe_reading.checksum import BLOCK, Say, block_crcs, unsaid
from data_tools.safe_reading.limits import why
from data_tools.safe_reading.regular import open_binary
from data_tools.store import Store, npy_header
from data_tools.subset import Subset
from fastmoco.evaluation.features import check_finite, extract
from fastmoco.model.encoder import Encoder
from fastmoco.recipe import Recipe
from fastmoco.settings.extraction import EngineName
from fastmoco.system.ranks import ALONE, Ranks
from fastmoco.weights.read import tensors_digest

VERSION = 1  # of the cached values: change it if the same inputs give other features


@dataclass(frozen=True)
class Extraction:
    """Options of an extraction: device, engine, cache and progress."""

    device: torch.device
    threads: int = 0
    engine: EngineName = "auto"
    keep: bool = True
    """Keep features in the cache."""
    ranks: Ranks = ALONE
    progress: ShowProgress = silent
    say: Say = unsaid
    """Called with a line if a file in the cache was damaged."""


def features_of(
    encoder: Encoder, store: Store, recipe: Recipe, how: Extraction
) -> torch.Tensor:
    """Pooled trunk outputs, float32 [N, width] in host memory, in the store's order.

    They come from the cache, or are extracted into it by all ranks. If how.keep is False, this
    process extracts them alone. Raises UserError if the cache has no room, or if the features are
    not finite.
    """
    features = _kept(encoder, store, recipe, how) if how.keep else extracted(
        encoder, store, recipe, how
    )
    check_finite(features, store.path.name)
    return features


def _kept(encoder: Encoder, store: Store, recipe: Recipe, how: Extraction) -> torch.Tensor:
    path = place(encoder, store, recipe, how.engine)
    found = opened(path, (len(store), encoder.width), how.say)
    if found is None:
        fill(path, encoder, store, recipe, how)
        # mapped from the file, so that the first use reads the same bytes as later ones
        found = opened(path, (len(store), encoder.width))
        assert found is not None
    return torch.from_numpy(found)


def extracted(
    encoder: Encoder, store: Store, recipe: Recipe, how: Extraction,
    out: NDArray[np.float32] | None = None,
) -> torch.Tensor:
    """extract() with a progress display."""
    with how.progress(f"features of {store.path.name}", "images") as tick:
        return extract(
            encoder, store, recipe, how.device, how.threads, tick, how.engine, out
        )


def place(encoder: Encoder, store: Store, recipe: Recipe, engine: str) -> Path:
    """The file in the cache for these weights, these images and this view of them."""
    view = (*view_of(recipe), engine)
    identity = f"{VERSION} {digest(encoder)} {images_digest(store)} {view}"
    return cache_dir() / "features" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npy"


def view_of(recipe: Recipe) -> tuple[Any, ...]:
    """The fields of a recipe that decide the values of features: the view and the precision."""
    aug = recipe.augmentation
    return recipe.eval_size or recipe.size, recipe.eval_crop, aug.mean, aug.std, recipe.precision


def digest(encoder: Encoder) -> str:
    """Hash of the trunk's parameters and buffers; the same on every device."""
    return tensors_digest(encoder.trunk.state_dict())


def images_digest(store: Store) -> str:
    """Identify a store's images: its fingerprint and, for a subset, a hash of its sample ids."""
    ids = hashlib.sha256(store.ids.tobytes()).hexdigest() if isinstance(store, Subset) else "all"
    return f"{store.fingerprint} {ids}"


def opened(path: Path, shape: tuple[int, int], say: Say = unsaid) -> NDArray[np.float32] | None:
    """Map the features in a file, copy-on-write: writes to them stay in memory.

    None if the file is missing, or damaged, which say(line) reports. Files of older releases have
    no checksums: they are used as they are, which say(line) also reports.
    """
    # The expected header is known, so the file's own is compared and not parsed.
    header = npy_header(np.dtype(np.float32), *shape)
    end = len(header) + 4 * shape[0] * shape[1]
    try:
        with open_binary(path) as file:
            size = os.fstat(file.fileno()).st_size
            whole = file.read(len(header)) == header and size in (end, end + sums_bytes(end))
            if whole and size > end:
                crcs = block_crcs(path, end, cores())
                file.seek(end)
                whole = file.read() == crcs.tobytes()
        if whole:
            if size == end:
                say(f"{path}: written by an older release, without checksums; used as it is")
            return np.memmap(path, np.float32, "c", len(header), shape)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why_not = why(error) if isinstance(error, OSError) else error
        say(f"{path}: can't be read ({why_not}); the features are extracted again")
        return None
    say(f"{path}: damaged; the features are extracted again")
    return None


def sums_bytes(end: int) -> int:
    """Bytes of the checksums that follow an array file of `end` bytes."""
    return 4 * -(-end // BLOCK)


def fill(path: Path, encoder: Encoder, store: Store, recipe: Recipe, how: Extraction) -> None:
    """Extract features into a file. All ranks must call this together."""
    ranks, shape = how.ranks, (len(store), encoder.width)
    # One name for all ranks. It holds rank 0's process id: sweep() asks whether that still runs.
    partial = path.with_suffix(f".{int(ranks.share(os.getpid()))}.partial")
    try:
        if ranks.rank == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path)
            if path.is_dir():
                raise UserError(f"{path}: a folder, not a file; remove it, or use --no-keep")
            reserve(partial, shape)
        ranks.barrier()  # the file is there: every rank maps it and fills its share
        out = np.lib.format.open_memmap(partial, mode="r+")
        first, end = (len(store) * r // ranks.size for r in (ranks.rank, ranks.rank + 1))
        if first < end:  # a rank of many has nothing to do if there are few images
            share = store if ranks.size == 1 else Subset(store, np.arange(first, end))
            extracted(encoder, share, recipe, how, out[first:end])
        out.flush()
        ranks.barrier()  # all shares are written
        if ranks.rank == 0:
            # The checksums follow the array: numpy.load ignores them.
            end = out.offset + out.nbytes
            with open(partial, "r+b") as file:
                file.seek(end)
                file.write(block_crcs(partial, end, cores()).tobytes())
            os.replace(partial, path)
        ranks.barrier()
    except OSError as error:
        raise UserError(
            f"{error.filename or partial}: {why(error)}; features of {len(store):,} images "
            f"take {human(4 * shape[0] * shape[1])}: make room, name another cache with "
            f"XDG_CACHE_HOME, or use --no-keep"
        ) from None
    finally:
        if ranks.rank == 0:
            with contextlib.suppress(OSError):  # a second error would hide the first
                partial.unlink(missing_ok=True)


def reserve(path: Path, shape: tuple[int, int]) -> None:
    """Create an array file of zeros, with its disk blocks allocated. Without them, writing to the
    map on a full disk would kill the process (SIGBUS)."""
    made = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    end = made.offset + made.nbytes
    del made
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, end + sums_bytes(end))


def sweep(path: Path) -> None:
    """Remove partial files that killed extractions of the same features left behind."""
    for partial in path.parent.glob(path.stem + ".*.partial"):
        try:
            os.kill(int(partial.suffixes[-2][1:]), 0)  # signal 0 only asks whether it exists
        except ProcessLookupError:
            partial.unlink(missing_ok=True)
        except (OSError, ValueError):  # another user's process
            continue
