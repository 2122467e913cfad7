"""How each peer is run, as its own users run it: one class a peer and stage."""

from __future__ import annotations

import dataclasses
import io
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import simplejpeg
import torch
from PIL import Image, ImageFilter
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from bench.double_beton import double
from data_tools.store import Store
from fastmoco.augment_numba import augment_numba
from fastmoco.engines import open_engine
from fastmoco.loader import TrainLoader
from fastmoco.recipe import IMAGENET_MEAN, IMAGENET_STD, MOCO_V2
from fastmoco.stages import in_threads

BATCH, SIZE, SCALE = 64, 224, (0.2, 1.0)
AUG = MOCO_V2.augmentation
CPU = torch.device("cpu")


class Data:
    """What every peer reads: the store, the directory of its two formats, the JPEGs in memory."""

    def __init__(self, store: Store, path: Path, threads: int) -> None:
        self.store, self.path, self.threads = store, path, threads
        self.jpegs = [store.encoded(i).tobytes() for i in range(len(store))]
        # repeated, so that an epoch is some seconds even for the fastest
        self.many = self.jpegs * max(1, 3000 // len(self.jpegs))


class Peer:
    """One side of the comparison. `ready`: batches that it may have made before its turn."""

    stage, name, note = "", "", ""
    ready = 0

    def __init__(self, data: Data) -> None:
        self.data = data

    def batches(self) -> Iterator[int]:
        """Images in each batch, without end."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop what runs in the background."""


class Decode(Peer):
    stage, name = "decode", "simplejpeg"
    note = "exact, on as many threads as cores: the bound"

    def batches(self) -> Iterator[int]:
        def work(i: int) -> None:
            simplejpeg.decode_jpeg(jpegs[i % len(jpegs)])

        jpegs = self.data.jpegs
        while True:
            in_threads(work, self.data.threads, 0.02)
            rate = in_threads(work, self.data.threads, 0.5)
            yield round(rate * 0.5)


class Ours(Peer):
    """TrainLoader on one of our engines, from the beton; uint8 views."""

    stage, engine, ready = "two views", "threads", 3

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        recipe = dataclasses.replace(MOCO_V2, batch=min(BATCH, len(data.store)), bn_splits=1)
        self.opened = open_engine(self.engine, data.store, data.threads).engine
        self.loader = TrainLoader(data.store, recipe, self.opened, CPU)

    def each(self) -> Iterator:
        return itertools.chain.from_iterable(self.loader.epoch(e) for e in itertools.count())

    def batches(self) -> Iterator[int]:
        for batch in self.each():
            yield len(batch.index)

    def close(self) -> None:
        self.opened.close()


class OursThreads(Ours):
    name = "fastmoco, threads"


class OursDali(Ours):
    name, engine = "fastmoco, dali engine", "dali"


class OursFfcv(Ours):
    name, engine = "fastmoco, ffcv engine", "ffcv"
    note = "FFCV's decoder and resize, one decode for both views"


class OursFull(Ours):
    stage, name = "full v2", "fastmoco"

    def batches(self) -> Iterator[int]:
        for batch in self.each():
            augment_numba(batch.views, batch.colour, AUG)
            yield len(batch.index)


class OursAugment(OursFull):
    stage, ready = "augmentation alone", 0

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        batch = next(self.each())
        colour = {k: t.clone() for k, t in batch.colour.arrays().items()}
        self.views, self.colour = batch.views.clone(), type(batch.colour)(**colour)

    def batches(self) -> Iterator[int]:
        while True:
            augment_numba(self.views, self.colour, AUG)
            yield len(self.views)


class PilBlur:
    """moco/loader.py's GaussianBlur."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class Views(torch.utils.data.Dataset):
    """Both views of an encoded image, by a decoder and a transform."""

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
    """A Dataset in DataLoader's workers, one a core, kept between epochs."""

    stage, batch = "full v2", 32

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        self.loader = torch.utils.data.DataLoader(
            self.dataset(), self.batch, shuffle=True, num_workers=data.threads, drop_last=True,
            persistent_workers=True, worker_init_fn=one_thread, multiprocessing_context="spawn",
        )
        self.ready = 2 * data.threads  # DataLoader's prefetch
        self.each = self.endless()

    def dataset(self) -> torch.utils.data.Dataset:
        raise NotImplementedError

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
    """Kornia's own container, a draw an image; it has one order of the four colours a call."""
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
    note = "decoded and resized to 256 in workers, the rest a batch at a time in the main process"
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


class Dali(Peer):
    """DALI's own TFRecord reader and random crops, two views from one decode."""

    stage, name, ready = "two views", "DALI, CPU", 3
    full = False

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        from nvidia.dali import pipeline_def

        files = sorted((data.path / "tfrecord").glob("*.tfrecord"))
        indexes = [path.with_name(path.name + ".idx") for path in files]
        if not all(path.exists() for path in indexes):
            indexes = sorted((data.path / "tfrecord").glob("*.idx"))

        @pipeline_def(batch_size=BATCH, num_threads=data.threads, device_id=None,
                      prefetch_queue_depth=2)
        def pipeline():
            return dali_graph([str(p) for p in files], [str(p) for p in indexes], self.full)

        self.pipe = pipeline()
        self.pipe.build()

    def batches(self) -> Iterator[int]:
        while True:
            self.pipe.run()
            yield BATCH

    def close(self) -> None:
        del self.pipe


class DaliFull(Dali):
    stage, full = "full v2", True
    note = "its saturation and hue are a linear turn, not HSV, and its blur is its own"


def dali_graph(files: list[str], indexes: list[str], full: bool) -> tuple:
    from nvidia.dali import fn, tfrecord, types

    read = fn.readers.tfrecord(
        path=files, index_path=indexes, random_shuffle=True, initial_fill=256,
        features={"image/encoded": tfrecord.FixedLenFeature((), tfrecord.string, "")},
    )
    image = fn.decoders.image(read["image/encoded"], device="cpu")
    views = []

    def coin(probability: float):
        return fn.cast(fn.random.coin_flip(probability=probability), dtype=types.FLOAT)

    for _ in range(2):
        view = fn.random_resized_crop(image, size=SIZE, random_area=SCALE)
        if full:
            def strength(most: float, centre: float = 1.0):
                drawn = fn.random.uniform(range=(centre - most, centre + most))
                return chosen * drawn + (1 - chosen) * centre  # noqa: B023

            chosen = coin(0.8)
            view = fn.color_twist(
                view, brightness=strength(0.4), contrast=strength(0.4),
                saturation=strength(0.4) * (1 - coin(0.2)),  # grey is saturation 0 here
                hue=strength(36.0, 0.0),
            )
            soft = coin(0.5)
            sigma = soft * fn.random.uniform(range=(0.1, 2.0)) + (1 - soft) * 0.01
            view = fn.gaussian_blur(view, sigma=sigma)
            view = fn.crop_mirror_normalize(
                view, dtype=types.FLOAT, output_layout="CHW", mirror=fn.random.coin_flip(),
                mean=[255 * x for x in IMAGENET_MEAN], std=[255 * x for x in IMAGENET_STD],
            )
        views.append(view)
    return tuple(views)


class Ffcv(Peer):
    """The official Loader; each pipeline decodes for itself."""

    stage, name, ready = "two views", "FFCV, one view", 4
    note = "one view an image: half of what the others make"
    pipelines = ("image",)

    def __init__(self, data: Data) -> None:
        super().__init__(data)
        from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption

        path = data.path / "double.beton"
        if not path.exists():
            double(data.path / "beton" / "train.beton", path)
        crops: dict = {
            name: [RandomResizedCropRGBImageDecoder((SIZE, SIZE), scale=SCALE)]
            if name in self.pipelines else None
            for name in ("image", "image_2")
        }
        self.threads = torch.get_num_threads()
        self.loader = Loader(
            str(path), batch_size=BATCH, num_workers=data.threads, os_cache=True,
            order=OrderOption.RANDOM, drop_last=True, pipelines=crops | {"label": [IntDecoder()]},
        )

    def batches(self) -> Iterator[int]:
        while True:
            for batch in self.loader:
                yield len(batch[0])


class FfcvTwo(Ffcv):
    name = "FFCV, two pipelines"
    note = "the same image as two fields of the same bytes, decoded once for each view"
    pipelines = ("image", "image_2")


PEERS: list[type[Peer]] = [
    Decode, OursThreads, OursDali, OursFfcv, Dali, Ffcv, FfcvTwo, OursFull, TorchvisionPil,
    TorchvisionTensors, Lightly, KorniaFull, DaliFull, OursAugment, KorniaAlone,
]

