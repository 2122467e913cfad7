"""Does this installation compute what it should? A few seconds, with images drawn here.

Each check compares a part of training with something plainer: the paper's pseudocode, Pillow, the
source's own bytes, a run that was never stopped. fastmoco.checks.published_results checks that
published checkpoints give their published figures.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from data_tools.formats.registry import FORMATS
from data_tools.inspection.verify import verify
from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco import draws
from fastmoco.augmentation.choose import augmentation
from fastmoco.augmentation.plain import augment
from fastmoco.draws import Colour
from fastmoco.loading.engines.registry import open_engine
from fastmoco.loading.eval_loader import EvalLoader
from fastmoco.model.batchnorm import SplitBatchNorm2d
from fastmoco.model.dictionaries import Queue
from fastmoco.model.info_nce import info_nce_plain, info_nce_streaming
from fastmoco.model.moco import MoCo
from fastmoco.recipe import AUGMENT_V1, AUGMENT_V2, MOCO_V2
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Event, Saved
from fastmoco.training.train import train
from fastmoco.weights import checkpoint as checkpoints

IMAGES = 24
EXACT = 1e-10  # for float64, whose rounding is a millionth of it
PIXELS = 0.5  # of 255, as the mean over an image: Pillow's resizer rounds differently from ours
COLOURS = 2e-4  # of a normalised image in float32
Verdict = tuple[bool, str]  # passed, and a line on the comparison


@dataclass(frozen=True)
class Check:
    """Result of one comparison."""

    name: str
    passed: bool | None
    """None for a figure without anything to compare it with."""
    found: str
    """The compared things, their difference, and the allowed one."""


def selftest(
    device: torch.device, report: Callable[[Check], None] = lambda check: None
) -> list[Check]:
    """Run every check, and call report(check) after each. A check that raises has failed."""
    out = []
    with tempfile.TemporaryDirectory(prefix="fastmoco-selftest-") as name:
        folder = Path(name)
        draw(folder / "images")
        for title, check in CHECKS.items():
            try:
                passed, found = check(device, folder)
            except Exception as error:  # any: finding broken parts is the purpose
                passed, found = False, f"{type(error).__name__}: {' '.join(str(error).split())}"
            out.append(Check(title, passed, found))
            report(out[-1])
    return out


def draw(folder: Path) -> None:
    """Draw a folder of small JPEGs of various sizes, in two classes."""
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        path = folder / ("ash", "oak")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        width, height = (int(x) for x in rng.integers(40, 90, 2))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)


def algorithm_1(device: torch.device, folder: Path) -> Verdict:
    """Compare ten steps with the paper's Algorithm 1 written out (1911.05722): loss, both encoders
    and the queue, which is overwritten three times."""
    K, C, N, m, T, lr, steps = 20, 8, 6, 0.9, 0.2, 0.1, 10
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, C))
        moco = MoCo(net, Queue(K, C), m, T).double().to(device)
    optimizer = torch.optim.SGD(moco.encoder_q.parameters(), lr=lr)
    f_q, f_k = copy.deepcopy(moco.encoder_q), copy.deepcopy(moco.encoder_q)
    assert isinstance(moco.dictionary, Queue) and moco.encoder_k is not None
    queue, apart = moco.dictionary.keys.T.clone(), list[float]()  # CxK
    for _ in range(steps):
        x_q, x_k = torch.randn(2, N, 3, 4, 4, generator=generator, dtype=torch.float64).to(device)
        out = moco(x_q, x_k)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        moco.update(out)
        # the paper's pseudocode, line by line
        q = F.normalize(f_q(x_q), dim=1)
        k = F.normalize(f_k(x_k), dim=1).detach()
        l_pos = torch.bmm(q.view(N, 1, C), k.view(N, C, 1)).view(N, 1)
        l_neg = torch.mm(q, queue)
        logits = torch.cat([l_pos, l_neg], dim=1)
        labels = torch.zeros(N, dtype=torch.int64, device=device)
        loss = F.cross_entropy(logits / T, labels)
        gradients = torch.autograd.grad(loss, list(f_q.parameters()))
        with torch.no_grad():
            for p, g in zip(f_q.parameters(), gradients, strict=True):
                p.sub_(lr * g)
            for p_k, p_q in zip(f_k.parameters(), f_q.parameters(), strict=True):
                p_k.copy_(m * p_k + (1 - m) * p_q)
        queue = torch.cat([queue, k.T], dim=1)[:, N:]
        apart.append(furthest(out.loss, loss))
    oldest_first = moco.dictionary.keys.roll(-int(moco.dictionary.pointer), 0).T
    apart.append(furthest(oldest_first, queue))
    for ours, papers in ((moco.encoder_q, f_q), (moco.encoder_k, f_k)):
        pairs = zip(ours.parameters(), papers.parameters(), strict=True)
        apart += [furthest(a, b) for a, b in pairs]
    return within(apart, EXACT, f"{steps} steps in float64: loss, f_q, f_k and the queue")


def streaming_is_plain(device: torch.device, folder: Path) -> Verdict:
    """Compare the streaming InfoNCE loss and its gradient with cross-entropy on all logits."""
    generator = torch.Generator().manual_seed(1)
    K = 20_000  # several of its chunks on a CPU
    q, k, queue = (
        F.normalize(torch.randn(n, 32, generator=generator, dtype=torch.float64), dim=1).to(device)
        for n in (16, 16, K)
    )
    found = []
    for form in (info_nce_plain, info_nce_streaming):
        leaf = q.clone().requires_grad_()
        loss, accuracy = form(leaf, k, queue, 0.2)
        (gradient,) = torch.autograd.grad(loss, leaf)
        found.append(torch.cat([loss.detach()[None], accuracy[None], gradient.flatten()]))
    return within([furthest(*found)], EXACT, f"loss, accuracy and gradient over {K:,} keys")


def split_batchnorm(device: torch.device, folder: Path) -> Verdict:
    """Compare split BatchNorm with BatchNorm on each part by itself."""
    splits, generator = 3, torch.Generator().manual_seed(2)
    x = torch.randn(12, 5, 4, 4, generator=generator, dtype=torch.float64).to(device)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(device)
    split = SplitBatchNorm2d(5, splits).double().to(device)
    parts = [nn.BatchNorm2d(5).double().to(device) for _ in range(splits)]
    whole, cut = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours = split(whole)
    theirs = torch.cat([bn(part) for bn, part in zip(parts, cut.chunk(splits), strict=True)])
    apart = [furthest(ours, theirs), furthest(
        *torch.autograd.grad((ours * weights).sum(), whole),
        *torch.autograd.grad((theirs * weights).sum(), cut),
    )]
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(bn, name) for bn in parts]).mean(dim=0)
        apart.append(furthest(getattr(split, name), mean))
    return within(apart, EXACT, f"{splits} parts: outputs, gradients and running statistics")


def round_trip(device: torch.device, folder: Path) -> Verdict:
    """Prepare images into every format, and compare bytes and classes with the source's."""
    images = folder / "images"
    source = sorted((p.parent.name, p.read_bytes()) for p in images.rglob("*.jpg"))
    prepare(images, folder / "formats", formats=FORMATS)
    wrong = []
    for form in FORMATS:
        store = open_store(folder / "formats" / form)
        there = sorted(
            (store.classes[store.labels[i]], bytes(store.encoded(i))) for i in range(len(store))
        )
        (report,) = verify(folder / "formats" / form)
        if there != source:
            wrong.append(f"{form} gives other images")
        elif report.found:
            wrong.append(f"{form} is {report.verdict}")
    line = f"{len(source)} images as {', '.join(FORMATS)}: bytes, classes, checksums"
    return not wrong, f"{line}; {', '.join(wrong) or 'all equal'}"


def views_are_pillows(device: torch.device, folder: Path) -> Verdict:
    """Compare images that this device's engine decodes, crops and resizes with Pillow's."""
    size = 32
    recipe = dataclasses.replace(MOCO_V2, size=size)
    prepare(folder / "images", folder / "views")
    store = open_store(folder / "views")
    opened = open_engine("auto", store, 0, device)
    try:
        batches = [b.views[:, 0].cpu() for b in EvalLoader(store, recipe, opened.engine, device)]
    finally:
        opened.engine.close()
    boxes = draws.eval_boxes(store.sizes, recipe.eval_crop)[:, 0].tolist()
    apart = list[float]()
    for i, (top, left, height, width) in enumerate(boxes):
        image = Image.open(folder / "images" / store.key(i)).convert("RGB")
        box = (left, top, left + width, top + height)
        theirs = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box), float)
        ours = torch.cat(batches)[i].numpy()
        apart.append(float(np.abs(ours - theirs).mean()))
    line = f"{len(store)} views by the engine {opened.name}, the mean over a view, of 255"
    return within(apart, PIXELS, line)


def fast_augmentation(device: torch.device, folder: Path) -> Verdict:
    """Compare this device's augmentation with the plain form, on the same draws."""
    form, name, note = augmentation(RunOptions(device=str(device)), device)
    rng, count = np.random.default_rng(3), 16
    coarse = rng.integers(0, 256, (count, 2, 6, 6, 3), dtype=np.uint8)
    views = torch.from_numpy(coarse.repeat(5, axis=2).repeat(5, axis=3)).to(device)
    apart = list[float]()
    for aug in (AUGMENT_V1, AUGMENT_V2):
        drawn = draws.colour(0, 0, np.arange(count), 2, aug)
        rows = draws.blur_rows(drawn.sigma, aug.blur_p) if aug.blur_p > 0 else None
        colour = Colour(
            **{k: torch.from_numpy(v).to(device) for k, v in drawn.arrays().items()},
            blur_rows=None if rows is None else torch.from_numpy(rows).to(device),
        )
        apart.append(furthest(form(views, colour, aug), augment(views, colour, aug)))
    line = f"v1's and v2's ({name}{'' if note is None else f'; {note}'}) on {2 * count} views"
    return within(apart, COLOURS, line)


def resume_to_the_bit(device: torch.device, folder: Path) -> Verdict:
    """Compare a tiny run, resumed from a checkpoint in its middle, with one never stopped."""
    recipe = dataclasses.replace(
        MOCO_V2, arch="resnet-mini", size=16, batch=8, bn_splits=2, K=16, epochs=2
    )
    prepare(folder / "images", folder / "train")
    options = RunOptions(
        out=str(folder / "run"), checkpoint_minutes=0, log_every=1, device=str(device), threads=1
    )
    middle, at = folder / "middle.pt", list[int]()

    def keep(event: Event) -> None:
        if isinstance(event, Saved) and event.step >= 2 and not at:
            at.append(event.step)
            middle.write_bytes(Path(event.path).read_bytes())

    train(folder / "train", recipe, options, [keep])
    whole = checkpoints.load(folder / "run")
    middle.replace(folder / "run" / "checkpoint.pt")
    train(folder / "train", recipe, dataclasses.replace(options, resume=True))
    again = checkpoints.load(folder / "run")
    a, b = (tensors({"moco": c.moco, "optimizer": c.optimizer}) for c in (whole, again))
    differ = [k for k in a if k not in b or not torch.equal(a[k], b[k])]
    line = f"{whole.step} steps, resumed after {at[0]}: {len(differ)} of {len(a)} tensors differ"
    if differ:
        line += f", first {differ[0]}"
    return not differ and len(a) == len(b) and at[0] < whole.step == again.step, line


def tensors(values: Mapping, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return all tensors of nested dicts by their dotted names."""
    out: dict[str, torch.Tensor] = {}
    for key, value in values.items():
        if isinstance(value, torch.Tensor):
            out[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            out |= tensors(value, f"{prefix}{key}.")
    return out


def furthest(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference of two tensors."""
    return float((a - b).detach().abs().max())


def within(apart: list[float], allowed: float, line: str) -> Verdict:
    """Return whether all differences are allowed; NaN never is."""
    most = float(np.max(apart))
    return most <= allowed, f"{line}; at most {most:.1g} apart, {allowed:g} allowed"


CHECKS: dict[str, Callable[[torch.device, Path], Verdict]] = {
    "Algorithm 1": algorithm_1,
    "streaming loss = plain loss": streaming_is_plain,
    "split BatchNorm = its parts": split_batchnorm,
    "prep, open, verify": round_trip,
    "views = Pillow's": views_are_pillows,
    "augmentation = its plain form": fast_augmentation,
    "resume, to the bit": resume_to_the_bit,
}
