"""Algorithm 1 of Momentum Contrast (1911.05722), in the paper's letters.

    out = moco(im_q, im_k, index, shuffle)
    out.loss.backward(); optimizer.step()
    moco.update(out)

N images a batch, C dimensions, K keys in the queue. The paper's other two mechanisms differ in
where keys come from and in what gradients reach: see Mechanism in fastmoco.recipe.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fastmoco.batchnorm import deal, undeal
from fastmoco.dictionaries import Dictionary, EndToEnd, Keys, MemoryBank, Queue
from fastmoco.distributed import ALONE, Ranks
from fastmoco.encoder import build_encoder
from fastmoco.recipe import Recipe


@dataclass(frozen=True)
class Out:
    """What a step gives: everything stays on the device."""

    loss: torch.Tensor
    """[], with its graph."""
    keys: torch.Tensor
    """[M, C] float, no gradient: what update gives to the dictionary, of all ranks."""
    index: torch.Tensor | None
    """int64 [M]: the sample ids of the keys."""
    stats: dict[str, torch.Tensor]
    """Scalars for the log, each []."""


@dataclass(frozen=True)
class _Lists:
    """Tensors of a model by what a step does to them."""

    trained: list[nn.Parameter]
    followers: list[torch.Tensor]
    """Of the momentum encoder, if any."""
    leaders: list[torch.Tensor]
    """Of the query encoder, in the same order."""
    statistics: list[torch.Tensor]
    """BatchNorm's running means and variances, of both."""


class MoCo(nn.Module):
    """The query encoder f_q, the momentum encoder f_k, and the dictionary between them.

    A memory bank has no f_k; end-to-end trains f_k, or takes f_q for it (shared). `parts` is into
    how many parts BatchNorm splits this rank's batch; with split_keys the key encoder has plain
    BatchNorm and sees one part at a time.
    """

    def __init__(
        self, encoder_q: nn.Module, dictionary: Dictionary, m: float = 0.999, T: float = 0.07,
        symmetric: bool = False, shared: bool = False, key_parts: int = 1, ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.m, self.T, self.symmetric = m, T, symmetric
        self.trains_keys = isinstance(dictionary, EndToEnd)
        self.key_parts, self.ranks = key_parts, ranks
        self.encoder_q = encoder_q
        self.encoder_k: nn.Module | None = None
        if not isinstance(dictionary, MemoryBank) and not shared:
            self.encoder_k = copy.deepcopy(encoder_q).requires_grad_(self.trains_keys)
        self.dictionary = dictionary
        self._wrapped: list[nn.Module] = []  # a list: none of this module's own children
        self._lists: _Lists | None = None

    def distribute(self) -> None:
        """From now on the gradients of trained encoders are means over the ranks."""
        self._wrapped = [self.ranks.wrap(self.encoder_q)]
        if self.trains_keys and self.encoder_k is not None:
            self._wrapped.append(self.ranks.wrap(self.encoder_k))

    @contextlib.contextmanager
    def gradients_stay(self) -> Iterator[None]:
        """Backward passes in here leave the exchange of gradients to a later one."""
        with contextlib.ExitStack() as stack:
            for encoder in self._wrapped:
                if isinstance(encoder, nn.parallel.DistributedDataParallel):
                    stack.enter_context(encoder.no_sync())
            yield

    def forward(
        self,
        im_q: torch.Tensor,
        im_k: torch.Tensor,
        index: torch.Tensor | None = None,
        shuffle: torch.Tensor | None = None,
        drawn: torch.Tensor | None = None,
        keys: list[Keys] | None = None,
        watch: bool = False,
    ) -> Out:
        """im_q, im_k: [N, 3, S, S], two views of the same images; index: int64 [N], their sample
        ids; shuffle: int64 [M], how the keys of the whole batch are dealt to the parts of split
        BatchNorm; drawn: int64 [K], a memory bank's negatives; keys: what encode_keys gave, where
        that was asked before. With watch, stats tell more (fastmoco.health)."""
        if keys is None:
            keys = self.encode_keys(im_q, im_k, shuffle)
        losses, accuracies, queries = [], [], []
        for image, k in zip((im_q, im_k), keys, strict=False):
            q = unit(self._encode(0, self.encoder_q, image))  # queries: NxC
            loss, accuracy = self.dictionary.contrast(q, k, index, drawn, self.T)
            losses.append(loss)
            accuracies.append(accuracy)
            queries.append(q)
        stats = {
            "loss": torch.stack([x.detach() for x in losses]).sum(),
            "pretext_accuracy": torch.stack(accuracies).mean(),
        }
        q = queries[0].detach()
        if watch:
            stats |= geometry(q, keys[0].mine.detach())
        if isinstance(self.dictionary, MemoryBank):
            new = self.ranks.gather(q)
            ids = None if index is None else self.ranks.gather(index)
        else:
            # the keys of im_q before those of im_k, as the official demo's symmetric loss has it
            new, ids = torch.cat([k.all.detach() for k in reversed(keys)]), None
        return Out(torch.stack(losses).sum(), new, ids, stats)

    def encode_keys(
        self, im_q: torch.Tensor, im_k: torch.Tensor, shuffle: torch.Tensor | None, pieces: int = 1
    ) -> list[Keys]:
        """The keys of im_k and, with the symmetric loss, of im_q; in so many pieces of the batch,
        which bounds the memory."""
        if isinstance(self.dictionary, MemoryBank):
            none = im_q.new_empty(0)
            return [Keys(none, none)]
        images = (im_k, im_q) if self.symmetric else (im_k,)
        with contextlib.nullcontext() if self.trains_keys else torch.no_grad():
            return [self._keys_of(image, shuffle, pieces) for image in images]

    def _keys_of(self, image: torch.Tensor, shuffle: torch.Tensor | None, pieces: int) -> Keys:
        n, rank, size = image.shape[0], self.ranks.rank, self.ranks.size
        if shuffle is None:
            k = self.ranks.gather_with_gradient(self._pieces(image, pieces))
        else:  # this rank encodes a random part of the whole batch
            part = shuffle if size == 1 else shuffle[rank * n : (rank + 1) * n]
            dealt = self._pieces(deal(self.ranks.gather(image), part), pieces)
            k = undeal(self.ranks.gather_with_gradient(dealt), shuffle)
        return Keys(k if size == 1 else k[rank * n : (rank + 1) * n], k, rank * n)

    def _pieces(self, image: torch.Tensor, pieces: int) -> torch.Tensor:
        encoder = self.encoder_q if self.encoder_k is None else self.encoder_k
        parts = [image] if pieces * self.key_parts == 1 else image.chunk(pieces * self.key_parts)
        which = 0 if self.encoder_k is None else 1
        return torch.cat([unit(self._encode(which, encoder, part)) for part in parts])

    def _encode(self, which: int, encoder: nn.Module, image: torch.Tensor) -> torch.Tensor:
        return (self._wrapped[which] if which < len(self._wrapped) else encoder)(image)

    @torch.no_grad()
    def update(self, out: Out) -> None:
        """After the optimizer's step: f_k = m f_k + (1 - m) f_q, then the dictionary."""
        lists = self._listed()
        if lists.followers:
            torch._foreach_lerp_(lists.followers, lists.leaders, 1 - self.m)
        self.dictionary.update(out.keys, out.index)
        # each rank saw other parts: the same mean on all, as one process has over its parts
        self.ranks.mean_(self.statistics)

    @property
    def statistics(self) -> list[torch.Tensor]:
        """BatchNorm's running means and variances, of both encoders."""
        return self._listed().statistics

    def trained(self) -> list[nn.Parameter]:
        """What the optimizer moves."""
        return self._listed().trained

    def _listed(self) -> _Lists:
        """The tensors that every step goes through: finding them anew, several times a step, takes
        milliseconds of a deep network."""
        if self._lists is None:
            encoders = [e for e in (self.encoder_q, self.encoder_k) if e is not None]
            follows = self.encoder_k is not None and not self.trains_keys
            followers: list[torch.Tensor] = [*encoders[-1].parameters()] if follows else []
            leaders: list[torch.Tensor] = [*encoders[0].parameters()] if follows else []
            self._lists = _Lists(
                [p for p in self.parameters() if p.requires_grad], followers, leaders,
                [b for e in encoders for b in e.buffers() if b.is_floating_point()],
            )
        return self._lists

    def _apply(self, fn: Callable, recurse: bool = True) -> MoCo:
        self._lists = None  # .to() and .double() put other tensors in the places of these
        return super()._apply(fn, recurse)


def build_moco(
    recipe: Recipe, samples: int, device: torch.device, ranks: Ranks = ALONE, pieces: int = 1
) -> MoCo:
    """The model of a recipe for so many samples; initial weights from torch's global generator.

    BatchNorm's parts are those of the whole batch, shared out over ranks and, with gradient
    accumulation, over its pieces.
    """
    parts = recipe.bn_splits // (ranks.size * pieces)
    encoder = build_encoder(recipe, parts if recipe.split == "both" else 1)
    dictionary: Dictionary = EndToEnd()
    if recipe.mechanism == "queue":
        dictionary = Queue(recipe.K, recipe.dim)
    elif recipe.mechanism == "memory-bank":
        dictionary = MemoryBank(samples, recipe.dim)
    return MoCo(
        encoder, dictionary, recipe.m, recipe.T, recipe.symmetric, recipe.shared,
        parts if recipe.split == "keys" else 1, ranks,
    ).to(device)


def make_optimizer(moco: MoCo, recipe: Recipe) -> torch.optim.SGD:
    """SGD on what is trained, every parameter decayed, as main_moco.py has it.

    The momentum starts as zeros: torch's fused SGD would leave it unset where float16's scaler
    skips the first step.
    """
    optimizer = torch.optim.SGD(
        moco.trained(), lr=recipe.lr, momentum=recipe.momentum,
        weight_decay=recipe.weight_decay, fused=True,
    )
    if recipe.momentum > 0:
        for p in moco.trained():
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def compile_parts(moco: MoCo, graphs: bool = False) -> None:
    """Compile the encoders and the enqueue, for fixed shapes: what a run saw before a resume
    can then not change its code. Evaluation calls the trunks by themselves, which stay eager.
    With graphs, as CUDA graphs too."""
    mode = "reduce-overhead" if graphs else None
    if graphs:  # what the last step's graphs gave may be written over
        moco.register_forward_pre_hook(lambda *_: torch.compiler.cudagraph_mark_step_begin())
    for encoder in (moco.encoder_q, moco.encoder_k):
        if encoder is not None:
            encoder.compile(dynamic=False, mode=mode)
    if isinstance(moco.dictionary, Queue):
        moco.dictionary.compile_write()


def geometry(q: torch.Tensor, k: torch.Tensor) -> dict[str, torch.Tensor]:
    """How the queries [N, C] lie (2005.10242): alignment, the mean of |q - k|^2 over positives (0
    is best, 2 unrelated); uniformity, log of the mean of exp(-2 |q_i - q_j|^2) over pairs (-4 is
    spread out, 0 collapsed); feature_std, the mean over dimensions of their deviation, times
    sqrt(C) (1 is spread out, 0 collapsed). Each [], on the device."""
    n = q.shape[0]
    near = torch.exp(4 * (q @ q.T) - 4)  # |q_i - q_j|^2 = 2 - 2 q_i q_j
    return {
        "alignment": (q - k).square().sum(dim=1).mean() if k.numel() else q.new_zeros(()),
        "uniformity": ((near.sum() - n) / (n * (n - 1))).log(),
        "feature_std": q.std(dim=0).mean() * q.shape[1] ** 0.5,
    }


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, [N, C], in float32 or wider whatever the encoder computed in."""
    return F.normalize(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, dim=1)
