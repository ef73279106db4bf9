"""The threads that fetch what waiting jobs name by address, and let those jobs run; it knows no door and no render."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from wan_ui.engine.result import Progress
from wan_ui.errors import Cancelled, HostError, RenderFailed, WanUIError
from wan_ui.intake import CheckFit, resolve_downloaded
from wan_ui.jobs.store import Job, Store
from wan_ui.lora.fit import Configs, check_fit
from wan_ui.lora.remote import is_remote, shown_name
from wan_ui.request import parse

if TYPE_CHECKING:
    from wan_ui.lora.library import Library

log = logging.getLogger(__name__)

AT_ONCE = 3  # so that one slow host does not hold up the others


@dataclass
class _Fetch:
    """A fetch under way. `stop` ends it at its next beat; its thread alone replaces `progress`."""

    source: str
    progress: Progress
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class Fetcher:
    """Fetches the addresses of the store's jobs that are not ready, each once however many jobs wait for it.

    A job whose files are all here and fit becomes ready; one of whose files is refused fails with that error.
    `changed` is called after either. While the list of jobs cannot be written, a fetch is repeated (from what is
    kept already) every `retry_seconds`. Nothing is remembered outside the store: after a restart fetches begin anew.
    """

    def __init__(
        self,
        store: Store,
        library: Library,
        configs: Configs,
        changed: Callable[[], None],
        *,
        at_once: int = AT_ONCE,
        retry_seconds: float = 5.0,
        check_fit: CheckFit = check_fit,
    ) -> None:
        self._store = store
        self._library = library
        self._configs = configs
        self._changed = changed
        self._at_once = at_once
        self._retry_seconds = retry_seconds
        self._check_fit = check_fit
        self._lock = threading.Lock()
        self._open = False
        self._stopping = threading.Event()
        self._under_way: Mapping[str, _Fetch] = {}
        self._wants: Mapping[str, tuple[str, ...]] = {}
        self._here: dict[str, dict[str, tuple[str, ...]]] = {}  # job -> source -> what to say of it

    def start(self) -> None:
        """Begins, with the jobs that a former process left waiting. Once per fetcher."""
        self._open = True
        self.wake()

    def stop(self, timeout: float = 2.0) -> bool:
        """Ends the fetches; their jobs wait on. False if one did not end in `timeout` seconds: it may use the store."""
        with self._lock:
            self._open = False
            self._stopping.set()
            ending = tuple(self._under_way.values())
        for one in ending:
            one.stop.set()
        for one in ending:
            if one.thread is not None:
                one.thread.join(timeout / len(ending))
        return not any(one.thread is not None and one.thread.is_alive() for one in ending)

    def wake(self) -> None:
        """Says that a job was added or taken back: begins fetches that are wanted, ends those nobody wants any more."""
        with self._lock:
            if not self._open:
                return
            wanted = self._wanted()
            for one in self._under_way.values():
                if one.source not in wanted:
                    one.stop.set()
            for source in wanted:
                if source not in self._under_way and len(self._under_way) < self._at_once:
                    self._begin(source)

    def moments(self) -> tuple[Progress, ...]:
        """How far each fetch under way is."""
        return tuple(one.progress for one in self._under_way.values())

    def progress(self, job_id: str) -> Progress | None:
        """How far the files of a waiting job are, None for a job that waits for none."""
        sources = self._wants.get(job_id, ())
        under_way = self._under_way
        for source in sources:
            if source in under_way:
                return under_way[source].progress
        return Progress("downloading", note=f"{shown_name(sources[0])} waits to be fetched") if sources else None

    def _wanted(self) -> tuple[str, ...]:
        """The sources to fetch, in the jobs' order. Under the lock."""
        jobs = self._store.unready()
        self._here = {job.id: self._here.get(job.id, {}) for job in jobs}
        self._wants = {
            job.id: tuple(source for source in remote_sources(job) if source not in self._here[job.id]) for job in jobs
        }
        return tuple(dict.fromkeys(source for sources in self._wants.values() for source in sources))

    def _begin(self, source: str) -> None:
        one = _Fetch(source, Progress("downloading", note=f"fetching LoRA {shown_name(source)}"))
        one.thread = threading.Thread(target=self._run, args=(one,), name="wan-ui-fetcher", daemon=True)
        self._under_way = {**self._under_way, source: one}
        one.thread.start()

    def _run(self, one: _Fetch) -> None:
        name = shown_name(one.source)
        # Stands if something raises that has no name here: the thread then ends with its trace in the log.
        outcome: tuple[str, ...] | WanUIError = RenderFailed(
            f"The fetch of {name} broke for a reason that has no name yet. Try again, or upload the file; the server's "
            "log has the trace."
        )
        try:
            outcome = self._library.fetch(one.source, partial(_heard, one, name))
        except WanUIError as error:
            outcome = error
        finally:
            self._ended(one, outcome)

    def _ended(self, one: _Fetch, outcome: tuple[str, ...] | WanUIError) -> None:
        try:
            with self._lock:
                if self._open and not isinstance(outcome, Cancelled):
                    for job in self._store.unready():
                        if one.source in remote_sources(job):
                            self._settle(job, one.source, outcome)
        except HostError as error:  # the list of jobs: the files' own errors end their jobs in _settle
            log.error("%s Trying again in %s s.", error.message, self._retry_seconds)
            with self._lock:
                for here in self._here.values():
                    here.pop(one.source, None)
            self._stopping.wait(self._retry_seconds)
        finally:
            with self._lock:
                self._under_way = {source: other for source, other in self._under_way.items() if other is not one}
        self._changed()
        self._wake_again()

    def _wake_again(self) -> None:
        try:
            self.wake()
        except HostError as error:
            log.error("%s Fetches go on with the next request.", error.message)

    def _settle(self, job: Job, source: str, outcome: tuple[str, ...] | WanUIError) -> None:
        """What a fetch that ended means for one job that waits for it. Raises HostError for the store's failures."""
        here = self._here.setdefault(job.id, {})
        if isinstance(outcome, WanUIError):
            return self._refuse(job, outcome)
        here[source] = outcome
        if any(other not in here for other in remote_sources(job)):
            return None
        try:
            settled = resolve_downloaded(
                parse(job.request), job.generations, self._library, self._configs, self._check_fit
            )
        except WanUIError as error:
            return self._refuse(job, error)
        said = tuple(note for other in remote_sources(job) for note in here[other])
        self._store.make_ready(job.id, settled.generations, (*said, *settled.notes), settled.cells)
        log.info("its LoRA files are here", extra={"request_id": job.id})

    def _refuse(self, job: Job, error: WanUIError) -> None:
        log.warning("%s", error.message, extra={"request_id": job.id, "code": error.code})
        self._store.refuse(job.id, error.body())


def remote_sources(job: Job) -> tuple[str, ...]:
    """The addresses among a job's LoRAs, each once."""
    used = (use.path for generation in job.generations for use in generation.loras)
    return tuple(dict.fromkeys(path for path in used if is_remote(path)))


def _heard(one: _Fetch, name: str, here: int, total: int) -> None:
    if one.stop.is_set():
        raise Cancelled("Nobody waits for this file any more.")
    part = f", {100 * here // total} %" if total else ""
    one.progress = Progress("downloading", bytes_done=here, bytes_total=total, note=f"fetching LoRA {name}{part}")
