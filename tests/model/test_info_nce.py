"""The loss: its streaming and in-batch forms against the plain one."""

import pytest
import torch
import torch.nn.functional as F

from fastmoco.model.info_nce import CHUNK, info_nce_in_batch, info_nce_plain, info_nce_streaming


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("K", [9, 4096, 3 * CHUNK // 64 + 5])
def test_streaming_equals_plain(dtype, K):
    torch.manual_seed(0)
    q, k, queue = (F.normalize(torch.randn(n, 16, dtype=dtype), dim=1) for n in (64, 64, K))
    q = q.lerp(k, torch.linspace(0, 0.9, 64, dtype=dtype)[:, None])  # some positives win
    q = F.normalize(q, dim=1).requires_grad_()
    tolerance = {"atol": 1e-12 if dtype == torch.float64 else 5e-6, "rtol": 0}
    for T in (0.03, 0.07, 0.5):
        (loss, accuracy), (expected, share) = (
            form(q, k, queue, T) for form in (info_nce_streaming, info_nce_plain)
        )
        torch.testing.assert_close(loss, expected, **tolerance)
        assert torch.equal(accuracy, share) and 0 < accuracy < 1
        ours, theirs = (torch.autograd.grad(3 * x, q)[0] for x in (loss, expected))
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_streaming_stays_exact_under_autocast_and_compiles():
    q, k, queue = (F.normalize(torch.randn(n, 16), dim=1) for n in (8, 8, 64))
    expected = info_nce_plain(q, k, queue, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(info_nce_streaming(q, k, queue, 0.07), expected)
    compiled = torch.compile(info_nce_streaming, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, queue, 0.07), expected)


def test_the_form_of_the_loss_goes_by_size(monkeypatch):
    from fastmoco.model import info_nce as module

    taken = []
    for name in ("info_nce_plain", "info_nce_streaming"):
        monkeypatch.setattr(module, name, lambda *a, name=name: taken.append(name))
    q = torch.zeros(256, 4)
    for K, T in ((65536, 0.07), (64, 0.07), (65536, 0.02)):
        module.info_nce(q, q, torch.zeros(K, 4), T)
    assert taken == ["info_nce_streaming", "info_nce_plain", "info_nce_plain"]


def test_in_batch_negatives_begin_where_this_ranks_keys_do():
    torch.manual_seed(0)
    q, keys = torch.randn(3, 8).double(), torch.randn(9, 8).double()
    loss, accuracy = info_nce_in_batch(q, keys, 4, 0.2)
    expected = [
        (q[i] @ keys.T / 0.2).logsumexp(0) - q[i] @ keys[4 + i] / 0.2 for i in range(3)
    ]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    assert float(accuracy) == (
        (q @ keys.T).argmax(1) == torch.arange(4, 7)
    ).double().mean()
