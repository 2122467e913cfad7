"""Algorithm 1 of Momentum Contrast (1911.05722), in the paper's letters.

    out = moco(im_q, im_k, index, shuffle)
    out.loss.backward(); optimizer.step()
    moco.update(out)

N images per batch and rank, M of all ranks, C dimensions, K keys in the queue. The paper's other
two mechanisms differ in the source of the keys and in the gradients: see model.dictionaries.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from fastmoco.model.batchnorm import deal, undeal
from fastmoco.model.dictionaries import Dictionary, Keys
from fastmoco.model.geometry import unit
from fastmoco.system.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Out:
    """Result of one step. All tensors stay on the device."""

    loss: torch.Tensor
    """[], with the graph of its gradients."""
    accuracy: torch.Tensor
    """[]: share of queries whose own key is nearer than every negative."""
    q: torch.Tensor
    """[N, C] float, no gradient: queries of this rank."""
    k: torch.Tensor | None
    """[N, C] float, no gradient: their positive keys; None for a memory bank."""
    keys: torch.Tensor
    """[M, C] float, no gradient: keys of all ranks, which update gives to the dictionary."""
    index: torch.Tensor | None
    """int64 [N]: sample ids of the queries."""
    stats: dict[str, torch.Tensor] = field(default_factory=dict)
    """Scalars for the log, each []."""


@dataclass(frozen=True)
class _Lists:
    """The tensors of a model, grouped by their use in a step."""

    trained: list[nn.Parameter]
    followers: list[torch.Tensor]
    """Parameters of the momentum encoder, if there is one."""
    leaders: list[torch.Tensor]
    """Parameters of the query encoder, in the same order."""
    statistics: list[torch.Tensor]
    """BatchNorm's running means and variances of both encoders."""


class MoCo(nn.Module):
    """The query encoder f_q (encoder_q), the key encoder f_k (encoder_k), and the dictionary.

    A memory bank has no f_k. End-to-end trains f_k, or uses f_q for the keys too (shared). With
    key_parts > 1 the key encoder has plain BatchNorm and sees one part of the batch at a time.
    """

    def __init__(
        self, encoder_q: nn.Module, dictionary: Dictionary, m: float = 0.999, T: float = 0.07,
        symmetric: bool = False, shared: bool = False, key_parts: int = 1, ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.m, self.T, self.symmetric = m, T, symmetric
        self.key_parts, self.ranks = key_parts, ranks
        self.encoder_q = encoder_q
        self.encoder_k: nn.Module | None = None
        if dictionary.encodes_keys and not shared:
            self.encoder_k = copy.deepcopy(encoder_q).requires_grad_(dictionary.trains_keys)
        self.dictionary = dictionary
        self.begin_step: Callable[[], None] = _nothing
        """Called before each step. CUDA graphs need to know where one starts."""
        # DistributedDataParallel wrappers by encoder. In a plain dict they are no children of this
        # module: as children they would put every tensor into state_dict twice.
        self._wrappers: dict[nn.Module, nn.Module] = {}
        self._lists: _Lists | None = None

    def distribute(self) -> None:
        """Wrap the trained encoders, so that their gradients are means over the ranks."""
        trained = [self.encoder_q]
        if self.encoder_k is not None and self.dictionary.trains_keys:
            trained.append(self.encoder_k)
        self._wrappers = {encoder: self.ranks.wrap(encoder) for encoder in trained}

    @contextlib.contextmanager
    def gradients_stay(self) -> Iterator[None]:
        """Keep gradients on their ranks in this context: a later backward pass exchanges them."""
        with contextlib.ExitStack() as stack:
            for encoder in self._wrappers.values():
                if isinstance(encoder, nn.parallel.DistributedDataParallel):
                    stack.enter_context(encoder.no_sync())
            yield

    def forward(
        self, im_q: torch.Tensor, im_k: torch.Tensor, index: torch.Tensor | None = None,
        shuffle: torch.Tensor | None = None, drawn: torch.Tensor | None = None,
    ) -> Out:
        """Algorithm 1 for one batch. im_q, im_k: [N, 3, S, S], two views of the same images; index:
        int64 [N], their sample ids; shuffle: int64 [M], the order of the keys in the parts of split
        BatchNorm; drawn: int64 [K], the negatives of a memory bank."""
        k = self.encode_keys(im_k, shuffle)  # k = f_k(x_k): [N, C]
        if not self.symmetric:
            return self.contrast(im_q, k, index, drawn)  # q = f_q(x_q), then InfoNCE
        # The loss of the official CIFAR demo: each view is query once and key once.
        k_of_q = self.encode_keys(im_q, shuffle)
        return added(
            self.contrast(im_q, k, index, drawn), self.contrast(im_k, k_of_q, index, drawn)
        )

    def contrast(
        self, image: torch.Tensor, k: Keys | None, index: torch.Tensor | None,
        drawn: torch.Tensor | None,
    ) -> Out:
        """Contrast the queries of image [N, 3, S, S] with their keys k and the negatives."""
        q = unit(self._encode(self.encoder_q, image))  # queries: [N, C]
        # positive logits l_pos [N, 1], negative logits l_neg [N, K], cross-entropy over both / T
        loss, accuracy = self.dictionary.contrast(q, k, index, drawn, self.T)
        mine = None if k is None else k.mine.detach()
        keys = q.new_empty(0) if k is None else k.all.detach()
        return Out(loss, accuracy.detach(), q.detach(), mine, keys, index)

    def encode_keys(
        self, image: torch.Tensor, shuffle: torch.Tensor | None, pieces: int = 1
    ) -> Keys | None:
        """Encode the keys of image [N, 3, S, S], in pieces to save memory. Returns None if the
        mechanism has no keys of a second view. Only end-to-end gives them a gradient."""
        if not self.dictionary.encodes_keys:
            return None
        n, rank, size = image.shape[0], self.ranks.rank, self.ranks.size
        with contextlib.nullcontext() if self.dictionary.trains_keys else torch.no_grad():
            if shuffle is None:
                k = self.ranks.gather_with_gradient(self._in_pieces(image, pieces))
            else:
                # Shuffling BN, section 3.3 of the paper: the keys of all ranks are shuffled before
                # they are encoded, and put back after. A part then has other images than the same
                # part of the queries, so its statistics do not reveal which key is whose.
                part = shuffle if size == 1 else shuffle[rank * n : (rank + 1) * n]
                dealt = self._in_pieces(deal(self.ranks.gather(image), part), pieces)
                k = undeal(self.ranks.gather_with_gradient(dealt), shuffle)
        return Keys(k if size == 1 else k[rank * n : (rank + 1) * n], k, rank * n)

    def _in_pieces(self, image: torch.Tensor, pieces: int) -> torch.Tensor:
        encoder = self.encoder_q if self.encoder_k is None else self.encoder_k
        # Two reasons to encode in parts: pieces bound the memory, key_parts split BatchNorm.
        count = pieces * self.key_parts
        parts = [image] if count == 1 else image.chunk(count)
        return torch.cat([unit(self._encode(encoder, part)) for part in parts])

    def _encode(self, encoder: nn.Module, image: torch.Tensor) -> torch.Tensor:
        return self._wrappers.get(encoder, encoder)(image)

    @torch.no_grad()
    def update(self, out: Out) -> None:
        """Finish a step, after the optimizer: f_k = m f_k + (1 - m) f_q, then enqueue."""
        lists = self._listed()
        if lists.followers:
            # lerp(f_k, f_q, 1 - m) is the momentum update; foreach takes one launch for all layers
            torch._foreach_lerp_(lists.followers, lists.leaders, 1 - self.m)
        self.dictionary.update(out.keys, out.q, out.index, self.ranks.gather)
        # Each rank saw other parts of the batch. Their mean is the one process's mean over parts.
        self.ranks.mean_(self.statistics)

    @property
    def statistics(self) -> list[torch.Tensor]:
        """BatchNorm's running means and variances, of both encoders."""
        return self._listed().statistics

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that the optimizer moves."""
        return self._listed().trained

    def _listed(self) -> _Lists:
        # Kept, because walking through the modules of a deep network takes milliseconds, several
        # times per step.
        if self._lists is None:
            encoders = [e for e in (self.encoder_q, self.encoder_k) if e is not None]
            follows = self.encoder_k is not None and not self.dictionary.trains_keys
            followers: list[torch.Tensor] = [*encoders[-1].parameters()] if follows else []
            leaders: list[torch.Tensor] = [*encoders[0].parameters()] if follows else []
            self._lists = _Lists(
                [p for p in self.parameters() if p.requires_grad], followers, leaders,
                [b for e in encoders for b in e.buffers() if b.is_floating_point()],
            )
        return self._lists

    def _apply(self, fn: Callable, recurse: bool = True) -> MoCo:
        self._lists = None  # .to() and .double() replace the tensors of these lists
        return super()._apply(fn, recurse)


def added(first: Out, second: Out) -> Out:
    """Return both halves of the symmetric loss as one: the sum of the losses, the mean of the
    accuracies. The keys of the second half, those of im_q, are enqueued first, as in the official
    demo."""
    return Out(
        torch.stack([first.loss, second.loss]).sum(),
        torch.stack([first.accuracy, second.accuracy]).mean(),
        first.q, first.k, torch.cat([second.keys, first.keys]), first.index,
    )


def _nothing() -> None:
    pass
