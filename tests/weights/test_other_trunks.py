"""Networks that are not the paper's ResNets are refused by their names."""

import re

import pytest
import timm
import torch
import torchvision

from fastmoco.weights.other_trunks import what_it_is
from tests.support.foreign_models import refusal, sequential, under


@pytest.mark.parametrize(("channels", "text"), [
    (1, "its first convolution takes images of 1 channel; fastmoco's images have 3 (RGB)"),
    (13, "its first convolution takes images of 13 channels; fastmoco's images have 3 (RGB)"),
])
def test_other_numbers_of_channels_are_refused_with_both(channels, text, trunk):
    state = trunk | {"conv1.weight": torch.ones(64, channels, 7, 7)}
    assert refusal({"state_dict": state}) == text


KINDS = {
    "resnet18d": "ResNet-D", "resnet50c": "ResNet-C", "resnext50_32x4d": "ResNeXt.* 32 groups",
    "wide_resnet50_2": "another width .64 channels in its stem and 128",
    "seresnet18": "squeeze-and-excitation", "resnet50_clip": "attention pooling",
    "resnet50_gn": "GroupNorm", "vit_tiny_patch16_224": "vision transformer",
    "swin_tiny_patch4_window7_224": "Swin", "convnext_atto": "ConvNeXt",
    "efficientnet_b0": "EfficientNet", "densenet121": "DenseNet", "vgg11": "VGG",
    "regnetx_002": "RegNet", "inception_v3": "Inception", "mixer_s32_224": "MLP-Mixer",
    "resnetv2_50": "pre-activation", "mobilenetv3_small_050": "MobileNet",
    "deit_tiny_patch16_224": "vision transformer",
}


@pytest.mark.parametrize("name", KINDS)
def test_another_network_is_named(name):
    with torch.device("meta"):
        names = timm.create_model(name).state_dict()
    state = {k: torch.zeros(()).expand(v.shape) for k, v in names.items()}
    text = refusal({"state_dict": under("module.", state)})
    assert re.search(KINDS[name], text), text


@pytest.mark.parametrize(("name", "kind"), [
    ("vit_b_16", "vision transformer"), ("swin_t", "Swin"), ("convnext_tiny", "ConvNeXt"),
    ("efficientnet_b0", "EfficientNet"), ("mobilenet_v2", "MobileNet"), ("vgg11_bn", "VGG"),
    ("alexnet", "AlexNet"), ("densenet121", "DenseNet"),
    ("googlenet", "Inception"),
])
def test_torchvisions_other_networks_are_named(name, kind):
    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None, **options)
    assert kind in what_it_is(model.state_dict())


def test_a_stem_of_several_convolutions_is_named(trunk):
    deep = {"conv2.weight": torch.ones(32, 32, 3, 3), "bn2.weight": torch.ones(32)}
    assert "a stem of three convolutions" in refusal(under("visual.", trunk | deep))
    state = sequential(trunk, (0, 1, 7, 8, 9, 10)) | {"3.weight": torch.ones(64, 64, 3, 3)}
    assert "no layout known here" in refusal(state)
