"""Exports, opened by the libraries they are for: the same features."""

import ast
import dataclasses
import pickle

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fastmoco.model.build import build_moco
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.encoders import load_encoder
from fastmoco.weights.export.directory import export
from fastmoco.weights.resnets import from_huggingface, to_detectron2, to_huggingface
from tests.support.command_line import refused
from tests.support.export_parts import CPU, MINI, RECIPE, checkpoint_of, paste
from tests.support.made_files.sample_images import smooth_image

FORMATS = [
    "torchvision", "timm", "huggingface", "detectron2", "mmpretrain", "onnx", "official",
    "safetensors",
]


def untrained(recipe):
    """A checkpoint of a large encoder, made quickly: untrained, with random BatchNorm
    statistics."""
    torch.manual_seed(1)
    state = dict(build_moco(recipe, 96, CPU).state_dict())
    state |= {k: torch.rand_like(v) + 0.5 for k, v in state.items() if "running_var" in k}
    state |= {k: torch.randn_like(v) / 10 for k, v in state.items() if "running_mean" in k}
    return Checkpoint(recipe, state, {}, {}, 0, "f00d", 96)


CIFAR = dataclasses.replace(RECIPE, stem="cifar", size=32)


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(smooth_image(np.random.default_rng(2), 90, 120))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("to", ["torchvision", "timm", "huggingface", "official", "safetensors"])
def test_the_cards_code_gives_our_features(to, saved, source, photo, tmp_path, monkeypatch):
    if to in ("timm", "huggingface"):
        pytest.importorskip({"timm": "timm", "huggingface": "transformers"}[to])
    export(saved, source, to, tmp_path / "out")
    images, features = paste(tmp_path / "out", photo, monkeypatch)
    with torch.no_grad():
        ours = load_encoder(saved, CPU).trunk(images)
    assert images.shape == (1, 3, 64, 64) and features.shape == (1, 512)
    assert (features - ours).norm() < 1e-4 * ours.norm()


def test_huggingfaces_processor_makes_our_view(saved, source, photo, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    export(saved, source, "huggingface", tmp_path / "out")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    theirs = processor(photo, return_tensors="pt")["pixel_values"]
    from torchvision import transforms

    ours = transforms.Compose([
        transforms.Resize(73), transforms.CenterCrop(64), transforms.ToTensor(),
        transforms.Normalize(RECIPE.augmentation.mean, RECIPE.augmentation.std),
    ])(photo)[None]
    assert theirs.shape == ours.shape and (theirs - ours).abs().mean() < 0.02


def test_onnx_gives_our_features_for_any_number_of_images(photo, tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    saved = checkpoint_of(MINI)
    export(saved, tmp_path, "onnx", tmp_path / "out")
    trunk = load_encoder(saved, CPU).trunk
    one, features = paste(tmp_path / "out", photo, monkeypatch)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    many = torch.randn(5, 3, 32, 32)
    (of_many,) = session.run(["features"], {"images": many.numpy()})
    for images, theirs in ((one, features), (many, torch.from_numpy(of_many))):
        with torch.no_grad():
            ours = trunk(images)
        assert theirs.shape == ours.shape
        assert (theirs - ours).norm() < 1e-4 * ours.norm()


def test_a_resnet50_is_transformers_resnet(tmp_path):
    """Bottleneck blocks have other names and widths than basic ones."""
    transformers = pytest.importorskip("transformers")
    saved = untrained(dataclasses.replace(RECIPE, arch="resnet50"))
    export(saved, tmp_path, "huggingface", tmp_path / "out")
    model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours = load_encoder(saved, CPU).trunk(images)
        theirs = model(images).pooler_output.flatten(1)
    assert (theirs - ours).norm() < 1e-4 * ours.norm()
    names = [k.removeprefix("encoder_q.trunk.") for k in saved.moco if k.startswith("encoder_q.t")]
    assert len(names) == 318 and all(from_huggingface(to_huggingface(k)) == k for k in names)


def test_detectron2s_names(saved, source, tmp_path):
    export(saved, source, "detectron2", tmp_path / "out")
    with open(tmp_path / "out" / "model.pkl", "rb") as file:
        content = pickle.load(file)
    assert content.keys() == {"model", "__author__", "matching_heuristics"}
    assert content["matching_heuristics"] is True
    model = content["model"]
    # detectron2.modeling.backbone.resnet: BasicStem, then res2 to res5 of BasicBlocks
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    wanted = {"stem.conv1.weight", *(f"stem.conv1.norm.{n}" for n in norms)}
    for stage in range(2, 6):
        for block in range(2):
            parts = ["conv1", "conv2"] + ["shortcut"] * (block == 0 and stage > 2)
            for part in parts:
                name = f"res{stage}.{block}.{part}"
                wanted |= {f"{name}.weight", *(f"{name}.norm.{n}" for n in norms)}
    assert model.keys() == wanted
    assert all(isinstance(v, np.ndarray) for v in model.values())
    for ours, theirs in (
        ("conv1.weight", "stem.conv1.weight"), ("bn1.bias", "stem.conv1.norm.bias"),
        ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
        ("layer2.0.downsample.1.running_var", "res3.0.shortcut.norm.running_var"),
        ("layer4.1.bn2.weight", "res5.1.conv2.norm.weight"),
    ):
        np.testing.assert_array_equal(model[theirs], saved.moco[f"encoder_q.trunk.{ours}"].numpy())
    assert to_detectron2("layer3.22.bn3.bias") == "res4.22.conv3.norm.bias"


def test_detection_transfer_is_the_papers(tmp_path):
    saved = untrained(dataclasses.replace(RECIPE, arch="resnet50"))
    files = export(saved, tmp_path, "detectron2", tmp_path / "out", with_config=True)
    assert {p.name for p in files} >= {"base-c4.yaml", "voc-24k.yaml", "coco-2x.yaml"}
    base, voc, coco = (
        yaml.safe_load((tmp_path / "out" / n).read_text())
        for n in ("base-c4.yaml", "voc-24k.yaml", "coco-2x.yaml")
    )
    model = base["MODEL"]
    assert model["RESNETS"] == {"DEPTH": 50, "NORM": "SyncBN", "STRIDE_IN_1X1": False}
    assert model["PIXEL_STD"] == [58.395, 57.12, 57.375] and base["INPUT"]["FORMAT"] == "RGB"
    assert model["PIXEL_MEAN"] == [123.675, 116.28, 103.53] and model["WEIGHTS"] == "model.pkl"
    assert base["SOLVER"] == {"IMS_PER_BATCH": 16, "BASE_LR": 0.02}
    assert model["BACKBONE"]["FREEZE_AT"] == 0 and base["TEST"]["PRECISE_BN"]["ENABLED"]
    assert voc["SOLVER"] == {"STEPS": "(18000, 22000)", "MAX_ITER": 24000, "WARMUP_ITERS": 100}
    assert voc["_BASE_"] == coco["_BASE_"] == "base-c4.yaml"
    assert coco["SOLVER"]["MAX_ITER"] == 180000 and coco["MODEL"]["MASK_ON"]
    tree = ast.parse((tmp_path / "out" / "train_detector.py").read_text())
    assert model["ROI_HEADS"]["NAME"] in {n.name for n in tree.body if hasattr(n, "name")}
    assert "--config-file voc-24k.yaml" in (tmp_path / "out" / "README.md").read_text()


def test_mmpretrains_names(saved, source, tmp_path):
    export(saved, source, "mmpretrain", tmp_path / "out")
    content = torch.load(tmp_path / "out" / "resnet18.pth", weights_only=True)
    trunk = {k for k in saved.moco if k.startswith("encoder_q.trunk.")}
    assert content["state_dict"].keys() == {
        k.replace("encoder_q.trunk.", "backbone.") for k in trunk
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'type="ResNet", depth=18' in card and 'prefix="backbone."' in card


@pytest.mark.parametrize("recipe", [MINI, CIFAR], ids=["mini", "cifar stem"])
def test_trunks_of_our_own_go_where_there_is_a_place(
    recipe, photo, tmp_path, monkeypatch, capsys
):
    saved = checkpoint_of(recipe)
    checkpoints.save(saved, tmp_path / "checkpoint.pt")
    takes = {"safetensors", "onnx"} | ({"mmpretrain"} if recipe.stem == "cifar" else set())
    for to in set(FORMATS) - takes:
        line = refused(capsys, "export", tmp_path, "--to", to)
        assert f"--to {to}: has no place for a resnet" in line
        assert all(name in line for name in takes)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    export(saved, tmp_path, "safetensors", tmp_path / "out")
    images, features = paste(tmp_path / "out", photo, monkeypatch)
    with torch.no_grad():
        torch.testing.assert_close(features, load_encoder(saved, CPU).trunk(images))
    if recipe.stem == "cifar":
        export(saved, tmp_path, "mmpretrain", tmp_path / "mm")
        assert 'type="ResNet_CIFAR"' in (tmp_path / "mm" / "README.md").read_text()
