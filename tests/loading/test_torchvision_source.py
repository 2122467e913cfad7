"""torchvision's datasets as sources, from files in their real layouts; no network."""

import hashlib
import io
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from data_tools.errors import UserError
from fastmoco.loading import torchvision_source
from fastmoco.loading.torchvision_source import TorchvisionSource


def pack_idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def test_mnist(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    digits = {}
    for split, count in (("train", 6), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(pack_idx(images))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(pack_idx(labels))
        digits[split] = images
    for option, images in (("", digits["train"]), (",train=false", digits["t10k"])):
        source = torchvision_source.open(f"torchvision:MNIST,root={tmp_path}{option}")
        assert source.labels.dtype == np.int64
        assert source.labels.tolist() == list(range(len(images)))
        assert source.classes[3] == "3 - three" and len(source.keys) == len(images)
        assert source.keys[1] == "MNIST/1" and source.sizes[0] == 28 * 28 * 3
        for i, image in enumerate(images):
            assert np.array_equal(source.read(i), image)


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    parts = []
    for name in names:
        data, labels = rng.integers(0, 256, (2, 3072), np.uint8), rng.integers(0, 10, 2).tolist()
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}))
        parts.append((data, labels))
    classes = [f"thing {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}))
    # torchvision knows the real files by their digests.
    cifar = torchvision.datasets.CIFAR10
    sums = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    monkeypatch.setattr(cifar, "train_list", [[name, sums[name]] for name in names[:5]])
    monkeypatch.setattr(cifar, "test_list", [[names[5], sums[names[5]]]])
    monkeypatch.setitem(cifar.meta, "md5", sums["batches.meta"])
    source = torchvision_source.open(f"torchvision:CIFAR10,root={tmp_path}")
    assert source.classes == classes
    assert source.labels.tolist() == sum((labels for _, labels in parts[:5]), [])
    pixels = np.concatenate([data for data, _ in parts[:5]])
    with ThreadPoolExecutor(4) as pool:
        for i, image in enumerate(pool.map(source.read, range(10))):
            assert np.array_equal(image.transpose(2, 0, 1).ravel(), pixels[i])
    test = torchvision_source.open(f"torchvision:CIFAR10,root={tmp_path},train=false")
    assert test.labels.tolist() == parts[5][1]
    assert test.fingerprint != source.fingerprint


def test_stl10_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96), np.uint8)
    (folder / "unlabeled_X.bin").write_bytes(pixels.tobytes())
    (folder / "class_names.txt").write_text("a\nb\n")
    stl = torchvision.datasets.STL10
    listed = [["unlabeled_X.bin", hashlib.md5(pixels.tobytes()).hexdigest()]]
    monkeypatch.setattr(stl, "train_list", listed * 3)
    monkeypatch.setattr(stl, "test_list", [])
    source = torchvision_source.open(f"torchvision:STL10,split=unlabeled,root={tmp_path}")
    assert source.labels.tolist() == [-1, -1] and source.classes == []
    assert "no labels" in source.notes[0]
    # Its files hold columns first.
    assert np.array_equal(source.read(1), pixels[1].transpose(2, 1, 0))


def test_fake_data_is_read_for_its_labels() -> None:
    seen: list[tuple[int, int]] = []
    source = torchvision_source.open(
        "torchvision:FakeData,size=101", lambda *tick: seen.append(tick))
    plain = torchvision.datasets.FakeData(101)
    assert source.labels.tolist() == [int(plain[i][1]) for i in range(101)]
    assert np.array_equal(source.read(5), np.asarray(plain[5][0]))
    assert seen == [(100, 101), (101, 101)]
    assert source.sizes[0] == 224 * 224 * 3


class Items:
    """A dataset of given images and targets."""

    def __init__(self, *items: tuple[object, object], **attributes: object) -> None:
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[object, object]:
        return self.items[i]

    def __repr__(self) -> str:
        return "Items"


def test_images_of_other_modes_are_kept_without_loss() -> None:
    rgb = Image.effect_noise((9, 7), 90).convert("RGB")
    for mode in ("RGBA", "P", "1", "LA", "CMYK", "I;16", "I", "YCbCr"):
        image = rgb.convert("I").convert(mode) if mode.startswith("I") else rgb.convert(mode)
        data = TorchvisionSource("x", "X", Items((image, 0))).read(0)
        assert isinstance(data, bytes)
        with Image.open(io.BytesIO(data)) as again:
            assert again.size == image.size
            assert np.array_equal(np.asarray(again.convert("RGB")), np.asarray(
                image.convert("RGB"))) or mode in ("I;16", "I")
    grey = rgb.convert("L")
    assert np.array_equal(TorchvisionSource("x", "X", Items((grey, 0))).read(0), np.asarray(grey))


@pytest.mark.parametrize(("attributes", "labels", "classes"), [
    ({"targets": [2, 0]}, [2, 0], ["0", "1", "2"]),
    ({"_labels": (1, 0), "classes": ["a", "b"]}, [1, 0], ["a", "b"]),
    ({"_samples": [("x.jpg", 1), ("y.jpg", 0)], "classes": [("a", "an a"), "b"]}, [1, 0],
     ["a, an a", "b"]),
    ({"targets": np.array([1, -1])}, [1, -1], ["0", "1"]),
    ({"index": [(1, "x.jpg"), (0, "y.jpg")]}, [1, 0], ["0", "1"]),
    ({"targets": [[1, 2], [3]]}, [7, 8], [str(i) for i in range(9)]),
    ({}, [7, 8], [str(i) for i in range(9)]),
])
def test_labels_are_taken_from_where_datasets_keep_them(
    attributes: dict, labels: list, classes: list
) -> None:
    image = Image.new("RGB", (3, 2))
    source = TorchvisionSource("x", "X", Items((image, 7), (image, 8), **attributes))
    assert (source.labels.tolist(), source.classes) == (labels, classes)


def test_targets_that_are_no_classes_are_no_labels() -> None:
    image = Image.new("RGB", (3, 2))
    source = TorchvisionSource("x", "X", Items((image, {"boxes": []}), (image, 1)))
    assert source.labels.tolist() == [-1, -1] and "but dict" in source.notes[0]


def test_a_dataset_that_fails_on_an_item_gives_an_os_error() -> None:
    source = TorchvisionSource("x", "X", Items((Image.new("L", (3, 2)), 1), (None, 1), (
        Image.new("L", (3, 2)), 1), targets=[1, 1, 1]))
    with pytest.raises(OSError, match="NoneType"):
        source.read(1)


@pytest.mark.parametrize(("name", "message"), [
    ("CIFAR1", "no image dataset CIFAR1; it has CIFAR10"),
    ("cifar10", "no image dataset cifar10; it has CIFAR10"),
    ("", "no image dataset without a name; it has"),
    ("ImageFolder", "no image dataset ImageFolder"),
    ("Kinetics", "no image dataset"),
    ("CIFAR10,trian=false", "no option trian; it takes train"),
    ("CIFAR10,transform=x", "no option transform; it takes"),
    ("CIFAR10,train", "no option train"),
    ("EMNIST", "needs split; give it as torchvision:EMNIST,split=VALUE"),
    ("CIFAR10", "download=true fetches"),
    ("SEMEION", "download=true fetches"),
    ("Flowers102,split=tset", "tset"),
    ("FakeData,size=0", "holds no images"),
    ("FakeData,size=x", "FakeData"),
])
def test_what_cannot_be_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        torchvision_source.open(f"torchvision:{name}")
    assert "\n" not in str(caught.value)


def test_nothing_is_downloaded_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torchvision.datasets.SEMEION, "download",
                        lambda self: asked.append(self))
    for option in ("", ",download=true"):
        with pytest.raises(UserError, match="not found"):
            torchvision_source.open(f"torchvision:SEMEION,root={tmp_path}{option}")
        assert len(asked) == bool(option)


def test_every_image_dataset_of_torchvision_can_be_asked_for_its_options() -> None:
    for name in torchvision.datasets.__all__:
        if torchvision_source.is_image_dataset(name):
            options = torchvision_source.parameters(getattr(torchvision.datasets, name))
            assert options and not options.keys() & torchvision_source.CALLED
    assert torchvision_source.recognises("torchvision:CIFAR10")
    assert not torchvision_source.recognises("CIFAR10")
