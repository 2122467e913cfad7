"""The messages between ranks: gathers, checksums, votes, and failures that stop all of them."""

import pytest
import torch

from data_tools.errors import UserError
from fastmoco.system import ranks as distributed
from fastmoco.system.ranks import ALONE, Ranks, checksum
from fastmoco.system.torchrun import as_one
from fastmoco.training.stopping import GO_ON, SAVE, STOP, Vote


def spoil(ranks, name):
    """Changes bits of one tensor on rank 1, as a faulty device might."""
    state = {"queue": torch.arange(12.0).view(4, 3), "pointer": torch.tensor(3)}
    before = ranks.differing(state)
    if ranks.rank == 1:
        state[name] = state[name].flip(0) if name == "queue" else state[name] + 1
    return before, ranks.differing(state)


@pytest.mark.parametrize("name", ["queue", "pointer"])
def test_a_checksum_names_what_differs(gloo, name):
    assert gloo.run(spoil, name) == [([], [name])] * 2


def test_a_checksum_sees_bits_and_places(monkeypatch):
    x = torch.randn(100, 8)
    whole = checksum(x)
    for other in (x.flip(0), -x, torch.nextafter(x, x + 1), x.double()):
        assert checksum(other) != whole
    assert checksum(x.clone()) == whole == checksum(x.T.contiguous().T)
    swapped = x.clone()
    swapped[[2, 90]] = x[[90, 2]]
    monkeypatch.setattr(distributed, "WORDS", 64)  # so that the two keys are in different chunks
    assert checksum(swapped) != checksum(x)


def exchange(ranks):
    mine = torch.tensor([[1.0, 2], [3, 4]], dtype=torch.double) * (1 + ranks.rank)
    x = mine.clone().requires_grad_()
    whole = ranks.gather_with_gradient(x)
    (whole * torch.arange(8.0).view(4, 2) * (1 + ranks.rank)).sum().backward()
    tensors = [torch.full((2,), float(ranks.rank)), torch.tensor(4.0 * ranks.rank)]
    ranks.mean_(tensors)
    ranks.barrier()
    return (
        ranks, ranks.gather(mine.long()).tolist(), whole.tolist(), x.grad.tolist(),
        [t.tolist() for t in tensors], int(ranks.any_(torch.tensor(ranks.rank))),
        ranks.share(f"from {ranks.rank}"),
    )


def gather_images(ranks):
    both = torch.arange(240.0).view(2, 2, 3, 4, 5)
    out = ranks.gather(both[ranks.rank].to(memory_format=torch.channels_last))
    return torch.equal(out, both.flatten(0, 1)), out.is_contiguous(
        memory_format=torch.channels_last
    )


def test_gathered_images_keep_channels_last(gloo):
    assert gloo.run(gather_images) == [(True, True)] * 2


def test_what_ranks_hand_each_other(gloo):
    whole = [[1, 2], [3, 4], [2, 4], [6, 8]]
    for rank, found in enumerate(gloo.run(exchange)):
        # the sum over ranks of their gradients to this rank's part: 1 + 2 times the weights
        gradient = [[3.0 * (4 * rank + 2 * i + j) for j in (0, 1)] for i in (0, 1)]
        assert found == (
            Ranks(rank, 2, 2), whole, whole, gradient, [[0.5, 0.5], 2.0], 1, "from 0"
        )


def vote(ranks, wishes):
    polls = Vote(ranks)
    told = [polls(wish) for wish in wishes[ranks.rank]]
    polls.end()
    return told


def test_a_vote_is_known_to_all_one_step_later(gloo):
    wishes = [[GO_ON, STOP, GO_ON, GO_ON, GO_ON], [SAVE, GO_ON, GO_ON, SAVE, GO_ON]]
    assert gloo.run(vote, wishes) == [[GO_ON, SAVE, STOP, GO_ON, SAVE]] * 2
    alone = Vote(ALONE)
    assert [alone(w) for w in wishes[1]] == wishes[1]


@as_one
def fail(ranks, which):
    if ranks.rank in which:
        raise UserError(f"rank {ranks.rank} fails")
    ranks.barrier()
    return "not reached"


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
def test_a_failure_ends_all_and_is_told_once(gloo, which):
    answers = gloo.run(fail, which)
    told = [a for a in answers if isinstance(a, UserError)]
    assert len(told) == 1 and str(told[0]) == f"rank {answers.index(told[0])} fails"
    quiet = next(a for a in answers if not isinstance(a, UserError))
    assert isinstance(quiet, SystemExit) and quiet.code == 2


def disagree(ranks, facts):
    ranks.agree({"lr": 0.1, "dataset": "a"})
    ranks.agree(facts | {"lr": facts["lr"] * (1 + ranks.rank)})


def test_ranks_started_in_different_ways_are_one_line(gloo):
    for answer in gloo.run(disagree, {"batch": 16, "lr": 0.1}):
        assert str(answer) == (
            "rank 1 has lr 0.2, and rank 0 0.1: start all ranks with the same command, on the same "
            "data"
        )
