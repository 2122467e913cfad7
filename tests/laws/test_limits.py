"""Under ulimit: one line with the true reason; no file counts as damaged, and nothing is lost."""

import os
import resource
import subprocess
import sys

import pytest

from data_tools.errors import UserError
from data_tools.manifest import read_manifest
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from fastmoco.reporting.report import report
from fastmoco.run_options import RunOptions
from fastmoco.training.train import train
from tests.support.command_line import TINY, refused
from tests.support.full_disk import files_up_to
from tests.support.training_runs import RECIPE


def under(limit, *argv):
    """Run a command under `ulimit LIMIT`: return its exit code, stdout and stderr."""
    done = subprocess.run(
        ["bash", "-c", f'ulimit {limit}; exec "$@"', "-", sys.executable, "-m", "fastmoco",
         *map(str, argv)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    """A dataset of 96 files."""
    out = tmp_path_factory.mktemp("shards") / "data"
    prepare(folder, out, Policy(shard_size=1e-6), ["webdataset"])
    assert len(read_manifest(out).data) == 96
    return out


def test_more_shards_than_open_files_are_read(shards, tmp_path):
    # Two threads, imports and the map of a shard each need some: 20 were too few by chance.
    for argv in (["inspect", shards], ["verify", shards]):
        assert under("-n 40", *argv)[::2] == (0, "")
    plain = open_store(shards)
    bytes_of = [plain.encoded(i).tobytes() for i in range(len(plain))]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [open(os.devnull) for _ in range(3)]
    code = (
        "import sys, resource\n"
        "from data_tools.open import open_store\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))\n"
        "store = open_store(sys.argv[1])\n"
        "first = store.encoded(0)\n"
        "for _ in range(2):\n"
        "    for i in range(len(store)):\n"
        "        print(store.encoded(i).tobytes().hex())\n"
        "assert first.tobytes() == store.encoded(0).tobytes()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, shards], capture_output=True, text=True)
    assert [bytes.fromhex(x) for x in done.stdout.split()] == 2 * bytes_of, done.stderr
    for file in held:
        file.close()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_open_files_that_run_out_are_no_bad_images(folder, tmp_path):
    out = tmp_path / "data"
    for most in (7, 8, 9):
        code, _, said = under(f"-n {most}", "prep", folder, out)
        if code:
            assert said.count("\n") == 1
            assert f"too many open files: this process may have {most} (ulimit -n)" in said
    assert under("-n 64", "prep", folder, out)[::2] == (0, "")
    assert read_manifest(out).quarantined == {} and read_manifest(out).samples == 96


READS = """
import os, resource, sys
from data_tools.errors import Interrupted
from data_tools.policy import Policy
from data_tools.sources.registry import open_source
from data_tools.preparation.workers import prepare_one

source = open_source(sys.argv[1])
prepare_one(source, 0, Policy(), 1 << 20)
most = len(os.listdir("/proc/self/fd")) - 1
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
try:
    print(prepare_one(source, 0, Policy(), 1 << 20))
except Interrupted as error:
    print(error)
"""


def test_an_image_that_no_file_is_left_for_is_no_bad_image(folder):
    done = subprocess.run([sys.executable, "-c", READS, folder], capture_output=True, text=True)
    assert done.stdout.startswith("too many open files: this process may have "), done


@pytest.mark.parametrize("kilobytes", [100_000, 400_000, 1_600_000])
def test_too_little_memory_to_begin_is_one_line(dataset, tmp_path, kilobytes):
    out = tmp_path / "run"
    code, _, said = under(f"-v {kilobytes}", "train", dataset, *TINY, "--out", out)
    assert code == 2 and said.count("\n") == 1, said
    assert said.startswith("fastmoco: out of memory: this process may map ") and "ulimit -v" in said
    assert not out.exists()
    assert ("allow 200.0 MB at least" in said) == (kilobytes == 100_000)


def test_files_that_may_not_grow_are_named(dataset, tmp_path, capsys):
    run = tmp_path / "run"
    train(dataset, RECIPE, RunOptions(out=str(run)))
    told = "larger than this process may write, 1 kB (ulimit -f)"
    with files_up_to(1000):
        for argv, file in (
            (["report", run, "--count", "4"], "report.html"),
            (["knn", run, dataset, "--no-companions"], ".partial"),
            (["export", run, "--to", "safetensors", "--out", tmp_path / "x"], "x"),
            (["embed", run, dataset, "--no-keep", "--out", tmp_path / "e.npy"], "e.npy"),
            (["prep", dataset / "train.beton", tmp_path / "d"], "d"),
        ):
            said = refused(capsys, *argv)
            assert file in said and (told in said or "limit on the size of files" in said), said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    assert not list(run.glob("*.partial")) and not (run / "report.html").exists()


def test_a_read_only_folder_is_one_line(dataset, tmp_path, capsys):
    """Nobody, not even root, can make a file in /proc/self."""
    run = tmp_path / "run"
    train(dataset, RECIPE, RunOptions(out=str(run)))
    with pytest.raises(UserError, match="/proc/self/x.html: cannot be written: "):
        report(run, "/proc/self/x.html", count=4)
    for argv in (["export", run, "--to", "safetensors", "--out", "/proc/self/x"],
                 ["embed", run, dataset, "--no-keep", "--out", "/proc/self/e.npy"],
                 ["views", dataset, "--out", "/proc/self/v.png"],
                 ["inspect", dataset, "--sheet", "/proc/self/s.png"],
                 ["prep", dataset / "train.beton", "/proc/self/d"],
                 ["train", dataset, *TINY, "--out", "/proc/self/run"]):
        assert "/proc/self/" in refused(capsys, *argv)


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["train", "--help"], ["doctor"],
                                  ["inspect"], ["inspect", "--json"]], ids=" ".join)
def test_a_full_standard_output_is_named(argv, dataset):
    more = [dataset] if argv[0] == "inspect" else []
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "fastmoco", *argv, *more], stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.stderr == ("fastmoco: standard output: No space left on device; what was printed "
                           "is not complete\n")
    assert done.returncode == 2
