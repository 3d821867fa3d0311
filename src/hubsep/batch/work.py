# SPDX-License-Identifier: Apache-2.0
"""Many inputs, by one process or by many that share an output folder.

Decisions, and what they are for:

- Each process begins with a share that follows from its number and the sorted inputs alone, so that no two of them
  have to see the folder in the same state. It claims what it works on (`claims.py`) and looks once more whether that
  is finished; a process of another run, started by hand perhaps, is kept from it in the same way.
- With its share done, it takes from those of its siblings, last inputs first: a slow or killed process delays nobody,
  and what a killed run left uneven is evened out by the next. It takes only from a sibling on the same computer or one
  that has written a manifest here, because others may have an output folder of their own, not shared with this one.
  With `--shard` this ends at the border of the part; with `--overwrite` and without locks, at that of the share.
- What failed is tried again by the next run, once, by the process in whose share it is.
- torchrun ends all processes as soon as one ends with an error. So the one that speaks for its computer waits for the
  others, lists what all of them failed at, and alone has an exit status that says so.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import HubsepError, QueryError
from .claims import Claims
from .delivery import sweep
from .explain import explain
from .fingerprint import fingerprint
from .jobs import MARKER, Job
from .lines import say, warn
from .manifest import FOLDER, Manifest
from .places import Place, share_threads
from .records import CHANGED, RecordFile, describe_source
from .run import Run, load, separate_one


POLL_SECONDS = 0.2


def work_through(
    run: Run, jobs: list[Job], place: Place, *, overwrite: bool
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Separates every input that is not finished.

    Args:
        run: the command line.
        jobs: all inputs, the same for all processes.
        place: of this process.
        overwrite: whether to do finished inputs again.

    Returns:
        The inputs that failed, with the reason, if this process is the one to say so; and queries that mean no sound
        the model knows, with the sound it knows that comes nearest.

    Raises:
        QueryError: if the queries do not suit the model; no input could succeed.
        CheckpointError: if the model cannot be loaded.
    """
    batch = Batch(run, place.part(jobs), place, overwrite=overwrite)
    try:
        batch.work()
        return batch.failures(), batch.unknown
    finally:
        batch.close()


class Batch:
    """What one process does in a run; a single input by a single process leaves no manifest.

    Args:
        run: the command line.
        jobs: the inputs of this part, the same for all processes.
        place: of this process.
        overwrite: whether to do finished inputs again.
    """

    def __init__(self, run: Run, jobs: list[Job], place: Place, *, overwrite: bool):
        self.run, self.jobs, self.place, self.overwrite = run, jobs, place, overwrite
        self.unknown: dict[str, str] = {}
        self._failed: dict[str, tuple[str, str]] = {}
        self._done: set[str] = set()
        self._fingerprint = fingerprint(run.settings)
        self._separator: Any = None
        self._manifest: Manifest | None = None
        self._claims: Claims | None = None
        run.output.mkdir(parents=True, exist_ok=True)
        if place.leader:
            sweep(run.output)
        if len(jobs) > 1 or not place.alone:
            self._manifest = Manifest(run.output, place.name(place.rank))
            self._claims = Claims(run.output / FOLDER / "claims")
            self._claims.take(self._number(place.rank))
            self._manifest.begin(settings=run.settings, inputs=len(jobs))
            self._manifest.refresh()

    def work(self) -> None:
        """Does the own share, then what is left of others', then what somebody was busy with."""
        from tqdm import tqdm

        if self.place.leader and not self.overwrite:
            self._say_what_is_finished()
        total = len(self.place.share(self.jobs, self.place.rank) if self.overwrite else self.jobs)
        hidden = not self.place.leader or len(self.jobs) < 2
        with tqdm(total=total, initial=len(self._done), unit=" inputs", disable=hidden or None) as bar:
            busy = [job for job in self._in_order() if not self._attempt(job, bar)]
            while busy:
                time.sleep(POLL_SECONDS)
                busy = [job for job in busy if not self._attempt(job, bar)]
            self._wait_for_siblings()
            self._show(bar)

    def failures(self) -> list[tuple[str, str]]:
        """Inputs and reasons, of this process and those it speaks for."""
        failed = dict(self._failed)
        if self._manifest is None or not self._waits:
            return list(failed.values())
        if not self.place.leader:
            return []
        self._manifest.refresh()
        names = [self.place.name(rank) for rank in self.place.siblings if self.place.is_here(rank)]
        for key, entry in self._manifest.failures(names).items():
            failed.setdefault(key, (entry.get("input", key), entry.get("error", "")))
        return sorted(failed.values())

    def close(self) -> None:
        """Gives back all claims."""
        if self._claims is not None:
            self._claims.close()
        if self._manifest is not None:
            self._manifest.close()

    @property
    def _waits(self) -> bool:
        """Whether the processes of this computer can see each other end."""
        return self._claims is not None and self._claims.available

    def _number(self, rank: int) -> int:
        return self.place.shard * self.place.world + rank

    def _key(self, job: Job) -> str:
        return job.output(Path(), self.run.template, MARKER, "json").as_posix()

    def _why_unfinished(self, job: Job) -> str | None:
        return self._record(job).why_unfinished(job.source, self.run.settings)

    def _record(self, job: Job) -> RecordFile:
        return job.record(self.run.output, self.run.template, may_be_empty=bool(self.run.options["only_active"]))

    def _in_order(self) -> Iterator[Job]:
        yield from self.place.share(self.jobs, self.place.rank)
        if self._manifest is None or self.overwrite or not self._waits:
            return
        for rank in self.place.siblings:
            if self.place.is_here(rank) or self._manifest.is_there(self.place.name(rank)):
                self._manifest.refresh()
                for job in reversed(self.place.share(self.jobs, rank)):
                    if self._is_open(self._key(job), job):
                        yield job

    def _is_open(self, key: str, job: Job) -> bool:
        """Whether nobody says that an input of a sibling is finished, or failed as it is."""
        entry = {} if self._manifest is None else self._manifest.entries.get(key, {})
        failed = entry.get("ok") is False and entry.get("source") == _facts(job)
        return not failed and not self._is_noted(key)

    def _attempt(self, job: Job, bar: Any) -> bool:
        """Sees to an input; False if another process is doing that."""
        key = self._key(job)
        if self._claims is None:
            self._settle(key, job)
        elif self._claims.take(key):
            try:
                self._settle(key, job)
            finally:
                self._claims.release(key)
        else:
            return False
        self._show(bar)
        return True

    def _settle(self, key: str, job: Job) -> None:
        if not self.overwrite and self._why_unfinished(job) in (None, CHANGED):
            self._note_found(key, job)
            self._done.add(key)
            return
        self._failed.pop(key, None)
        start = time.monotonic()
        try:
            if self._separator is None:
                share_threads(self.place)
                self._separator = load(self.run, quiet=not self.place.leader)
            quiet = not self.place.leader
            record = separate_one(self.run, self._separator, job, overwrite=self.overwrite, quiet=quiet)
        except QueryError:
            raise  # the same for every input
        except (HubsepError, OSError) as error:
            if self._separator is None:
                raise  # there is no model
            reason = explain(error)
            self._failed[key] = (str(job.source), reason)
            self._note(key, job, ok=False, error=reason)
        else:
            for output in record["outputs"]:
                if output.get("understood_as", "") is None:
                    self.unknown[output["label"]] = output["nearest"]
            self._note(key, job, ok=True, outputs=record["outputs"], seconds=round(time.monotonic() - start, 3))
        self._done.add(key)

    def _note(self, key: str, job: Job, *, ok: bool, **facts: Any) -> None:
        if self._manifest is not None:
            about = {"input": str(job.source), "source": _facts(job), "settings": self._fingerprint}
            self._manifest.add(key, ok, **about, **facts)

    def _note_found(self, key: str, job: Job) -> None:
        """Adds to the manifest what a process did that was killed before it could."""
        if self._manifest is None or self._is_noted(key):
            return
        self._manifest.refresh()  # a sibling may have said so since
        if not self._is_noted(key):
            self._note(key, job, ok=True, outputs=self._record(job).read()["outputs"], found=True)

    def _is_noted(self, key: str) -> bool:
        entry = {} if self._manifest is None else self._manifest.entries.get(key, {})
        return bool(entry.get("ok")) and entry.get("settings") == self._fingerprint

    def _say_what_is_finished(self) -> None:
        """Says how many inputs are finished, and why others that once were are done again."""
        reasons = {self._key(job): self._why_unfinished(job) for job in self.jobs}
        self._done |= {key for key, reason in reasons.items() if reason in (None, CHANGED)}
        if self._done:
            say(f"{len(self._done)} of {len(self.jobs)} inputs are finished already; --overwrite does them again")
        for job in self.jobs:
            if reasons[self._key(job)] == CHANGED:
                record = self._record(job)
                path = record.changed(record.read())[0]
                warn(f"{path} has changed since it was written: left as it is; --overwrite makes it again")
        for reason, count in Counter(reasons.values()).items():
            if reason not in ("", None, CHANGED):
                warn(f"{count} of {len(self.jobs)} inputs are done again: {reason}")

    def _wait_for_siblings(self) -> None:
        """Until all other processes of this computer have ended, if this one speaks for them."""
        if self._claims is None or not self._waits or not self.place.leader:
            return
        for rank in filter(self.place.is_here, self.place.siblings):
            while not self._claims.take(self._number(rank)):
                time.sleep(POLL_SECONDS)
            self._claims.release(self._number(rank))

    def _show(self, bar: Any) -> None:
        if bar.disable:
            return
        done = set(self._done)
        if self._manifest is not None and self.place.world > 1 and not self.overwrite:
            self._manifest.refresh()
            done |= {key for key in self._manifest.entries if self._is_noted(key)}
        bar.update(max(0, min(len(done), bar.total) - bar.n))


def _facts(job: Job) -> dict[str, Any] | None:
    try:
        return describe_source(job.source)
    except OSError:
        return None


__all__ = ["Batch", "work_through"]
