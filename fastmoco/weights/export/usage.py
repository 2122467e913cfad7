"""The section of a model card on using the export: Python to paste, run in its directory."""

from __future__ import annotations

from fastmoco.recipe import Recipe
from fastmoco.weights.export.writers import view
from fastmoco.weights.resnets import RESNETS

IMAGES = """\
from PIL import Image
from torchvision import transforms

preprocess = transforms.Compose([
    transforms.Resize({short}), transforms.CenterCrop({size}), transforms.ToTensor(),
    transforms.Normalize({mean}, {std}),
])
images = preprocess(Image.open("photo.jpg").convert("RGB"))[None]
"""

TORCHVISION = """\
import torch, torchvision

model = torchvision.models.{arch}()
model.fc = torch.nn.Identity()
model.load_state_dict(torch.load("{arch}.pth", weights_only=True))
features = model.eval()(images)  # [1, {width}]
"""

TIMM = """\
import timm

model = timm.create_model("local-dir:.", pretrained=True, num_classes=0)
features = model.eval()(images)
"""

HUGGINGFACE = """\
from transformers import AutoModel

model = AutoModel.from_pretrained(".")  # AutoImageProcessor.from_pretrained(".") goes with it
features = model.eval()(images).pooler_output.flatten(1)  # [1, {width}]
"""

ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
features = session.run(None, {{"images": images.numpy()}})[0]
"""

OFFICIAL = """\
import torch, torchvision

state = torch.load("checkpoint.pth.tar", map_location="cpu")["state_dict"]
prefix = "module.encoder_q."
trunk = {{k[len(prefix):]: v for k, v in state.items()
         if k.startswith(prefix) and not k.startswith(prefix + "fc.")}}
model = torchvision.models.{arch}()
model.fc = torch.nn.Identity()
model.load_state_dict(trunk)
features = model.eval()(images)  # [1, {width}]
"""

SAFETENSORS = """\
import torch, torchvision
from safetensors.torch import load_file

model = torchvision.models.{arch}()
{stem}model.fc = torch.nn.Identity()
model.load_state_dict(load_file("model.safetensors"))
features = model.eval()(images)  # [1, {width}]
"""

CIFAR_STEM = """\
model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)  # CIFAR's stem
model.maxpool = torch.nn.Identity()
"""

OURS = """\
from safetensors.torch import load_file
from fastmoco.model.encoder import build_encoder
from fastmoco.recipe import Recipe

model = build_encoder(Recipe(arch="{arch}", size={size})).trunk
model.load_state_dict(load_file("model.safetensors"))
features = model.eval()(images)
"""

DETECTRON2 = """\
`model.pkl` is a weights file of detectron2: `MODEL.WEIGHTS model.pkl`, with `MODEL.RESNETS.DEPTH
{depth}`{small}, `MODEL.RESNETS.STRIDE_IN_1X1 False`, `INPUT.FORMAT RGB`,
`MODEL.PIXEL_MEAN [{mean}]` and `MODEL.PIXEL_STD [{std}]`. With other settings the trunk sees
images unlike those that it was trained on.
"""

MMPRETRAIN = """\
In a configuration of mmpretrain, mmdetection or mmsegmentation:

```python
backbone=dict(
    type="{kind}", depth={depth}, style="pytorch",
    init_cfg=dict(type="Pretrained", checkpoint="{arch}.pth", prefix="backbone."),
)
data_preprocessor=dict(mean=[{mean}], std=[{std}], to_rgb=True)
```
"""

OFFICIAL_COMMANDS = """\
With the official code, `main_moco.py --resume checkpoint.pth.tar` continues from here, and
`main_lincls.py --pretrained checkpoint.pth.tar` evaluates it. The key encoder already has the
update that main_moco.py makes at the start of its next step.
"""


def usage(recipe: Recipe, to: str) -> str:
    """The usage of an export to the format `to`, in markdown."""
    size, short = view(recipe)
    mean, std = recipe.augmentation.mean, recipe.augmentation.std
    scaled = {
        "mean": ", ".join(f"{255 * x:.3f}" for x in mean),
        "std": ", ".join(f"{255 * x:.3f}" for x in std),
    }
    depth = recipe.arch.removeprefix("resnet")
    basic = recipe.arch in ("resnet18", "resnet34")
    if to == "detectron2":
        small = ", `MODEL.RESNETS.RES2_OUT_CHANNELS 64`" if basic else ""
        return DETECTRON2.format(depth=depth, small=small, **scaled)
    if to == "mmpretrain":
        kind = "ResNet_CIFAR" if recipe.stem == "cifar" else "ResNet"
        return MMPRETRAIN.format(kind=kind, depth=depth, arch=recipe.arch, **scaled)
    named = {
        "torchvision": TORCHVISION, "timm": TIMM, "huggingface": HUGGINGFACE, "onnx": ONNX,
        "official": OFFICIAL, "safetensors": SAFETENSORS if recipe.arch in RESNETS else OURS,
    }
    model = named[to].format(
        arch=recipe.arch, width=512 if basic else 2048, size=size,
        stem=CIFAR_STEM if recipe.stem == "cifar" else "",
    )
    code = IMAGES.format(short=short, size=size, mean=mean, std=std) + model
    more = OFFICIAL_COMMANDS if to == "official" else ""
    return f"```python\n{code}```\n" + (f"\n{more}" if more else "")
