"""The query encoder's trunk (and, for the official layout, all of MoCo) in other systems' files.

Every writer takes a checkpoint and an empty directory. Tensors are the trained ones, bit by bit;
only their names change. A trunk that a format has no place for is refused in one line.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data_tools.errors import UserError
from fastmoco import __version__
from fastmoco.model.encoder import build_encoder
from fastmoco.model.timm_trunk import create
from fastmoco.recipe import TIMM, Recipe, to_dict
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.resnets import to_detectron2, to_huggingface
from fastmoco.weights.safetensors_header import write_safetensors
from fastmoco.weights.write import write_weights

Tensors = dict[str, torch.Tensor]
DEPTHS = {
    "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3),
}
BASIC = ("resnet18", "resnet34")  # of two convolutions a block
OPSET = 18


def trunk_of(saved: Checkpoint) -> Tensors:
    """The query encoder's trunk under its own names (torchvision's), on the CPU, each tensor in
    rows: a channels-last one would be written with strides that few readers expect."""
    prefix = "encoder_q.trunk."
    return {
        k[len(prefix) :]: v.detach().cpu().contiguous()
        for k, v in saved.moco.items() if k.startswith(prefix)
    }


def view(recipe: Recipe) -> tuple[int, int]:
    """(side of evaluation's view, the short side it is cut from), in pixels."""
    size = recipe.eval_size or recipe.size
    return size, round(size / recipe.eval_crop)


def to_torchvision(saved: Checkpoint, out: Path) -> None:
    """torchvision.models' state dict, without fc."""
    write_weights(trunk_of(saved), out / f"{saved.recipe.arch}.pth")


def to_safetensors(saved: Checkpoint, out: Path) -> None:
    """The bare trunk."""
    write_safetensors(trunk_of(saved), out / "model.safetensors", metadata(saved))


def metadata(saved: Checkpoint) -> dict[str, str]:
    """What every .safetensors of ours holds beside the tensors: "pt", which transformers asks for,
    and under "fastmoco" the recipe and where the weights are from, which our own import reads."""
    told = {
        "recipe": to_dict(saved.recipe), "step": saved.step, "dataset": saved.dataset,
        "samples": saved.samples, "origin": saved.origin, "versions": saved.versions, "scaler": {},
    }
    return {"format": "pt", "fastmoco": json.dumps(told)}


def to_timm(saved: Checkpoint, out: Path) -> None:
    """A directory that timm.create_model("local-dir:...") takes."""
    recipe, (size, short) = saved.recipe, view(saved.recipe)
    write_safetensors(trunk_of(saved), out / "model.safetensors", metadata(saved))
    options = create(recipe.arch, recipe.sizes)[1] if recipe.arch.startswith(TIMM) else {}
    write_json(out / "config.json", {
        "architecture": recipe.arch.removeprefix(TIMM),
        "num_classes": 0,
        "model_args": options,
        "pretrained_cfg": {
            "num_classes": 0, "input_size": [3, size, size], "crop_pct": size / short,
            "interpolation": "bilinear", "mean": list(recipe.augmentation.mean),
            "std": list(recipe.augmentation.std),
        },
    })


def to_huggingface_folder(saved: Checkpoint, out: Path) -> None:
    """A directory that transformers' AutoModel and AutoImageProcessor take."""
    recipe, (size, short) = saved.recipe, view(saved.recipe)
    basic = recipe.arch in BASIC
    widths = [64 * 2**i * (1 if basic else 4) for i in range(4)]
    named = {to_huggingface(k): v for k, v in trunk_of(saved).items()}
    write_safetensors(named, out / "model.safetensors", metadata(saved))
    write_json(out / "config.json", {
        "architectures": ["ResNetModel"], "model_type": "resnet", "num_channels": 3,
        "embedding_size": 64, "hidden_sizes": widths, "depths": list(DEPTHS[recipe.arch]),
        "layer_type": "basic" if basic else "bottleneck", "hidden_act": "relu",
        "downsample_in_first_stage": False, "downsample_in_bottleneck": False,
    })
    write_json(out / "preprocessor_config.json", {
        "image_processor_type": "ConvNextImageProcessor", "do_resize": True,
        "size": {"shortest_edge": size}, "crop_pct": size / short, "resample": 2,  # bilinear
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": list(recipe.augmentation.mean), "image_std": list(recipe.augmentation.std),
    })


def to_detectron2_file(saved: Checkpoint, out: Path) -> None:
    """What the official convert-pretrain-to-detectron2.py makes, less the head it carries along."""
    named = {to_detectron2(k): v.numpy() for k, v in trunk_of(saved).items()}
    content = {"model": named, "__author__": "fastmoco", "matching_heuristics": True}
    with open(out / "model.pkl", "wb") as file:
        pickle.dump(content, file)


def to_mmpretrain(saved: Checkpoint, out: Path) -> None:
    """A checkpoint whose backbone mmpretrain, mmdetection and mmsegmentation take by its prefix."""
    named = {f"backbone.{k}": v for k, v in trunk_of(saved).items()}
    meta = {"fastmoco_version": __version__, "arch": saved.recipe.arch}
    write_weights({"meta": meta, "state_dict": named}, out / f"{saved.recipe.arch}.pth")


def to_official(saved: Checkpoint, out: Path) -> None:
    """A checkpoint of main_moco.py, for its --resume and for main_lincls.py.

    The layout has no place for the recipe, the plan and the cursor: they lie beside it, under a
    key that the official code does not read, and our own import takes them from there. Our key
    encoder has had the update that the official code makes at the start of its next step.
    """
    m = {k: v.detach().cpu() for k, v in saved.moco.items()}
    for part in ("encoder_q.head.", "encoder_k.trunk.", "encoder_k.head.", "dictionary.keys"):
        if not any(k.startswith(part) for k in m):
            what = {"encoder_q.head.": "head", "dictionary.keys": "queue"}.get(part, "key encoder")
            raise UserError(
                f"--to official: the checkpoint has no {what}, which that layout needs; export to "
                "torchvision, timm, huggingface or safetensors"
            )
    state: dict[str, Any] = {}
    for k, v in m.items():
        part = k.replace(".trunk.", ".", 1).replace(".head.", ".fc.", 1)
        if not k.startswith("dictionary."):
            state[f"module.{part}"] = v.contiguous()
    state["module.queue"] = m["dictionary.keys"].T.contiguous()
    state["module.queue_ptr"] = m["dictionary.pointer"].reshape(1)
    beside = {
        k: v for k, v in vars(saved).items() if k not in ("moco", "optimizer", "recipe", "note")
    } | {"recipe": to_dict(saved.recipe)}
    write_weights({
        "epoch": saved.step * saved.recipe.batch // max(saved.samples, 1),
        "arch": saved.recipe.arch, "state_dict": state,
        "optimizer": _official_optimizer(saved), "fastmoco": beside,
    }, out / "checkpoint.pth.tar")


def _official_optimizer(saved: Checkpoint) -> dict[str, Any]:
    """The official optimizer lists the key encoder's parameters after the query encoder's."""
    optimizer, r = saved.optimizer, saved.recipe
    if not optimizer:  # weights alone: as an optimizer that has not yet taken a step
        with torch.device("meta"):
            trained = list(build_encoder(r).parameters())
        optimizer = torch.optim.SGD(
            trained, lr=r.lr, momentum=r.momentum, weight_decay=r.weight_decay
        ).state_dict()
    (group,) = optimizer["param_groups"]
    both = list(range(2 * len(group["params"])))
    return {"state": optimizer["state"], "param_groups": [{**group, "params": both}]}


def to_onnx(saved: Checkpoint, out: Path) -> None:
    """images [N, 3, S, S] float32, normalised -> features [N, width]; N is free, S is the recipe's.

    Raises UserError where the packages that write it are not installed.
    """
    import importlib.util
    import logging
    import warnings

    missing = [p for p in ("onnx", "onnxscript") if importlib.util.find_spec(p) is None]
    if missing:
        raise UserError(
            f"--to onnx needs {' and '.join(missing)}: pip install 'fastmoco[onnx]'"
        )
    trunk = build_encoder(saved.recipe, splits=1).trunk
    trunk.load_state_dict(trunk_of(saved))
    trunk = trunk.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    size, _ = view(saved.recipe)
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                trunk, (torch.zeros(2, 3, size, size),), dynamo=True, opset_version=OPSET,
                input_names=["images"], output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("images")},), verbose=False,
            )
            assert program is not None
            program.save(out / "model.onnx")
    finally:
        log.setLevel(level)


# name -> (its writer, the trunks it has a place for)
ANY, RESNET, ANY_STEM, OR_TIMM = "any", "resnet", "resnet of any stem", "resnet or timm"
FORMATS: dict[str, tuple[Callable[[Checkpoint, Path], None], str]] = {
    "torchvision": (to_torchvision, RESNET),
    "timm": (to_timm, OR_TIMM),
    "huggingface": (to_huggingface_folder, RESNET),
    "detectron2": (to_detectron2_file, RESNET),
    "mmpretrain": (to_mmpretrain, ANY_STEM),
    "onnx": (to_onnx, ANY),
    "official": (to_official, RESNET),
    "safetensors": (to_safetensors, ANY),
}


def refuse_trunk(recipe: Recipe, to: str) -> None:
    """UserError where a format has no place for the recipe's trunk."""
    takes = FORMATS[to][1]
    resnet, timm = recipe.arch in DEPTHS, recipe.arch.startswith(TIMM)
    standard = resnet and recipe.stem == "imagenet"
    fits = {
        ANY: True, RESNET: standard, ANY_STEM: resnet, OR_TIMM: standard or timm,
    }[takes]
    if not fits:
        what = f"{recipe.arch} with a CIFAR stem" if resnet else recipe.arch
        good = [n for n, (_, takes) in FORMATS.items() if takes == ANY]
        good += ["mmpretrain"] * resnet + ["timm"] * timm
        raise UserError(
            f"--to {to}: has no place for a {what}; it can be exported to {', '.join(sorted(good))}"
        )


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
