"""Rules that judge a run's figures: each gives a warning in plain words, or None.

Thresholds are set so that a run that learns gets no warning (tests/runs/test_health.py trains one).
Most have two values: a warning appears at the strict one and goes away at the loose one, so that a
figure near the threshold does not switch it on and off. Issues are those of facebookresearch/moco,
sections and figures those of the paper (arXiv 1911.05722).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastmoco.recipe import Recipe
from fastmoco.runs.events import Evaluated, Progress, Severity
from fastmoco.settings.queue_size import warning_on

RECENT = 3  # log lines that a rule looks back on, since a single odd line means nothing
LONG = 6  # log lines for figures that vary more

# A queue starts with random vectors, which are easy negatives: almost every query finds its key.
EASY_ACCURACY = 0.9
RISE = 0.02  # of chance; less is the noise of a log line

# feature_std: 0 if all features are the same, 1 if they are spread evenly over the sphere.
COLLAPSED, RECOVERED = 0.05, 0.1

AT_CHANCE = 0.97  # of the loss of a guess
FALLING, CLEARLY_FALLING = 0.005, 0.01  # of chance, over the last log lines
SETTLING_STEPS = 100  # after the queue filled up, before a loss at chance means anything

SOLVED, NEARLY_SOLVED = 0.95, 0.9  # pretext accuracy
TOO_EASY = 0.98  # pretext accuracy that is suspicious by itself, without a kNN to confirm it
KNN_RISE = 0.003  # top-1; a smaller rise is the noise of one measurement

WORSE_THAN_CHANCE, NEAR_CHANCE = 0.3, 0.1  # loss above a guess's
EXPLODING, STEEP = 10, 3  # times the median gradient norm

IDLE, LESS_IDLE = 0.2, 0.1  # share of the time that steps wait for data

KNN_DROP = 0.01  # top-1 below that of random weights
EARLY = 0.2  # share of the run in which kNN may still be below that of random weights

BASE_LR, BASE_BATCH = 0.03, 256  # main_moco.py
FAR = 10  # times the usual learning rate, or below it


@dataclass(frozen=True)
class Verdict:
    """One warning: its rule, how serious it is, and what to do about it in a sentence."""

    name: str
    severity: Severity
    text: str


@dataclass(frozen=True)
class Seen:
    """The figures that rules look at."""

    recipe: Recipe
    samples: int
    lines: Sequence[Progress]
    full: Sequence[Progress]
    """Log lines since the queue (or memory bank) filled up."""
    knn: Sequence[Evaluated]
    shown: bool
    """True while this rule's warning is shown. It clears at the looser threshold."""

    def recent(self, count: int = RECENT) -> Sequence[Progress]:
        """The last log lines with a full queue; empty if there are fewer than `count`."""
        return self.full[-count:] if len(self.full) >= count else []


Rule = Callable[[Seen], Verdict | None]


def filling(s: Seen) -> Verdict | None:
    """The queue starts as random vectors, which are easy to separate from keys. So the loss starts
    low and rises, and the pretext accuracy starts high (issues 12, 43, 79)."""
    if not s.lines or s.lines[-1].queue_fill >= 1:
        return None
    first, last = s.lines[0], s.lines[-1]
    rising = last.loss > first.loss + RISE * last.chance
    if not (s.shown or rising or last.pretext_accuracy > EASY_ACCURACY):
        return None
    return Verdict(
        "filling", "note",
        f"the queue is still filling ({last.queue_fill:.0%} are real keys): until it is full, a "
        f"rising loss and a pretext accuracy near 100% are normal",
    )


def collapse(s: Seen) -> Verdict | None:
    """All features are the same. The paper's encoder ends so without momentum (section 4.1)."""
    recent = s.recent()
    limit = RECOVERED if s.shown else COLLAPSED
    if not recent or max(p.feature_std for p in recent) >= limit:
        return None
    remedy = "look at the views (fastmoco views), and lower --lr"
    if s.recipe.mechanism == "queue" and s.recipe.m < 0.9:
        remedy = f"the key encoder changes too fast: raise --m {s.recipe.m:g} to 0.99 or 0.999"
    return Verdict(
        "collapse", "alarm",
        f"collapse: all images have nearly the same features (their standard deviation is "
        f"{recent[-1].feature_std:.3f}, 1 is spread out); {remedy}",
    )


def stuck(s: Seen) -> Verdict | None:
    """The loss is ln(K + 1), no better than a guess, and no longer falls (issues 9, 12, 17)."""
    recent = s.recent(2 * LONG)[-LONG:]
    if not recent or recent[-1].step < s.full[0].step + SETTLING_STEPS:
        return None
    now = [p.loss / p.chance for p in recent]
    before = [p.loss / p.chance for p in s.full[:LONG]]
    fallen = statistics.mean(before) - statistics.mean(now)
    if min(now) < AT_CHANCE or fallen > (CLEARLY_FALLING if s.shown else FALLING):
        return None
    return Verdict(
        "stuck", "warning",
        f"the loss stays at chance ({recent[-1].loss:.2f}, a guess has {recent[-1].chance:.2f}) "
        f"though the queue is full: the encoder learns nothing; try another --lr or --warmup, and "
        f"check in fastmoco views that two views of an image still have something in common",
    )


def leak(s: Seen) -> Verdict | None:
    """The pretext task is solved, and the features do not improve: section 3.3's cheating."""
    recent = s.recent()
    limit = NEARLY_SOLVED if s.shown else SOLVED
    if not recent or min(p.pretext_accuracy for p in recent) < limit:
        return None
    accuracy = recent[-1].pretext_accuracy
    solved_at = next((p.step for p in s.full if p.pretext_accuracy >= SOLVED), recent[0].step)
    before = [e.knn for e in s.knn if e.step < solved_at]
    since = [e.knn for e in s.knn if e.step >= solved_at]
    if len(since) >= 2 or (before and since):
        if since[-1] > max(before + since[:-1]) + KNN_RISE:
            return None
        return Verdict(
            "leak", "alarm",
            f"the pretext accuracy is {accuracy:.1%} while kNN does not rise ({since[-1]:.1%}): "
            f"{remedy_for_a_leak(s.recipe)}",
        )
    if len(s.full) < 2 * LONG or accuracy < TOO_EASY:
        return None
    return Verdict(
        "leak", "warning",
        f"the pretext accuracy is {accuracy:.1%}: the task may be too easy; "
        f"{precaution_against_a_leak(s.recipe)}; --val shows whether kNN rises",
    )


def leaks_through_batchnorm(recipe: Recipe) -> bool:
    """Whether a query's BatchNorm statistics can identify its key. A memory bank's keys come from
    earlier steps, so they share no batch with the query."""
    return recipe.bn_splits == 1 and recipe.mechanism != "memory-bank"


def remedy_for_a_leak(recipe: Recipe) -> str:
    if leaks_through_batchnorm(recipe):
        return (
            "BatchNorm gives away which key belongs to a query (section 3.3 of the paper): set "
            "--bn-splits 8"
        )
    return (
        "the task is too easy: a larger --K, stronger views (--augmentation v2), more "
        f"--bn-splits than {recipe.bn_splits}"
    )


def precaution_against_a_leak(recipe: Recipe) -> str:
    if leaks_through_batchnorm(recipe):
        return (
            "with --bn-splits 1 BatchNorm may give away which key belongs to a query: "
            "--bn-splits 8 prevents it"
        )
    return "stronger views (--augmentation v2) or a larger --K make it harder"


def diverging(s: Seen) -> Verdict | None:
    """The loss is worse than a guess, or the gradients grow without end."""
    recent = s.recent(2)
    if not recent:
        return None
    last = recent[-1]
    limit = NEAR_CHANCE if s.shown else WORSE_THAN_CHANCE
    growth = gradient_growth(s, recent)
    if growth:
        seen = growth
    elif min(p.loss - p.chance for p in recent) >= limit:
        seen = f"the loss is worse than a guess ({last.loss:.2f}, chance is {last.chance:.2f})"
    else:
        return None
    return Verdict(
        "diverging", "alarm",
        f"diverging: {seen}; lower --lr (now {last.lr:.3g}) or give a --warmup of some epochs",
    )


def gradient_growth(s: Seen, recent: Sequence[Progress]) -> str:
    """The growth of the gradients in words; empty if their norm is usual."""
    if len(s.full) < LONG:
        return ""
    usual = statistics.median(p.grad_norm for p in s.full[:-2])
    times = STEEP if s.shown else EXPLODING
    if not min(p.grad_norm for p in recent) > times * usual > 0:
        return ""
    return f"the gradients grow (norm {recent[-1].grad_norm:.3g}, usually {usual:.3g})"


def waiting(s: Seen) -> Verdict | None:
    """Steps wait for data, and the device idles meanwhile (issues 5, 33, 53)."""
    recent = s.lines[-RECENT:]
    if len(recent) < RECENT:
        return None
    # The median: a process that was paused has one line with a long wait.
    share = statistics.median(p.data_wait for p in recent)
    if share < (LESS_IDLE if s.shown else IDLE):
        return None
    return Verdict(
        "waiting", "warning",
        f"steps wait for data {share:.0%} of the time: fastmoco bench shows which stage is the "
        f"slowest; prep with --short-side and --reencode always makes decoding cheaper, --engine "
        f"and --threads choose the decoder",
    )


def skipping(s: Seen) -> Verdict | None:
    """Steps whose loss, keys or gradients were not finite."""
    count = sum(p.skipped for p in s.lines[-LONG:])
    if not count:
        return None
    return Verdict(
        "skipping", "warning",
        f"{count} of the last steps {'was' if count == 1 else 'were'} not finite and moved "
        f"no weight: skipped.jsonl names the samples; if it goes on, lower --lr",
    )


def below_start(s: Seen) -> Verdict | None:
    """The encoder is worse than its own random weights were."""
    if len(s.knn) < 2 or s.knn[0].step > 0 or not s.full:
        return None
    first, last = s.knn[0].knn, s.knn[-1].knn
    early = s.knn[-1].step < EARLY * s.lines[-1].steps
    if early or last >= first - (0 if s.shown else KNN_DROP):
        return None
    return Verdict(
        "below-start", "warning",
        f"kNN is {last:.1%}, below the {first:.1%} of the untrained encoder: it learns features "
        f"that do not separate these classes; look at fastmoco views (the classes may differ only "
        f"in colour or position), and at --lr",
    )


def queue_size(s: Seen) -> Verdict | None:
    """K against the dataset (fastmoco.settings.queue_size)."""
    if s.recipe.mechanism != "queue":
        return None
    warning = warning_on(s.recipe.K, s.samples)
    return Verdict("queue-size", "warning", warning) if warning else None


def learning_rate(s: Seen) -> Verdict | None:
    """0.03 for a batch of 256, in proportion to the batch (main_moco.py; issues 19, 111, 131)."""
    usual = BASE_LR * s.recipe.batch / BASE_BATCH
    times = s.recipe.lr / usual
    if 1 / FAR < times < FAR:
        return None
    far = f"{times:.3g} times" if times > 1 else f"{1 / times:.3g} times below"
    return Verdict(
        "learning-rate", "warning",
        f"--lr {s.recipe.lr:g} is {far} the usual {usual:.2g} for a batch of {s.recipe.batch} "
        f"({BASE_LR} for {BASE_BATCH}, in proportion)",
    )


RULES: dict[str, Rule] = {
    "filling": filling, "collapse": collapse, "stuck": stuck, "leak": leak,
    "diverging": diverging, "waiting": waiting, "skipping": skipping, "below-start": below_start,
    "queue-size": queue_size, "learning-rate": learning_rate,
}
