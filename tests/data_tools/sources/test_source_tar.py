"""Tars: compressed ones, tars of tars, and what nobody should meet."""

import io
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.sources import archive, ilsvrc, webdataset
from data_tools.sources import tar as tar_source
from data_tools.sources.keys import Keys
from data_tools.sources.location import Location
from data_tools.sources.registry import open_source
from tests.support.made_files.sample_images import jpeg

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

Write = Callable[..., Path]


def tar_of(files: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_compressed_tars_are_unpacked_to_a_file_without_a_name(
    write_tree: Write, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tree({"a/1.jpg": jpeg(), "b/2.jpg": jpeg(30)})
    path = tmp_path / f"x.tar.{mode}"
    with tarfile.open(path, f"w:{mode}") as tar:  # type: ignore[call-overload]
        tar.add(folder, ".")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    source = open_source(path)
    assert source.keys == ["a/1.jpg", "b/2.jpg"] and source.classes == ["a", "b"]
    assert source.read(1) == jpeg(30) and mode[:2] in source.notes[-1]
    assert not list(scratch.iterdir())
    source.close()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="damaged|no tar in it"):
        open_source(path)


def test_no_room_to_unpack_is_told(
    tmp_path: Path, write_tree: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(write_tree({"a/1.jpg": jpeg()}), ".")
    real = tempfile.TemporaryFile

    def full(**options: str) -> object:
        file = real(**options)  # type: ignore[call-overload]
        file.close()
        return open("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(archive.tempfile, "TemporaryFile", full)
    with pytest.raises(UserError, match="No space left.*TMPDIR"):
        open_source(path)


def test_a_tar_of_tars_is_read_in_place(tmp_path: Path) -> None:
    images = {name: jpeg(20 + i, seed=i) for i, name in enumerate("abc")}
    inner = {
        "n02.tar": tar_of({"n02_1.JPEG": images["a"]}),
        "n01.tar": tar_of({"n01_9.JPEG": images["b"], "n01_10.JPEG": images["c"]}),
    }
    path = tmp_path / "train.tar"
    path.write_bytes(tar_of(inner))
    assert ilsvrc.recognises(Location(path))
    source = open_source(path)
    assert source.keys == ["n01/n01_10.JPEG", "n01/n01_9.JPEG", "n02/n02_1.JPEG"]
    assert [source.read(i) for i in range(3)] == [images["c"], images["b"], images["a"]]
    assert source.labels.tolist() == [0, 0, 1] and source.classes == ["n01", "n02"]
    assert source.kind == "tar of 2 tars of images"
    path.write_bytes(tar_of(inner | {"n04.tar": inner["n01.tar"], "README": b"x"}))
    with pytest.raises(UserError, match="README, which is none"):
        open_source(path)
    path.write_bytes(tar_of(inner | {"n03.tar": b"x" * 600}))
    with pytest.raises(UserError, match="n03.tar"):
        open_source(path)
    # A member that reaches into the next tar.
    path.write_bytes(tar_of({"n01.tar": inner["n01.tar"][:1000], "n02.tar": inner["n02.tar"]}))
    with pytest.raises(UserError, match="n01.tar: truncated"):
        open_source(path)


def test_remote_tars_and_folders() -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    files = {"a/1.jpg": jpeg(), "b/2.jpg": jpeg(30), "b/.hidden": b"", "b/plain": jpeg(20)}
    for name, data in files.items():
        memory.pipe(f"/top/set/{name}", data)
    memory.pipe("/top/set.tar", tar_of(files))
    for place in ("memory://top/set", "memory://top/set.tar"):
        source = open_source(place)
        assert source.keys == ["a/1.jpg", "b/2.jpg", "b/plain"] and source.ignored == 1
        assert [source.read(i) for i in range(3)] == [jpeg(), jpeg(30), jpeg(20)]
        assert source.labels.tolist() == [0, 1, 1]
    memory.rm("/top", recursive=True)


def header(**fields: str | int) -> tarfile.TarInfo:
    info = tarfile.TarInfo("x")
    for name, value in fields.items():
        setattr(info, name, value)
    return info


@pytest.mark.parametrize("size", ["-1024", "-1536", "1e3", "9" * 5000, str(1 << 70)])
def test_sizes_that_lie(tmp_path: Path, size: str) -> None:
    info = tarfile.TarInfo("a/1.jpg")
    info.pax_headers = {"size": size}
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(4096))
    with pytest.raises(UserError, match="damaged|truncated"):
        open_source(path)


def test_a_path_of_megabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({"a" * (2 << 20): b"1"}))
    with pytest.raises(UserError, match="attributes"):
        open_source(path)


def test_names_that_lead_elsewhere_touch_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    infos = [
        header(name="/etc/a.jpg"), header(name="../up.jpg"),
        header(name="in/link.jpg", type=tarfile.SYMTYPE, linkname="/etc/hostname"),
        header(name="in/dev", type=tarfile.CHRTYPE),
    ]
    path.write_bytes(b"".join(info.tobuf() for info in infos) + bytes(1024))
    source = open_source(path)
    assert source.keys == ["etc/a.jpg", "in/link.jpg"] and source.ignored == 1
    assert source.notes[0] == "left out, since they are no plain files: 1 device (in/dev)"
    assert source.read(0) == b""
    with pytest.raises(OSError, match="doesn't hold"):
        source.read(1)


IMAGE = jpeg(16, 16)
TARS = [
    tar_of({"a/1.jpg": IMAGE, "b/2.jpg": IMAGE}),
    tar_of({"1.jpg": IMAGE, "1.cls": b"1", "2.jpg": IMAGE, "2.json": b'{"label": 3}'}),
    tar_of({"n1.tar": tar_of({"1.jpg": IMAGE}), "n2.tar": tar_of({"2.jpg": IMAGE})}),
    tar_of({f"{'long/' * 60}1.jpg": IMAGE}, tarfile.PAX_FORMAT),
]
OPENERS = (tar_source.open, webdataset.open, ilsvrc.open)


def with_checksum(data: bytearray, at: int) -> None:
    """Makes the header's checksum right, so that what was changed in it is believed."""
    block = data[at : at + 512]
    if len(block) == 512:
        total = sum(block) - sum(block[148:156]) + 8 * 32
        data[at + 148 : at + 156] = b"%06o\0 " % total


@hypothesis.settings(max_examples=150, deadline=2000)
@hypothesis.given(st.data())
def test_mutated_tars_give_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    which = data.draw(st.integers(0, len(TARS) - 1))
    raw = bytearray(TARS[which])
    for _ in range(data.draw(st.integers(1, 4))):
        block = data.draw(st.integers(0, len(raw) // 512 - 1)) * 512
        # The fields that steer: size, checksum, type, magic, the names.
        at = block + data.draw(st.sampled_from([0, 100, 124, 135, 136, 148, 156, 257, 345]))
        new = data.draw(st.binary(min_size=1, max_size=12))
        raw[at : at + len(new)] = new
        with_checksum(raw, block)
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    packed = data.draw(st.booleans())
    path = tmp_path_factory.getbasetemp() / "mutated.tar"
    path.write_bytes(zlib.compress(bytes(raw), wbits=31) if packed else bytes(raw))
    for opener in (*OPENERS, open_source):
        try:
            source = opener(Location(path)) if opener is not open_source else open_source(path)
        except UserError as error:
            assert str(path.parent) in str(error)
            continue
        for i in range(len(source.keys)):
            try:
                assert len(source.read(i)) <= len(raw)
            except OSError:
                pass
        assert len(source.labels) == len(source.keys) == len(source.sizes)
        source.close()


@hypothesis.given(st.lists(st.text(st.characters(codec="utf-8"))), st.integers(-5, 5))
def test_keys_are_the_names_given(names: list[str], i: int) -> None:
    names += ["\udcff.jpg"]
    keys = Keys(names)
    assert list(keys) == names and keys == names and len(keys) == len(names)
    assert keys[i:] == names[i:] and keys[-1] == names[-1]
    with pytest.raises(IndexError):
        keys[len(names)]
