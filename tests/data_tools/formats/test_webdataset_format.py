"""WebDataset: the bytes of the format, files of others, and the readers of others."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools.formats import webdataset
from data_tools.formats.scan import Scan
from data_tools.formats.tar import Walk
from data_tools.formats.webdataset import is_webdataset, read_shard, scan
from data_tools.images.prepare_image import Prepared
from data_tools.store import JPEG, OTHER, RAW
from tests.support.made_files.record_samples import (
    LABELS,
    check_reads_back,
    check_refusal,
    check_survives,
    little_memory,
    mutations,
    pixels,
    samples,
    write,
)
from tests.support.made_files.sample_images import encode, jpeg, smooth


def pack(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_the_bytes_are_those_of_python_s_tarfile(tmp_path: Path) -> None:
    write(webdataset, tmp_path / "x.tar")
    packed = []
    for i, (image, label) in enumerate(zip(samples(), LABELS, strict=True)):
        head = b"P6\n%d %d\n255\n" % (image.width, image.height) if image.raw else b""
        packed.append((f"{i:09d}.{'ppm' if image.raw else 'jpg'}", head + image.data))
        if label >= 0:
            packed.append((f"{i:09d}.cls", str(label).encode()))
    # Time, owner and mode are those of a new TarInfo: zeros and 0644.
    theirs = pack(tmp_path / "theirs.tar", packed, tarfile.USTAR_FORMAT).read_bytes()
    ours = (tmp_path / "x.tar").read_bytes()
    assert theirs.startswith(ours) and not any(theirs[len(ours) :])
    assert ours[-1024:] == bytes(1024) and any(ours[-1536:-1024])


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    rows = write(webdataset, path)
    check_reads_back(path, rows, samples())
    assert is_webdataset(path)
    seen: list[tuple[int, int]] = []
    found, classes = scan(path, lambda done, total: seen.append((done, total)))
    assert np.array_equal(found, rows) and classes == [str(i) for i in range(max(LABELS) + 1)]
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    write(webdataset, path, samples()[:1], (-1,), range(1))
    assert is_webdataset(path) and scan(path)[0]["label"].tolist() == [-1]


def test_the_index_tells_what_lies_where(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    rows = write(webdataset, path, numbers=range(7, 12))
    first, *lines = webdataset.dali_index(rows, np.arange(7, 12)).splitlines()
    assert first == "v1.2 5" and len(lines) == 5
    with tarfile.open(path) as tar:
        there = [(member.name.split(".")[1], str(member.offset_data), str(member.size), member.name)
                 for member in tar]
    words = [word for line in lines for word in line.split()]
    assert words == [word for member in there for word in member]
    assert lines[1].split()[0] == "ppm" and len(lines[1].split()) == 4


@settings(max_examples=30, database=None, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=1100), st.integers(-1, 2**62)),
                max_size=4))  # fmt: skip
def test_any_payload_comes_back(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[bytes, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tar"
    images = [Prepared(data, 1, 1, False, "") for data, _ in drawn]
    labels = tuple(label for _, label in drawn)
    rows = write(webdataset, path, images, labels, range(len(images)))
    found = read_shard(path, as_written=True).rows
    for name in ("size", "label"):
        assert found[name].tolist() == rows[name].tolist()
    if images:
        check_reads_back(path, rows, images)


# Files of others.


def test_samples_of_others(tmp_path: Path) -> None:
    one, two, png = jpeg(5, 6), jpeg(7, 8), encode(Image.fromarray(smooth(3, 4)), "PNG")
    long = "folder/" + "x" * 150
    path = pack(tmp_path / "x.tar", [
        ("./a.json", json.dumps({"caption": "x", "label": 3}).encode()),
        ("./a.JPG", one),
        ("./a.txt", b"a caption"),
        ("b.seg.png", png), ("b.jpeg", two), ("b.cls", b" 12\n"), ("b.json", b'{"label": 4}'),
        ("c.d/image.png", png), ("c.d/image.cls", b"-7"),
        ("text.txt", b"no image here"), ("text.cls", b"5"),
        ("folder/.hidden.jpg", one), ("no-extension", one),
        (long + ".left.jpg", one), (long + ".right.jpg", two), (long + ".cls", b"8"),
        ("twice.jpg", one), ("twice.jpg", two), ("twice.cls", b"1"),
        ("last.json", b"{broken"), ("last.jpg", b"\xff\xd8\xff broken"),
    ])  # fmt: skip
    assert is_webdataset(path)
    rows, classes = scan(path)
    # As in any list of labels: if some are below 0, all are renumbered.
    assert classes == ["-7", "1", "3", "8", "12"]
    assert rows["label"].tolist() == [2, 4, 0, 3, -1, 1, -1]
    assert rows["height"].tolist() == [5, 7, 3, 5, 5, 7, 0]
    assert rows["kind"].tolist() == [JPEG, JPEG, OTHER, JPEG, JPEG, JPEG, OTHER]
    content = path.read_bytes()
    row = rows[2]
    assert content[int(row["offset"]) :][: int(row["size"])] == png


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_need_extensions(tmp_path: Path, form: int) -> None:
    folder = "d" * 120
    names = [f"{folder}/é{i}" for i in range(2)]
    if form != tarfile.USTAR_FORMAT:
        names.append("ü" * 120)
    packed = [member for name in names
              for member in ((f"{name}.jpg", jpeg(4, 5)), (f"{name}.cls", b"dog"))]
    path = pack(tmp_path / "x.tar", packed, form)
    with Scan(path) as there:
        walk = Walk(there.pread, 0, there.size, path)
        assert [member.name for member in walk] == [name for name, _ in packed]
    rows, classes = scan(path)
    assert rows["label"].tolist() == [0] * len(names) and classes == ["dog"]


def test_labels_that_are_names(tmp_path: Path) -> None:
    image = jpeg(4, 4)
    packed = [("0.jpg", image)]
    labels = [b"wolf", b"7", b"cat", b"wolf", b"", b"x" * (2 << 20)]
    for i, label in enumerate(labels, 1):
        packed += [(f"{i}.jpg", image), (f"{i}.cls", label)]
    packed += [("j.json", b'{"class": "cat"}'), ("j.jpg", image), ("k.jpg", image),
               ("k.json", b'{"label": true, "target": null}'), ("l.jpg", image),
               ("l.json", b"[" * 100_000)]  # fmt: skip
    rows, classes = scan(pack(tmp_path / "x.tar", packed))
    assert classes == ["7", "cat", "wolf"]
    assert rows["label"].tolist() == [-1, 2, 0, 1, 2, -1, -1, 1, -1, -1]


def test_what_is_a_webdataset(tmp_path: Path) -> None:
    image = jpeg(4, 4)
    path = tmp_path / "x.tar"
    assert not is_webdataset(pack(path, [("cat/1.jpg", image), ("dog/2.jpg", image)]))
    assert not is_webdataset(pack(path, [("1.jpg", image), ("labels.txt", b"")]))
    assert is_webdataset(pack(path, [("1.jpg", image), ("1.json", b"{}")]))
    assert is_webdataset(pack(path, [("readme", b""), ("1.txt", b"{}"), ("1.png", image)]))
    assert not is_webdataset(Path(__file__))
    for data in (b"", bytes(512), bytes(10240), b"x" * 700):
        path.write_bytes(data)
        assert not is_webdataset(path)


def test_links_and_devices_touch_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
                     tarfile.FIFOTYPE, tarfile.DIRTYPE):  # fmt: skip
            info = tarfile.TarInfo("../../etc/passwd.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            # Some writers give a link its target's size; no bytes follow all the same.
            info.size = 99 if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else 0
            tar.fileobj.write(info.tobuf())
            info = tarfile.TarInfo("a.jpg")
            info.size = len(jpeg(4, 4))
            tar.addfile(info, io.BytesIO(jpeg(4, 4)))
        for name in ("/absolute/a.jpg", "../../b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(jpeg(4, 4))
            tar.addfile(info, io.BytesIO(jpeg(4, 4)))
    # "../" leads out of the tar: passed over, as by prep.
    assert scan(path)[0]["height"].tolist() == [4] * 7


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """A tar header with any bytes as its size, and the checksum that fits."""
    block = bytearray(webdataset.tar_header(name, 0))
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_a_size_in_an_extension_counts(tmp_path: Path) -> None:
    """Sizes of 8 GiB and more stand there, and so may any."""
    path, image = tmp_path / "x.tar", jpeg(4, 4)
    record = b"%d size=%d\n" % (len(str(len(image))) + 9, len(image))
    assert len(record) == int(record.split()[0])
    extension = header("x", b"%o" % len(record), b"x") + record.ljust(512, b"\0")
    path.write_bytes(extension + header("0.jpg", b"0") + image.ljust(1024, b"\0")
                     + header("1.jpg", b"%o" % len(image)) + image.ljust(1024, b"\0"))
    assert len(image) <= 1024 and scan(path)[0]["size"].tolist() == [len(image)] * 2


def test_a_ppm_is_raw_only_if_all_of_it_is_there(tmp_path: Path) -> None:
    whole = b"P6\n2 3\n255\n" + bytes(18)
    bodies = [whole, whole[:-1], whole + b"x", b"P6\n0 3\n255\n", whole.replace(b"255", b"254"),
              b"P5\n2 3\n255\n" + bytes(6), b"P6\n# by a program\n2 3\n255\n" + bytes(18)]
    packed = [(f"{i}.ppm", body) for i, body in enumerate(bodies)]
    rows, _ = scan(pack(tmp_path / "x.tar", packed))
    assert rows["kind"].tolist() == [RAW] + [OTHER] * 6
    assert rows["size"].tolist() == [18] + [len(body) for body in bodies[1:]]
    assert rows["height"].tolist() == [3, 3, 3, 0, 3, 3, 3]


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    write(webdataset, path)
    whole = path.read_bytes()
    for end in (600, 1000, 1536 + 512 + 1536):
        check_refusal(scan, path, whole[:end], r"truncated: .* at byte \d+")
    check_refusal(scan, path, whole[:10] + b"x" + whole[11:], "neither a folder nor a tar")
    second = 512 + 1024 * (whole[512 + 512 :].index(b"000000000.cls") // 1024)
    assert second
    at = whole.index(b"000000000.cls")
    damaged = whole[: at + 3] + b"x" + whole[at + 4 :]
    check_refusal(scan, path, damaged, f"damaged: no tar header at byte {at}")
    for size in (b"\x80\0\0\0\x10" + bytes(7), b"77777777777", b"\x80" + b"\xff" * 11):
        for name in ("a.jpg", "a.txt"):
            data = header(name, size) + bytes(1024)
            check_refusal(scan, path, data, "truncated: its member at byte 0")
    for size in (b"-1", b"9", b"\xff" * 12, b"1 1"):
        data = header("a.jpg", size) + bytes(1024)
        check_refusal(scan, path, data, "no number where one must be")
    check_refusal(scan, path, header("x", b"77777777", b"L") + bytes(17 << 20), "attributes")
    pax = b"22 GNU.sparse.major=1\n"
    sparse = header("x", b"26", b"x") + pax.ljust(512, b"\0") + header("a.jpg", b"0")
    check_refusal(scan, path, sparse, "sparse")
    # Cut behind the last member's bytes: all of it is there.
    end = whole.index(b"000000004.cls") + 513
    path.write_bytes(whole[:end])
    with little_memory():
        assert len(scan(path)[0]) == 5


@settings(max_examples=250, database=None, deadline=None)
@given(st.data())
def test_mutated_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.tar"
    image = jpeg(4, 4)
    pack(path, [("é.jpg", image), ("é.cls", b"cat"), ("b.json", b'{"label": 3}'), ("b.jpg", image),
                ("x" * 120 + ".png", encode(Image.fromarray(smooth(3, 4)), "PNG"))],
         data.draw(st.sampled_from((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))))  # fmt: skip
    whole = bytearray(path.read_bytes()[:-8000])
    check_survives(scan, path, data.draw(mutations(bytes(whole))))
    # Headers changed, with checksums that fit.
    for at in (0, 512, 1024, 2048):
        if whole[at + 257 : at + 262] == b"ustar":
            block = bytearray(data.draw(mutations(bytes(whole[at : at + 512]))).ljust(512, b"0"))
            block = block[:512]
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
            whole[at : at + 512] = block
            check_survives(scan, path, bytes(whole))
            is_webdataset(path)


# Readers of others.


# It leaves its files for the garbage collector to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_webdataset_library_reads_it(tmp_path: Path) -> None:
    library = pytest.importorskip("webdataset")
    path = tmp_path / "x.tar"
    write(webdataset, path)
    dataset = library.WebDataset(str(path), shardshuffle=False).decode("rgb8")
    for i, (sample, image, label) in enumerate(zip(dataset, samples(), LABELS, strict=True)):
        assert sample["__key__"] == f"{i:09d}"
        assert np.array_equal(sample["ppm" if image.raw else "jpg"], pixels(image))
        assert sample.get("cls", -1) == label
