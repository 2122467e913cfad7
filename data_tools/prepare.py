"""prepare(source, out): every image of a source into a dataset, in one format or several at once.

A killed run goes on where its journal ends, to the same bytes. So do shards of a job array and a
Ray cluster: they do parts, and the run that finds all parts done puts them together.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data_tools.errors import Interrupted, UserError
from data_tools.formats import beton
from data_tools.formats.registry import FORMATS, SHARDED
from data_tools.images.prepare_image import Prepared
from data_tools.manifest import MANIFEST, WARNING, Manifest, check_files, read_manifest
from data_tools.policy import Policy
from data_tools.preparation.duplicates import Other
from data_tools.preparation.journal import HEADER, Journal
from data_tools.preparation.output import output_folder, tidy
from data_tools.preparation.parts import Job
from data_tools.preparation.run import Run
from data_tools.preparation.workers import prepare_one
from data_tools.progress import Tick
from data_tools.sources.registry import open_source
from data_tools.sources.source import Source

PART_BYTES = 128_000_000
# Below so many bytes of source the small pages of a beton save more than they cost.
SMALL = 1 << 28
Say = Callable[[str], None]
Path_ = str | os.PathLike[str]


def prepare(
    source: Path_ | Source,
    out: Path_,
    policy: Policy | None = None,
    formats: Sequence[str] = ("beton",),
    *,
    labels: Path_ | None = None,
    against: Sequence[Path_] = (),
    part_bytes: int = PART_BYTES,
    ray: str | None = None,
    progress: Tick | None = None,
    say: Say | None = None,
) -> Manifest:
    """Prepares whatever lies at `source` into the dataset directory `out`.

    formats: of formats.registry.FORMATS; several go into a directory each, of that name, in `out`.
    labels: a file with the labels of a flat set (see sources.open_source).
    against: datasets to look in for images that are also in this one.
    part_bytes: about the bytes of the source that make a part, which is a file where the format
    is cut into files.
    ray: the address of a Ray cluster that does the parts; "": start one on this machine.
    progress(done, total): told, now and then, how many images are through. say(line): told what
    was recognised and found.

    Returns the manifest, that of the first format; where the same was prepared before, the one
    that is there (`reused`). Raises UserError, and then leaves nothing behind; or Interrupted,
    after which the same call goes on.
    """
    files = open_source(source, labels)
    try:
        tell_source(files, say)
        job = plan_job(files, policy or Policy(), formats, part_bytes)
        refuse_inside(source, Path(out))
        done = finished(files, job, Path(out))
        if done is not None:
            return done
        others = [Other(path) for path in against]
        with under_way(files, source, job, Path(out), progress, say) as run:
            if ray is not None:
                from data_tools.preparation.ray_engine import run_on_ray

                run_on_ray(run, labels, ray)
            manifest = run.assemble(others)[0]
        for note in manifest.notes:
            if say is not None and note.startswith(WARNING):
                say(note)
        return manifest
    finally:
        files.close()


def prepare_shard(
    source: Path_ | Source,
    out: Path_,
    shard: tuple[int, int],
    policy: Policy | None = None,
    formats: Sequence[str] = ("beton",),
    *,
    labels: Path_ | None = None,
    part_bytes: int = PART_BYTES,
    progress: Tick | None = None,
    say: Say | None = None,
) -> tuple[int, int]:
    """Does every n-th part of `prepare`, from part i on; shard = (i, n).

    Runs at the same time as other shards, on any machine that sees both folders. `prepare` puts
    the parts together, and does those that are missing. Returns how many parts are done, by all
    shards, and how many there are.
    """
    files = open_source(source, labels)
    try:
        tell_source(files, say)
        job = plan_job(files, policy or Policy(), formats, part_bytes)
        refuse_inside(source, Path(out))
        if finished(files, job, Path(out)) is not None:
            return 1, 1
        with under_way(files, source, job, Path(out), progress, say, shared=True) as run:
            run.do([part for part in run.parts if part.number % shard[1] == shard[0]])
            return len(run.journal.done(len(run.parts))), len(run.parts)
    finally:
        files.close()


def tell_source(files: Source, say: Say | None) -> None:
    if say is not None:
        classes = f", {len(files.classes):,} classes" if files.classes else ""
        say(f"{files.name}: {files.kind}, {len(files.keys):,} samples{classes}")


def plan_job(files: Source, policy: Policy, formats: Sequence[str], part_bytes: int) -> Job:
    """Raises UserError for formats that there aren't, or that are named twice."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--format {name}: give some of {', '.join(FORMATS)}")
    if len(set(formats)) < len(formats) or not formats:
        raise UserError(f"--format {' '.join(formats)}: give each format once")
    page_size = page_size_for(files, policy)
    return Job(files.fingerprint, policy, tuple(formats), part_bytes, page_size)


def page_size_for(files: Source, policy: Policy) -> int:
    """Bytes of a beton's page, by the data. No image may cross a page, so it also bounds these."""
    sizes = np.asarray(files.sizes)
    need = beton.MIN_PAGE if sizes.sum() < SMALL else beton.PAGE
    side = policy.max_side
    if policy.raw_fraction:
        if side is None:
            raise UserError("--raw-fraction with --max-side None: raw images need a limit")
        need = max(need, 3 * side * side)
    # With a limit on the sides, what is larger than a page is re-encoded, and fits.
    need = max(need, min(int(sizes.max(initial=0)), beton.PAGE))
    if side is None:
        for i in np.flatnonzero(sizes > beton.PAGE):
            result = prepare_one(files, int(i), policy, beton.MAX_PAGE).result
            if isinstance(result, Prepared):
                need = max(need, len(result.data))
    return 1 << (need - 1).bit_length()


def refuse_inside(source: Path_ | Source, out: Path) -> None:
    """Raises UserError where the output would lie in its own source."""
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        if out.resolve().is_relative_to(Path(source).resolve()):
            raise UserError(f"{out}: lies inside {source}; give a folder beside it")


def finished(files: Source, job: Job, out: Path) -> Manifest | None:
    """The dataset that `out` already holds, if it is this one. Raises UserError for another."""
    manifests = []
    if not all((job.folder(out, name) / MANIFEST).exists() for name in job.formats):
        return None
    for name in job.formats:
        folder = job.folder(out, name)
        manifest = read_manifest(folder)
        if manifest.source_fingerprint != files.fingerprint:
            raise UserError(f"{folder}: holds a dataset from another source or an older state of "
                            f"it ({manifest.source}); give another folder, or remove it first")
        same = manifest.format == name and manifest.policy == job.policy.decisive()
        if not same or (name in SHARDED and manifest.part_bytes != job.part_bytes):
            raise UserError(f"{folder}: holds this source prepared with other options; "
                            "give another folder, or remove it first")
        check_files(folder, manifest)
        manifests.append(dataclasses.replace(manifest, reused=True))
    tidy(out)  # what is left where it was killed behind its last act
    return manifests[0]


@contextmanager
def under_way(
    files: Source,
    path: Path_ | Source,
    job: Job,
    out: Path,
    progress: Tick | None,
    say: Say | None,
    shared: bool = False,
) -> Iterator[Run]:
    """A new run in `out`, or the one that a killed process left there."""
    say = say or (lambda _: None)

    def done() -> bool:
        return finished(files, job, out) is not None

    with output_folder(out, shared, say, done) as output:
        journal = Journal(out, job.header())
        if journal.is_damaged():
            say(f"{journal.folder / HEADER}: damaged; parts of this job that are whole count")
            journal.begin()
        if not journal.matches():
            before, now = journal.stopped_short(), len(files.keys)
            if journal.exists() and now < before:
                raise Interrupted(
                    f"{out}: the last run stopped because images could not be read; their source "
                    f"had {before:,} then and has {now:,} now: bring them back and run prep again, "
                    f"or remove {out} to prepare without them")
            other = f"{out}: holds an unfinished run of another source or of other options"
            if journal.exists() and shared:  # its shards may be at work
                raise UserError(f"{other}; give another folder, or remove it first")
            if journal.exists():
                say(f"{other}; starting over")
            if not shared:
                output.clear()
            journal.begin()
        for name in job.formats:
            job.folder(out, name).mkdir(exist_ok=True)
        if journal.is_old():
            say(f"{out}: an older release began this run, without checksums; going on with it")
        run = Run(files, path, job, out, journal, progress, say)
        if run.done and not shared:
            say(f"{out}: {len(run.done):,} of {len(run.parts):,} parts are done; going on")
        yield run
