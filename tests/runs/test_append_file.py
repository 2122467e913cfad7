"""A log on a disk that fills up and later has room again."""

import errno
import os

from fastmoco.runs.append_file import Appended
from tests.support.full_disk import files_up_to


def test_refused_records_wait_and_are_written_in_order(tmp_path):
    file = Appended(tmp_path / "a.jsonl")
    with files_up_to(30):
        file.write(b"0123456789\n")
        assert file.news() is None
        file.write(b"abcdefghij\n")
        file.write(b"does not fit\n")  # only its first 8 bytes would
        assert file.path.read_bytes() == b"0123456789\nabcdefghij\n"
        assert file.trouble == os.strerror(errno.EFBIG)
        line = file.news()
        assert line is not None and "a.jsonl cannot be written (File too large)" in line
        file.write(b"nor this\n")
        assert file.news() is None  # reported once
    file.write(b"now\n")
    expected = b"0123456789\nabcdefghij\ndoes not fit\nnor this\nnow\n"
    assert file.path.read_bytes() == expected
    assert "written again" in (file.news() or "") and file.news() is None and not file.trouble
