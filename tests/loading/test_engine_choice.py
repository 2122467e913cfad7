"""The flag that chooses an engine, the trial of `auto`, and engines that are not there."""

import json
import subprocess
import sys

import pytest
import torch

from data_tools.errors import UserError
from data_tools.open import open_store
from fastmoco.loading.engines.registry import open_engine
from tests.support.command_line import TINY, refused, run
from tests.support.engine_parts import MODULES


def test_auto_takes_threads_on_the_cpu_and_says_why(prepared):
    engine, name, line = open_engine("auto", open_store(prepared["beton"]), 2)
    engine.close()
    assert name == "threads" and line == "threads (2 threads; the fastest on CPUs)"


def test_a_trial_of_dali_that_fails_is_told_and_ends_nothing(prepared, monkeypatch):
    def broken(*args):
        raise TypeError("nvJPEG has no such argument\nand more")

    monkeypatch.setattr("fastmoco.loading.engines.registry.DaliEngine", broken)
    store = open_store(prepared["beton"])
    engine, name, line = open_engine("auto", store, 2, torch.device("cuda"))
    engine.close()
    assert name == "threads" and "does not work here: nvJPEG has no such argument)" in line


def test_auto_tries_dali_for_a_cuda_device_and_reports_its_choice(prepared):
    """Without a CUDA device, DALI reports that; with one, the faster engine is taken."""
    pytest.importorskip("nvidia.dali")
    store = open_store(prepared["beton"])
    engine, name, line = open_engine("auto", store, 2, torch.device("cuda"))
    engine.close()
    if torch.cuda.is_available():
        assert line.startswith(f"{name} (2 threads; tried here: threads ")
    else:
        assert name == "threads" and "--engine dali does not start: " in line
    mixed = open_engine("auto", open_store(prepared["raw"]), 2, torch.device("cuda"))
    mixed.engine.close()
    assert mixed.name == "threads" and "not all images are JPEGs" in mixed.line


def test_training_tells_its_engine_and_resumes_with_it(prepared, tmp_path, capsys):
    pytest.importorskip("nvidia.dali")
    args = ["train", prepared["tfrecord"], *TINY, "--out", tmp_path / "run", "--json"]
    for more in (["--engine", "dali", "--epochs", "1"], ["--resume"]):
        code, out, _ = run(capsys, *args[: 2 if "--resume" in more else None],
                           *(["--out", tmp_path / "run", "--json"] if "--resume" in more else []),
                           *more)
        assert code == 0
        started = json.loads(out.splitlines()[0])
        assert started["engine"].startswith("dali (")
        assert "not to the same bits" not in out


def test_bench_measures_the_engine_that_it_is_told(prepared, capsys):
    pytest.importorskip("nvidia.dali")
    code, out, _ = run(capsys, "bench", prepared["beton"], *TINY, "--engine", "dali", "--threads",
                       "1", "--rounds", "1", "--seconds", "0.05", "--json")
    assert code == 0 and json.loads(out)["engine"] == "dali (1 thread)"


def test_ffcv_leaves_torchs_threads_and_numbas_types_as_they_were(prepared):
    pytest.importorskip("ffcv", exc_type=ImportError)
    code = "import sys, numba, torch; torch.set_num_threads(3); bytes = numba.uint8[::1]; " \
        "from data_tools.open import open_store; " \
        "from fastmoco.loading.engines.registry import open_engine; " \
        "open_engine('ffcv', open_store(sys.argv[1])); " \
        "print(torch.get_num_threads(), bytes.mutable)"
    done = subprocess.run(
        [sys.executable, "-c", code, prepared["beton"]], capture_output=True, text=True, check=True
    )
    assert done.stdout == "3 True\n"


def test_an_unknown_engine_is_refused_in_one_line(prepared, capsys):
    assert "turbo" in refused(capsys, "train", prepared["beton"], "--engine", "turbo")
    with pytest.raises(UserError, match="there are auto, threads, resident, dali, ffcv"):
        open_engine("turbo", open_store(prepared["beton"]))


def test_ffcv_reads_betons_alone(prepared, capsys):
    for command in ("train", "bench"):
        line = refused(capsys, command, prepared["tfrecord"], *TINY, "--engine", "ffcv")
        assert "--engine ffcv reads betons" in line and "--format beton" in line


@pytest.mark.parametrize("engine", list(MODULES))
def test_an_engine_that_is_not_installed_says_what_to_install(prepared, engine, tmp_path):
    code = f"import sys; sys.modules[{MODULES[engine]!r}] = None; " \
        "from fastmoco.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", prepared["beton"], *TINY, "--engine", engine,
         "--out", tmp_path / "run"],
        capture_output=True, text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"pip install 'fastmoco[{engine}]'" in done.stderr
