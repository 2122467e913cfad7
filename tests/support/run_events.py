"""Events of a run for the tests of its listeners, and the points that TensorBoard reads back."""

from fastmoco.recipe import MOCO_V2
from fastmoco.runs.events import Progress, Started

STARTED = Started(MOCO_V2, 1_281_167, 5004, 0, "cpu", "threads", 28_000_000, "runs/a", "data")
LINE = Progress(
    step=12_000, steps=1_000_800, epoch=2.4, loss=8.314, chance=11.09, pretext_accuracy=0.231,
    queue_fill=1.0, lr=0.0299, images_per_s=1320.4, data_wait=0.02, seconds_left=150_000.0,
    alignment=0.43, uniformity=-2.31, feature_std=0.93, grad_norm=0.913, memory=12.14, skipped=0,
)


def points(path):
    """{tag: [(step, value), ...]} of the event files in a directory, read by tensorboard itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(path))
    reader.Reload()
    return {t: [(p.step, p.value) for p in reader.Scalars(t)] for t in reader.Tags()["scalars"]}
