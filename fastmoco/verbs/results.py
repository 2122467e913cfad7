"""export, report and compare: the verbs that turn runs into files and tables."""

from __future__ import annotations

from pathlib import Path

from data_tools.errors import UserError
from fastmoco.reporting import compare as comparing
from fastmoco.reporting import report as pages
from fastmoco.settings.verbs import To
from fastmoco.verbs.inputs import PathLike, Weights, weights
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.export import directory


def export(
    checkpoint: Weights, to: To, out: PathLike | None = None, with_config: bool = False
) -> list[Path]:
    """Write a checkpoint's trunk for another system, with a model card that shows how to use it.

    Arguments:
        checkpoint: run directory, checkpoint file or Checkpoint, of fastmoco or another system.
        to: format: a file that the system's own loader takes, or a directory of them.
        out: directory to write [default: export-FORMAT beside the checkpoint].
        with_config: with to="detectron2", also write the papers' detection transfer for VOC07+12
            and COCO.

    Returns the written files.

    Raises UserError if the format has no place for the encoder, or `out` cannot be written.

    Example:
        fastmoco.export("runs/photos", "timm")
    """
    saved = weights(checkpoint)
    if isinstance(checkpoint, Checkpoint):
        if out is None:
            raise UserError("out is missing: a Checkpoint in memory has no directory beside it")
        source = Path(out)
    else:
        source = Path(checkpoint)
    beside = source if source.is_dir() else source.parent
    return directory.export(
        saved, source, to, beside / f"export-{to}" if out is None else Path(out), with_config
    )


def report(
    run: PathLike,
    out: PathLike | None = None,
    data: PathLike | None = None,
    count: int = 1000,
    device: str = "auto",
    threads: int = 0,
) -> tuple[Path, list[str]]:
    """Write one HTML page about a run. It needs no network and no other file.

    Arguments:
        run: run directory.
        out: file to write [default: RUN/report.html].
        data: dataset for the pictures [default: the one of the training].
        count: number of images whose features are compared.
        device: auto, cuda, cuda:N or cpu. auto takes a GPU if there is one.
        threads: number of decoding threads [default: one per core].

    Returns the file, and one line for each part that is left out of the page.

    Raises UserError if there is no run, or the file cannot be written.

    Example:
        page, left_out = fastmoco.report("runs/photos")
    """
    return pages.report(run, out, data, count, device, threads)


def compare(*runs: PathLike) -> comparing.Comparison:
    """Compare runs: the settings that differ, and the results; mean and standard deviation of runs
    that differ only in their seed.

    Arguments:
        runs: run directories, each as its own argument.

    Returns `runs` (one row each) and `groups` (one per set of seeds).

    Raises UserError for a directory without a run, or one that is given twice.

    Example:
        found = fastmoco.compare("runs/a", "runs/b")
    """
    return comparing.compare(runs)
