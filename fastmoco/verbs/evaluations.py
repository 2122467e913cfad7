"""load, knn, linear, finetune and embed: the verbs that take a checkpoint and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.inspection.sheets import check_picture
from fastmoco.evaluation import finetune as finetuning
from fastmoco.evaluation import knn as neighbours_
from fastmoco.evaluation import linear as classifiers
from fastmoco.evaluation import linear_on_features as quick_classifiers
from fastmoco.evaluation.feature_cache import features_of
from fastmoco.evaluation.feature_encoder import FeatureEncoder
from fastmoco.evaluation.feature_files import check_name, write_features
from fastmoco.reporting.neighbour_sheet import draw_neighbours
from fastmoco.settings.classifiers import FinetuneSettings, LinearSettings
from fastmoco.settings.extraction import ViewSettings
from fastmoco.settings.rules import check_seed
from fastmoco.verbs.inputs import Data, How, PathLike, Weights, open_inputs, viewed, weights
from fastmoco.verbs.keywords import fields_in, takes
from fastmoco.weights.encoders import load_encoder


@takes(ViewSettings)
def load(checkpoint: Weights, **flags: Any) -> FeatureEncoder:
    """Load the encoder of a checkpoint as a torch.nn.Module that gives features.

    Arguments:
        checkpoint: run directory, checkpoint file or Checkpoint; also the official MoCo's, and
            those of torchvision, timm, lightly and others that `knn` reads.
        **flags: fields of ViewSettings.

    Returns a module on the CPU, in evaluation mode. It takes a batch float [N, 3, S, S] and gives
    the features float32 [N, D] that knn and embed use. `encoder.transform(image)` makes the input
    [3, S, S] of a PIL image or an image file, `encoder.projection(batch)` gives the output of the
    head, `encoder.features(images, batch=256)` the features of a list of PIL images or files.

    Raises UserError for a file that is no checkpoint, or is damaged.

    Example:
        encoder = fastmoco.load("runs/photos").to("cuda")
        features = encoder.features(["a.jpg", "b.jpg"])
    """
    view = ViewSettings(**fields_in(ViewSettings, flags))
    return FeatureEncoder(viewed(weights(checkpoint), view))


@takes(How)
def knn(
    checkpoint: Weights,
    train: Data,
    val: Data | None = None,
    k: tuple[int, ...] = (),
    T: tuple[float, ...] = (),
    companions: bool = True,
    **flags: Any,
) -> list[neighbours_.Row]:
    """Classify images by their nearest neighbours (weighted kNN on the features of the trunk).

    Arguments:
        checkpoint: run directory, checkpoint file or Checkpoint, of fastmoco or another system.
        train: labelled dataset whose images vote.
        val: labelled dataset whose images are classified. Without it, each image of `train` is
            classified by all others (leave one out).
        k: numbers of neighbours that vote [default: those of MoCo's CIFAR demo and of DINO].
        T: temperatures of the votes, each combined with every k [default: those of the protocols].
        companions: also evaluate the encoder as it was at step 0, and centred raw pixels.
        **flags: fields of How.

    Returns one row per set of features, protocol, k and T, with `top1` (0 to 1) and `score`.

    Raises UserError for data without labels, or a checkpoint that cannot be read.

    Example:
        rows = fastmoco.knn("runs/photos", "prepared/train", "prepared/val", k=[20], T=[0.07])
    """
    protocols = neighbours_.grid(k, T) if k or T else neighbours_.PROTOCOLS
    found = open_inputs(checkpoint, (train, val), How(**fields_in(How, flags)))
    how, (bank, queries) = found.how, found.stores
    return neighbours_.knn(
        found.checkpoint, bank, queries, how.device, how.threads, companions, protocols, how
    )


@takes(LinearSettings, How)
def linear(
    checkpoint: Weights,
    train: Data,
    val: Data,
    quick: bool = False,
    companions: bool = False,
    **flags: Any,
) -> classifiers.Linear:
    """Train a linear classifier on the frozen encoder, by MoCo's official protocol.

    Arguments:
        checkpoint: run directory, checkpoint file or Checkpoint, of fastmoco or another system.
        train: labelled dataset to learn from.
        val: labelled dataset to score on.
        quick: learn from cached features of one centred view per image: minutes, not hours.
        companions: also evaluate the encoder as it was at step 0, and centred raw pixels.
        **flags: fields of LinearSettings and How.

    Returns the protocol in words, and one row per set of features with its `score`. A killed
    evaluation continues when it is called again.

    Raises UserError for data without labels, settings that cannot train, or a damaged checkpoint.

    Example:
        result = fastmoco.linear("runs/photos", "prepared/train", "prepared/val", quick=True)
        print(result.rows[0].score.top1)
    """
    settings = LinearSettings(**fields_in(LinearSettings, flags))
    settings.check()
    found = open_inputs(checkpoint, (train, val), How(**fields_in(How, flags)), shared=quick)
    evaluate = quick_classifiers.quick if quick else classifiers.linear
    learn, score = found.stores
    return evaluate(found.checkpoint, learn, score, found.how, settings, companions)


@takes(FinetuneSettings, How)
def finetune(
    checkpoint: Weights, train: Data, val: Data, companions: bool = False, **flags: Any
) -> finetuning.Tuned:
    """Train the encoder and a classifier on few labels or all (SwAV's semi-supervised protocol).

    Arguments:
        checkpoint: run directory, checkpoint file or Checkpoint, of fastmoco or another system.
        train: labelled dataset to learn from.
        val: labelled dataset to score on.
        companions: also start from the encoder as it was at step 0.
        **flags: fields of FinetuneSettings and How.

    Returns the protocol in words, and `rows`: scores by the name of the encoder. A killed
    fine-tuning continues when it is called again.

    Raises UserError for data without labels, settings that cannot train, or a damaged checkpoint.

    Example:
        result = fastmoco.finetune("runs/photos", "prepared/train", "prepared/val", labels="1%")
    """
    settings = FinetuneSettings(**fields_in(FinetuneSettings, flags))
    settings.check()
    found = open_inputs(checkpoint, (train, val), How(**fields_in(How, flags)), shared=False)
    learn, score = found.stores
    return finetuning.finetune(found.checkpoint, learn, score, found.how, settings, companions)


@takes(How)
def embed(
    checkpoint: Weights,
    data: Data,
    out: PathLike | None = None,
    neighbours: PathLike | None = None,
    count: int = 12,
    seed: int = 0,
    **flags: Any,
) -> NDArray[np.float32]:
    """Compute the features of every image of a dataset.

    Arguments:
        checkpoint: run directory, checkpoint file or Checkpoint, of fastmoco or another system.
        data: dataset, labelled or not.
        out: file to write too: .npy (the vectors), or .parquet (key, label, class and vector).
        neighbours: picture to draw: queries, and the eight images nearest to each.
        count: number of queries in the picture.
        seed: seed that chooses the queries.
        **flags: fields of How.

    Returns the features float32 [N, D], in the order of the dataset.

    Raises UserError for a checkpoint or data that cannot be read, or a file that cannot be written.

    Example:
        features = fastmoco.embed("runs/photos", "prepared/train")
    """
    check_seed(seed)
    out, neighbours = (None if path is None else Path(path) for path in (out, neighbours))
    if out is not None:
        check_name(out)
    if neighbours is not None:
        check_picture(neighbours, "neighbours")
    found = open_inputs(checkpoint, (data, None), How(**fields_in(How, flags)))
    saved, how, images = found.checkpoint, found.how, found.stores[0]
    features = features_of(load_encoder(saved, how.device), images, saved.recipe, how)
    if out is not None and how.ranks.rank == 0:
        write_features(features, images, out)
    if neighbours is not None and how.ranks.rank == 0:
        draw_neighbours(features, images, neighbours, count, seed, how.device)
    return features.numpy()
