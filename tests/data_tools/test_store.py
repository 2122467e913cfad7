"""A store in use: files that shrink under it, and more files than a process may open at first."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from tests.support.made_files.sample_images import jpeg


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(80):
        (folder / f"{i:02}.jpg").write_bytes(jpeg(33, 40, i))
    return folder


@pytest.mark.parametrize("form", ["beton", "tfrecord", "recordio", "webdataset"])
def test_a_file_cut_short_after_it_was_opened_is_one_line(
    images: Path, tmp_path: Path, form: str
) -> None:
    """Reading bytes of a map that are gone from the file would end the process (SIGBUS)."""
    prepare(images, tmp_path / "data", formats=[form])
    store = open_store(tmp_path / "data")
    first = store.encoded(0).tobytes()
    (path,) = store.data
    os.truncate(path, int(store.places(np.array([79]))[1][0]) + 10)
    with pytest.raises(UserError, match="sample 79 is gone"):  # though it begins in the file
        store.encoded(79)
    os.truncate(path, 8192)
    with pytest.raises(UserError, match=f"{path.name}: became shorter"):
        store.encoded(79).tobytes()
    if form != "beton":  # whose first image is behind its tables
        assert store.encoded(0).tobytes() == first


def test_more_files_than_a_process_may_open(images: Path, tmp_path: Path) -> None:
    prepare(images, tmp_path / "data", formats=["webdataset"], policy=Policy(shard_size=1e-06))
    store = open_store(tmp_path / "data")
    assert len(store.data) == 80
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (40, {resource.getrlimit(resource.RLIMIT_NOFILE)[1]}))
from data_tools.open import open_store
store = open_store({str(tmp_path / "data")!r})
print(sum(len(store.encoded(i)) for i in range(len(store))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(len(store.encoded(i)) for i in range(80))
