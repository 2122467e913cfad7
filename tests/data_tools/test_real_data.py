"""Real photographs and all of CIFAR-10, where they are."""

import tarfile
import time
from pathlib import Path

from data_tools.open import open_store
from data_tools.prepare import prepare


def test_photographs_are_stored_bit_for_bit(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "photos-300.tar"
    manifest = prepare(source, tmp_path / "out")
    assert manifest.kept == manifest.samples == 300
    store = open_store(tmp_path / "out")
    with tarfile.open(source) as tar:
        for i in range(300):
            member = tar.extractfile(store.key(i))
            assert member is not None and store.encoded(i).tobytes() == member.read()
    assert store.classes == sorted({store.key(i).split("/")[0] for i in range(300)})


def test_cifar10_takes_seconds(real_data: Path, tmp_path: Path) -> None:
    start = time.process_time()  # of all threads; the machine may be busy with other work
    for name, samples in (("train", 50_000), ("test", 10_000)):
        manifest = prepare(real_data / f"cifar10-{name}.tar", tmp_path / name)
        assert (manifest.kept, len(manifest.classes)) == (samples, 10)
        store = open_store(tmp_path / name)
        assert (store.sizes == 32).all()
        assert (store.labels == sorted(list(range(10)) * (samples // 10))).all()
    assert time.process_time() - start < 20
