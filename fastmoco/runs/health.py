"""What a run's figures mean, in plain words: a pure function of what the run has told so far.

Thresholds are set so that runs that learn say nothing (tests/runs/test_health.py trains one),
and that what is said can be acted on. Where a rule comes from is written beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from fastmoco.recipe import Recipe
from fastmoco.runs.events import Evaluated, Event, Judged, Progress, Severity, Started

RECENT = 3  # log lines that a verdict looks back on: one odd line says nothing
LONG = 6


@dataclass(frozen=True)
class Verdict:
    """What is seen and what to do about it, or that nothing need be done."""

    name: str
    severity: Severity
    text: str


@dataclass(frozen=True)
class Seen:
    """What the rules look at."""

    recipe: Recipe
    samples: int
    lines: Sequence[Progress]
    full: Sequence[Progress]
    """Of the lines those since the queue (or the bank) is full."""
    knn: Sequence[Evaluated]
    standing: bool
    """Whether the rule's verdict stood until now: it goes a little later than it came."""

    def recent(self, count: int = RECENT) -> Sequence[Progress]:
        """The last lines with a full queue; empty where there are fewer."""
        return self.full[-count:] if len(self.full) >= count else []


Rule = Callable[[Seen], Verdict | None]


def verdicts(
    recipe: Recipe, samples: int, history: Iterable[Event], standing: Collection[str] = ()
) -> list[Verdict]:
    """What a run's Progress and Evaluated events so far say, gravest first.

    `standing` names the verdicts that stood until now.
    """
    lines, knn = [], []
    for event in history:
        if isinstance(event, Progress):
            lines.append(event)
        elif isinstance(event, Evaluated):
            knn.append(event)
    seen = Seen(recipe, samples, lines, [p for p in lines if p.queue_fill >= 1], knn, False)
    found = [rule(replace(seen, standing=name in standing)) for name, rule in RULES.items()]
    gravity = {"alarm": 0, "warning": 1, "note": 2}
    return sorted((v for v in found if v is not None), key=lambda v: gravity[v.severity])


class Watch:
    """Judges a run while it goes on: each verdict is told when it begins and when it is over."""

    def __init__(self, history: Iterable[Event] = ()) -> None:
        """`history`: what a resumed run had told before."""
        self._history = [e for e in history if isinstance(e, Progress | Evaluated)]
        self._recipe, self._samples = Recipe(), 0
        self._standing: dict[str, Judged] = {}
        for event in history:
            if isinstance(event, Judged):
                self._note(event)

    def __call__(self, event: Event) -> list[Judged]:
        """What has changed with this event."""
        step = 0
        if isinstance(event, Started):
            self._recipe, self._samples, step = event.recipe, event.samples, event.first_step
        elif isinstance(event, Progress | Evaluated):
            self._history.append(event)
            step = event.step
        else:
            return []
        now = {v.name: v for v in verdicts(self._recipe, self._samples, self._history,
                                           self._standing)}
        told = [
            Judged(step, v.name, v.severity, v.text, over=False)
            for v in now.values() if v.name not in self._standing
        ]
        told += [
            replace(old, step=step, over=True)
            for name, old in self._standing.items() if name not in now
        ]
        for judged in told:
            self._note(judged)
        return told

    def _note(self, judged: Judged) -> None:
        if judged.over:
            self._standing.pop(judged.name, None)
        else:
            self._standing[judged.name] = judged


def filling(s: Seen) -> Verdict | None:
    """The queue begins as random vectors, which are easy to tell from keys: the loss starts low and
    rises, the pretext accuracy starts high (facebookresearch/moco issues 12, 43, 79)."""
    if not s.lines or s.lines[-1].queue_fill >= 1:
        return None
    first, last = s.lines[0], s.lines[-1]
    rising = last.loss > first.loss + 0.02 * last.chance
    if not (s.standing or rising or last.pretext_accuracy > 0.9):
        return None
    return Verdict(
        "filling", "note",
        f"the queue is still filling ({last.queue_fill:.0%} are real keys): until it is full, a "
        f"rising loss and a pretext accuracy near 100% are normal",
    )


def collapse(s: Seen) -> Verdict | None:
    """All features the same: with no momentum the paper's encoder ends so (section 4.1, m = 0)."""
    recent = s.recent()
    limit = 0.1 if s.standing else 0.05
    if not recent or max(p.feature_std for p in recent) >= limit:
        return None
    cure = "look at the views (fastmoco views), and lower --lr"
    if s.recipe.mechanism == "queue" and s.recipe.m < 0.9:
        cure = f"the key encoder changes too fast: raise --m {s.recipe.m:g} to 0.99 or 0.999"
    return Verdict(
        "collapse", "alarm",
        f"collapse: all images have nearly the same features (their standard deviation is "
        f"{recent[-1].feature_std:.3f}, 1 is spread out); {cure}",
    )


def stuck(s: Seen) -> Verdict | None:
    """Loss at ln(K+1), no better than a guess, and no longer falling (issues 9, 12, 17)."""
    recent = s.recent(2 * LONG)[-LONG:]
    if not recent or recent[-1].step < s.full[0].step + 100:
        return None
    share = [p.loss / p.chance for p in recent]
    fallen = statistics.mean(p.loss / p.chance for p in s.full[:LONG]) - statistics.mean(share)
    if min(share) < 0.97 or fallen > (0.01 if s.standing else 0.005):
        return None
    return Verdict(
        "stuck", "warning",
        f"the loss stands at chance ({recent[-1].loss:.2f}, a guess has {recent[-1].chance:.2f}) "
        f"though the queue is full: nothing is being learnt; try another --lr or --warmup, and see "
        f"in fastmoco views whether two views of an image still have anything in common",
    )


def leak(s: Seen) -> Verdict | None:
    """The pretext task is solved and the features are no better for it: section 3.3's cheating."""
    recent = s.recent()
    if not recent or min(p.pretext_accuracy for p in recent) < (0.9 if s.standing else 0.95):
        return None
    high = next((p.step for p in s.full if p.pretext_accuracy >= 0.95), recent[0].step)
    before = [e.knn for e in s.knn if e.step < high]
    since = [e.knn for e in s.knn if e.step >= high]
    accuracy = recent[-1].pretext_accuracy
    task = f"the pretext accuracy is {accuracy:.1%}"
    splits = s.recipe.bn_splits
    if len(since) >= 2 or (before and since):
        if since[-1] > max(before + since[:-1]) + 0.003:
            return None
        cure = (
            "BatchNorm tells each query its key (section 3.3 of the paper): set --bn-splits 8"
            if splits == 1 and s.recipe.mechanism != "memory-bank" else
            "the task is too easy: a larger --K, stronger views (--augmentation v2), more "
            f"--bn-splits than {splits}"
        )
        return Verdict(
            "leak", "alarm", f"{task} while kNN does not rise ({since[-1]:.1%}): {cure}"
        )
    if len(s.full) < 2 * LONG or accuracy < 0.98:
        return None
    if splits == 1 and s.recipe.mechanism != "memory-bank":
        cure = "with --bn-splits 1 BatchNorm may tell each query its key: --bn-splits 8 prevents it"
    else:
        cure = "stronger views (--augmentation v2) or a larger --K make it harder"
    return Verdict(
        "leak", "warning", f"{task}: the task may be too easy; {cure}; --val shows what kNN does"
    )


def diverging(s: Seen) -> Verdict | None:
    """Worse than a guess, or gradients that grow without end."""
    recent = s.recent(2)
    if not recent:
        return None
    margin = 0.1 if s.standing else 0.3
    grown = False
    if len(s.full) >= LONG:
        usual = statistics.median(p.grad_norm for p in s.full[:-2])
        grown = min(p.grad_norm for p in recent) > (3 if s.standing else 10) * usual > 0
    if min(p.loss - p.chance for p in recent) < margin and not grown:
        return None
    last = recent[-1]
    what = (
        f"the gradients grow (norm {last.grad_norm:.3g}, usually {usual:.3g})" if grown
        else f"the loss is worse than a guess ({last.loss:.2f}, chance is {last.chance:.2f})"
    )
    return Verdict(
        "diverging", "alarm",
        f"diverging: {what}; lower --lr (now {last.lr:.3g}) or give a --warmup of some epochs",
    )


def waiting(s: Seen) -> Verdict | None:
    """Steps that wait for data: the device idles meanwhile (issues 5, 33, 53)."""
    recent = s.lines[-RECENT:]
    if len(recent) < RECENT:
        return None
    share = statistics.median(p.data_wait for p in recent)  # a pause of the process is one line
    if share < (0.1 if s.standing else 0.2):
        return None
    return Verdict(
        "waiting", "warning",
        f"steps wait for data {share:.0%} of the time: fastmoco bench tells which stage binds; "
        f"prep with --short-side and --reencode always makes decoding cheaper, --engine and "
        f"--threads decide who decodes",
    )


def skipping(s: Seen) -> Verdict | None:
    """Steps that were not finite."""
    recent = s.lines[-LONG:]
    count = sum(p.skipped for p in recent)
    if not count:
        return None
    return Verdict(
        "skipping", "warning",
        f"{count} of the last steps {'was' if count == 1 else 'were'} not finite and moved "
        f"no weight: skipped.jsonl names the samples; if it goes on, lower --lr",
    )


def below_start(s: Seen) -> Verdict | None:
    """An encoder that does worse than its own random weights."""
    if len(s.knn) < 2 or s.knn[0].step > 0 or not s.full:
        return None
    first, last = s.knn[0].knn, s.knn[-1].knn
    early = s.knn[-1].step < 0.2 * s.lines[-1].steps
    if early or last >= first - (0 if s.standing else 0.01):
        return None
    return Verdict(
        "below-start", "warning",
        f"kNN is {last:.1%}, below the {first:.1%} that it began with: what it learns is not "
        f"what tells these classes apart; look at fastmoco views (colour or position may be all "
        f"that differs), and at --lr",
    )


def queue_size(s: Seen) -> Verdict | None:
    """K against the dataset; the paper's figure 3 has accuracy grow with K and level off."""
    r = s.recipe
    if r.mechanism != "queue":
        return None
    if r.K > s.samples / 2:
        return Verdict(
            "queue-size", "warning",
            f"--K {r.K} is {r.K / s.samples:.0%} of the dataset: the queue holds older keys of the "
            f"very images it is contrasted with; a quarter of it or less is usual",
        )
    if r.K < 1024 and s.samples >= 16 * r.K:
        return Verdict(
            "queue-size", "warning",
            f"--K {r.K} is small for {s.samples:,} images: more negatives cost next to nothing and "
            f"help (paper, figure 3)",
        )
    return None


def learning_rate(s: Seen) -> Verdict | None:
    """0.03 for a batch of 256, in proportion to the batch (main_moco.py; issues 19, 111, 131)."""
    usual = 0.03 * s.recipe.batch / 256
    times = s.recipe.lr / usual
    if 0.1 < times < 10:
        return None
    far = f"{times:.3g} times" if times > 1 else f"{1 / times:.3g} times below"
    return Verdict(
        "learning-rate", "warning",
        f"--lr {s.recipe.lr:g} is {far} the usual {usual:.2g} for a batch of {s.recipe.batch} "
        f"(0.03 for 256, in proportion)",
    )


RULES: dict[str, Rule] = {
    "filling": filling, "collapse": collapse, "stuck": stuck, "leak": leak,
    "diverging": diverging, "waiting": waiting, "skipping": skipping, "below-start": below_start,
    "queue-size": queue_size, "learning-rate": learning_rate,
}
