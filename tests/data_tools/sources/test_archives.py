"""Archives that are joined, padded, hostile, or that unpack to far more than their size."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.formats.webdataset import is_webdataset, scan, tar_header
from data_tools.safe_reading import inflate
from data_tools.sources import archive, cifar, idx
from data_tools.sources import webdataset as webdataset_source
from data_tools.sources.location import Location
from data_tools.sources.registry import open_source
from tests.support.bounds import bounded
from tests.support.made_files.sample_images import jpeg

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}
IMAGE = jpeg(16, 16)


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


FIRST = tar_of({"a/1.jpg": IMAGE, "a/2.jpg": jpeg(20)})
SECOND = tar_of({"b/3.jpg": jpeg(24), "a/1.jpg": jpeg(28)})
KEYS = ["a/1.jpg", "a/2.jpg", "b/3.jpg"]


# Joined.


@pytest.mark.parametrize("end", ["", *PACKERS])
@pytest.mark.parametrize("inside", [True, False])
def test_joined_tars_are_read_to_their_end(tmp_path: Path, end: str, inside: bool) -> None:
    pack = PACKERS.get(end, bytes)
    path = tmp_path / f"x.tar.{end}".rstrip(".")
    path.write_bytes(pack(FIRST + SECOND) if inside else pack(FIRST) + pack(SECOND))
    source = open_source(path)
    assert source.keys == KEYS and source.classes == ["a", "b"]
    assert source.read(0) == jpeg(28)  # as unpacking it would leave it
    assert any("2 tars joined" in note for note in source.notes)
    assert any("1 files occur again" in note for note in source.notes)
    source.close()
    path.write_bytes(pack(FIRST) + b"\0" * 1024)  # padded to a block, as tapes are
    assert open_source(path).keys == KEYS[:2]


def test_joined_zstd_frames_are_read_to_their_end(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    pack = zstandard.ZstdCompressor().compress
    path = tmp_path / "x.tar.zst"
    path.write_bytes(pack(FIRST) + pack(SECOND))
    assert open_source(path).keys == KEYS


@pytest.mark.parametrize("end", PACKERS)
def test_what_follows_a_compressed_end_is_not_passed_over(tmp_path: Path, end: str) -> None:
    path = tmp_path / f"x.tar.{end}"
    second = bytearray(PACKERS[end](SECOND))
    second[1] ^= 1  # the second stream's magic
    for tail in (bytes(second), b"more"):
        path.write_bytes(PACKERS[end](FIRST) + tail)
        with pytest.raises(UserError, match="damaged"):
            open_source(path)


def test_joined_cifar_tars(tmp_path: Path) -> None:
    row = bytes([3]) + bytes(3072)
    parts = [{f"cifar-10-batches-bin/data_batch_{i}.bin": row * i} for i in (1, 2)]
    joined = b"".join(map(tar_of, parts))
    for data in (joined, gzip.compress(joined), b"".join(gzip.compress(tar_of(p)) for p in parts)):
        path = tmp_path / "cifar.tar"
        path.write_bytes(data)
        assert cifar.open(Location(path)).labels.tolist() == [3, 3, 3]


def test_joined_tars_of_tars(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({"n1.tar": FIRST + SECOND}) + tar_of({"n2.tar": SECOND}))
    assert open_source(path).keys == [
        "n1/a/1.jpg", "n1/a/2.jpg", "n1/b/3.jpg", "n2/a/1.jpg", "n2/b/3.jpg"]


# Bombs.


def zeros(count: int, pack: str) -> bytes:
    """A tar of one member of zeros, compressed."""
    stream = {"gz": zlib.compressobj(9, wbits=31), "xz": lzma.LZMACompressor(preset=0),
              "bz2": bz2.BZ2Compressor(9)}[pack]
    out = stream.compress(tar_header("a/1.bmp", count))
    block = bytes(1 << 20)
    for _ in range(count >> 20):
        out += stream.compress(block)
    return out + stream.compress(bytes(1024)) + stream.flush()


@pytest.mark.parametrize("pack", PACKERS)
def test_a_bomb_is_refused_before_it_fills_the_disk(
    tmp_path: Path, pack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflate, "SMALL", 32 << 20)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    path = tmp_path / f"x.tar.{pack}"
    path.write_bytes(zeros(100 << 20, pack))
    assert path.stat().st_size * inflate.GROWTH < 100 << 20
    with bounded(5, 100), pytest.raises(UserError, match="unpack to more .* yourself") as error:
        open_source(path)
    assert "\n" not in str(error.value) and not list((tmp_path / "scratch").iterdir())
    with bounded(5, 100):
        assert not webdataset_source.recognises(Location(path))
        assert not cifar.recognises(Location(path))


def test_black_bitmaps_pass(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    black = b"BM" + (54 + 3000 * 3000).to_bytes(4, "little") + bytes(3000 * 3000 + 48)
    path.write_bytes(gzip.compress(tar_of({f"a/{i}.bmp": black for i in range(6)})))
    assert path.stat().st_size * 900 < 6 * len(black)
    source = open_source(path)
    assert source.read(5) == black
    # Zeros are holes in the temporary file.
    status = os.fstat(source._archive._unpacked.fileno())  # type: ignore[attr-defined]
    assert status.st_blocks * 512 < status.st_size / 6


def test_room_that_is_too_small_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tar.gz"

    class Usage:
        free = 1_150_000  # 90 % are allowed

    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: Usage)
    large = {"compressed bytes alone": os.urandom(2 << 20), "90 %": b"ab" * (1 << 20)}
    for match, data in large.items():
        path.write_bytes(gzip.compress(tar_of({"a/1.bmp": data})))
        with pytest.raises(UserError, match=f"{match}.*set TMPDIR"):
            open_source(path)
    Usage.free = 4_000_000
    assert open_source(path).keys == ["a/1.bmp"]


class Counted(io.BytesIO):
    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        Counted.taken += len(data)
        return data


def test_a_look_at_the_head_reads_a_bounded_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(b"") * 600_000)  # 12 MB that unpack to nothing
    monkeypatch.setattr(archive, "opened", lambda place: Counted(place.local.read_bytes()))
    assert archive.head_of(Location(path), 512) == b""
    assert 0 < Counted.taken <= inflate.LOOKED_AT


def test_idx_that_claims_more_than_its_bytes_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (1 << 20, 28, 28))
    path.write_bytes(gzip.compress(header + bytes(1 << 20)))
    with bounded(3, 50), pytest.raises(UserError, match="claim to hold 822,083,584"):
        idx.open(Location(path))
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (10, 28, 28))
    path.write_bytes(gzip.compress(header + bytes(90 << 20)))
    with bounded(3, 50), pytest.raises(UserError, match="holds more than the 7,840"):
        idx.open(Location(path))


def test_xz_may_not_ask_for_any_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    with tempfile.TemporaryFile() as _:
        data = bytearray(lzma.compress(FIRST, filters=[filters[0] | {"dict_size": 1 << 20}]))
    # The block header's size of the dictionary: 1.5 GB; then its checksum.
    at = data.index(b"\x21\x01") + 2
    data[at] = 39
    size = (data[12] + 1) * 4
    data[12 + size - 4 : 12 + size] = zlib.crc32(bytes(data[12 : 12 + size - 4])).to_bytes(
        4, "little")
    path.write_bytes(data)
    with bounded(2, 50), pytest.raises(UserError, match="emory"):
        archive.Archive(Location(path))


# Files that are none any more.


def test_a_shard_that_turns_into_a_pipe_does_not_hang(tmp_path: Path) -> None:
    plain, packed = tmp_path / "0.tar", tmp_path / "1.tar.gz"
    shard = tar_of({"1.jpg": IMAGE, "1.cls": b"1"})
    plain.write_bytes(shard)
    packed.write_bytes(gzip.compress(shard))
    source = open_source(tmp_path)
    for path in (plain, packed):
        path.unlink()
        os.mkfifo(path)
    raised = []

    def read() -> None:
        for i in range(2):
            with pytest.raises(OSError, match="a pipe, not a file"):
                source.read(i)
            raised.append(i)
        assert not is_webdataset(plain)
        for opener in (scan, lambda path: archive.Archive(Location(path))):
            with pytest.raises((OSError, UserError), match="a pipe, not a file"):
                opener(plain)
            raised.append(2)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert raised == [0, 1, 2, 2]
