"""``kexue pull``: carry plans out, in parallel, so that they can be neither fooled nor stopped."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kexue_core.errors import (
    ChecksumMismatch,
    KexueError,
    NetworkError,
    NotFoundError,
    PluginError,
    StorageError,
)
from kexue_core.hub.destinations import (
    CacheDestination,
    Destination,
    FolderDestination,
    ensure_file,
    free_bytes,
    place_error,
)
from kexue_core.hub.files import check_files, safe_name
from kexue_core.hub.jobs import Job, run_jobs
from kexue_core.hub.layout import repo_folder
from kexue_core.hub.network import Patience, check_online
from kexue_core.hub.parts import parts_of
from kexue_core.hub.pins import Pin, read_pin, write_pin
from kexue_core.hub.planning import Plan, follow, pin_error, pin_hint, plan
from kexue_core.hub.receipts import checked_sha256
from kexue_core.hub.remote import file_source
from kexue_core.hub.sources import find_here, mirrored_folder
from kexue_core.hub.transfer import Expected, Run, Source
from kexue_core.names import Reference, parse_reference
from kexue_core.registry import FileEntry

__all__ = ["Meter", "PullOptions", "Pulled", "pull"]


class Meter:
    """Who is told how a pull goes; this one does not listen."""

    def start(self, plans: Sequence[Plan]) -> None:
        """The plans are made; called once, before anything is transferred."""

    def advance(self, count: int) -> None:
        """``count`` bytes were won, or lost if negative. Called from several threads."""

    def note(self, text: str) -> None:
        """Something worth a line happened. Called from several threads."""

    def stop(self) -> None:
        """The pull is over, well or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullOptions:
    """How to pull.

    Attributes:
        local_dir: Copy the files there, into one folder a name if several are pulled, instead of
            leaving them where kexue finds them.
        include: Globs over the files of an ``hf:`` repository.
        dry_run: Plan only.
        jobs: Files transferred at a time.
        patience: How long to wait for what.
    """

    local_dir: Path | None = None
    include: tuple[str, ...] = ()
    dry_run: bool = False
    jobs: int = 4
    patience: Patience = field(default_factory=Patience.from_environment)


@dataclass(frozen=True, slots=True)
class Pulled:
    """What became of one reference.

    Attributes:
        name: The reference.
        folder: Where its files are; ``None`` in a dry run of what is not here.
        source: ``mirror``, ``cache`` or ``folder`` if it was here; ``hub`` or the mirror's URL if
            it was fetched, or in a dry run would be.
        license: ``None`` where unknown.
        files: Name -> size in bytes.
        fetched: Bytes that came over the network.
        note: What the user should know besides.
    """

    name: str
    folder: Path | None
    source: str
    license: str | None
    files: Mapping[str, int | None]
    fetched: int = 0
    note: str = ""


def pull(
    references: Iterable[Reference | str],
    options: PullOptions | None = None,
    *,
    meter: Meter | None = None,
) -> list[Pulled]:
    """Bring weights to this machine, with all that they require, verified.

    What is interrupted, even by a kill, goes on where it stopped when it is called again.

    Raises:
        NotFoundError: No such name, repository, revision or file.
        AccessError: The repository wants a login or accepted terms.
        ChecksumMismatch: The source's bytes are wrong; nothing of them was placed.
        VerificationError: The source lists file names that lead out of the folder.
        NetworkError: The source was given up; what arrived is kept.
        OfflineError: The network is switched off.
        StorageError: The disk is full or the cache cannot be written.
    """
    options, meter = options or PullOptions(), meter or Meter()
    parsed = [parse_reference(r) if isinstance(r, str) else r for r in references]
    run = Run(options.patience, advance=meter.advance, note=meter.note)
    wanted = follow(parsed)
    plans = [
        plan(reference, run, include=options.include if reference.kind == "hf" else ())
        for reference in wanted
    ]
    if options.dry_run:
        return [_foreseen(each) for each in plans]
    meter.start(plans)
    try:
        done = [_carry_out(each, options, run, meter, alone=len(plans) == 1) for each in plans]
    finally:
        meter.stop()
    if options.local_dir is not None:
        return done
    return [_converted(each, pulled) for each, pulled in zip(plans, done, strict=True)]


def _converted(each: Plan, pulled: Pulled) -> Pulled:
    """Convert foreign formats now, so that the first use need not; without the plugin, say so."""
    if each.entry is None or each.entry.adapter is None:
        return pulled
    from kexue_core.hub.sources import locate

    try:
        return replace(pulled, folder=locate(each.reference, download=False).folder)
    except PluginError as error:
        return replace(pulled, note=str(error))


def _foreseen(each: Plan) -> Pulled:
    sizes = {name: expected.size for name, expected in each.files.items()}
    if each.origin == "here":
        here = find_here(each.reference)
        assert here is not None
        return Pulled(str(each.reference), here.folder, here.source, each.license, sizes)
    source = each.urls[0] if each.urls else "hub"
    return Pulled(str(each.reference), None, source, each.license, sizes)


def _carry_out(each: Plan, options: PullOptions, run: Run, meter: Meter, *, alone: bool) -> Pulled:
    name = str(each.reference)
    copy = options.local_dir
    if copy is not None and not alone:
        copy /= each.entry.name if each.entry else each.reference.target.replace("/", "--")
    if each.origin == "here":
        here = find_here(each.reference)
        if here is None:
            raise NotFoundError(f"{name} went away while it was pulled", hint="Pull it again")
        done = Pulled(name, here.folder, here.source, each.license, _sizes(here.folder, each))
        return _copied(done, each, copy) if copy else done
    if each.urls:
        done_or_reasons = _from_mirrors(each, copy, options, run, meter)
        if isinstance(done_or_reasons, Pulled):
            return done_or_reasons
        if each.commit is None:
            raise done_or_reasons
    return _from_hub(each, copy, options, run)


def _from_mirrors(
    each: Plan, copy: Path | None, options: PullOptions, run: Run, meter: Meter
) -> Pulled | KexueError:
    """Try mirrors by URL in turn; the last one's error where none serves."""
    assert each.entry is not None
    check_online(str(each.reference))
    folder = copy or mirrored_folder(each.entry)
    locks = mirrored_folder(each.entry).parent / ".locks"
    destination = FolderDestination(folder, locks)
    _check_space(each, folder)
    trouble: KexueError | None = None
    before = run.tally.count
    for url in each.urls:
        try:
            jobs = {
                file: _mirror_job(url, file, expected, destination)
                for file, expected in each.files.items()
            }
            run_jobs(jobs, options.jobs, run)
        except (NetworkError, NotFoundError, ChecksumMismatch) as error:
            meter.note(f"{url}: {error.message}; trying the next source")
            trouble = error
            continue
        got = run.tally.count - before
        return Pulled(str(each.reference), folder, url, each.license, _sizes(folder, each), got)
    assert trouble is not None
    return trouble


def _mirror_job(url: str, file: str, expected: Expected, destination: Destination) -> Job:
    from urllib.parse import quote

    source = Source(f"{file} of {url}", f"{url}/{quote(safe_name(file, source=url))}", {})
    key = expected.sha256 or file
    return lambda run: ensure_file(
        file, key, expected, destination, source=lambda: source, run=run
    )[1]


def _from_hub(each: Plan, copy: Path | None, options: PullOptions, run: Run) -> Pulled:
    assert each.repo is not None
    assert each.commit is not None
    assert each.revision is not None
    repo, commit = repo_folder(each.repo), each.commit
    destination: Destination
    if copy is None:
        destination = CacheDestination(repo, commit)
        folder = repo.snapshot(commit)
        # First of all, so that `kexue rm` finds what a pull that fails has placed by then. A
        # read-only cache that is warm is good enough.
        with contextlib.suppress(OSError):
            destination.note_revision(each.revision)
    else:
        destination = FolderDestination(copy, copy / ".kexue")
        folder = copy
    before = run.tally.count
    _check_space(each, repo.blobs if copy is None else copy)

    # What differs from a pin is no accident that another try or mirror would mend.
    is_pinned = each.unpinned and read_pin(each.repo, each.revision) is not None
    pinned = pin_hint(each.repo, each.revision) if is_pinned else ""

    def job(file: str, known: Expected) -> Job:
        def work(run: Run) -> str:
            assert each.repo is not None
            found = file_source(each.repo, commit, file, known, run)
            if pinned:
                found = replace(found, source=replace(found.source, hint=pinned))
            return ensure_file(
                file, found.key, found.expected, destination, source=lambda: found.source, run=run
            )[1]

        return work

    hashes = run_jobs({f: job(f, known) for f, known in each.files.items()}, options.jobs, run)
    note = ""
    if each.unpinned:
        note = _pin(each, hashes, folder)
    if copy is not None:
        shutil.rmtree(folder / ".kexue", ignore_errors=True)
    return Pulled(
        str(each.reference),
        folder,
        "hub",
        each.license,
        _sizes(folder, each),
        fetched=run.tally.count - before,
        note=note,
    )


def _pin(each: Plan, hashes: Mapping[str, str], folder: Path) -> str:
    """Write down what the files are, or hold them against what they were."""
    assert each.repo is not None
    assert each.commit is not None
    assert each.revision is not None
    pin = read_pin(each.repo, each.revision)
    for name, sha256 in hashes.items():
        before = pin.files.get(name) if pin else None
        if before is not None and before.sha256 != sha256:
            raise pin_error(each.repo, each.revision, name, before.sha256, f"sha256 {sha256}")
    files = {n: FileEntry(h, (folder / n).stat().st_size) for n, h in hashes.items()}
    try:
        known = pin.files if pin else {}
        partial = each.partial and (pin is None or pin.partial)
        write_pin(each.repo, each.revision, Pin(each.commit, {**known, **files}, partial))
    except OSError as error:
        return f"not pinned: {error.filename} cannot be written ({error.strerror})"
    return ""


def _check_space(each: Plan, folder: Path) -> None:
    """Refuse before the first byte what cannot fit.

    Raises:
        StorageError: The disk has too little room.
    """
    free = free_bytes(folder)
    have = 0
    for file, expected in each.files.items():
        for key in (expected.sha256, expected.git_sha1, file):
            content = folder / key if key else None
            if content is not None and content.is_file():
                have += expected.size or 0
                break
            if content is not None and (parts := parts_of(content)):
                have += parts[0].stat().st_size
                break
    needed = each.size - have
    if needed > free:
        raise StorageError(
            f"{each.reference} needs {needed} bytes more and the disk of {folder} has {free}",
            hint="Free some space, or set HF_HUB_CACHE to a larger disk",
        )


def _copied(done: Pulled, each: Plan, copy: Path) -> Pulled:
    """Copy what is on this machine into the user's folder, and check the copy."""
    assert done.folder is not None
    names = each.files or done.files
    try:
        for name in names:
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(done.folder / name, target)
    except OSError as error:
        raise place_error(error, copy) from error
    entries = {
        n: FileEntry(checked_sha256(done.folder / n), (done.folder / n).stat().st_size)
        for n in names
    }
    check_files(copy, entries, name=done.name)
    return replace(done, folder=copy)


def _sizes(folder: Path, each: Plan) -> dict[str, int | None]:
    if not each.files:
        return {
            p.relative_to(folder).as_posix(): p.stat().st_size
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }
    return {name: (folder / name).stat().st_size for name in each.files}
