"""Labels known at opening: from folders, and for flat sets from lists beside them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.sources import label_lists
from data_tools.sources.label_lists import VAL_IMAGES
from data_tools.sources.registry import open_source
from data_tools.sources.source import Source
from tests.support.made_files.sample_images import jpeg

Write = Callable[..., Path]
IMAGE = jpeg()
VAL = {f"ILSVRC2012_val_{i:08d}.JPEG": IMAGE for i in (1, 2, 3)}
SYNSETS = ["n02000000", "n01000000", "n02000000"]


def labels(source: Source) -> dict[str, int]:
    found = dict(zip(source.keys, source.labels.tolist(), strict=True))
    source.close()
    return found


def test_what_is_no_image_spells_no_class(write_tree: Write, pack: Write) -> None:
    folder = write_tree({
        "cat/1.jpg": IMAGE, "cat/notes.txt": b"text", "cat/plain": IMAGE, "dog/2": IMAGE,
        "lists/a.xml": b"<a/>", "lists/b.xml": b"<b/>", "README": b"read me", "cover.jpg": b"text",
    })
    for path in (folder, pack(folder, arcname=".")):
        source = open_source(path)
        assert source.classes == ["cat", "dog"] and source.notes == []
        assert labels(source) == {
            "README": -1, "cat/1.jpg": 0, "cat/notes.txt": -1, "cat/plain": 0, "cover.jpg": -1,
            "dog/2": 1, "lists/a.xml": -1, "lists/b.xml": -1}


@pytest.mark.parametrize("name", ["cover.jpg", "cover"])
def test_an_image_beside_the_folders_makes_the_set_flat(write_tree: Write, name: str) -> None:
    source = open_source(write_tree({"a/1.jpg": IMAGE, "b/1.jpg": IMAGE, name: IMAGE}))
    assert source.labels.tolist() == [-1, -1, -1] and source.classes == []
    assert source.notes == [f"no labels, because {name} is beside the folders of the others"]


def val(write_tree: Write, beside: dict[str, str], where: str = "") -> Path:
    files = {f"val/{name}": data for name, data in VAL.items()}
    return write_tree(files | {f"{where}{name}": text.encode() for name, text in beside.items()})


KAGGLE = "ImageId,PredictionString\n" + "".join(
    f"ILSVRC2012_val_{i:08d},{name} 1 2 3 4 {name} 5 6 7 8 \n" for i, name in zip((3, 1, 2), (
        SYNSETS[2], SYNSETS[0], SYNSETS[1]), strict=True))


@pytest.mark.parametrize(("name", "text"), [
    ("LOC_val_solution.csv", KAGGLE),
    ("imagenet_2012_validation_synset_labels.txt", "\n".join(SYNSETS)),
    ("val.txt", "".join(f"ILSVRC2012_val_{i:08d}.JPEG {n}\n" for i, n in ((1, 1), (2, 0), (3, 1)))),
    ("val_annotations.txt", "".join(f"{key}\t{name}\t0\t0\t9\t9\n"
                                    for key, name in zip(VAL, SYNSETS, strict=True))),
])
@pytest.mark.parametrize("where", ["", "val/", "ILSVRC2012_devkit_t12/data/"])
def test_lists_beside_a_flat_set(write_tree: Write, name: str, text: str, where: str) -> None:
    source = open_source(val(write_tree, {name: text}, where) / "val")
    found = labels(source)
    assert [found[key] for key in VAL] == [1, 0, 1]
    assert source.classes in (["n01000000", "n02000000"], ["0", "1"])
    assert name in source.notes[0]


def test_a_flat_tar_and_a_list_that_is_named(write_tree: Write, pack: Write) -> None:
    root = val(write_tree, {"truth.txt": "\n".join(SYNSETS)})
    tar = pack(root / "val", arcname=".")
    assert not tar.with_name("val.txt").exists()
    for path in (tar, root / "val"):
        assert open_source(path).classes == []
        source = open_source(path, root / "truth.txt")
        assert source.labels.tolist() == [1, 0, 1] and source.classes == sorted(set(SYNSETS))


def test_ilsvrc_ids_are_no_sorted_synsets(write_tree: Write) -> None:
    root = val(write_tree, {label_lists.GROUND_TRUTH: "490\n361\n171\n"})
    source = open_source(root / "val")
    assert source.labels.tolist() == [489, 360, 170] and len(source.classes) == 1000
    assert "ILSVRC ids, not sorted synsets" in source.notes[1]
    (root / "map_clsloc.txt").write_text(
        "n03000000 490 a\nn01000000 361 b_c\nn02000000 171 d\n")
    source = open_source(root / "val")
    assert source.labels.tolist() == [2, 0, 1]
    assert source.classes == ["n01000000", "n02000000", "n03000000"]


def test_some_images_of_the_whole_set_take_their_own_lines(write_tree: Write) -> None:
    lines = [f"n{i % 1000:08d}" for i in range(VAL_IMAGES)]
    name = "imagenet_2012_validation_synset_labels.txt"
    source = open_source(val(write_tree, {name: "\n".join(lines)}) / "val")
    assert source.labels.tolist() == [0, 1, 2] and len(source.classes) == 1000


@pytest.mark.parametrize(("text", "message"), [
    ("n01\nn02\n", "2 lines for 3 images"),
    ("ILSVRC2012_val_00000001.JPEG cat\nx.JPEG dog\n", "doesn't name ILSVRC2012_val_00000002"),
    ("", "no labels"),
    ("\0\0", "no text"),
])
def test_lists_that_do_not_fit_are_refused(write_tree: Write, text: str, message: str) -> None:
    root = val(write_tree, {"truth.txt": text})
    with pytest.raises(UserError, match=f"truth.txt: .*{message}"):
        open_source(root / "val", root / "truth.txt")


def test_a_csv_with_column_names(write_tree: Write) -> None:
    root = write_tree({f"{i}.png": IMAGE for i in range(3)}, "flat")
    path = root.parent / "labels.csv"
    path.write_text("file,breed\n0,pug\n1,\"a, b\"\n2,pug\n")
    source = open_source(root, path)
    assert source.classes == ["a, b", "pug"] and source.labels.tolist() == [1, 0, 1]


def test_a_val_list_of_another_set_is_left_alone(write_tree: Write) -> None:
    root = write_tree({"set/1.jpg": IMAGE, "set/2.jpg": IMAGE, "val.txt": b"other.jpg 1\n"})
    assert open_source(root / "set").classes == []
