"""prepare(source, out): every image of a source into one dataset, on all cores.

Threads read, check and re-encode chunks of files; the calling thread writes their results in the
source's order. What is in flight is bounded, so memory does not grow with the dataset, and the
output does not depend on the number of threads.
"""

from __future__ import annotations

import io
import json
import logging
import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

from data_tools.errors import UserError
from data_tools.formats import beton
from data_tools.image import BadImage, Prepared, prepare_image
from data_tools.manifest import (
    MANIFEST,
    FileRecord,
    Manifest,
    check_files,
    commit,
    read_manifest,
    write_durably,
)
from data_tools.output import output_folder
from data_tools.policy import Policy
from data_tools.sources import Source, labels_of, open_source, refuse_splits
from data_tools.store import INDEX, KEYS, write_keys

QUARANTINE = "quarantine.jsonl"
PARTIAL = beton.NAME + ".partial"
# Every name that a run may leave when it is killed.
FILES = (PARTIAL, beton.NAME, INDEX, KEYS, QUARANTINE)
# A chunk is one task of a thread: large enough that handing it over costs nothing.
CHUNK_FILES, CHUNK_BYTES = 256, 2 << 20
LARGEST_FILE = 1 << 30
Result = Prepared | BadImage


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    policy: Policy | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Prepares a folder of images, or a tar of one, into the dataset directory `out`.

    progress(done, total): told, now and then, how many files are through.
    Returns the manifest; where the same source was prepared by the same policy before, the one
    that is there (`reused`). Raises UserError, and then leaves nothing behind.
    """
    policy = policy or Policy()
    out = Path(out)
    files = open_source(source)
    try:
        if not out.resolve().is_relative_to(Path(source).resolve()):
            done = finished(files, out, policy)
            if done is not None:
                return done
            with output_folder(out, FILES), quiet_pillow():
                return write_dataset(files, Path(source), out, policy, progress)
        raise UserError(f"{out}: lies inside {source}; give a folder beside it")
    finally:
        files.close()


def finished(files: Source, out: Path, policy: Policy) -> Manifest | None:
    """The dataset that `out` already holds, if it is this one. Raises UserError for another."""
    if not (out / MANIFEST).exists():
        return None
    manifest = read_manifest(out)
    if manifest.source_fingerprint != files.fingerprint:
        raise UserError(f"{out}: holds a dataset from another source or an older state of it "
                        f"({manifest.source}); give another folder, or remove it first")
    if manifest.policy != policy.decisive():
        raise UserError(f"{out}: holds this source prepared with other options; "
                        "give another folder, or remove it first")
    check_files(out, manifest)
    object.__setattr__(manifest, "reused", True)
    return manifest


def write_dataset(
    files: Source,
    source: Path,
    out: Path,
    policy: Policy,
    progress: Callable[[int, int], None] | None,
) -> Manifest:
    total = len(files.keys)
    page_size = page_size_for(files, policy)
    writer = beton.BetonWriter(out / PARTIAL, total, page_size)
    reencoded: Counter[str] = Counter()
    quarantined: Counter[str] = Counter()
    quarantine: list[str] = []
    stored: list[str] = []
    tell = 0.0
    images: list[str] = []  # keys of images, also of broken ones: they too spell the classes
    try:
        for i, result in results(files, policy, page_size):
            key = files.keys[i]
            if isinstance(result, BadImage):
                reason = str(result)
                quarantined[reason.split(":", 1)[0]] += 1
                row = {"key": key, "reason": reason, "size": files.sizes[i]}
                quarantine.append(json.dumps(row) + "\n")
                if result.is_image:
                    images.append(key)
            else:
                writer.append(result.data, result.height, result.width)
                stored.append(key)
                images.append(key)
                if result.reason:
                    reencoded[result.reason] += 1
            if progress is not None and (time.monotonic() >= tell or i == total - 1):
                progress(i + 1, total)
                tell = time.monotonic() + 0.1
        if not stored:
            first = json.loads(quarantine[0])
            raise UserError(f"{source}: no readable image in {total} files; the first, "
                            f"{first['key']}: {first['reason']}")
        refuse_splits(images, source)
        labels, classes, stray = labels_of(images)
        kept = set(stored)
        labels = labels[[key in kept for key in images]]
        data, index = writer.finish(labels)
    finally:
        writer.close()
    os.replace(out / PARTIAL, out / beton.NAME)
    buffer = io.BytesIO()
    np.save(buffer, index)
    contents = {
        INDEX: buffer.getvalue(),
        KEYS: write_keys(stored),
        QUARANTINE: "".join(quarantine).encode(),
    }
    records: dict[str, FileRecord] = {beton.NAME: data}
    for name, content in contents.items():
        records[name] = write_durably(out / name, content)
    manifest = Manifest(
        format="beton",
        format_version=beton.VERSION,
        data=beton.NAME,
        files=records,
        samples=len(stored),
        classes=classes,
        kept=len(stored) - reencoded.total(),
        reencoded=dict(sorted(reencoded.items())),
        quarantined=dict(sorted(quarantined.items())),
        ignored=files.ignored,
        stray=stray,
        largest=[int(index["height"].max()), int(index["width"].max())],
        policy=policy.decisive(),
        source=files.name,
        source_fingerprint=files.fingerprint,
        versions={name: version(name) for name in ("pillow", "simplejpeg")},
    )
    commit(out, manifest)
    return manifest


def page_size_for(files: Source, policy: Policy) -> int:
    """Bytes of a page: 8 MiB, or what the largest image needs. No image may cross a page."""
    need = beton.PAGE
    # With a limit on the sides, what is larger than this is re-encoded, and fits.
    if policy.max_side is None:
        for i, size in enumerate(files.sizes):
            if size > need:
                result = prepare_one(files, i, policy, beton.MAX_PAGE)
                if isinstance(result, Prepared):
                    need = max(need, 1 << (len(result.data) - 1).bit_length())
    return need


def results(files: Source, policy: Policy, max_bytes: int) -> Iterator[tuple[int, Result]]:
    """(i, what became of file i), in order, computed by threads a bounded distance ahead."""
    workers = policy.workers or cores()

    def work(chunk: range) -> list[Result]:
        return [prepare_one(files, i, policy, max_bytes) for i in chunk]

    pending: deque[tuple[range, Future[list[Result]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for chunk in chunks(files.sizes):
                pending.append((chunk, pool.submit(work, chunk)))
                if len(pending) > 2 * workers:
                    done, future = pending.popleft()
                    yield from zip(done, future.result(), strict=True)
            while pending:
                done, future = pending.popleft()
                yield from zip(done, future.result(), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Those this process may use; where that can't be asked, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chunks(sizes: list[int]) -> Iterator[range]:
    start = total = 0
    for i, size in enumerate(sizes):
        if i > start and (i - start == CHUNK_FILES or total + size > CHUNK_BYTES):
            yield range(start, i)
            start, total = i, 0
        total += size
    yield range(start, len(sizes))


def prepare_one(files: Source, i: int, policy: Policy, max_bytes: int) -> Result:
    if files.sizes[i] > LARGEST_FILE:
        return BadImage(f"larger than {LARGEST_FILE} bytes", is_image=False)
    try:
        return prepare_image(files.read(i), policy, max_bytes)
    except BadImage as error:
        # Without the old one's traceback, which would keep the file's bytes alive.
        return BadImage(str(error), error.is_image)
    except OSError as error:
        return BadImage(f"can't be read: {error.strerror}", is_image=False)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow's warnings and messages off, and its limit on pixels: the policy has its own."""
    from PIL import Image

    log = logging.getLogger("PIL")
    level = log.level
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        log.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
        log.setLevel(level)
