"""Folders and tars: the same keys, bytes, labels; and what a walk must not trip over."""

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_tools.errors import UserError
from data_tools.sources.folder_labels import labels_of
from data_tools.sources.registry import open_source
from tests.support.made_files.sample_images import jpeg

Write = Callable[..., Path]
FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def contents(path: Path) -> dict[str, bytes]:
    source = open_source(path)
    try:
        assert source.keys == sorted(source.keys)
        read = {key: source.read(i) for i, key in enumerate(source.keys)}
        assert source.sizes.tolist() == [len(data) for data in read.values()]
        return read
    finally:
        source.close()


@pytest.mark.parametrize("form", FORMS)
def test_a_tar_reads_as_its_folder(write_tree: Write, pack: Write, form: str) -> None:
    long = "/".join(["a-folder-of-many-letters"] * (4 if form == "ustar" else 12))
    files = {
        "b/2.jpg": b"x" * 513,
        "b/10.jpg": b"y" * 512,
        "a/é ü.jpg": b"",
        f"a/{long}/1.jpg": b"z",
        "b-/1.jpg": b"w" * 70_000,
    }
    folder = write_tree(files)
    assert contents(folder) == files
    assert contents(pack(folder, FORMS[form], ".")) == files
    packed = contents(pack(folder, FORMS[form], "top"))
    assert packed == {f"top/{key}": data for key, data in files.items()}


def test_names_that_are_not_utf8(write_tree: Write, pack: Write) -> None:
    folder = write_tree({"a/1.jpg": b"1"})
    os.rename(os.fsencode(folder / "a/1.jpg"), os.fsencode(folder / "a") + b"/\xff.jpg")
    want = {"a/\udcff.jpg": b"1"}
    assert contents(folder) == want
    for form in FORMS.values():
        assert contents(pack(folder, form, ".")) == want


def test_clutter_is_ignored_and_counted_alike(write_tree: Write, pack: Write) -> None:
    files = {
        "a/1.jpg": b"1",
        "a/._1.jpg": b"2",
        ".DS_Store": b"3",
        "__MACOSX/a/1.jpg": b"4",
        "__MACOSX/a/2.jpg": b"5",
        "a/Thumbs.db": b"6",
        ".git/objects/1": b"7",
    }
    folder = write_tree(files)
    for path in (folder, pack(folder, arcname=".")):
        assert contents(path) == {"a/1.jpg": b"1"}
        assert open_source(path).ignored == 5


def test_links(write_tree: Write, pack: Write) -> None:
    folder = write_tree({"a/1.jpg": b"1"})
    (folder / "b").mkdir()
    (folder / "b/2.jpg").symlink_to("../a/1.jpg")
    (folder / "b/3.jpg").symlink_to("2.jpg")
    os.link(folder / "a/1.jpg", folder / "b/4.jpg")
    want = dict.fromkeys(("a/1.jpg", "b/2.jpg", "b/3.jpg", "b/4.jpg"), b"1")
    assert contents(folder) == want
    assert contents(pack(folder, arcname=".")) == want
    (folder / "b/5.jpg").symlink_to("nowhere")
    for path in (folder, pack(folder, arcname=".")):
        source = open_source(path)
        with pytest.raises(OSError):
            source.read(list(source.keys).index("b/5.jpg"))


def test_a_link_that_leads_back_to_itself_is_read_as_broken(write_tree: Write) -> None:
    folder = write_tree({"a/1.jpg": b"1"})
    (folder / "a/loop.jpg").symlink_to("loop.jpg")
    (folder / "a/p.jpg").symlink_to("q.jpg")
    (folder / "a/q.jpg").symlink_to("p.jpg")
    (folder / "a/under.jpg").symlink_to("1.jpg/2.jpg")
    (folder / "a/long.jpg").symlink_to("x" * 300)
    source = open_source(folder)
    assert source.keys == [f"a/{x}.jpg" for x in ("1", "long", "loop", "p", "q", "under")]
    for i, reason in enumerate(["nowhere", "itself", "itself", "itself", "nowhere"], 1):
        with pytest.raises(OSError, match=f"^a link that leads .*{reason}$"):
            source.read(i)


def test_what_is_no_plain_file_is_named(write_tree: Write) -> None:
    folder = write_tree({"a/1.jpg": b"1"})
    os.mkfifo(folder / "a/b.jpg")
    os.mkfifo(folder / "a/a.jpg")
    (folder / "null.jpg").symlink_to("/dev/null")
    (folder / ".hidden").touch()
    source = open_source(folder)
    assert source.keys == ["a/1.jpg"] and source.ignored == 1
    assert source.notes[-1] == ("left out, since they are no plain files: 1 device (null.jpg), "
                                "2 pipes (the first: a/a.jpg)")
    (folder / "a/1.jpg").unlink()
    with pytest.raises(UserError, match="no files .*2 pipes"):
        open_source(folder)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_entry_removed_while_it_is_listed_is_named(
    write_tree: Write, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = write_tree({"a/1.jpg": b"1", "b/2.jpg": b"2"})
    listed, gone = os.scandir, folder / ("a/1.jpg" if kind == "file" else "a")

    class Vanishing:
        """A listing after which the entry is removed."""

        def __init__(self, path: str) -> None:
            with listed(path) as found:
                self.entries = list(found)
            if path == str(gone.parent):
                gone.unlink() if kind == "file" else shutil.rmtree(gone)

        def __enter__(self) -> list[os.DirEntry]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: (
            Vanishing(path) if isinstance(path, str) else listed(path)))
        with pytest.raises(UserError, match=f"{gone}: it was removed while .*run prep again"):
            open_source(folder)


def test_folders_are_followed_through_links_but_not_in_circles(write_tree: Write) -> None:
    folder = write_tree({"a/1.jpg": b"1"})
    other = write_tree({"2.jpg": b"2"}, "other")
    (folder / "b").symlink_to(other)
    (folder / "a/up").symlink_to(folder)
    assert contents(folder) == {"a/1.jpg": b"1", "b/2.jpg": b"2"}


def test_of_two_members_with_one_name_the_last_counts(tmp_path: Path, write_tree: Write) -> None:
    folder = write_tree({"1.jpg": b"old"})
    path = tmp_path / "twice.tar"
    for mode, data in (("w", b"old"), ("a", b"newer")):
        (folder / "1.jpg").write_bytes(data)
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
            tar.add(folder / "1.jpg", "a/1.jpg")
    assert contents(path) == {"a/1.jpg": b"newer"}


@pytest.mark.parametrize(
    ("keys", "labels", "classes"),
    [
        (["a/1", "a/2", "b/1"], [0, 0, 1], ["a", "b"]),
        (["top/train/a/1", "top/train/b/x/1", "top/train/b/y/1"], [0, 1, 1], ["a", "b"]),
        (["1", "2"], [-1, -1], []),
        (["only/1", "only/2"], [-1, -1], []),
        (["a-b/1", "a/1"], [1, 0], ["a", "a-b"]),
        (["ab/1", "ac/1"], [0, 1], ["ab", "ac"]),
        (["x/1"], [-1], []),
    ],
)
def test_labels_are_the_first_folders(keys: list[str], labels: list[int], classes: list) -> None:
    got, names, stray = labels_of(keys)
    assert got.dtype == np.int64
    assert (got.tolist(), names, stray) == (labels, classes, "")


def test_an_image_beside_the_folders_makes_the_set_flat_and_is_named() -> None:
    labels, classes, stray = labels_of(["a/1", "b/1", "cover.jpg"])
    assert (labels.tolist(), classes, stray) == ([-1, -1, -1], [], "cover.jpg")


@pytest.mark.parametrize("names", [("train", "val"), ("TRAIN", "Test"), ("test", "validation")])
def test_splits_side_by_side_are_refused(write_tree: Write, pack: Write, names: tuple) -> None:
    folder = write_tree({f"{name}/cat/1.jpg": jpeg() for name in (*names, "extra")})
    for path in (folder, pack(folder)):
        with pytest.raises(UserError, match=f"{min(names)} and {max(names)}.*by itself"):
            open_source(path)


def test_one_split_or_a_class_called_train_is_fine(write_tree: Write) -> None:
    one = {"train/a/1.jpg": b"1", "train/b/1.jpg": b"1", "README": b""}
    two = {"train/1.jpg": b"1", "bus/1.jpg": b"1"}
    for name, tree in (("one", one), ("two", two)):
        assert open_source(write_tree(tree, name)).keys == sorted(tree)


def test_paths_that_hold_no_images(tmp_path: Path, write_tree: Write) -> None:
    (tmp_path / "empty").mkdir()
    folder = write_tree({".hidden": b"1"}, "hidden")
    text = tmp_path / "notes.txt"
    text.write_text("notes")
    zipped = tmp_path / "x.tar.gz"
    with tarfile.open(zipped, "w:gz") as tar:
        tar.add(tmp_path / "empty")
    for path, message in [
        (tmp_path / "missing", "no such"),
        (tmp_path / "empty", "no files"),
        (folder, "no files"),
        (text, "not recognised; give a folder or a tar"),
        (zipped, "no files"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            open_source(path)
        assert str(caught.value).startswith(str(path))


def test_a_tar_cut_anywhere_is_refused_or_whole_up_to_there(write_tree: Write, pack: Write) -> None:
    path = pack(write_tree({f"a/{i}.jpg": bytes([i + 1]) * 700 for i in range(3)}), arcname=".")
    whole = path.read_bytes()
    assert len(contents(path)) == 3
    for end in range(1, len(whole), 100):
        path.write_bytes(whole[:end])
        try:
            source = open_source(path)
        except UserError as error:
            assert "tar" in str(error)
            continue
        for i in range(len(source.keys)):
            assert len(source.read(i)) == 700
        source.close()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_above_8_gib_are_passed_over(tmp_path: Path, form: int) -> None:
    path, size = tmp_path / "huge.tar", 9 << 30
    member = tarfile.TarInfo("a/film.mkv")
    member.size = size
    small = tarfile.TarInfo("b/1.jpg")
    small.size = 3
    with open(path, "wb") as file:  # a hole, not 9 GiB
        file.write(member.tobuf(form))
        file.seek(size, 1)
        file.write(small.tobuf(form) + b"123".ljust(512, b"\0") + bytes(1024))
    source = open_source(path)
    assert source.keys == ["a/film.mkv", "b/1.jpg"] and source.sizes.tolist() == [size, 3]
    assert source.read(1) == b"123"
    source.close()
    path.unlink()


def test_a_damaged_header_is_refused(write_tree: Write, pack: Write) -> None:
    path = pack(write_tree({"a/1.jpg": b"1" * 600, "a/2.jpg": b"2" * 600}), arcname=".")
    data = bytearray(path.read_bytes())
    data[data.index(b"a/2.jpg")] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="no tar header at byte"):
        open_source(path)
