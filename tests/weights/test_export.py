"""Exports, opened by the libraries they are for: the same features."""

import ast
import dataclasses
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fastmoco.model.build import build_moco, make_optimizer
from fastmoco.recipe import MOCO_V2, to_dict
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import Checkpoint, trunk_digest
from fastmoco.weights.encoders import load_encoder
from fastmoco.weights.export.directory import export, put_in_place
from fastmoco.weights.open import open_checkpoint
from fastmoco.weights.resnets import from_huggingface, to_detectron2, to_huggingface
from tests.support.command_line import refused, run
from tests.support.sample_images import smooth_image
from tests.support.training_runs import assert_equal

CPU = torch.device("cpu")
RECIPE = dataclasses.replace(
    MOCO_V2, arch="resnet18", size=64, batch=8, bn_splits=2, K=16, precision="float32"
)
FORMATS = [
    "torchvision", "timm", "huggingface", "detectron2", "mmpretrain", "onnx", "official",
    "safetensors",
]


def checkpoint_of(recipe, samples=96):
    """A checkpoint a step from its beginning: momentum in the optimizer, statistics in BatchNorm,
    f_k other than f_q, a queue that was written to."""
    torch.manual_seed(1)
    moco = build_moco(recipe, samples, CPU)
    optimizer = make_optimizer(moco, recipe)
    q, k = torch.randn(2, recipe.batch, 3, 32, 32)
    out = moco(q, k, torch.arange(recipe.batch), torch.randperm(recipe.batch))
    out.loss.backward()
    optimizer.step()
    moco.update(out)
    return Checkpoint(
        recipe, dict(moco.state_dict()), optimizer.state_dict(), {}, 1, "f00d", samples,
        plan=[(0, 0.0, 12)], threads=1, versions={"torch": str(torch.__version__)},
        clock={"train_seconds": 3.0},
    )


def untrained(recipe):
    """A checkpoint of a large encoder, quickly: as it is initialised, but for its statistics."""
    torch.manual_seed(1)
    state = dict(build_moco(recipe, 96, CPU).state_dict())
    state |= {k: torch.rand_like(v) + 0.5 for k, v in state.items() if "running_var" in k}
    state |= {k: torch.randn_like(v) / 10 for k, v in state.items() if "running_mean" in k}
    return Checkpoint(recipe, state, {}, {}, 0, "f00d", 96)


MINI = dataclasses.replace(RECIPE, arch="resnet-mini", size=32)
CIFAR = dataclasses.replace(RECIPE, stem="cifar", size=32)


@pytest.fixture(scope="module")
def saved():
    return checkpoint_of(RECIPE)


@pytest.fixture(scope="module")
def source(saved, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run")
    checkpoints.save(saved, path / "checkpoint.pt")
    return path


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(smooth_image(np.random.default_rng(2), 90, 120))


def paste(folder, photo, monkeypatch):
    """Runs the Python of the card, in the export's directory, as a user would."""
    photo.save(folder / "photo.jpg", quality=95)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    with monkeypatch.context() as patch, torch.no_grad():
        patch.chdir(folder)
        exec(compile(code, "README.md", "exec"), names)
    return names["images"], torch.as_tensor(names["features"])


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


def test_official_and_back_is_the_same_to_the_bit(saved, source, tmp_path):
    export(saved, source, "official", tmp_path / "out")
    content = torch.load(tmp_path / "out" / "checkpoint.pth.tar", weights_only=True)
    state = content["state_dict"]
    assert content.keys() == {"epoch", "arch", "state_dict", "optimizer", "fastmoco"}
    assert content["epoch"] == saved.step * saved.recipe.batch // saved.samples
    assert state["module.queue"].shape == (128, 16) and state["module.queue_ptr"].tolist() == [8]
    parameters = [k for k in state if not re.search("running|tracked|queue", k)]
    assert content["optimizer"]["param_groups"][0]["params"] == list(range(len(parameters)))
    # in the order in which torch numbers the parameters of the official MoCo
    assert parameters[0] == "module.encoder_q.conv1.weight"
    half = len(parameters) // 2
    assert parameters[half - 1] == "module.encoder_q.fc.2.bias"
    assert [k.replace("_q", "_k") for k in parameters[:half]] == parameters[half:]
    back = open_checkpoint(tmp_path / "out")
    a, b = vars(saved).copy(), vars(back).copy()
    assert_equal(dict(sorted(a.pop("moco").items())), dict(sorted(b.pop("moco").items())))
    assert_equal(a, b)


def test_official_is_known_again_without_what_we_add(saved, source, tmp_path):
    export(saved, source, "official", tmp_path / "out")
    path = tmp_path / "out" / "checkpoint.pth.tar"
    content = torch.load(path, weights_only=True)
    del content["fastmoco"]
    torch.save(content, path)
    back = open_checkpoint(path)
    assert back.moco.keys() == saved.moco.keys()
    assert all(torch.equal(back.moco[k], v) for k, v in saved.moco.items())
    assert (back.recipe.head, back.recipe.K, back.recipe.name) == ("mlp", 16, "moco-v2")
    assert_equal(back.optimizer, saved.optimizer)


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


def test_what_is_not_ours_is_not_overwritten(saved, source, tmp_path, capsys):
    def asked(out):
        return ("export", source, "--to", "torchvision", "--out", out)

    code, text, _ = run(capsys, *asked(tmp_path / "out"))
    assert code == 0 and "resnet18.pth" in text and "README.md says how to use it" in text
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert run(capsys, *asked(tmp_path / "out"))[0] == 0  # as it was written: replaced
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    (tmp_path / "out" / "README.md").write_text("my own words")
    line = refused(capsys, *asked(tmp_path / "out"))
    assert "README.md was changed since it was exported" in line
    assert (tmp_path / "out" / "README.md").read_text() == "my own words"
    (tmp_path / "out" / "README.md").write_bytes(before["README.md"])
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "holds notes.txt" in refused(capsys, *asked(tmp_path / "out"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    assert "holds other files (a.jpg)" in refused(capsys, *asked(tmp_path / "photos"))
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(capsys, *asked(tmp_path / "file"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out", "photos"]


def test_nothing_is_left_of_an_export_that_fails(saved, source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastmoco.weights.export.directory.model_card", full)
    with pytest.raises(Exception, match="cannot be written: No space left"):
        export(saved, source, "torchvision", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_old_export_stays_where_the_new_one_cannot_take_its_place(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("whole")
    with pytest.raises(OSError):
        put_in_place(tmp_path / ".out.partial", tmp_path / "out")  # is not there
    assert (tmp_path / "out" / "old").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_card_tells_recipe_data_and_results(saved, tmp_path, capsys):
    recipe = dataclasses.replace(RECIPE, lr=0.015)
    ours = dataclasses.replace(saved, recipe=recipe)
    checkpoints.save(ours, tmp_path / "checkpoint.pt")
    (tmp_path / "run.json").write_text(json.dumps({"recipe": to_dict(recipe)}))
    (tmp_path / "metrics.jsonl").write_text(
        '{"event": "evaluated", "step": 1, "epoch": 0.1, "knn": 0.5, "protocol": "DINO, k=20"}\n'
        '{"event": "evaluated", "step": 12, "epoch": 2.0, "knn": 0.7, "protocol": "DINO, k=20"}\n'
        '{"event": "eval'
    )

    def found(weights, top1):
        row = {"protocol": "DINO", "k": 10, "T": 0.07, "top1": top1, "low": 0.6, "high": 0.625}
        return json.dumps({
            "weights": weights, "data": ["sets/train", "sets/val"], "size": 64,
            "rows": [{"features": "trained", **row},
                     {"features": "raw pixels", **row, "top1": 0.111}],
        })

    (tmp_path / "knn.json").write_text(found(trunk_digest(ours), 0.613))
    (tmp_path / "others.json").write_text(found("another's", 0.777))
    (tmp_path / "other.json").write_text("[1, 2]")
    code, text, _ = run(capsys, "export", tmp_path, "--to", "safetensors", "--json")
    assert code == 0 and any("README.md" in name for name in json.loads(text)["files"])
    card = (tmp_path / "export-safetensors" / "README.md").read_text()
    assert "96 images, fingerprint `f00d`" in card and "1 steps of 8 images (0.1 epochs)" in card
    command = "`fastmoco train DATA --recipe moco-v2 --arch resnet18"
    assert command in card and "--lr 0.015" in card
    assert "| kNN while training, epoch 0.1 | DINO, k=20 | 50.0% |" in card
    assert "| `knn.json`, on `train` and `val`, 64 pixels | DINO, k=10, T=0.07 | 61.3% (60" in card
    assert not any(other in card for other in ("11.1", "77.7", "70.0"))  # not of these weights
    assert "one momentum" not in card


@pytest.mark.parametrize("to", ["safetensors", "timm", "huggingface"])
def test_our_own_safetensors_bring_their_recipe_back(saved, source, tmp_path, to):
    """The view and the statistics that the features depend on."""
    export(saved, source, to, tmp_path / "out")
    again = open_checkpoint(tmp_path / "out")
    assert again.recipe == saved.recipe and (again.step, again.dataset) == (1, "f00d")
    trunk = {k: v for k, v in saved.moco.items() if k.startswith("encoder_q.trunk.")}
    assert again.moco.keys() == trunk.keys()
    assert all(torch.equal(v, again.moco[k]) for k, v in trunk.items())


def test_a_trunk_without_a_layout_comes_back_from_safetensors(tmp_path):
    small = checkpoint_of(dataclasses.replace(RECIPE, arch="resnet-mini", stem="cifar", size=32))
    export(small, tmp_path, "safetensors", tmp_path / "out")
    again = open_checkpoint(tmp_path / "out" / "model.safetensors")
    assert again.recipe == small.recipe
    assert trunk_digest(again) == trunk_digest(small)


def test_weights_alone_make_an_official_checkpoint_that_can_be_resumed(saved, source, tmp_path):
    """main_moco.py's --resume loads the optimizer of both encoders."""
    export(dataclasses.replace(saved, optimizer={}), source, "official", tmp_path / "out")
    content = torch.load(tmp_path / "out" / "checkpoint.pth.tar", weights_only=True)
    both = [torch.nn.Parameter(p) for _, p in 2 * list(build_moco(saved.recipe, 96, CPU)
                                                       .encoder_q.named_parameters())]
    optimizer = torch.optim.SGD(both, lr=1.0)
    optimizer.load_state_dict(content["optimizer"])
    assert optimizer.param_groups[0]["lr"] == saved.recipe.lr
    assert open_checkpoint(tmp_path / "out").optimizer == {}


def test_an_official_checkpoint_is_exported(saved, source, tmp_path, capsys):
    export(saved, source, "official", tmp_path / "a")
    path = tmp_path / "a" / "checkpoint.pth.tar"
    content = torch.load(path, weights_only=True)
    del content["fastmoco"]
    torch.save(content, tmp_path / "moco.pth.tar")
    code, text, _ = run(
        capsys, "export", tmp_path / "moco.pth.tar", "--to", "torchvision", "--out", tmp_path / "b"
    )
    assert code == 0 and "official MoCo layout" in text
    got = torch.load(tmp_path / "b" / "resnet18.pth", weights_only=True)
    assert all(torch.equal(v, saved.moco[f"encoder_q.trunk.{k}"]) for k, v in got.items())
    assert "official MoCo layout" in (tmp_path / "b" / "README.md").read_text()
    line = refused(capsys, "export", tmp_path / "b" / "resnet18.pth", "--to", "official")
    assert "the checkpoint has no head" in line


def test_wrong_flags_are_one_line(source, capsys):
    assert "--to" in refused(capsys, "export", source)
    assert "--to" in refused(capsys, "export", source, "--to", "tensorflow")
    assert "no such checkpoint" in refused(capsys, "export", "/none", "--to", "timm")
    line = refused(capsys, "export", source, "--to", "timm", "--with-config")
    assert "--with-config goes with --to detectron2" in line
    line = refused(capsys, "export", source, "--to", "detectron2", "--with-config")
    assert "blocks of three convolutions" in line


def test_what_is_no_file_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    (tmp_path / "empty").mkdir()
    for name in ("/dev/zero", "pipe"):
        text = refused(capsys, "export", name, "--to", "timm")
        assert f"{name}: not a file; give a checkpoint" in text
    assert 'argument 1 is empty (""): give a path' in refused(capsys, "export", "", "--to", "timm")
    for name, said in ((".", "the current folder"), ("empty",) * 2):
        text = refused(capsys, "export", name, "--to", "timm")
        assert f"{said}: no such checkpoint: none of checkpoint.pt, " in text
