"""One run of a preparation: finds the parts that are done, does the missing ones, and stops if the
source fails.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from data_tools.errors import Interrupted, NotEnoughMemory
from data_tools.formats import beton
from data_tools.manifest import MANIFEST, Manifest
from data_tools.preparation.assemble import GROWING, Assembly
from data_tools.preparation.commits import Commits
from data_tools.preparation.duplicates import Other
from data_tools.preparation.journal import Journal, Record
from data_tools.preparation.parts import Job, Part, PartWriter, plan_parts, write_part
from data_tools.preparation.recheck import first_damaged, has_its_files
from data_tools.preparation.workers import Done, work_through
from data_tools.progress import Tick
from data_tools.safe_reading.checksum import Say, unsaid
from data_tools.sources.source import Source

# If this many images in a row can't be read, the source has gone.
UNREADABLE = 100
# The file system may fail for one image in ONE_IN. If it fails for more, prep stops: the dataset
# would silently lack images that the source does have.
ONE_IN = 100


class Run:
    """One run of a preparation."""

    def __init__(
        self,
        source: Source,
        path: str | os.PathLike[str] | Source,
        job: Job,
        out: Path,
        journal: Journal,
        progress: Tick | None,
        say: Say = unsaid,
    ) -> None:
        self.source, self.path, self.job, self.out, self.journal = source, path, job, out, journal
        self.parts = plan_parts(source.sizes, job.part_bytes)
        self._say = say
        self.done = self._whole(journal.done(len(self.parts)))
        self._progress = progress
        self._through = sum(part.stop - part.start for part in self.parts
                            if part.number in self.done)
        self._tell = 0.0
        self._in_a_row = 0
        self._lost: dict[int, int] = {}
        """Number of images that the file system failed to give, by part that is done."""
        self._lost_here = 0
        self._first_lost = ""

    def _whole(self, recorded: Sequence[int]) -> set[int]:
        """The parts, among those with a record, whose record and files are whole."""
        whole = set()
        for number in recorded:
            record = self.journal.read(number)
            if record is not None and has_its_files(record, self.job, self.out):
                whole.add(number)
        self._say_damaged(len(recorded) - len(whole))
        return whole

    def _say_damaged(self, parts: int) -> None:
        if parts:
            self._say(f"{self.out}: {parts:,} finished part{'s' * (parts > 1)} found damaged or "
                      "without files; done again")

    def missing(self, parts: Sequence[Part] | None = None) -> list[Part]:
        """The parts, among these or among all, that are not done."""
        return [part for part in parts or self.parts if part.number not in self.done]

    def do(self, parts: Sequence[Part]) -> None:
        """Does the missing ones of these parts, each by itself, as a shard of a job array does."""
        for part in parts:
            record = self.journal.read(part.number) if part.number in self.done else None
            if record is not None and self._readable_again(record):
                self._undo(part)
        missing = self.missing(parts)
        with closing(self._results(missing)) as results:
            for part in missing:
                ours = itertools.islice(results, part.stop - part.start)
                write_part(self.source, self.job, self.out, self.journal, part, ours)
                self.done.add(part.number)

    def assemble(self, others: Sequence[Other]) -> list[Manifest]:
        """Does the missing parts, puts all parts together, and commits the datasets."""
        held = self._held()
        self._refuse_loss()
        assembly = Assembly(self.source, self.job, self.out, self.journal, self.parts)
        with (
            closing(assembly),
            closing(self._results(self.missing())) as results,
            Commits() as commits,
        ):
            if held < 0:
                assembly.go_on()
            for part in self.parts:
                if part.number not in self.done:
                    self._write(assembly, commits, part, results)
                    continue
                commits.wait()
                record = self.journal.read_whole(part.number)
                in_beton = part.number <= held
                if in_beton or "beton" not in self.job.formats or self.journal.holds_spool(record):
                    assembly.take(record, in_beton)
                    if part.number == held:
                        assembly.go_on()
                    continue
                # Its spooled images are damaged, so the part is done again, in its turn.
                self._undo(part)
                self._say_damaged(1)
                with closing(self._results([part])) as again:
                    self._write(assembly, commits, part, again)
            commits.wait()
            return assembly.finish(others)

    def _write(
        self, assembly: Assembly, commits: Commits, part: Part, results: Iterator[Done]
    ) -> None:
        """Writes a part from the next results, which must be its images."""
        writer = PartWriter(self.job, self.out, self.journal, part, spool=False)
        try:
            for done in itertools.islice(results, part.stop - part.start):
                assembly.add(writer, done)
            commits.submit(assembly.finish_part(writer))
        except BaseException:
            writer.close()
            raise

    def _held(self) -> int:
        """The last part whose images the growing beton certainly holds; -1 if there is none.

        Parts that are in the beton but not certainly whole lose their records, so they are done
        again.
        """
        held, end = -1, -1
        whole = True
        for part in self.parts:
            if part.number not in self.done:
                whole = False
                continue
            record = self.journal.read(part.number)
            in_order = record is not None and (whole or record.beton_end < 0)
            if record is None or not in_order or self._readable_again(record):
                self._undo(part)
                whole = False
                continue
            self._count_lost(record)
            if record.beton_end >= 0:
                held, end = part.number, record.beton_end
        if "beton" not in self.job.formats:
            return len(self.parts)
        folder = self.job.folder(self.out, "beton")
        path = folder / GROWING
        if (folder / beton.NAME).exists():  # killed while it was finishing
            (folder / MANIFEST).unlink(missing_ok=True)
            os.replace(folder / beton.NAME, path)
        if held >= 0 and not (path.exists() and path.stat().st_size >= end):
            for part in self.parts[: held + 1]:
                if part.number in self.done:
                    self._undo(part)
            return -1
        if held < 0:
            return -1
        numbers = self.parts[: held + 1]
        bad = first_damaged(self.source, self.job, self.out, self.journal, numbers)
        if bad < 0:
            return held
        # A beton only grows at its end, so the parts after the damaged one are done again too.
        lost = [part for part in numbers[bad:]
                if self.journal.read_whole(part.number).beton_end >= 0]
        for part in lost:
            self._undo(part)
        self._say_damaged(len(lost))
        return bad - 1

    def _undo(self, part: Part) -> None:
        self.journal.drop(part.number)
        self.done.remove(part.number)
        self._lost.pop(part.number, None)
        self._through -= part.stop - part.start

    def _results(self, parts: Sequence[Part]) -> Generator[Done]:
        ranges = (range(part.start, part.stop) for part in parts)
        try:
            for done in work_through(self.source, ranges, self.job.policy, self.job.page_size):
                self.check(done)
                self.tell(1)
                yield done
        except MemoryError as error:
            reason = str(error) if isinstance(error, NotEnoughMemory) else "out of memory"
            raise Interrupted(f"{reason}: give fewer --workers or a smaller --max-pixels; what "
                              "is done stays: run prep again") from None

    def check(self, done: Done) -> None:
        """Raises Interrupted if the source, or too large a share of it, can't be read any more."""
        self._in_a_row = self._in_a_row + 1 if done.unreadable else 0
        if not done.unreadable:
            return
        found = f"{self.source.keys[done.i]}: {done.result}"
        if self._gone():
            self.journal.stop_short(len(self.source.keys))
            raise Interrupted(f"{self._where()}: can't be read any more ({found}); what "
                              "is done stays: bring it back and run prep again")
        self._lost_here += 1
        self._first_lost = self._first_lost or found
        self._refuse_loss()

    def _count_lost(self, record: Record) -> None:
        """Adds the images that the file system failed to give when this part was done."""
        if not record.unreadable:
            return
        self._lost[record.number] = len(record.unreadable)
        reasons = dict(record.quarantine)
        first = record.unreadable[0]
        self._first_lost = self._first_lost or f"{self.source.keys[first]}: {reasons[first]}"

    def _refuse_loss(self) -> None:
        """Raises Interrupted if the file system failed for more than one image in ONE_IN.

        The share is of the whole source, so that one process, shards and Ray decide alike.
        """
        lost, total = sum(self._lost.values()) + self._lost_here, len(self.source.keys)
        if lost * ONE_IN > total:
            self.journal.stop_short(total)
            raise Interrupted(
                f"{self._where()}: {lost:,} of {total:,} images can't be read so far, more than "
                f"one in {ONE_IN} (the first is {self._first_lost}); what is done stays: bring "
                "them back and run prep again")

    def _readable_again(self, record: Record) -> bool:
        """True if an image that the file system failed to give can be read now."""
        for i in record.unreadable:
            try:
                self.source.read(i)
            except OSError:
                continue
            return True
        return False

    def _where(self) -> str:
        """The source's path as the user gave it, else its name."""
        given = isinstance(self.path, str | os.PathLike)
        return str(self.path) if given else self.source.name

    def _gone(self) -> bool:
        if self._in_a_row >= UNREADABLE:
            return True
        path = self.path
        # A pattern is no single path, and asking a remote place may take long.
        if not isinstance(path, str | os.PathLike) or re.search(r"[*?{]|://", str(path)):
            return False
        return not os.path.exists(path)

    def tell(self, images: int) -> None:
        """Counts images as finished, and reports progress at most ten times per second."""
        self._through += images
        total = len(self.source.keys)
        if self._progress is not None and (
            time.monotonic() >= self._tell or self._through == total
        ):
            self._progress(self._through, total)
            self._tell = time.monotonic() + 0.1
