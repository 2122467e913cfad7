"""MoCo on CIFAR-10 as the official demo writes it: the reference of bench.learning.time_to_knn.

Follows colab/moco_cifar10_demo.ipynb (facebookresearch/moco): torchvision's augmentation on PIL
images in DataLoader workers, float32 in torch's own layout, the momentum update as a Python loop
over the parameters, the queue [dim, K] cloned into the logits. Three things differ, so that two
cores can train it: a small encoder replaces the ResNet-18, plain BatchNorm replaces SplitBatchNorm,
and the cosine changes the learning rate at each step, since a run has only two epochs.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models.resnet import BasicBlock

from data_tools.store import Store
from fastmoco.model.encoder import Encoder
from fastmoco.recipe import CIFAR_MEAN, CIFAR_STD

WIDTHS, STRIDES = (32, 64, 128, 256), (1, 2, 2, 2)
BATCH, K, DIM, M, T, WEIGHT_DECAY = 256, 4096, 128, 0.99, 0.1, 5e-4
LEAST = 0.08  # least share of the image's area in a crop
WORKERS = 2


class Trunk(nn.Module):
    """A 3x3 stem, four basic blocks, pooling: images [N, 3, S, S] to [N, 256]."""

    def __init__(self) -> None:
        super().__init__()
        stem = WIDTHS[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)
        )
        blocks, before = [], stem
        for width, stride in zip(WIDTHS, STRIDES, strict=True):
            shortcut = None
            if stride != 1 or before != width:
                shortcut = nn.Sequential(
                    nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
                )
            blocks.append(BasicBlock(before, width, stride, shortcut))
            before = width
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(x)).mean(dim=(2, 3))


def small_encoder() -> Encoder:
    """Return the encoder of both sides: the trunk and one linear layer."""
    return Encoder(Trunk(), WIDTHS[-1], nn.Linear(WIDTHS[-1], DIM))


class Pairs(Dataset):
    """Two views of each image by one transform, as in the demo's CIFAR10Pair.

    A crop covers at least the share `least` of the image.
    """

    def __init__(self, images: np.ndarray, least: float) -> None:
        self.images = images  # uint8 [N, 32, 32, 3]
        self.transform = transforms.Compose([
            transforms.RandomResizedCrop(32, (least, 1.0)),
            transforms.RandomHorizontalFlip(p=0.5),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToTensor(),
            transforms.Normalize(CIFAR_MEAN, CIFAR_STD),
        ])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.fromarray(self.images[i])
        return self.transform(image), self.transform(image)


class ModelMoCo(nn.Module):
    """The demo's model: both encoders and the queue [dim, K]."""

    queue: torch.Tensor
    queue_ptr: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder_q = small_encoder()
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(DIM, K), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def momentum_update(self) -> None:
        pairs = zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True)
        for param_q, param_k in pairs:
            param_k.data = param_k.data * M + param_q.data * (1.0 - M)

    @torch.no_grad()
    def dequeue_and_enqueue(self, keys: torch.Tensor) -> None:
        ptr = int(self.queue_ptr)
        self.queue[:, ptr : ptr + len(keys)] = keys.t()
        self.queue_ptr[0] = (ptr + len(keys)) % K

    def forward(self, im_q: torch.Tensor, im_k: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.momentum_update()
        q = F.normalize(self.encoder_q(im_q), dim=1)
        with torch.no_grad():
            k = F.normalize(self.encoder_k(im_k), dim=1)
        l_pos = torch.einsum("nc,nc->n", [q, k]).unsqueeze(-1)
        l_neg = torch.einsum("nc,ck->nk", [q, self.queue.clone().detach()])
        logits = torch.cat([l_pos, l_neg], dim=1) / T
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        self.dequeue_and_enqueue(k)
        return loss


def decoded(store: Store) -> np.ndarray:
    """Decode all images of a store of 32-pixel images: uint8 [N, 32, 32, 3]."""
    return np.stack([
        np.asarray(Image.open(io.BytesIO(store.encoded(i))).convert("RGB"))
        for i in range(len(store))
    ])


def plain_training(
    images: np.ndarray, lr: float, epochs: float, seed: int,
    ready: Callable[[ModelMoCo], None], least: float = LEAST,
) -> Iterator[int]:
    """Train; yield the number of steps after each. `ready` gets the model before the first."""
    torch.manual_seed(seed)
    model = ModelMoCo()
    loader = DataLoader(
        Pairs(images, least), BATCH, shuffle=True, num_workers=WORKERS, drop_last=True,
        persistent_workers=True,
    )
    optimizer = torch.optim.SGD(
        model.encoder_q.parameters(), lr=lr, momentum=0.9, weight_decay=WEIGHT_DECAY
    )
    steps, step = round(epochs * len(loader)), 0
    ready(model)
    while True:
        for im_q, im_k in loader:
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = model(im_q, im_k)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # the demo's progress bar shows it
            step += 1
            yield step
            if step == steps:
                return
