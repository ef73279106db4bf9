"""Downloads the LoRAs that waiting jobs name by URL, and lets those jobs run when all their files are there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from wan_ui.engine.result import Progress
from wan_ui.errors import Cancelled, HostError, HubTokenNeeded, RenderFailed, WanUIError
from wan_ui.hub_token import NO_TOKEN, TOKEN_NOTE, secret
from wan_ui.intake import CheckFit, resolve_downloaded
from wan_ui.job import Job
from wan_ui.jobs.store import Store
from wan_ui.lora.fit import Configs, check_fit
from wan_ui.lora.hub import SCHEME
from wan_ui.lora.remote import is_remote, shown_name
from wan_ui.request import parse

if TYPE_CHECKING:
    from pydantic import SecretStr

    from wan_ui.lora.library import Library

log = logging.getLogger(__name__)

PARALLEL_DOWNLOADS = 3  # so that one slow host does not delay the others


@dataclass(frozen=True)
class _Wanted:
    """A URL to download and the token to send to the hub, if the request brought one.

    `anonymous`: without one, this machine's own token is not sent either.
    """

    source: str
    token: SecretStr | None = None
    anonymous: bool = False


@dataclass
class _Download:
    """A running download. `stop` ends it after its next block; only its own thread replaces `progress`."""

    wanted: _Wanted
    progress: Progress
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class Fetcher:
    """Downloads the URLs of the jobs that are not ready, each once however many jobs wait for it.

    A job whose files are all downloaded and fit becomes ready; a job with a file that cannot be downloaded or does not
    fit fails with that error. `changed` is called after either. While the database cannot be written, a download is
    repeated (continuing the part that is on disk) every `retry_seconds`. The store alone holds the state: after a
    restart the downloads start again. Only the tokens of requests are in memory alone, until the job is ready: a job
    whose token is lost fails with HubTokenNeeded.
    """

    def __init__(
        self,
        store: Store,
        library: Library,
        configs: Configs,
        changed: Callable[[], None],
        *,
        retry_seconds: float = 5.0,
        guests_use_hub_token: bool = True,
        check_fit: CheckFit = check_fit,
    ) -> None:
        self._store = store
        self._library = library
        self._configs = configs
        self._changed = changed
        self._retry_seconds = retry_seconds
        self._guests_use_hub_token = guests_use_hub_token
        self._check_fit = check_fit
        self._lock = threading.Lock()
        self._open = False
        self._stopping = threading.Event()
        self._tokens: Mapping[str, SecretStr] = {}  # job id -> the token of its request
        self._running: Mapping[_Wanted, _Download] = {}
        self._missing: Mapping[str, tuple[_Wanted, ...]] = {}
        self._downloaded: dict[str, dict[str, tuple[str, ...]]] = {}  # job id -> URL -> notes

    def start(self) -> None:
        """Start, also for the jobs that a former process left waiting. Once per fetcher."""
        self._open = True
        self.wake()

    def stop(self, timeout: float = 2.0) -> bool:
        """Stop the downloads; their jobs keep waiting. Returns False if one still runs after `timeout` seconds."""
        with self._lock:
            self._open = False
            self._stopping.set()
            ending = tuple(self._running.values())
        for download in ending:
            download.stop.set()
        for download in ending:
            if download.thread is not None:
                download.thread.join(timeout / len(ending))
        return not any(download.thread is not None and download.thread.is_alive() for download in ending)

    def admit(self, add: Callable[[], Job], token: SecretStr | None) -> Job:
        """The job that `add` puts in the store, with its request's token for its downloads."""
        with self._lock:  # no download of the job starts before its token is here
            job = add()
            if token is not None and not job.ready:
                self._tokens = {**self._tokens, job.id: token}
        return job

    def wake(self) -> None:
        """Start the downloads that jobs wait for and stop those that no job waits for any more."""
        with self._lock:
            if not self._open:
                return
            wanted = self._wanted()
            for download in self._running.values():
                if download.wanted not in wanted:
                    download.stop.set()
            for each in wanted:
                if each not in self._running and len(self._running) < PARALLEL_DOWNLOADS:
                    self._begin(each)

    def moments(self) -> tuple[Progress, ...]:
        """The progress of each running download."""
        return tuple(download.progress for download in self._running.values())

    def progress(self, job_id: str) -> Progress | None:
        """The progress of a waiting job's downloads, None for a job that waits for none."""
        missing = self._missing.get(job_id, ())
        running = self._running
        for wanted in missing:
            if wanted in running:
                return running[wanted].progress
        if not missing:
            return None
        return Progress("downloading", note=f"{shown_name(missing[0].source)} waits to be downloaded")

    def _wanted(self) -> tuple[_Wanted, ...]:
        """What to download, in the jobs' order. Jobs whose token is lost fail. The caller holds the lock."""
        unready = self._store.unready()
        self._tokens = {job.id: self._tokens[job.id] for job in unready if job.id in self._tokens}
        lost = [job for job in unready if TOKEN_NOTE in job.notes and job.id not in self._tokens]
        for job in lost:
            self._refuse(
                job,
                HubTokenNeeded(
                    "The server ended before the downloads were complete, and tokens are "
                    "not stored. Send the request again with its hf_token."
                ),
            )
        jobs = [job for job in unready if job not in lost]
        self._downloaded = {job.id: self._downloaded.get(job.id, {}) for job in jobs}
        self._missing = {
            job.id: tuple(
                self._of(job, source) for source in remote_sources(job) if source not in self._downloaded[job.id]
            )
            for job in jobs
        }
        return tuple(dict.fromkeys(wanted for missing in self._missing.values() for wanted in missing))

    def _of(self, job: Job, source: str) -> _Wanted:
        """One of a job's URLs, with the job's token if it is one of the hub."""
        if not source.lower().startswith(SCHEME):
            return _Wanted(source)
        return _Wanted(source, self._tokens.get(job.id), job.from_guest and not self._guests_use_hub_token)

    def _begin(self, wanted: _Wanted) -> None:
        note = f"downloading LoRA {shown_name(wanted.source)}"
        download = _Download(wanted, Progress("downloading", note=note))
        download.thread = threading.Thread(target=self._run, args=(download,), name="wan-ui-fetcher", daemon=True)
        self._running = {**self._running, wanted: download}
        download.thread.start()

    def _run(self, download: _Download) -> None:
        source, token = download.wanted.source, secret(download.wanted.token)
        sent = NO_TOKEN if token is None and download.wanted.anonymous else token
        name = shown_name(source)
        # Used if the download raises something unexpected: the thread then ends with its traceback in the log.
        outcome: tuple[str, ...] | WanUIError = RenderFailed(
            f"Unexpected error while downloading {name}. Details are in the server log. Try again, or upload the file."
        )
        try:
            outcome = self._library.fetch(source, partial(_report_progress, download, name), sent)
        except WanUIError as error:
            outcome = error
        finally:
            self._ended(download, outcome)

    def _ended(self, download: _Download, outcome: tuple[str, ...] | WanUIError) -> None:
        try:
            with self._lock:
                if self._open and not isinstance(outcome, Cancelled):
                    for job in self._store.unready():
                        if download.wanted in [self._of(job, source) for source in remote_sources(job)]:
                            self._settle(job, download.wanted.source, outcome)
        except HostError as error:  # of the database: errors of the files fail their jobs in _settle
            log.error("%s Trying again in %s s.", error.message, self._retry_seconds)
            with self._lock:
                for notes_by_url in self._downloaded.values():
                    notes_by_url.pop(download.wanted.source, None)
            self._stopping.wait(self._retry_seconds)
        finally:
            with self._lock:
                self._running = {key: other for key, other in self._running.items() if other is not download}
        self._changed()
        self._wake_again()

    def _wake_again(self) -> None:
        try:
            self.wake()
        except HostError as error:
            log.error("%s Downloads continue with the next request.", error.message)

    def _settle(self, job: Job, source: str, outcome: tuple[str, ...] | WanUIError) -> None:
        """Applies the outcome of a download to one job that waits for it. Raises HostError if the store fails."""
        notes_by_url = self._downloaded.setdefault(job.id, {})
        if isinstance(outcome, WanUIError):
            return self._refuse(job, outcome)
        notes_by_url[source] = outcome
        if any(url not in notes_by_url for url in remote_sources(job)):
            return None
        try:
            settled = resolve_downloaded(
                parse(job.request), job.generations, self._library, self._configs, self._check_fit
            )
        except WanUIError as error:
            return self._refuse(job, error)
        of_files = (note for url in remote_sources(job) for note in notes_by_url[url])
        of_images = (note for note in job.notes if note != TOKEN_NOTE)  # with those that `settled` repeats
        notes = tuple(dict.fromkeys((*of_files, *settled.notes, *of_images)))
        self._store.make_ready(job.id, settled.generations, notes, settled.cells)
        log.info("LoRA files downloaded", extra={"request_id": job.id})
        return None

    def _refuse(self, job: Job, error: WanUIError) -> None:
        log.warning("%s", error.message, extra={"request_id": job.id, "code": error.code})
        self._store.refuse(job.id, error.body())


def remote_sources(job: Job) -> tuple[str, ...]:
    """The URLs among a job's LoRAs, each once."""
    used = (use.path for generation in job.generations for use in generation.loras)
    return tuple(dict.fromkeys(path for path in used if is_remote(path)))


def _report_progress(download: _Download, name: str, received: int, total: int) -> None:
    if download.stop.is_set():
        raise Cancelled("No job waits for this file any more.")
    part = f", {100 * received // total} %" if total else ""
    download.progress = Progress(
        "downloading", bytes_done=received, bytes_total=total, note=f"downloading LoRA {name}{part}"
    )
