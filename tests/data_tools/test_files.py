"""Files that appear whole or not at all."""

import errno
import os
import re
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.files import replacing, write_whole
from tests.support.full_disk import files_up_to


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    line = f"^{re.escape(str(path))}: can't be written: No space left on device; make room"
    with pytest.raises(UserError, match=line), replacing(path) as partial:
        assert partial.suffix == ".png"  # Pillow knows the format by it
        partial.write_bytes(b"new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"] and path.read_bytes() == b"old"
    with replacing(path) as partial:
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_whole(path, b"old")
    with files_up_to(10), pytest.raises(OSError, match="File too large"):
        write_whole(path, b"x" * 100)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"] and path.read_bytes() == b"old"
