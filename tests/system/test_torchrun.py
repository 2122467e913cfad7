"""Ranks under torchrun as a user meets them: they die, are asked to stop, are on two machines."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.open import open_store
from fastmoco import draws
from fastmoco.weights import checkpoint as checkpoints
from tests.support.gloo import free_port

SECONDS = 120  # limit for runs that take 10 s on a quiet machine
FLAGS = [
    "--arch", "resnet-mini", "--size", "16", "--batch", "16", "--bn-splits", "2", "--K", "32",
    "--device", "cpu", "--threads", "1", "--log-every", "3",
]
# The rank's own exit code, which torchrun does not report if it is 0.
RANK = """
import os, sys
from fastmoco.cli import main
code = main(sys.argv[2:])
open(f"{sys.argv[1]}/{os.environ['RANK']}", "w").write(str(code))
sys.exit(code)
"""


class Torchrun:
    """torchrun with two ranks, or as one of two nodes with one rank each. Its output goes to
    files."""

    def __init__(self, out, dataset, *flags, script=("-m", "fastmoco"), node=("--standalone",),
                 ranks=2):
        self.out = out
        out.mkdir()
        with open(out / "stdout", "w") as stdout, open(out / "stderr", "w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *node,
                 "--nproc-per-node", str(ranks), *script, "train", str(dataset), *FLAGS, *flags],
                stdout=stdout, stderr=stderr, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def ranks(self):
        """Process ids of its ranks, by rank."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        environments = {c: Path(f"/proc/{c}/environ").read_text() for c in children}
        return {int(re.search(r"\0RANK=(\d)", e)[1]): int(c) for c, e in environments.items()}

    def wait_for(self, what):
        deadline = time.monotonic() + SECONDS
        while not what():
            assert self.process.poll() is None and time.monotonic() < deadline, self.stderr()
            time.sleep(0.05)

    def end(self):
        """The exit code. The process is ended in any case."""
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait()

    def stdout(self):
        return (self.out / "stdout").read_text()

    def stderr(self):
        return (self.out / "stderr").read_text()

    def told(self):
        """Lines of fastmoco in torchrun's output."""
        return [line for line in self.stderr().splitlines() if line.startswith("fastmoco: ")]


@pytest.fixture(scope="module")
def damaged(dataset, tmp_path_factory):
    """A dataset with one sample that is no longer a JPEG, in the fifth step; and that sample's
    key."""
    path = tmp_path_factory.mktemp("damaged") / "trees"
    shutil.copytree(dataset, path)
    store = open_store(path)
    bad = int(draws.permutation(0, 0, len(store))[4 * 16 + 3])
    content = (path / "train.beton").read_bytes()
    encoded = bytes(store.encoded(bad))
    assert content.count(encoded) == 1
    (path / "train.beton").write_bytes(content.replace(encoded, bytes(len(encoded))))
    return path, store.key(bad)


def step_of(run):
    return checkpoints.load(run).step if (run / "checkpoint.pt").exists() else 0


FOREVER = ["--epochs", "100000", "--checkpoint-minutes", "0.005"]


@pytest.fixture(scope="module")
def killed(dataset, tmp_path_factory):
    """A run whose rank 1 was killed, and the ended torchrun."""
    out = tmp_path_factory.mktemp("killed")
    killed = Torchrun(out / "torchrun", dataset, *FOREVER, "--out", str(out / "run"))
    killed.wait_for(lambda: step_of(out / "run") > 5)
    os.kill(killed.ranks()[1], signal.SIGKILL)
    return killed, killed.end(), out / "run"


def test_a_rank_that_dies_ends_all_by_one_line(killed):
    ended, code, run = killed
    assert code == 1 and ended.told() == [
        "fastmoco: rank 0 of 2 has lost the others: one of them was killed, or its machine is "
        "gone; the last checkpoint is whole: go on with --resume"
    ]
    assert ended.stderr().count("Traceback") == 1  # torchrun's own
    assert step_of(run) > 5


def test_two_machines_go_on_and_stop_when_asked(killed, dataset, tmp_path):
    _, _, run = killed
    last, port = step_of(run), free_port()
    (tmp_path / "rank.py").write_text(RANK)
    nodes = [
        Torchrun(
            tmp_path / f"node{i}", dataset, *FOREVER, "--out", str(run), "--resume", "--json",
            script=(str(tmp_path / "rank.py"), str(tmp_path)), ranks=1,
            node=("--nnodes", "2", "--node-rank", str(i), "--master-addr", "127.0.0.1",
                  "--master-port", str(port)),
        )
        for i in range(2)
    ]
    nodes[0].wait_for(lambda: step_of(run) > last)
    for node in nodes:
        node.process.terminate()
    for node in nodes:
        node.end()  # exits with 1: to torchrun any signal is a failure
        assert node.told() == []
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["0", "0"]
    told = [json.loads(line) for line in nodes[0].stdout().splitlines()]
    assert nodes[1].stdout() == ""
    assert [e["event"] for e in told].count("started") == 1 and told[0]["first_step"] == last
    assert [e["event"] for e in told[-2:]] == ["saved", "ended"]
    assert told[-1]["step"] == step_of(run) > last


def test_what_one_rank_meets_is_told_once_and_ends_all(damaged, tmp_path):
    dataset, name = damaged
    run = tmp_path / "run"
    ended = Torchrun(
        tmp_path / "ended", dataset, "--out", str(run), "--checkpoint-minutes", "0",
        "--engine", "threads",  # decodes the bad image in its step, not at the start
    )
    assert ended.end() == 1
    (line,) = ended.told()
    assert name in line and "cannot be decoded" in line
    codes = re.findall(r"exitcode\s+: (\S+)", ended.stderr())
    assert codes and set(codes) <= {"2", "-15"}  # torchrun ends those that do not end at once
    assert 0 < step_of(run) < 5
