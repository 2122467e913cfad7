"""open_store(path): opens a prepared dataset, or a single file of one of its formats.

A file that prep did not write has no index. It is scanned once, and its index is kept in the user's
cache, keyed by the file's path, size and modification time.
"""

from __future__ import annotations

import copyreg
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_tools.errors import UserError
from data_tools.files import cache_dir, write_whole
from data_tools.formats import beton, recordio, tfrecord, webdataset
from data_tools.formats.registry import FORMATS, TABLE, format_of
from data_tools.manifest import MANIFEST, UNFINISHED, check_files, read_manifest
from data_tools.progress import Tick
from data_tools.safe_reading.checksum import Say, sealed, unsaid, unsealed
from data_tools.safe_reading.regular import read_all, special_kind
from data_tools.store import INDEX, KEYS, MappedStore, read_index


def is_dataset(path: str | os.PathLike[str]) -> bool:
    """True for a directory that prep finished, in one format or several."""
    return bool(datasets_in(Path(path)))


def datasets_in(path: Path) -> list[Path]:
    """The dataset directories at `path`: itself, or one per format in it."""
    if (path / MANIFEST).is_file():
        return [path]
    if (path / UNFINISHED).exists():
        return []
    return [path / name for name in FORMATS if (path / name / MANIFEST).is_file()]


def is_store(path: str | os.PathLike[str]) -> bool:
    """True if open_store can open `path`: a prepared dataset, or a file in one of the formats."""
    path = Path(path)
    return is_dataset(path) or (path.is_file() and format_of(path) is not None)


def open_store(
    path: str | os.PathLike[str], progress: Tick | None = None, say: Say = unsaid
) -> MappedStore:
    """Opens the images at `path`: a directory that prep wrote, or a beton, TFRecord, RecordIO or
    WebDataset file.

    progress(done, total): called with the bytes read while a file is scanned. say(line): called if
    its cached index was damaged, and is made again.

    Checks the sizes of a prepared dataset's files, and the checksums of its manifest and index.
    The checksums of keys and digests are checked when they are read, those of images by `verify`.
    Raises UserError, with the file and what to do, if it is anything else, damaged or truncated.
    """
    if not os.fspath(path):
        raise UserError('"": an empty path; "." is the current directory')
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such dataset; run prep first")
    if kind := special_kind(path):
        raise UserError(f"{path}: {kind}; give a prepared dataset, or a file in one of its formats")
    if path.is_file():
        return open_foreign(path, progress, say)
    datasets = datasets_in(path)
    if not datasets:
        if (path / UNFINISHED).exists():
            raise UserError(f"{path}: preparation did not finish; run prep again")
        raise UserError(f"{path}: not a prepared dataset (no {MANIFEST}); run prep on it first")
    # All formats contain the same samples in the same order, so the first one serves for all.
    path = datasets[0]
    manifest = read_manifest(path)
    if manifest.format not in FORMATS:
        raise UserError(f"{path}: format {manifest.format} is not known; run prep again")
    check_files(path, manifest)
    sums = {name: file.sha256 for name, file in manifest.files.items()}
    columns = read_index(path / INDEX, manifest.samples, sums.get(INDEX, ""))
    data = [path / name for name in manifest.data]
    return MappedStore(path, data, columns, manifest.classes, manifest.fingerprint, path / KEYS,
                       sums.get(KEYS, ""), recordio.join)


def open_foreign(
    path: Path, progress: Tick | None = None, say: Say = unsaid
) -> MappedStore:
    """Opens a single file: prep did not write it, or it was moved out of its dataset."""
    name = format_of(path)
    if name is None:
        raise UserError(f"{path}: neither a prepared dataset nor a file in one of its formats "
                        f"({', '.join(FORMATS)}); run prep on it first")
    if name == "beton":
        return beton.open_beton(path)
    status = path.stat()
    identity = f"{name} {path.resolve()} {status.st_size} {status.st_mtime_ns}"
    if name == "tfrecord" and tfrecord.labels_are_floats(path):
        # Older versions ignored such labels: their indexes and runs must not be mixed with these.
        identity += " floats"
    if name == "webdataset":
        rows, classes, fingerprint = open_webdataset(path, identity, progress, say)
    else:
        fingerprint = digest_of(identity)
        cached = index_cache(fingerprint)
        found, classes = load_cached(cached, path, say)
        if found is None:
            found, classes = TABLE[name].scan(path, progress)
            save_cached(cached, found, classes)
        rows = found
    if not len(rows):
        raise UserError(f"{path}: holds no images")
    return MappedStore(path, [path], rows, classes, fingerprint, join=recordio.join)


def open_webdataset(
    path: Path, identity: str, progress: Tick | None, say: Say
) -> tuple[np.ndarray, list[str], str]:
    """Returns (index rows, INDEX_DTYPE [N]; classes; fingerprint) of a shard.

    The fingerprint is that of older versions, so that their runs resume, unless those versions
    chose other members as its images.
    """
    former, own = digest_of(identity), digest_of(f"{identity} {webdataset.RULE}")
    # An index that an older version cached under the former fingerprint is not used.
    places = {own: index_cache(own), former: index_cache(f"{former}-{webdataset.RULE}")}
    for fingerprint, cached in places.items():
        found, classes = load_cached(cached, path, say)
        if found is not None:
            return found, classes, fingerprint
    shard = webdataset.read_shard(path, progress)
    fingerprint = own if shard.regrouped else former
    save_cached(places[fingerprint], shard.rows, shard.classes)
    return shard.rows, shard.classes, fingerprint


def digest_of(identity: str) -> str:
    """SHA-256, in hexadecimal, of a text."""
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()


def index_cache(name: str) -> Path:
    """The path of a cached index."""
    return cache_dir() / "index" / f"{name}.index"


def load_cached(cached: Path, path: Path, say: Say) -> tuple[np.ndarray | None, list[str]]:
    """The index that save_cached wrote for the file at `path`: INDEX_DTYPE [N], and the classes.

    (None, []) if it is missing or damaged. say(line) reports damage.
    """
    try:
        content = unsealed(read_all(cached), cached.stem)
    except OSError:
        return None, []
    if content is None:
        say(f"{cached}: damaged; {path} is indexed again")
        return None, []
    with np.load(io.BytesIO(content)) as arrays:
        return arrays["rows"], arrays["classes"].tolist()


def save_cached(path: Path, rows: np.ndarray, classes: list[str]) -> None:
    """Caches an index. If the cache can't be written, the file is scanned again next time."""
    buffer = io.BytesIO()
    np.savez(buffer, rows=rows, classes=np.array(classes, np.str_))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, sealed(buffer.getvalue(), path.stem))
        path.with_suffix(".npz").unlink(missing_ok=True)  # written by a release without checksums
    except OSError:
        pass


def _reopened(store: MappedStore) -> tuple[Callable[[Path], MappedStore], tuple[Path]]:
    return open_store, (store.path,)


# A store is pickled as its path, so that a worker process opens the files itself. The rule is here,
# and not in the store, since the store can't import this module, which imports it.
copyreg.pickle(MappedStore, _reopened)
