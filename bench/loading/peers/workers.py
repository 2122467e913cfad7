"""Peers that augment in DataLoader's workers, and Kornia, run as their users run them."""

from __future__ import annotations

import io
import random
from abc import abstractmethod
from collections.abc import Callable, Iterator

import torch
from PIL import Image, ImageFilter
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from bench.loading.peers.ours import AUG, SCALE, SIZE, Data, Peer
from fastmoco.recipe import IMAGENET_MEAN, IMAGENET_STD


class PilBlur:
    """moco/loader.py's GaussianBlur."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class Views(torch.utils.data.Dataset):
    """Two views of each encoded image, made by a decoder and a transform."""

    def __init__(self, jpegs: list[bytes], decode: Callable, transform: Callable) -> None:
        self.jpegs, self.decode, self.transform = jpegs, decode, transform

    def __len__(self) -> int:
        return len(self.jpegs)

    def __getitem__(self, i: int) -> list[torch.Tensor]:
        image = self.decode(self.jpegs[i])
        return [self.transform(image), self.transform(image)]


def by_pil(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def by_torchvision(jpeg: bytes) -> torch.Tensor:
    data = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
    return decode_jpeg(data, mode=ImageReadMode.RGB)


def one_thread(_: int) -> None:
    torch.set_num_threads(1)


class InWorkers(Peer):
    """A Dataset in DataLoader's workers: one worker per core, kept between epochs."""

    stage, batch = "full v2", 32

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.loader = torch.utils.data.DataLoader(
            self.dataset(), self.batch, shuffle=True, num_workers=data.threads, drop_last=True,
            persistent_workers=True, worker_init_fn=one_thread, multiprocessing_context="spawn",
        )
        self.ready = 2 * data.threads  # DataLoader's prefetch
        self.each = self.endless()

    @abstractmethod
    def dataset(self) -> torch.utils.data.Dataset:
        """Return the dataset that the workers read."""

    def endless(self) -> Iterator:
        while True:
            yield from self.loader

    def batches(self) -> Iterator[int]:
        for batch in self.each:
            yield len(batch[0])

    def close(self) -> None:
        self.each.close()
        del self.loader


class TorchvisionPil(InWorkers):
    name = "torchvision on PIL"
    note = "the official MoCo pipeline in DataLoader workers"

    def dataset(self) -> torch.utils.data.Dataset:
        jitter = transforms.ColorJitter(*AUG.jitter)
        return Views(self.data.many, by_pil, transforms.Compose([
            transforms.RandomResizedCrop(SIZE, scale=SCALE),
            transforms.RandomApply([jitter], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([PilBlur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]))  # fmt: skip


class TorchvisionTensors(InWorkers):
    name = "torchvision v2 on tensors"

    def dataset(self) -> torch.utils.data.Dataset:
        jitter = v2.ColorJitter(*AUG.jitter)
        return Views(self.data.many, by_torchvision, v2.Compose([
            v2.RandomResizedCrop(SIZE, scale=SCALE, antialias=True),
            v2.RandomApply([jitter], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]))  # fmt: skip


class Lightly(InWorkers):
    name = "lightly MoCoV2Transform"

    def dataset(self) -> torch.utils.data.Dataset:
        from lightly.transforms import MoCoV2Transform

        both = MoCoV2Transform(input_size=SIZE)
        return LightlyViews(self.data.many, both)


class LightlyViews(Views):
    def __init__(self, jpegs: list[bytes], transform: Callable) -> None:
        super().__init__(jpegs, by_pil, transform)

    def __getitem__(self, i: int) -> list[torch.Tensor]:
        return self.transform(self.decode(self.jpegs[i]))


def kornia_v2(crop: bool) -> torch.nn.Module:
    """Return Kornia's container: draws per image, but one order of the four colours per call."""
    from kornia import augmentation as K

    return K.AugmentationSequential(
        *([K.RandomResizedCrop((SIZE, SIZE), scale=SCALE)] if crop else []),
        K.ColorJitter(*AUG.jitter, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((13, 13), (0.1, 2.0), p=0.5),
        K.RandomHorizontalFlip(p=0.5),
        K.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)),
        same_on_batch=False,
    )


class KorniaFull(InWorkers):
    name = "Kornia AugmentationSequential"
    note = "decoded and resized to 256 in workers, the rest per batch in the main process"
    batch = 16

    def dataset(self) -> torch.utils.data.Dataset:
        self.augment = kornia_v2(crop=True)
        resize = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(256)])
        return Views(self.data.many, by_torchvision, resize)

    def batches(self) -> Iterator[int]:
        for first, _ in self.each:
            pixels = first.float() / 255
            self.augment(pixels), self.augment(pixels)
            yield len(first)


class KorniaAlone(Peer):
    stage, name = "augmentation alone", "Kornia AugmentationSequential"

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.augment = kornia_v2(crop=False)
        self.views = torch.randint(0, 256, (2, 16, 3, SIZE, SIZE), dtype=torch.uint8)

    def batches(self) -> Iterator[int]:
        while True:
            for view in self.views:
                self.augment(view.float() / 255)
            yield self.views.shape[1]
