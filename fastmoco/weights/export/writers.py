"""Writes the query encoder's trunk (for the official layout, all of MoCo) in other systems'
formats.

Every writer takes a checkpoint and an empty directory. The tensors keep their bits; only their
names change. A trunk that a format cannot hold is refused in one line.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_tools.errors import UserError
from fastmoco import __version__
from fastmoco.model.encoder import build_encoder
from fastmoco.model.timm_trunk import create
from fastmoco.recipe import TIMM, Recipe, to_dict
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.resnets import RESNETS, to_detectron2, to_huggingface
from fastmoco.weights.safetensors_header import write_safetensors
from fastmoco.weights.write import write_weights

Tensors = dict[str, torch.Tensor]
OPSET = 18  # version of ONNX's operators


def trunk_of(saved: Checkpoint) -> Tensors:
    """The query encoder's trunk under torchvision's names, on the CPU. Its tensors are made
    contiguous: channels-last ones would be written with strides that few readers expect."""
    prefix = "encoder_q.trunk."
    return {
        k[len(prefix) :]: v.detach().cpu().contiguous()
        for k, v in saved.moco.items() if k.startswith(prefix)
    }


def view(recipe: Recipe) -> tuple[int, int]:
    """Return (side of evaluation's view, short side of the image that it is cut from), in
    pixels."""
    size = recipe.eval_size or recipe.size
    return size, round(size / recipe.eval_crop)


def to_torchvision(saved: Checkpoint, out: Path) -> None:
    """Write a state dict of torchvision.models, without fc."""
    write_weights(trunk_of(saved), out / f"{saved.recipe.arch}.pth")


def to_safetensors(saved: Checkpoint, out: Path) -> None:
    """Write the trunk alone."""
    write_safetensors(trunk_of(saved), out / "model.safetensors", metadata(saved))


def metadata(saved: Checkpoint) -> dict[str, str]:
    """Metadata of our .safetensors files: "format" is "pt", as transformers requires; "fastmoco"
    holds the recipe and the origin of the weights, which our own import reads."""
    ours = {
        "recipe": to_dict(saved.recipe), "step": saved.step, "dataset": saved.dataset,
        "samples": saved.samples, "origin": saved.origin, "versions": saved.versions, "scaler": {},
    }
    return {"format": "pt", "fastmoco": json.dumps(ours)}


def to_timm(saved: Checkpoint, out: Path) -> None:
    """Write a directory that timm.create_model("local-dir:...") opens."""
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
    """Write a directory that transformers' AutoModel and AutoImageProcessor open."""
    recipe, (size, short) = saved.recipe, view(saved.recipe)
    resnet = RESNETS[recipe.arch]
    basic = resnet.convolutions == 2
    widths = [64 * 2**i * (1 if basic else 4) for i in range(4)]
    named = {to_huggingface(k): v for k, v in trunk_of(saved).items()}
    write_safetensors(named, out / "model.safetensors", metadata(saved))
    write_json(out / "config.json", {
        "architectures": ["ResNetModel"], "model_type": "resnet", "num_channels": 3,
        "embedding_size": 64, "hidden_sizes": widths, "depths": list(resnet.blocks),
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
    """Write the file that the official convert-pretrain-to-detectron2.py makes, without the head
    that it carries along."""
    named = {to_detectron2(k): v.numpy() for k, v in trunk_of(saved).items()}
    content = {"model": named, "__author__": "fastmoco", "matching_heuristics": True}
    with open(out / "model.pkl", "wb") as file:
        pickle.dump(content, file)


def to_mmpretrain(saved: Checkpoint, out: Path) -> None:
    """Write a checkpoint whose backbone mmpretrain, mmdetection and mmsegmentation find by its
    prefix."""
    named = {f"backbone.{k}": v for k, v in trunk_of(saved).items()}
    meta = {"fastmoco_version": __version__, "arch": saved.recipe.arch}
    write_weights({"meta": meta, "state_dict": named}, out / f"{saved.recipe.arch}.pth")


def to_official(saved: Checkpoint, out: Path) -> None:
    """Write a checkpoint of main_moco.py, for its --resume and for main_lincls.py.

    The layout has no place for the recipe, the plan and the position in the run. They are stored
    under a key that the official code ignores and our own import reads. Our key encoder already has
    the update that the official code makes at the start of its next step.
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
    """The optimizer state in the official order: the key encoder's parameters follow the query
    encoder's."""
    optimizer, r = saved.optimizer, saved.recipe
    if not optimizer:  # the checkpoint holds only weights: use an optimizer before its first step
        with torch.device("meta"):
            trained = list(build_encoder(r).parameters())
        optimizer = torch.optim.SGD(
            trained, lr=r.lr, momentum=r.momentum, weight_decay=r.weight_decay
        ).state_dict()
    (group,) = optimizer["param_groups"]
    both = list(range(2 * len(group["params"])))
    return {"state": optimizer["state"], "param_groups": [{**group, "params": both}]}


def to_onnx(saved: Checkpoint, out: Path) -> None:
    """Write an ONNX model: normalised images [N, 3, S, S] float32 -> features [N, width]. N is
    free, S is the recipe's.

    Raises UserError if the packages that write ONNX are not installed.
    """
    import importlib.util
    import logging
    import warnings

    missing = [p for p in ("onnx", "onnxscript") if importlib.util.find_spec(p) is None]
    if missing:
        raise UserError(
            f"--to onnx needs {' and '.join(missing)}: pip install 'fastmoco[onnx]'"
        )
    trunk: Any = build_encoder(saved.recipe, splits=1).trunk  # Any: its stubs miss memory_format
    trunk.load_state_dict(trunk_of(saved))
    trunk = trunk.to(memory_format=torch.contiguous_format).eval()
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


def is_resnet(recipe: Recipe) -> bool:
    """True for the paper's ResNets, with any stem."""
    return recipe.arch in RESNETS


def is_standard_resnet(recipe: Recipe) -> bool:
    """True for the paper's ResNets with their own stem."""
    return is_resnet(recipe) and recipe.stem == "imagenet"


def is_timm_or_resnet(recipe: Recipe) -> bool:
    """True for trunks of timm, and for standard ResNets, which timm has too."""
    return recipe.arch.startswith(TIMM) or is_standard_resnet(recipe)


def is_any(recipe: Recipe) -> bool:
    """True for every trunk."""
    return True


class Format(NamedTuple):
    """A format that trunks can be exported to."""

    write: Callable[[Checkpoint, Path], None]
    """Writes a checkpoint into an empty directory."""
    fits: Callable[[Recipe], bool]
    """True if the format can hold the recipe's trunk."""


FORMATS = {
    "torchvision": Format(to_torchvision, is_standard_resnet),
    "timm": Format(to_timm, is_timm_or_resnet),
    "huggingface": Format(to_huggingface_folder, is_standard_resnet),
    "detectron2": Format(to_detectron2_file, is_standard_resnet),
    "mmpretrain": Format(to_mmpretrain, is_resnet),
    "onnx": Format(to_onnx, is_any),
    "official": Format(to_official, is_standard_resnet),
    "safetensors": Format(to_safetensors, is_any),
}


def refuse_trunk(recipe: Recipe, to: str) -> None:
    """Raise UserError if a format cannot hold the recipe's trunk."""
    if not FORMATS[to].fits(recipe):
        trunk = f"{recipe.arch} with a CIFAR stem" if is_resnet(recipe) else recipe.arch
        good = sorted(name for name, form in FORMATS.items() if form.fits(recipe))
        raise UserError(
            f"--to {to}: has no place for a {trunk}; it can be exported to {', '.join(good)}"
        )


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
