"""Prepares every image of a source into a dataset, in one format or several at once.

A killed run continues where its journal ends, to the same bytes. The shards of a job array and the
nodes of a Ray cluster prepare single parts, and a last run puts all parts together.
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

# Below this many bytes of source, the small pages of a beton save more than they cost.
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
    progress: Tick | None = None,
    say: Say | None = None,
) -> Manifest:
    """Prepare the images at `source` into the dataset directory `out`.

    policy: what to do with the images, and how to work [default: Policy()].
    formats: names from formats.registry.FORMATS. Several formats go into one directory each, with
    the format's name, in `out`.
    labels: a file with the labels of a flat set (see sources.registry.open_source).
    against: prepared datasets to search for images that are also in this one.
    progress(done, total): called now and then with the number of images that are done.
    say(line): called with a line about the source, and with every warning.

    Returns the manifest of the first format. If `out` already holds this dataset, returns its
    manifest (`reused` is True). Raises UserError, and then leaves nothing behind; or Interrupted,
    after which the same call continues.
    """
    files = open_source(source, labels)
    try:
        describe_source(files, say)
        job = plan_job(files, policy or Policy(), formats)
        refuse_inside(source, Path(out))
        done = finished(files, job, Path(out))
        if done is not None:
            return done
        others = [Other(path) for path in against]
        with under_way(files, source, job, Path(out), progress, say) as run:
            if job.policy.engine == "ray":
                from data_tools.preparation.ray_engine import run_on_ray

                run_on_ray(run, labels, job.policy.ray_address)
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
    progress: Tick | None = None,
    say: Say | None = None,
) -> tuple[int, int]:
    """Prepare every n-th part of the dataset, starting with part i; shard = (i, n).

    Other shards may run at the same time, on any machine that sees both folders. A later `prepare`
    prepares the missing parts and puts all together. Returns the number of parts that are done, by
    all shards, and the number of all parts.
    """
    files = open_source(source, labels)
    try:
        describe_source(files, say)
        job = plan_job(files, policy or Policy(), formats)
        refuse_inside(source, Path(out))
        if finished(files, job, Path(out)) is not None:
            return 1, 1
        with under_way(files, source, job, Path(out), progress, say, shared=True) as run:
            run.do([part for part in run.parts if part.number % shard[1] == shard[0]])
            return len(run.journal.done(len(run.parts))), len(run.parts)
    finally:
        files.close()


def describe_source(files: Source, say: Say | None) -> None:
    """Report the kind of a source and its size."""
    if say is not None:
        classes = f", {len(files.classes):,} classes" if files.classes else ""
        say(f"{files.name}: {files.kind}, {len(files.keys):,} samples{classes}")


def plan_job(files: Source, policy: Policy, formats: Sequence[str]) -> Job:
    """Return the job that prepares a source. Raises UserError for an unknown or repeated format."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--format {name}: give some of {', '.join(FORMATS)}")
    if len(set(formats)) < len(formats) or not formats:
        raise UserError(f"--format {' '.join(formats)}: give each format once")
    page_size = page_size_for(files, policy)
    return Job(files.fingerprint, policy, tuple(formats), policy.part_bytes, page_size)


def page_size_for(files: Source, policy: Policy) -> int:
    """Return the bytes per page of a beton. No image may cross a page, so it also bounds these."""
    sizes = np.asarray(files.sizes)
    need = beton.MIN_PAGE if sizes.sum() < SMALL else beton.PAGE
    side = policy.max_side
    if policy.raw_fraction:
        if side is None:
            raise UserError("--raw-fraction with --max-side None: raw images need a limit")
        need = max(need, 3 * side * side)
    # With a limit on the sides, an image larger than a page is re-encoded, and fits.
    need = max(need, min(int(sizes.max(initial=0)), beton.PAGE))
    if side is None:
        for i in np.flatnonzero(sizes > beton.PAGE):
            result = prepare_one(files, int(i), policy, beton.MAX_PAGE).result
            if isinstance(result, Prepared):
                need = max(need, len(result.data))
    return 1 << (need - 1).bit_length()


def refuse_inside(source: Path_ | Source, out: Path) -> None:
    """Raise UserError if the output would be inside its own source."""
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        if out.resolve().is_relative_to(Path(source).resolve()):
            raise UserError(f"{out}: is inside {source}; give a folder beside it")


def finished(files: Source, job: Job, out: Path) -> Manifest | None:
    """Return the manifest in `out` if it is of this dataset, or None if `out` holds no dataset.
    Raises UserError if it holds another one."""
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
    tidy(out)  # a kill after the last rename leaves the journal
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
    """Start a run in `out`, or continue the one that a killed process left there."""
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
