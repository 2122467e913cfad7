"""Algorithm 1, literally, in float64; the queue's ring; the momentum's closed form."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmoco.model.build import make_optimizer
from fastmoco.model.dictionaries import Queue, enqueue
from fastmoco.model.info_nce import info_nce
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe


def small_net():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 8)
    ).double()


def algorithm_1(f_q, f_k, queue, batches, m, T, lr, momentum, weight_decay):
    """The pseudocode of 1911.05722, line by line; queue is [C, K] as there.

    Its optimizer is SGD as the official main_moco.py configures it.
    """
    velocity = [torch.zeros_like(p) for p in f_q.parameters()]
    losses = []
    for x_q, x_k in batches:
        q = F.normalize(f_q(x_q), dim=1)  # queries: NxC
        k = F.normalize(f_k(x_k), dim=1)  # keys: NxC
        k = k.detach()  # no gradient to keys
        N, C = q.shape
        K = queue.shape[1]
        l_pos = torch.bmm(q.view(N, 1, C), k.view(N, C, 1)).view(N, 1)
        l_neg = torch.mm(q.view(N, C), queue.view(C, K))
        logits = torch.cat([l_pos, l_neg], dim=1)
        labels = torch.zeros(N, dtype=torch.long)
        loss = nn.CrossEntropyLoss()(logits / T, labels)
        gradients = torch.autograd.grad(loss, list(f_q.parameters()))
        with torch.no_grad():
            for p, g, v in zip(f_q.parameters(), gradients, velocity, strict=True):
                v.mul_(momentum).add_(g + weight_decay * p)
                p.sub_(lr * v)
            for p_k, p_q in zip(f_k.parameters(), f_q.parameters(), strict=True):
                p_k.copy_(m * p_k + (1 - m) * p_q)
        queue = torch.cat([queue, k.T], dim=1)  # enqueue the current minibatch
        queue = queue[:, N:]  # dequeue the earliest minibatch
        losses.append(loss.detach())
    return losses, queue


def test_twenty_steps_equal_algorithm_1():
    K, N, m, T, lr = 40, 6, 0.9, 0.2, 0.1  # K is no multiple of N: the ring wraps inside a batch
    net = small_net()
    moco = MoCo(copy.deepcopy(net), Queue(K, 8), m, T).double()
    start = moco.dictionary.keys.clone()
    torch.manual_seed(5)
    batches = [(torch.randn(N, 3, 8, 8).double(), torch.randn(N, 3, 8, 8).double())
               for _ in range(20)]
    f_q, f_k = copy.deepcopy(net), copy.deepcopy(net)
    expected, queue = algorithm_1(f_q, f_k, start.T.clone(), batches, m, T, lr, 0.9, 1e-3)

    optimizer = torch.optim.SGD(
        moco.encoder_q.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3, fused=True
    )
    for (im_q, im_k), loss in zip(batches, expected, strict=True):
        out = moco(im_q, im_k, None)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        moco.update(out)
        torch.testing.assert_close(out.loss.detach(), loss, atol=1e-10, rtol=0)
    for ours, theirs in ((moco.encoder_q, f_q), (moco.encoder_k, f_k)):
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    pointer = int(moco.dictionary.pointer)
    assert pointer == 20 * N % K
    oldest_first = torch.roll(moco.dictionary.keys, -pointer, 0)
    torch.testing.assert_close(oldest_first, queue.T, atol=1e-10, rtol=0)


@pytest.mark.parametrize("n", [1, 3, 7, 10])
def test_the_queue_is_the_last_K_keys_at_any_batch_size(n):
    queue = Queue(10, 2)
    keys = torch.arange(2.0 * n * 9).reshape(-1, 2)
    seen = queue.keys.clone()
    for i in range(9):
        queue.enqueue(keys[i * n : (i + 1) * n])
        seen = torch.cat([seen, keys[i * n : (i + 1) * n]])
        place = int(queue.pointer)
        assert torch.equal(torch.roll(queue.keys, -place, 0), seen[-10:])
    with pytest.raises(ValueError, match="11 keys do not fit"):
        queue.enqueue(torch.zeros(11, 2))


def test_a_key_that_is_not_finite_is_never_enqueued():
    queue = Queue(6, 2)
    before = queue.keys.clone()
    queue.enqueue(torch.tensor([[1.0, 0], [torch.nan, 0], [0, torch.inf], [0, 1]]))
    assert torch.equal(queue.keys[[0, 3]], torch.tensor([[1.0, 0], [0, 1]]))
    assert torch.equal(queue.keys[[1, 2, 4, 5]], before[[1, 2, 4, 5]])
    assert int(queue.pointer) == 4


def test_momentum_has_its_closed_form():
    moco = MoCo(small_net(), Queue(16, 8), 0.75, 0.2).double()
    out = moco(*torch.randn(2, 4, 3, 8, 8).double(), None)
    start = [p.clone() for p in moco.encoder_k.parameters()]
    target = [torch.randn_like(p) for p in start]
    with torch.no_grad():
        for p, t in zip(moco.encoder_q.parameters(), target, strict=True):
            p.copy_(t)
    for _ in range(5):
        moco.update(out)
    for k, s, t in zip(moco.encoder_k.parameters(), start, target, strict=True):
        torch.testing.assert_close(k.detach(), t + 0.75**5 * (s - t), atol=1e-12, rtol=0)


def test_a_step_knows_the_tensors_that_another_type_puts_in_place():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    moco = MoCo(net, Queue(16, 4), 0.9, 0.2)
    assert len(moco.statistics) == 4 and len(moco.trained()) == 4
    moco.double()
    now = [b for e in (moco.encoder_q, moco.encoder_k) for b in e.buffers() if b.dim()]
    assert [id(b) for b in moco.statistics] == [id(b) for b in now]


def test_keys_get_no_gradient_and_buffers_are_not_averaged():
    moco = MoCo(small_net(), Queue(16, 8), 0.5, 0.2).double()
    out = moco(torch.randn(4, 3, 8, 8).double(), 3 + torch.randn(4, 3, 8, 8).double(), None)
    out.loss.backward()
    moco.update(out)
    assert not any(p.requires_grad for p in moco.encoder_k.parameters())
    assert not out.keys.requires_grad
    mean_q, mean_k = moco.encoder_q[1].running_mean, moco.encoder_k[1].running_mean
    assert not torch.allclose(mean_q, mean_k)


def test_info_nce_equals_cross_entropy_on_the_logits_by_hand():
    torch.manual_seed(0)
    q, k, queue = (F.normalize(torch.randn(n, 5).double(), dim=1) for n in (4, 4, 9))
    q.requires_grad_()
    rows = [[q[i] @ k[i], *(q[i] @ queue[j] for j in range(9))] for i in range(4)]
    logits = torch.stack([torch.stack(row) for row in rows]) / 0.1
    expected = (logits.logsumexp(1) - logits[:, 0]).mean()
    loss, accuracy = info_nce(q, k, queue, 0.1)
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)
    for ours, by_hand in zip(
        torch.autograd.grad(loss, q), torch.autograd.grad(expected, q), strict=True
    ):
        torch.testing.assert_close(ours, by_hand, atol=1e-12, rtol=0)
    assert float(accuracy) == (logits.argmax(1) == 0).double().mean()


def test_the_loss_stays_exact_under_autocast():
    torch.manual_seed(0)
    q, k, queue = (F.normalize(torch.randn(n, 16), dim=1) for n in (8, 8, 64))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / 0.07
    expected = F.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = info_nce(q, k, queue, 0.07)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, atol=0, rtol=0)


def test_the_update_compiles_to_one_graph():
    moco, plain = (MoCo(small_net(), Queue(16, 8), 0.9, 0.2).double() for _ in range(2))
    plain.load_state_dict(moco.state_dict())
    torch.manual_seed(0)
    images = torch.randn(2, 4, 3, 8, 8).double()
    out = moco(*images, None)
    compiled = torch.compile(moco.update, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.no_grad():
        for model in (moco, plain):
            for p in model.encoder_q.parameters():
                p.add_(1)
    compiled(out)
    plain.update(out)
    for name, value in plain.state_dict().items():
        if "encoder_q" not in name and "running" not in name and "batches" not in name:
            torch.testing.assert_close(moco.state_dict()[name], value, msg=name)


def test_a_skipped_first_step_leaves_the_momentum_at_zero():
    moco = MoCo(small_net(), Queue(16, 8), 0.9, 0.2).float()
    optimizer = make_optimizer(moco, Recipe(lr=0.1, weight_decay=0.0))
    scaler = torch.amp.GradScaler("cpu")
    start = [p.detach().clone() for p in moco.encoder_q.parameters()]
    for gradient in (float("inf"), 1.0):  # float16 overflows while the scale is being found
        for p in moco.encoder_q.parameters():
            p.grad = torch.full_like(p, gradient) * scaler.scale(torch.tensor(1.0))
        scaler.step(optimizer)
        scaler.update()
    for p, before in zip(moco.encoder_q.parameters(), start, strict=True):
        torch.testing.assert_close(p.detach(), before - 0.1)


@pytest.mark.parametrize("function", [info_nce, enqueue])
def test_loss_and_enqueue_compile_to_one_graph(function):
    compiled = torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")
    if function is info_nce:
        q, k, queue = (F.normalize(torch.randn(n, 5), dim=1) for n in (4, 4, 9))
        torch.testing.assert_close(compiled(q, k, queue, 0.1), info_nce(q, k, queue, 0.1))
    else:
        ours, plain = Queue(9, 2), Queue(9, 2)
        plain.load_state_dict(ours.state_dict())
        for _ in range(3):
            keys = torch.randn(4, 2)
            compiled(ours.keys, ours.pointer, keys)
            plain.enqueue(keys)
        assert torch.equal(ours.keys, plain.keys) and int(ours.pointer) == 3
