"""DALI and FFCV with their own readers, crops and order, as their users run them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.loading.peers.double_beton import double
from bench.loading.peers.ours import BATCH, SCALE, SIZE, Data, Peer
from fastmoco.recipe import IMAGENET_MEAN, IMAGENET_STD


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
    note = "saturation and hue are a linear turn, not HSV; DALI's own blur"


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
    """FFCV's Loader. Each pipeline decodes the image for itself."""

    stage, name, ready = "two views", "FFCV, one view", 4
    note = "one view per image: half of the others' work"
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
    note = "two fields that point at the same bytes, decoded once per view"
    pipelines = ("image", "image_2")
