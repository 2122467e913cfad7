"""A source that changes while prep reads it: what is lost is said, and comes back by itself."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.errors import Interrupted
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare, prepare_shard
from data_tools.sources.registry import open_source
from tests.support.folders import images, snapshot
from tests.support.made_files.sample_images import jpeg

PART = 8000
CUT = Policy(shard_size=PART / 1e6)
COUNT = 300
ONE = Policy(workers=1)
CUT_ALONE = Policy(workers=1, shard_size=PART / 1e6)


class Hidden:
    """Files that are moved away while prep runs, and come back as they were."""

    def __init__(self, source: Path, away: Path, paths: list[Path]) -> None:
        self.source, self.away, self.paths = source, away, paths

    def __call__(self, done: int, total: int) -> None:
        if not self.away.exists():
            for path in self.paths:
                place = self.away / path.relative_to(self.source)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.rename(place)

    def back(self) -> None:
        for path in self.paths:
            (self.away / path.relative_to(self.source)).rename(path)


@pytest.mark.parametrize("formats", [["beton"], ["webdataset", "beton"]])
def test_every_second_file_that_vanishes_is_a_failure_that_resumes(
    photos: Path, tmp_path: Path, formats: list[str]
) -> None:
    prepare(photos, tmp_path / "whole", formats=formats, policy=CUT)
    out, hidden = tmp_path / "out", Hidden(photos, tmp_path / "away", images(photos)[100::2])
    line = r"source: 4 of 300 images can't be read so far, more than one in 100 \(the first is a/2"
    with pytest.raises(Interrupted, match=line) as failure:
        prepare(photos, out, CUT_ALONE, formats, progress=hidden)
    assert "No such file" in str(failure.value) and "\n" not in str(failure.value)
    # 200 images are there: not a dataset of its own in silence
    with pytest.raises(Interrupted, match="had 300 then and has 200 now: bring them back"):
        prepare(photos, out, CUT_ALONE, formats)
    hidden.back()
    said: list[str] = []
    prepare(photos, out, formats=formats, policy=CUT, say=said.append)
    assert any("parts are done; going on" in line for line in said)
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_a_set_of_one_part_is_not_taken_for_a_smaller_one(photos: Path, tmp_path: Path) -> None:
    """Nothing is done yet when it stops."""
    out, source = tmp_path / "out", open_source(photos)
    hidden = Hidden(photos, tmp_path / "away", images(photos)[1::2])
    hidden(0, 0)
    with pytest.raises(Interrupted, match="can't be read so far"):
        prepare(source, out, ONE)
    with pytest.raises(Interrupted, match="bring them back"):
        prepare(photos, out)
    hidden.back()
    assert prepare(photos, out).samples == COUNT


def test_one_in_a_hundred_is_quarantined_and_tried_again(photos: Path, tmp_path: Path) -> None:
    prepare(photos, tmp_path / "whole", policy=CUT)
    lost = images(photos)[200:203]
    hidden = Hidden(photos, tmp_path / "away", lost)
    manifest = prepare(photos, tmp_path / "out", CUT_ALONE, progress=hidden)
    assert manifest.samples == COUNT - 3 and manifest.quarantined == {"can't be read": 3}
    hidden.back()
    # A run that is stopped behind them tries them again, and does their parts again.
    shutil.rmtree(hidden.away)

    def stop(done: int, total: int) -> None:
        hidden(done, total)
        if done >= 290:
            raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        prepare(photos, out, CUT_ALONE, progress=stop)
    hidden.back()
    prepare(photos, out, policy=CUT)
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_shards_and_what_puts_them_together_decide_on_the_whole(
    photos: Path, tmp_path: Path
) -> None:
    """Two shards lose two images each, which is little for each and too much for the whole."""
    prepare(photos, tmp_path / "whole", policy=CUT)
    out = tmp_path / "out"
    lost = [*images(photos)[221:223], *images(photos)[228:230]]  # of parts 35 and 36
    for i in (0, 1):
        source = open_source(photos)
        hidden = Hidden(photos, tmp_path / f"away{i}", lost)
        hidden(0, 0)
        prepare_shard(source, out, (i, 2), CUT_ALONE)
        hidden.back()
    source, hidden = open_source(photos), Hidden(photos, tmp_path / "away", lost)
    hidden(0, 0)
    with pytest.raises(Interrupted, match="4 of 300 images can't be read so far"):
        prepare(source, out, CUT_ALONE)
    hidden.back()
    prepare(photos, out, policy=CUT)
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_strict_keeps_what_is_done_if_the_file_system_fails(photos: Path, tmp_path: Path) -> None:
    hidden = Hidden(photos, tmp_path / "away", images(photos)[200:201])
    with pytest.raises(Interrupted, match="--strict"):
        prepare(photos, tmp_path / "out", Policy(workers=1, strict=True, shard_size=PART / 1e6),
                progress=hidden)
    assert any((tmp_path / "out" / "journal").glob("*.record"))


def test_many_missing_files_of_a_list_are_a_failure(photos: Path, tmp_path: Path) -> None:
    rows = "".join(f"{path.relative_to(photos)}\n" for path in images(photos))
    (photos / "list.csv").write_text("path\n" + rows)
    for path in images(photos)[::40]:
        path.unlink()
    with pytest.raises(Interrupted, match=r"4 of 300 images .*No such file"):
        prepare(photos / "list.csv", tmp_path / "out", ONE)


def test_links_that_led_nowhere_when_they_were_listed_have_not_vanished(
    photos: Path, tmp_path: Path
) -> None:
    for i in range(10):
        (photos / f"a/link{i}.jpg").symlink_to("nowhere")
    manifest = prepare(photos, tmp_path / "out")
    assert manifest.samples == COUNT and manifest.quarantined == {"can't be read": 10}
    assert "a link that leads nowhere" in (tmp_path / "out" / "quarantine.jsonl").read_text()


def test_empty_rows_are_no_failing_file_system(tmp_path: Path) -> None:
    """150 in a row, which of unreadable files would mean that the source has gone."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    cells = [jpeg(30, 40, i) for i in range(20)] + [None] * 150
    pq.write_table(pa.table({"image": pa.array(cells, pa.binary())}), tmp_path / "x.parquet")
    manifest = prepare(tmp_path / "x.parquet", tmp_path / "out")
    assert manifest.samples == 20 and manifest.quarantined == {"can't be read": 150}


def test_too_few_open_files_are_no_fault_of_the_images(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open
    from data_tools.safe_reading import regular

    def none_left(path: object, *rest: object) -> int:
        if str(path).endswith("/202.jpg"):
            raise OSError(errno.EMFILE, "Too many open files", path)
        return real(path, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(regular.os, "open", none_left)
        with pytest.raises(Interrupted, match=r"too many open files.*ulimit -n"):
            prepare(photos, tmp_path / "out", CUT_ALONE)
    prepare(photos, tmp_path / "out", policy=CUT)
    assert len(open_store(tmp_path / "out")) == COUNT


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <stdio.h>
static int bad(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strstr(path, "/source/a/2") != NULL;
}
ssize_t read(int fd, void *to, size_t n) {
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    if (bad(fd)) { errno = EIO; return -1; }
    return real(fd, to, n);
}
"""
PREP = (
    "import sys; from data_tools.policy import Policy; from data_tools.prepare import prepare; "
    "prepare(*sys.argv[1:], Policy(shard_size=0.008))"
)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_disk_that_fails_now_and_then(photos: Path, tmp_path: Path) -> None:
    """EIO from read(2) of 50 files, then a disk that works again."""
    prepare(photos, tmp_path / "whole", policy=CUT)
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c", "-ldl"], check=True)
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", PREP, photos, out], text=True, capture_output=True,
                          env={**os.environ, "LD_PRELOAD": str(shim)}, check=False)
    assert "Interrupted" in done.stderr and "4 of 300" in done.stderr, done.stderr
    assert "Input/output error" in done.stderr
    prepare(photos, out, policy=CUT)
    assert snapshot(out) == snapshot(tmp_path / "whole")
