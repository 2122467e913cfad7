"""Folders of small images and tars of those."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.made_files.sample_images import jpeg

Tree = dict[str, bytes]


@pytest.fixture
def write_tree(tmp_path: Path) -> Callable[..., Path]:
    def write(files: Tree, name: str = "source") -> Path:
        for key, data in files.items():
            path = tmp_path / name / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / name

    return write


@pytest.fixture
def pack() -> Callable[..., Path]:
    """A folder -> a tar of it beside it, by the standard library."""

    def pack(folder: Path, form: int = tarfile.PAX_FORMAT, arcname: str = "") -> Path:
        path = folder.with_suffix(".tar")
        with tarfile.open(path, "w", format=form) as tar:
            tar.add(folder, arcname or folder.name)
        return path

    return pack


@pytest.fixture
def pets() -> Tree:
    """Eight JPEGs of different sizes in two classes."""
    return {
        f"{'cat' if i < 3 else 'dog'}/{i}.jpg": jpeg(20 + i, 40 - 2 * i, seed=i) for i in range(8)
    }


@pytest.fixture
def real_data() -> Path:
    """The folder of real images. Tests that want it are skipped where it isn't."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "shared" / "data" / "photos-300.tar").exists():
            return parent / "shared" / "data"
    pytest.skip("no real data here")
