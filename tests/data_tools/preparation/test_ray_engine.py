"""The parts on a Ray cluster: the same bytes, whoever dies."""

import builtins
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools.errors import UserError
from data_tools.formats.registry import FORMATS
from data_tools.policy import Policy
from data_tools.prepare import prepare
from tests.support.folders import snapshot
from tests.support.made_files.sample_images import jpeg

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")
Write = Callable[..., Path]
PART = 10_000
CUT = Policy(shard_size=PART / 1e6)


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A head without a core of its own, and two nodes with one each."""
    from ray.cluster_utils import Cluster

    handler, printer = signal.getsignal(signal.SIGTERM), builtins.print
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    # Ray puts its own in their places.
    signal.signal(signal.SIGTERM, handler)
    builtins.print = printer


@pytest.fixture
def zoo(write_tree: Write) -> Path:
    files = {f"{'abc'[i % 3]}/{i:03}.jpg": jpeg(30, 40, i % 90) for i in range(200)}
    return write_tree(files | {"a/cut.jpg": jpeg()[:-30]}, "zoo")


def test_a_node_and_a_worker_that_die_cost_their_parts_again(
    cluster: object, zoo: Path, tmp_path: Path
) -> None:
    prepare(zoo, tmp_path / "whole", formats=list(FORMATS), policy=CUT)
    first, second = (cluster.add_node(num_cpus=1) for _ in range(2))  # type: ignore[attr-defined]
    killed: list[str] = []

    def kill(done: int, total: int) -> None:
        if not killed:
            killed.append("node")
            cluster.remove_node(first, allow_graceful=False)  # type: ignore[attr-defined]
        elif len(killed) == 1 and done > total // 3:
            workers = workers_of_ray()
            killed.append(f"{len(workers)} workers")
            for worker in workers:
                os.kill(worker, signal.SIGKILL)

    address = cluster.address  # type: ignore[attr-defined]
    on_ray = replace(CUT, engine="ray", ray_address=address)
    prepare(zoo, tmp_path / "out", on_ray, list(FORMATS), progress=kill)
    assert len(killed) == 2 and killed[1] != "0 workers"
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")
    cluster.remove_node(second)  # type: ignore[attr-defined]


def test_a_bad_image_on_a_node_stops_a_strict_run(
    cluster: object, zoo: Path, tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
    address = cluster.address  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"a/cut.jpg: truncated JPEG \(--strict"):
        policy = replace(CUT, strict=True, engine="ray", ray_address=address)
        prepare(zoo, tmp_path / "out", policy)
    assert not (tmp_path / "out").exists()
    cluster.remove_node(node)  # type: ignore[attr-defined]


def test_an_address_where_nobody_answers_is_one_line(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--ray-address 127.0.0.1:1: no cluster answers"):
        prepare(zoo, tmp_path / "out", policy=Policy(engine="ray", ray_address="127.0.0.1:1"))
    assert not (tmp_path / "out").exists()


def workers_of_ray() -> list[int]:
    """Ray calls a worker by its task, or idle between two."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith((b"ray::do_part", b"ray::IDLE")):
                found.append(int(folder.name))
    return found
