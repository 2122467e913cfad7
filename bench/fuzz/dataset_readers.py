"""Files in our formats, prepared datasets, the journal of a killed prep, the index cache."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.fuzz import containers
from bench.fuzz.image_readers import encode, picture
from bench.fuzz.mutations import edit_json, edit_json_line, edit_lines
from bench.fuzz.reader import Edit, Reader, equal
from bench.fuzz.source_readers import POLICY, packed, samples, written
from data_tools.errors import UserError
from data_tools.files import cache_dir
from data_tools.formats import beton
from data_tools.inspection.survey import survey
from data_tools.inspection.survey_text import lines
from data_tools.inspection.verify import verify
from data_tools.manifest import read_manifest
from data_tools.open import open_store
from data_tools.preparation.duplicates import Other
from data_tools.preparation.journal import JOURNAL
from data_tools.prepare import prepare
from data_tools.sources.registry import open_source
from data_tools.sources.source import Source
from data_tools.store import Store

IN_PARTS = replace(POLICY, shard_size=0.005)  # MB, so that a few images make several parts
JOURNAL_FORMATS = ("beton", "tfrecord")


def images(folder: Path, count: int = 8) -> Path:
    """Write two classes of images: two are equal, one is broken, one is to be re-encoded."""
    for i in range(count):
        path = folder / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = encode(picture("RGB", 12 + i % 7, 15), "PNG" if i == 3 else "JPEG")
        path.write_bytes(data[:-30] if i == 4 else data)
    shutil.copy2(folder / "a" / "0.jpg", folder / "b" / "again.jpg")
    return folder


@contextlib.contextmanager
def own_cache(folder: Path) -> Any:
    """Use an index cache beside the folder; remove it afterwards."""
    before = os.environ.get("XDG_CACHE_HOME")
    cache = folder.with_suffix(".cache")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    try:
        yield
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def content(store: Store) -> dict[str, Any]:
    """Return everything that a store reports of its samples."""
    some = range(min(len(store), 30))
    return {
        "sizes": store.sizes, "labels": store.labels, "kinds": store.kinds,
        "lengths": store.lengths, "classes": store.classes,
        "keys": [Path(store.key(i)).name for i in some],
        "bytes": [store.encoded(i).tobytes() for i in some],
    }


def attempt(action: Callable[[], Any]) -> Any:
    """Return the function's value, or None if it refuses."""
    try:
        return action()
    except UserError:
        return None


def read_store_file(folder: Path, name: str) -> Any:
    """Read a file as knn, verify, inspect and prep do."""
    path = folder / name
    with own_cache(folder):
        found = attempt(lambda: content(open_store(path)))
        attempt(lambda: verify(path, workers=1))
        attempt(lambda: lines(survey(path, sample=4, workers=1)))
        attempt(lambda: read_all(open_source(path)))
        return found


def read_all(source: Source) -> list[Any]:
    found = []
    for i in range(min(20, len(source.keys))):
        with contextlib.suppress(OSError):
            found.append(source.read(i))
    assert len(source.labels) == len(source.keys) == len(source.sizes)
    source.close()
    return found


def build_file(form: str, name: str) -> Callable[[Path], list[str]]:
    def build(folder: Path) -> list[str]:
        images(folder / "images")
        prepare(folder / "images", folder / "out", formats=(form,))
        shutil.copy(folder / "out" / name, folder / f"foreign{Path(name).suffix}")
        shutil.rmtree(folder / "images")
        shutil.rmtree(folder / "out")
        return [f"foreign{Path(name).suffix}"]

    return build


def build_beton(folder: Path) -> list[str]:
    """Cut a beton's empty last pages, which no reader reads: 4 MB less."""
    build_file("beton", "train.beton")(folder)
    path = folder / "foreign.beton"
    store, data = open_store(path), path.read_bytes()
    front = beton.HEADER.size + 2 * beton.FIELD.size
    rows = np.frombuffer(data, beton.ROW, len(store), front).copy()
    table = np.zeros(len(store), beton.ALLOCATION)
    end = front + rows.nbytes
    images = b""
    for i in range(len(store)):
        image = store.encoded(i).tobytes()
        rows["image"]["ptr"][i] = table["ptr"][i] = end + len(images)
        table["sample"][i], table["size"][i] = i, len(image)
        images += image
    head = beton.HEADER.pack(beton.VERSION, 2, 1 << 20, len(store), end + len(images))
    path.write_bytes(head + data[len(head) : front] + rows.tobytes() + images + table.tobytes())
    return [path.name]


def build_webdataset(folder: Path) -> list[str]:
    return written(folder, {"shard.tar": packed(samples())})


def build_dataset(folder: Path) -> list[str]:
    images(folder / "images")
    names = []
    for form in ("beton", "webdataset"):
        prepare(folder / "images", folder / form, formats=(form,))
        names += [f"{form}/{p.name}" for p in (folder / form).iterdir() if p.suffix != ".beton"]
    return names


def read_dataset(folder: Path, name: str) -> Any:
    """Read a prepared dataset as every command does. Images count only if verify finds no fault,
    since no other command checks their checksums."""
    out = folder / name.split("/")[0]
    manifest = attempt(lambda: read_manifest(out))
    found = attempt(lambda: content(open_store(out)))
    reports = attempt(lambda: verify(out, workers=1))
    attempt(lambda: lines(survey(out, sample=4, workers=1)))
    attempt(lambda: Other(out).key_of(bytes(16)))
    attempt(lambda: read_all(open_source(out)))
    attempt(lambda: prepare(folder / "images", out, formats=(out.name,)))
    if found is None or manifest is None or reports is None:
        return None
    if any(report.found for report in reports):
        del found["bytes"]
    return {**found, "manifest": vars(manifest)}


def as_prepared(found: dict[str, Any], whole: dict[str, Any]) -> bool:
    return all(equal(value, whole[name]) for name, value in found.items())


def build_data_file(folder: Path) -> list[str]:
    build_dataset(folder)
    return ["beton/train.beton", "webdataset/train-00000.tar"]



class DyingSource:
    """A source that ends the process when it reads a certain image."""

    def __init__(self, source: Source, at: int) -> None:
        self._source, self._at = source, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, i: int) -> Any:
        if i == self._at:
            os._exit(9)
        return self._source.read(i)


def build_journal(folder: Path) -> list[str]:
    """Leave the files of a prep that was killed in the middle."""
    images(folder / "images", 16)
    pid = os.fork()
    if not pid:
        dying: Any = DyingSource(open_source(folder / "images"), 14)
        prepare(dying, folder / "out", IN_PARTS, JOURNAL_FORMATS)
    os.waitpid(pid, 0)
    names = sorted(p.name for p in (folder / "out" / JOURNAL).iterdir())
    return [f"out/{JOURNAL}/{name}" for name in names if not name.endswith(".partial")]


def read_journal(folder: Path, name: str) -> Any:
    """Resume the killed prep; return the bytes of its files."""
    out = folder / "out"
    prepare(folder / "images", out, IN_PARTS, JOURNAL_FORMATS)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return [(str(path.relative_to(out)), path.read_bytes()) for path in files]


def build_cached(folder: Path) -> list[str]:
    return [*build_file("tfrecord", "train-00000.tfrecord")(folder), *build_webdataset(folder)]


def settle_cache(folder: Path) -> list[str]:
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    for path in sorted(folder.iterdir()):
        if path.is_file():
            open_store(path)
    return [str(p.relative_to(folder)) for p in (cache_dir() / "index").iterdir()]


def read_cached(folder: Path, name: str) -> Any:
    """Open foreign files whose indexes are cached; a damaged index counts as absent."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    return [content(open_store(path)) for path in paths]


BETON_FIELDS: Edit = containers.fields(
    (0, 2, "little"), (2, 2, "little"), (4, 4, "little"), (8, 8, "little"), (16, 8, "little"),
    (24, 1, "little"), (1065, 1, "little"), (2106, 1, "little"), (2107, 2, "little"),
    (2109, 2, "little"), (2111, 8, "little"), (2122, 8, "little"), (-24, 8, "little"),
    (-16, 8, "little"), (-8, 8, "little"), (-40, 8, "little"), (-32, 8, "little"),
)
HEADERS: tuple[Edit, ...] = (containers.edit_zip_header,)
ZIP_OF_ARRAYS: tuple[Edit, ...] = (containers.edit_zip((".npy", containers.edit_npy)),)


def lists(rng: Any, data: bytes) -> bytes:
    """Edit one of a dataset's small files, except the manifest."""
    if data[:1] == b"\x93":
        return containers.edit_npy(rng, data)
    if data[:2] == b"{\n":
        raise ValueError("the manifest")
    return (edit_json_line if data[:1] == b"{" else edit_lines)(rng, data)


def manifests(rng: Any, data: bytes) -> bytes:
    """Edit a manifest, perhaps without its checksum: then it counts as an old one."""
    if data[:2] != b"{\n":
        raise ValueError("no manifest")
    return edit_json(rng, data)


def file(name: str, build: Callable[[Path], list[str]], *edits: Edit) -> Reader:
    return Reader(f"store-{name}", build, read_store_file, edits)


READERS = [
    file("beton", build_beton, BETON_FIELDS),
    file("tfrecord", build_file("tfrecord", "train-00000.tfrecord"), containers.edit_tfrecord),
    file("recordio", build_file("recordio", "train-00000.rec"), containers.edit_recordio),
    file("webdataset", build_webdataset, containers.edit_tar),
    Reader("dataset", build_dataset, read_dataset, (lists,), (manifests,), as_prepared),
    Reader("dataset-images", build_data_file, read_dataset, same=as_prepared, slow=True),
    Reader("journal", build_journal, read_journal, HEADERS, ZIP_OF_ARRAYS, equal,
           writes=True, slow=True),
    Reader("index-cache", build_cached, read_cached, HEADERS, ZIP_OF_ARRAYS, equal,
           settle=settle_cache, writes=True),
]
