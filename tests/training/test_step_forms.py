"""Parts of a step: one fused optimizer, one momentum update for all parameters, encoders of
one graph each, CUDA graphs only on request."""

import dataclasses
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.gpu import checks, ways
from bench.gpu.checks import after_two_steps, apart
from bench.gpu.ways import CPU, How, build, prepared
from data_tools.errors import UserError
from fastmoco.model.build import compile_parts
from fastmoco.run_options import RunOptions
from fastmoco.system.device import grad_scaler
from fastmoco.training.step import training_step

TINY = {"batch": 8, "size": 16, "K": 64}


class Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_one_launch_moves_all_parameters_and_one_all_keys_parameters():
    how = How(TINY)
    moco, optimizer = build(how, CPU)
    assert len(moco.trained()) > 10
    batch = prepared(how.recipe, torch.randn(2, 8, 3, 16, 16))
    with Counting() as counting:
        training_step(moco, optimizer, grad_scaler(CPU, "float32"), batch, how.recipe)
    assert counting.ops["_fused_sgd_"] == 1 and counting.ops["_foreach_lerp_"] == 1
    assert not counting.ops["lerp_"] and not counting.ops["_local_scalar_dense"]


def test_an_encoder_compiles_to_one_graph_recomputed_too(monkeypatch):
    """fullgraph raises if there were two graphs; the compiled steps equal the plain ones."""
    one_encoder = TINY | {"mechanism": "memory-bank", "bn_splits": 2}
    compiled = []

    def in_one_graph(moco, graphs):
        moco.encoder_q.compile(fullgraph=True, dynamic=False, backend="aot_eager")
        compiled.append(moco)

    monkeypatch.setattr(ways, "compile_parts", in_one_graph)
    found = after_two_steps(How(one_encoder, compiled=True, recomputed=True), CPU)
    assert len(compiled) == 1
    assert apart(found, after_two_steps(How(one_encoder), CPU)) < checks.COMPILED_ALIKE


@pytest.mark.parametrize("graphs", [False, True])
def test_cuda_graphs_learn_where_a_step_starts(graphs, monkeypatch):
    modes, begun = [], []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: modes.append(how))
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    how = How(TINY)
    moco, optimizer = build(how, CPU)
    compile_parts(moco, graphs)
    assert modes == 2 * [{"dynamic": False, "mode": "reduce-overhead" if graphs else None}]
    images = torch.randn(2, 8, 3, 16, 16)
    for _ in range(2):
        batch = prepared(how.recipe, images)
        training_step(moco, optimizer, grad_scaler(CPU, "float32"), batch, how.recipe)
    assert len(begun) == 2 * graphs


def test_cuda_graphs_are_off_unless_asked_for_with_what_they_need():
    assert not RunOptions().cuda_graphs and not RunOptions(compile=True).cuda_graphs
    graphs = RunOptions(compile=True, cuda_graphs=True)
    graphs.check()
    for changes, said in (({"compile": False}, "--compile"), ({"accumulate": 2}, "--accumulate")):
        with pytest.raises(UserError, match=f"--cuda-graphs .*{said}"):
            dataclasses.replace(graphs, **changes).check()
