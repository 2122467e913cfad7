"""fastmoco.load: an encoder as a plain module, with the features that knn and embed use."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18

import fastmoco
from data_tools.errors import UserError
from data_tools.prepare import prepare
from fastmoco.weights import checkpoint as checkpoints
from tests.support.evaluation_parts import untrained
from tests.support.foreign_models import mlp, official, resnet


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    checkpoints.save(untrained(), out / "checkpoint.pt")
    return out


@pytest.fixture(scope="module")
def encoder(run):
    return fastmoco.load(run)


@pytest.fixture(scope="module")
def expected(run, dataset, tmp_path_factory):
    """The features of the dataset by the path that all evaluations take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return fastmoco.embed(run, dataset)


def files(folder, store):
    return [folder / store.key(i) for i in range(len(store))]


def test_features_of_files_are_the_same_bits_as_embed_and_knn(encoder, expected, folder, store):
    found = encoder.features(files(folder, store))
    assert found.dtype == torch.float32 and tuple(found.shape) == expected.shape == (96, 192)
    assert np.array_equal(found.numpy(), expected)
    some = encoder.features(list(map(str, files(folder, store)[:5])), batch=2)
    np.testing.assert_allclose(some.numpy(), expected[:5], rtol=1e-4, atol=1e-5)


def test_a_pil_image_gives_the_pixels_of_its_file(encoder, folder, store):
    for path in files(folder, store)[:8]:
        image = Image.open(path)
        assert torch.equal(encoder.transform(image), encoder.transform(path))
        assert encoder.transform(image).shape == (3, 24, 24)


def test_forward_gives_features_and_projection_the_head(encoder, expected, folder, store):
    batch = torch.stack([encoder.transform(path) for path in files(folder, store)])
    with torch.no_grad():
        assert np.array_equal(encoder(batch).numpy(), expected)
        assert torch.equal(encoder.projection(batch), encoder.head(encoder(batch)))
    assert encoder(batch[:2]).requires_grad and not encoder.training
    encoder.train()
    encoder.features(files(folder, store)[:1])
    assert encoder.training
    encoder.eval()


def test_images_of_every_kind_are_read_as_prep_reads_them(run, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).resize((50, 70)))
    (tmp_path / "in").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, image, options in (
        ("a.jpg", Image.fromarray(pixels), {"exif": turned}),
        ("b.jpg", Image.fromarray(pixels).convert("L"), {}),
        ("c.png", Image.fromarray(pixels), {}),
    ):
        image.save(tmp_path / "in" / name, **options)
    prepare(tmp_path / "in", tmp_path / "out")
    paths = sorted((tmp_path / "in").iterdir())
    assert np.array_equal(
        encoder.features(paths).numpy(), fastmoco.embed(run, tmp_path / "out", keep=False)
    )
    near = [encoder.transform(Image.open(path)) - encoder.transform(path) for path in paths]
    assert max(float(d.abs().mean()) for d in near) < 0.05  # prep encodes two of them again
    clear = Image.fromarray(np.dstack([pixels, np.zeros((70, 50), np.uint8)]), "RGBA")
    white = encoder.transform(Image.new("RGB", (50, 70), "white"))
    assert torch.equal(encoder.transform(clear), white)
    wide = Image.fromarray(np.full((30, 30), 65535, np.uint16))
    assert torch.equal(encoder.transform(wide), white)


def test_the_view_can_be_chosen(run, folder, store):
    path = files(folder, store)[0]
    larger = fastmoco.load(str(run), size=40, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    assert larger.transform(path).shape == (3, 40, 40)
    assert "size=40" in repr(larger.transform) and "0.25" in repr(larger.transform)
    with pytest.raises(UserError, match=r"^mean=\(2.0,\): give three numbers, 0 to 1$"):
        fastmoco.load(run, mean=(2,))


def test_checkpoints_of_other_systems(tmp_path):
    model = resnet(resnet18, mlp(512))
    torch.save(official(model), tmp_path / "moco.pth.tar")
    torch.save(resnet(resnet18, nn.Identity()).state_dict(), tmp_path / "bare.pth")
    ours = fastmoco.load(tmp_path / "moco.pth.tar")
    image = ours.transform(Image.new("RGB", (64, 64), "red"))[None]
    with torch.no_grad():
        torch.testing.assert_close(ours.projection(image), model(image), rtol=1e-4, atol=1e-5)
        bare = fastmoco.load(tmp_path / "bare.pth")
        torch.testing.assert_close(bare(image), ours(image), rtol=1e-4, atol=1e-5)
    assert bare.width == 512
    with pytest.raises(UserError, match="holds no projection head"):
        bare.projection(image)


def test_it_changes_its_type(run, folder, store):
    double = fastmoco.load(run).to(torch.float64)
    batch = torch.stack([double.transform(path) for path in files(folder, store)[:2]]).double()
    assert double(batch).dtype == torch.float32


def test_wrong_images_are_one_line(encoder, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    for images, line in (
        ([tmp_path / "none.jpg"], "none.jpg: cannot be read: No such file or directory$"),
        ([tmp_path / "a.jpg"], "a.jpg: "),
        ("a.jpg", "^images: give a list of PIL images or paths, not a single one$"),
        ([Image.new("F", (9, 9))], "^a PIL image of mode F: "),
    ):
        with pytest.raises(UserError, match=line):
            encoder.features(images)
    with pytest.raises(UserError, match="^batch=0: give 1 or more$"):
        encoder.features([], batch=0)
    assert encoder.features([]).shape == (0, 192)


def test_a_checkpoint_prints_a_few_lines(tmp_path):
    trained = dataclasses.replace(
        untrained(), step=12, samples=96, dataset="0123456789abcdef",
        versions={"fastmoco": "0.1.0", "torch": "2.9", "numpy": "2"}, note="a note",
    )
    assert repr(trained).splitlines() == [
        "Checkpoint of moco-cifar: resnet-mini, linear head of 128, 24 pixels",
        "  step 12, epoch 2 of 200", "  data 0123456789ab, 96 images",
        "  trained by fastmoco 0.1.0, torch 2.9", "  a note",
    ]
    torch.save(official(resnet(resnet18, mlp(512))), tmp_path / "moco.pth.tar")
    from fastmoco.weights.open import open_checkpoint

    lines = repr(open_checkpoint(tmp_path / "moco.pth.tar")).splitlines()
    assert lines[1] == "  epoch 200" and lines[2].startswith("  official MoCo layout")
