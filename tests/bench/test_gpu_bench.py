"""bench.gpu on a CPU: the checks run and can fail, the script writes what it found."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu import __main__ as gpu
from bench.gpu import checks, rates
from bench.gpu.checks import Check, after_two_steps, apart
from bench.gpu.ways import CPU, STEPS
from fastmoco.training.step import training_step

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(dataset, tmp_path, monkeypatch):
    """bench.gpu on the CPU: its exit code and what it wrote."""

    def run(*more):
        out = tmp_path / "result.json"
        given = [str(dataset), "--device", "cpu", "--quick", "--out", str(out), *more]
        monkeypatch.setattr(sys, "argv", ["bench.gpu", *given])
        return gpu.main(), json.loads(out.read_text())

    return run


def test_the_script_runs_and_writes(script):
    code, found = script()
    assert code == 0 and found["passed"] and found["pipeline"]["images"] == 96
    assert all(c["kept"] for c in found["checks"]) and len(found["checks"]) >= 15
    for name in ("views_per_s", "step_images_per_s"):
        assert found[name] and all(rate > 0 for rate in found[name].values())
    memory = [c for c in found["checks"] if c["name"].startswith("memory")]
    assert len(memory) == 2 and all(" predicted" in c["note"] for c in memory)


def test_tests_that_were_cut_off_and_a_check_that_breaks_do_not_pass(
    script, tmp_path, monkeypatch
):
    tests = tmp_path / "tests.xml"
    tests.write_text(
        '<testsuites><testsuite tests="9" failures="0" errors="0" skipped="2"/></testsuites>'
    )

    def no_room(*args):
        raise RuntimeError("\nno room\nmore")

    bench = gpu.bench
    monkeypatch.setattr(gpu, "augmentation_rates", lambda *_: {})
    monkeypatch.setattr(gpu, "bench", lambda *args: bench(*args[:3], 1, 0.01))
    code, found = script("--tests", str(tests))  # which hold the checks already
    assert code == 0 and found["tests"] == {
        "tests": 9, "failures": 0, "errors": 0, "skipped": 2, "exit": 0
    }
    assert [c["name"][:6] for c in found["checks"]] == ["memory"] * 2
    with monkeypatch.context() as patch:
        patch.setattr(rates, "rate", no_room)
        code, found = script("--tests", str(tests))
    assert code == 1 and not found["passed"] and found["pipeline"]
    code, found = script("--tests", str(tests), "--tests-exit", "124")
    assert code == 1 and not found["passed"] and found["checks"][0]["kept"]
    monkeypatch.setattr(gpu, "memory_checks", no_room)
    code, found = script("--tests", str(tests))
    assert code == 1 and found["pipeline"] and not found["passed"]
    (check,) = found["checks"]
    assert check["note"] == "no room" and not check["kept"]


def test_every_way_of_taking_a_step_is_one():
    """Ways that differ in what they compute give other weights; the same steps give the same."""
    quick = {n: dataclasses.replace(STEPS[n].recipe, batch=8, size=12, K=16) for n in STEPS}
    states = {}
    for name, recipe in quick.items():
        changes = {k: getattr(recipe, k) for k in ("batch", "size", "K", *STEPS[name].changes)}
        states[name] = after_two_steps(dataclasses.replace(STEPS[name], changes=changes), CPU)
    plain = states.pop("queue, streaming loss")
    alike = {"queue, plain loss", "activation checkpointing"}  # at this size both losses are plain
    for name, state in states.items():
        assert (apart(state, plain) < 1e-9) == (name in alike), name


def test_a_step_that_is_slightly_wrong_is_seen(monkeypatch):
    def wrong(*args, **how):
        out = training_step(*args, **how)
        args[0].encoder_q.get_parameter("trunk.conv1.weight").data.mul_(1 + 1e-6)
        return out

    right = after_two_steps(STEPS["memory bank"], CPU)
    monkeypatch.setattr(checks, "training_step", wrong)
    assert 1e-7 < apart(after_two_steps(STEPS["memory bank"], CPU), right) < 1e-4


def test_what_is_no_number_is_not_kept():
    assert Check("x", 1.0, 1.0).kept
    assert not Check("x", 1.1, 1.0).kept and not Check("x", float("nan"), 1.0).kept
    assert apart({"a": torch.ones(1)}, {"b": torch.ones(1)}) == float("inf")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_the_shell_script_says_so_in_a_line():
    out = subprocess.run(
        ["bash", "bench/gpu/gpu.sh"], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
    )
    assert out.returncode == 2 and out.stdout == ""
    assert out.stderr == "bench/gpu/gpu.sh: torch sees no CUDA device here: nothing was run\n"
