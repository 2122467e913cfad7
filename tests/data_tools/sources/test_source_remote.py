"""Tables and archives behind a URL read as they do here (fsspec's memory file system)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from data_tools.errors import UserError
from data_tools.sources import cifar, idx
from data_tools.sources.location import Location
from data_tools.sources.tables import parquet
from data_tools.sources.tables import table as lists
from tests.support.made_files.cifar_archives import layout_files, pack, python2
from tests.support.made_files.cifar_archives import write as write_cifar
from tests.support.made_files.idx_files import PAIR, TEST
from tests.support.made_files.idx_files import write as write_idx
from tests.support.made_files.image_lists import CSV, IMAGES, JSON
from tests.support.made_files.parquet_tables import shards, table, write_file, write_stream

fsspec = pytest.importorskip("fsspec")


def write_lists(folder: Path) -> None:
    for name, data in IMAGES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "x.csv").write_text(CSV)
    (folder / "x.jsonl").write_text(JSON)


# A function that writes a folder, its source, and the name to open in it.
CASES: dict[str, tuple[Callable[[Path], object], ModuleType, str]] = {
    "parquet": (shards, parquet, ""),
    "arrow stream": (lambda f: write_stream(f / "x.arrow", table()), parquet, "x.arrow"),
    "arrow file": (lambda f: write_file(f / "x.arrow", table()), parquet, "x.arrow"),
    "csv": (write_lists, lists, "x.csv"),
    "jsonl": (write_lists, lists, "x.jsonl"),
    "idx": (lambda f: write_idx(f, PAIR), idx, ""),
    "idx.gz": (lambda f: write_idx(f, PAIR | TEST, True), idx, "train-images-idx3-ubyte.gz"),
    "cifar": (lambda f: pack(write_cifar(f / "cifar-100-python", layout_files(
        "cifar-100-python", python2))), cifar, "cifar.tar.gz"),
    "cifar folder": (lambda f: write_cifar(f / "cifar-10-batches-bin", layout_files(
        "cifar-10-batches-bin", python2)), cifar, "cifar-10-batches-bin"),
}


@pytest.fixture
def memory() -> Iterator[object]:
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/there", recursive=True)


@pytest.mark.parametrize("case", CASES)
def test_a_remote_place_reads_as_a_local_one(tmp_path: Path, memory: object, case: str) -> None:
    write, module, inside = CASES[case]
    write(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            memory.pipe(f"/there/{path.relative_to(tmp_path)}", path.read_bytes())
    near, far = Location(tmp_path / inside), Location(f"memory://there/{inside}".rstrip("/"))
    assert module.recognises(near) and module.recognises(far)
    here, there = module.open(near), module.open(far)
    assert list(here.keys) == list(there.keys) and here.classes == there.classes
    assert here.labels.tolist() == there.labels.tolist()
    for i in range(len(here.keys)):
        assert np.array_equal(here.read(i), there.read(i))
    here.close()
    there.close()


@pytest.mark.parametrize("module", [cifar, idx, parquet, lists])
def test_a_place_that_is_not_there(module: ModuleType) -> None:
    for name in ("x.parquet", "x.csv", "nowhere", "train-images-idx3-ubyte"):
        place = Location(f"memory://nothing/{name}")
        module.recognises(place)
        with pytest.raises((UserError, OSError)):
            module.open(place)
