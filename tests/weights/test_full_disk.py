"""A full disk: the last checkpoint stays whole, and a run without room does not start."""

import pytest
import torch

from data_tools.errors import UserError
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.write import write_weights
from tests.support.full_disk import files_up_to


def test_a_checkpoint_that_is_cut_at_any_byte_says_why_and_leaves_the_old_one(
    small_checkpoint, tmp_path
):
    path = tmp_path / "checkpoint.pt"
    before = path.read_bytes()
    for size in (0, 100, 2000, len(before) // 2, len(before) - 3000, len(before) - 1):
        with (
            files_up_to(size),
            pytest.raises(UserError, match="File too large.*the last one is whole"),
        ):
            checkpoints.save(small_checkpoint, path)
        assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


class FullDisk:
    """A disk with room for this many bytes."""

    def __init__(self, room):
        self.room = room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return len(data)

    def flush(self):
        pass


@pytest.mark.parametrize("room", [0, 1000, 200_000])
def test_torchs_error_is_the_systems(tmp_path, monkeypatch, room):
    """torch's zip writer itself reports "unexpected pos" in the second and third case."""
    real = torch.save

    def save(content, file):
        file._file = FullDisk(room)
        real(content, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space left on device"):
        write_weights([torch.ones(100_000)] * 2, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_the_room_for_two_checkpoints_is_looked_at_before(tmp_path, monkeypatch):
    tensors = [torch.zeros(10 << 20)]  # 42 MB
    path = tmp_path / "run" / "checkpoint.pt"

    def free(size):
        usage = type("Usage", (), {"total": 1, "free": size})
        monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)

    for size in (0, 42 << 20, 80 << 20):
        free(size)
        with pytest.raises(UserError, match="2 checkpoints of 43.0 MB .* no space left on device"):
            checkpoints.refuse_full_disk(path, tensors, 0)
    free(90 << 20)
    checkpoints.refuse_full_disk(path, tensors, 0)
    with pytest.raises(UserError, match="5 checkpoints"):
        checkpoints.refuse_full_disk(path, tensors, 3)
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.truncate(43 << 20)
    free(50 << 20)  # one more is enough for a run that is resumed
    checkpoints.refuse_full_disk(path, tensors, 0)


def test_a_run_that_has_no_room_does_not_begin(dataset, tmp_path, monkeypatch):
    from fastmoco.run_options import RunOptions
    from fastmoco.training.train import train
    from tests.support.training_runs import RECIPE

    monkeypatch.setattr(
        checkpoints.shutil, "disk_usage", lambda _: type("Usage", (), {"total": 1, "free": 9999})
    )
    with pytest.raises(UserError, match="run: 2 checkpoints of .* no space left on device"):
        train(dataset, RECIPE, RunOptions(out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
