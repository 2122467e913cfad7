"""A run that is stopped at any moment goes on to the same bytes: killed, sharded, out of space."""

import itertools
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_tools.errors import Interrupted, UserError
from data_tools.formats.beton import BetonWriter
from data_tools.formats.registry import FORMATS
from data_tools.manifest import MANIFEST, UNFINISHED
from data_tools.open import is_dataset, open_store
from data_tools.policy import Policy
from data_tools.preparation import assemble
from data_tools.preparation.assemble import GROWING, Assembly
from data_tools.preparation.parts import plan_parts
from data_tools.prepare import prepare, prepare_shard
from data_tools.sources.registry import open_source
from data_tools.store import INDEX
from tests.support.folders import snapshot
from tests.support.made_files.sample_images import encode, jpeg, smooth

Write = Callable[..., Path]
PART = 4000
CUT = Policy(shard_size=PART / 1e6)
ALL = list(FORMATS)


@pytest.fixture
def zoo(write_tree: Write) -> Path:
    """Images of three classes; some broken, some equal, one part of nothing but broken ones."""
    from PIL import Image

    files = {f"{'abc'[i % 3]}/{i:03}.jpg": jpeg(30, 40, i % 25) for i in range(60)}
    files |= {f"b/{i:03}.png": encode(Image.fromarray(smooth(30, 50, i)), "PNG") for i in range(5)}
    files |= {f"a/{i:03}.jpg": jpeg(30, 40, i)[:-30] for i in range(200, 220)}
    return write_tree(files, "zoo")


@pytest.fixture
def whole(zoo: Path, tmp_path: Path) -> dict[str, bytes]:
    prepare(zoo, tmp_path / "whole", formats=ALL, policy=CUT)
    return snapshot(tmp_path / "whole")


def test_parts_cover_the_source_in_order() -> None:
    rng = np.random.default_rng(0)
    for sizes in ([5], [0, 0, 0], rng.integers(0, 300, 1000), [10**9, 1, 10**9], [1] * 40_000):
        parts = plan_parts(sizes, 1000)
        assert [part.number for part in parts] == list(range(len(parts)))
        assert parts[0].start == 0 and parts[-1].stop == len(sizes)
        assert all(a.stop == b.start for a, b in zip(parts, parts[1:], strict=False))
        for part in parts:
            assert part.stop > part.start
            total = sum(int(size) for size in sizes[part.start : part.stop])
            assert total <= 1000 or part.stop == part.start + 1
    with pytest.raises(UserError, match="--shard-size"):
        plan_parts(np.full(200_000, 1000), 1000)


@pytest.mark.parametrize("kind", ["os.replace", "os.fsync", "append", "progress"])
def test_dying_at_any_step_costs_nothing(
    zoo: Path, whole: dict[str, bytes], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is gone, without a chance to clean up, at the n-th call of some function."""
    died = True
    steps = 0
    for n in (1, 3, 8, 21, 55, 89, 144):
        out = tmp_path / f"{kind}-{n}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # forking with threads; the child starts its own
            child = os.fork()
        if not child:
            dying_at(n, kind, zoo, out)
        died = os.waitpid(child, 0)[1] != 0
        if not died:
            assert snapshot(out) == whole
            break
        steps += 1
        prepare(zoo, out, Policy(workers=1 + n % 3, shard_size=PART / 1e6), ALL)
        assert snapshot(out) == whole
    assert steps >= 4


def dying_at(n: int, kind: str, zoo: Path, out: Path) -> None:
    calls = 0

    def counted(real: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == n:
                os._exit(9)
            return real(*args, **kwargs)

        return call

    try:
        if kind.startswith("os."):
            name = kind[3:]
            setattr(os, name, counted(getattr(os, name)))
        elif kind == "append":
            BetonWriter.append = counted(BetonWriter.append)  # type: ignore[method-assign]
        time.monotonic = itertools.count().__next__  # type: ignore[assignment]
        prepare(zoo, out, formats=ALL, policy=CUT,
                progress=counted(lambda *_: None) if kind == "progress" else None)
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_a_stop_keeps_what_is_done(zoo: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    said: list[str] = []

    def stop(done: int, total: int) -> None:
        if done > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(zoo, out, formats=ALL, policy=CUT, progress=stop)
    assert UNFINISHED in os.listdir(out) and not is_dataset(out)
    with pytest.raises(UserError, match="did not finish"):
        open_store(out)
    told: list[int] = []
    prepare(zoo, out, formats=ALL, policy=CUT, say=said.append,
            progress=lambda done, total: told.append(done))
    assert any("parts are done; going on" in line for line in said)
    assert told[0] > 30  # and not from the start
    assert snapshot(out) == whole


def test_shards_in_any_order_give_the_same_bytes(
    zoo: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parts = len(plan_parts(open_source(zoo).sizes, PART))
    for i, workers in ((2, 1), (0, 3), (2, 2)):  # a shard run twice does nothing new
        done = prepare_shard(zoo, out, (i, 3), Policy(workers=workers, shard_size=PART / 1e6), ALL)
    assert done == (sum(n % 3 != 1 for n in range(parts)), parts)
    with pytest.raises(UserError, match="another source or of other options"):
        prepare_shard(zoo, out, (1, 3), Policy(quality=50, shard_size=PART / 1e6), ALL)
    prepare(zoo, out, formats=ALL, policy=CUT)  # does what is missing
    assert snapshot(out) == whole
    assert prepare_shard(zoo, out, (1, 3), CUT, ALL) == (1, 1)


def test_other_options_start_over(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_shard(zoo, out, (0, 2), Policy(quality=50, shard_size=PART / 1e6), ALL)
    said: list[str] = []
    prepare(zoo, out, formats=["beton"], policy=CUT, say=said.append)
    assert any("starting over" in line for line in said)
    prepare(zoo, tmp_path / "fresh", formats=["beton"], policy=CUT)
    assert snapshot(out) == snapshot(tmp_path / "fresh")


def test_what_the_journal_says_must_be_there(
    zoo: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """A lost record or a shortened beton costs its parts again, and nothing else."""
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done > 80:
            raise KeyboardInterrupt

    def damage_record() -> None:
        path = sorted((out / "journal").glob("*.record"))[1]
        path.write_bytes(path.read_bytes()[:50])

    def cut_beton() -> None:
        os.truncate(out / "beton" / GROWING, 100)

    for damage in (damage_record, cut_beton):
        with pytest.raises(KeyboardInterrupt):
            prepare(zoo, out, formats=ALL, policy=CUT, progress=stop)
        damage()
        prepare(zoo, out, formats=ALL, policy=CUT)
        assert snapshot(out) == whole
        for name in FORMATS:
            (out / name / MANIFEST).unlink()
            for path in (out / name).iterdir():
                path.unlink()
            (out / name).rmdir()


@pytest.mark.parametrize("fails", ["append", "fsync"])
def test_a_full_disk_stops_in_one_line_and_goes_on(
    zoo: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    out = tmp_path / "out"
    calls = 0
    place = BetonWriter if fails == "append" else os
    real = getattr(place, fails)

    def full(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 40:
            raise OSError(28, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(place, fails, full)
        with pytest.raises(Interrupted, match="No space left on device; what is done stays"):
            prepare(zoo, out, formats=ALL, policy=CUT)
    prepare(zoo, out, formats=ALL, policy=CUT)
    assert snapshot(out) == whole


def test_a_source_that_goes_away_is_no_quarantine(
    zoo: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, hidden = tmp_path / "out", tmp_path / "hidden"

    def unmount(done: int, total: int) -> None:
        if zoo.exists():
            zoo.rename(hidden)

    with pytest.raises(Interrupted, match="can't be read any more .*; what is done stays"):
        prepare(zoo, out, Policy(workers=1, shard_size=PART / 1e6), ALL, progress=unmount)
    hidden.rename(zoo)
    prepare(zoo, out, formats=ALL, policy=CUT)
    assert snapshot(out) == whole


def test_strict_stops_at_the_first_bad_image(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"zoo: a/200.jpg: truncated JPEG \(--strict"):
        prepare(zoo, tmp_path / "out", Policy(strict=True))
    assert not (tmp_path / "out").exists()
    prepare_shard(zoo, tmp_path / "out", (0, 2), policy=CUT)


@pytest.mark.parametrize("formats", [["recordio", "webdataset"], ["webdataset", "beton"]])
def test_a_kill_between_two_formats_and_one_in_the_first_again(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, formats: list[str]
) -> None:
    """The first format's manifest must not vouch for files that the second run was writing."""
    prepare(zoo, tmp_path / "whole", CUT, formats)
    out = tmp_path / "out"
    first = out / formats[0]

    def killed_after_the_first(folder: Path, manifest: object) -> None:
        commit(folder, manifest)
        raise KeyboardInterrupt

    def killed_in_the_first(self: Assembly, name: str, folder: Path, leaks: object) -> None:
        (folder / INDEX).write_bytes(b"")
        raise KeyboardInterrupt

    commit = assemble.commit
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(assemble, "commit", killed_after_the_first)
        prepare(zoo, out, CUT, formats)
    assert (first / MANIFEST).exists() and not (out / formats[1] / MANIFEST).exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Assembly, "_describe", killed_in_the_first)
        prepare(zoo, out, CUT, formats)
    assert not is_dataset(first)
    prepare(zoo, out, CUT, formats)
    assert snapshot(out) == snapshot(tmp_path / "whole")
