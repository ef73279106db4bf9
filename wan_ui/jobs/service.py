"""The desk both doors go to: submit, read, cancel; it knows neither HTTP nor the page, and never renders."""

from __future__ import annotations

import copy
import hashlib
import logging
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wan_ui.engine.result import Progress
from wan_ui.errors import FetchFailed, InvalidRequest, PreviewNotFound, VideoNotFound
from wan_ui.identity import LOCAL_IDENTITY, Identity
from wan_ui.intake import Configs, Prepared, prepare
from wan_ui.jobs.fetcher import Fetcher
from wan_ui.jobs.gallery import EVERYBODY, PAGE, Choices, Entry, Filter, Gallery, Page
from wan_ui.jobs.limits import NO_LIMITS, DiskQuota, Limits
from wan_ui.jobs.sample_comparisons import SampleComparisons
from wan_ui.jobs.store import Job, Store
from wan_ui.jobs.worker import Running, Worker
from wan_ui.lora.header import check_fit, pair_messages
from wan_ui.lora.remote import is_remote, shown_name
from wan_ui.lora.report import describe, inspect
from wan_ui.media import video
from wan_ui.provenance import restoring
from wan_ui.provenance.restoring import UNKNOWN_ENVIRONMENT
from wan_ui.request import TrainingSample
from wan_ui.trainer.imported_jobs import ImportedJobs

if TYPE_CHECKING:
    from wan_ui.errors import WanUIError
    from wan_ui.lora.library import Library
    from wan_ui.media.image import ImageStore
    from wan_ui.models import WanModel
    from wan_ui.provenance.restoring import Environment, Restoration

log = logging.getLogger(__name__)

COUNTED_FOLDERS = ("clips", "uploads", "images", "gradio", "trainer", "compared")  # of the data folder
INSPECT_SECONDS = 120.0  # for fetching a LoRA that is to be inspected while its sender waits


class JobService:
    """Takes requests in and answers about jobs, at once and from any thread.

    `library` and `images` are what its requests may name; the page lists and fills them. `data_dir` is the folder
    that the clips' file names are relative to. `fetcher` fetches what requests name by address, once it is started.
    `here` says what renders, for what a video tells of its making. `trainer` keeps imported training jobs, `previews`
    compares clips with what the trainer showed, `gallery` lists the finished ones. Methods that take a job's id raise
    RequestNotFound for one that does not exist; all raise HostError when the list of jobs cannot be read or written.
    """

    def __init__(
        self,
        library: Library,
        images: ImageStore,
        store: Store,
        worker: Worker,
        configs: Configs,
        data_dir: Path,
        limits: Limits = NO_LIMITS,
        here: Environment = UNKNOWN_ENVIRONMENT,
    ) -> None:
        self.library = library
        self.images = images
        self._store = store
        self._worker = worker
        self._configs = configs
        self._data_dir = data_dir
        self._limits = limits
        self._here = here
        self._admission = threading.Lock()
        self._published: frozenset[str] = frozenset()
        self._begun = secrets.token_hex(8)  # another process's count of changes may be the same
        self._quota = DiskQuota(data_dir, COUNTED_FOLDERS, limits.disk)
        self.fetcher = Fetcher(store, library, configs, worker.wake)
        self.trainer = ImportedJobs(data_dir / "trainer", library, images, check_quota=self._quota.check)
        self.previews = SampleComparisons(self.trainer, library, data_dir / "compared", self.clip_path)
        self.gallery = Gallery(store, data_dir, self.previews.forget)

    def quota_problem(self, size: int) -> WanUIError | None:
        """Why no file of `size` bytes may be stored, by the limit on the data folder or by its disk; None: it may."""
        return self._quota.problem(size)

    def sweep(self) -> None:
        """Removes what a killed process was writing, but for its clips: those are the worker's to recover.

        Only for a process that alone holds the data folder, before anything is taken in.
        """
        self.library.sweep()
        self.images.sweep()
        self.trainer.sweep()
        self.previews.sweep()

    def over(self, library: Library, images: ImageStore, trainer: ImportedJobs) -> JobService:
        """The same desk over other views of its files."""
        seen = copy.copy(self)
        seen.library, seen.images, seen.trainer = library, images, trainer
        return seen

    def submit(self, body: Any, who: Identity = LOCAL_IDENTITY) -> Job:
        """Puts a decoded JSON body in line as one job. Raises what intake.prepare raises, and what a limit says.

        LoRAs named by address are fetched while the job waits; what is wrong with them ends it as failed.
        """
        self._check_line(who)
        self._quota.check()
        prepared = self.plan(body)
        self._limits.check_cost(who, prepared.generations)
        self._check_training_samples(prepared)
        with self._admission:  # between the count and the job nobody else comes in
            self._check_line(who)
            job = self._store.add(
                prepared.wire,
                prepared.generations,
                prepared.notes,
                ready=not prepared.awaited,
                cells=prepared.cells,
                visitor=who.visitor,
            )
        log.info("queued", extra={"request_id": job.id, "videos": len(job.generations)})
        self._worker.wake()
        self.fetcher.wake()
        return job

    def _check_line(self, who: Identity) -> None:
        self._limits.check_line(who, self._store.waiting(), lambda: self._store.waiting_of(who.visitor))

    def _check_training_samples(self, prepared: Prepared) -> None:
        """Raises InvalidRequest where a prompt, or a cell's, is to be compared with what is not here."""
        asked = {
            f"prompts.{index}.training_sample": item.training_sample
            for index, item in enumerate(prepared.request.prompts)
        }
        for cell in prepared.cells:
            named = cell.request["prompts"][0].get("training_sample")
            wanted = None if named is None else TrainingSample.model_validate(named)
            if wanted not in asked.values():
                asked[f"compare.cells.{cell.row}.{cell.column}.training_sample"] = wanted
        for loc, wanted in asked.items():
            if wanted is None:
                continue
            try:
                self.trainer.check(wanted)
            except PreviewNotFound as error:
                raise InvalidRequest(f"{loc}: {error.message}", fields=[{"loc": loc, "msg": error.message}]) from error

    def plan(self, body: Any) -> Prepared:
        """What `submit` would put in line, checked the same way and raising the same, without doing so."""
        prepared = prepare(body, self.library, self.images, self._configs)
        for speedup in {one.speedup for one in prepared.generations}:
            self._here.check_speedup(speedup)
        return prepared

    def job(self, job_id: str) -> Job:
        return self._store.job(job_id)

    def may_change(self, job: Job) -> bool:
        """Whether a job is for the one who asks to cancel or to compare with another preview: here, everyone's is."""
        return True

    def cancel(self, job_id: str) -> Job:
        """Asks for the job's end and returns it as it then is; a finished job is unchanged."""
        self._store.job(job_id)
        self._worker.cancel(job_id)
        self.fetcher.wake()
        return self._store.job(job_id)

    def retry(self, job_id: str, who: Identity = LOCAL_IDENTITY) -> Job:
        """Puts a failed or canceled job back at the line's end and returns it; any other is unchanged.

        What is finished stays as it is: only what failed or was not reached is rendered. Raises what a limit on the
        line or the disk says, as for a new job.
        """
        if self._store.job(job_id).status not in ("failed", "canceled"):
            return self._store.job(job_id)
        self._quota.check()
        with self._admission:
            self._check_line(who)
            self._store.retry(job_id)
        self._worker.wake()
        self.fetcher.wake()
        return self._store.job(job_id)

    def running(self, job_id: str) -> Running | None:
        """Which of the job's generations is being rendered, and its latest moment; None if the job does not run."""
        return self._worker.running(job_id)

    def progress(self, job_id: str) -> Progress | None:
        """The latest moment of the job if it is running or its LoRA files are being fetched, else None."""
        return self._worker.progress(job_id) or self.fetcher.progress(job_id)

    def inspect(self, source: str, seconds: float = INSPECT_SECONDS) -> dict[str, Any]:
        """What a LoRA is, see lora.inspection; one named by address is fetched first, within `seconds`.

        Raises what Library.fetch and Library.locate raise.
        """
        if is_remote(source) and not self.library.is_held(source):
            self._quota.check()
        end = time.monotonic() + seconds

        def in_time(here: int, total: int) -> None:
            if time.monotonic() > end:
                raise FetchFailed(
                    f"{shown_name(source)} was not here within {seconds:g} s. Send it in a request, which waits for it."
                )

        notes = self.library.fetch(source, in_time) if is_remote(source) else ()
        said = self.library.inspect(source, self._configs)
        return {**said, "messages": [*notes, *said["messages"]]}

    def inspect_file(self, file: Path, name: str) -> dict[str, Any]:
        """What a file is that belongs to no library; `name` is the name it had at its sender. Raises LoraInvalid."""
        return inspect(file, name, self._configs)

    def restore(self, file: Path, from_video: bool = False) -> Restoration:
        """The settings that a video carries, held against what is here now.

        `from_video`: where the image it starts from is not here, the video's own first frame is kept and takes its
        place, but for a comparison's grid. Raises VideoInvalid and, for that frame, what ImageStore.put_bytes raises,
        and DiskFull.
        """
        found = restoring.restoration(restoring.read(file), self.library, self.images, self._here)
        if not (from_video and found.wants_first_frame):
            return found
        self._quota.check()
        return found.starting_from(self.images.put_bytes(video.first_frame(file)))

    def lora_at_hand(self, source: str) -> bool:
        """Whether a source can be looked into without a fetch; what is not there raises when it is."""
        return not is_remote(source) or self.library.is_held(source)

    def inspect_lora(self, source: str) -> dict[str, Any]:
        """What a file at hand is, by itself, with its `name` and its partner's source.

        Raises what Library.locate raises.
        """
        file = self.library.locate(source)
        return {**describe(file.header, None, None, self._configs), "name": file.name} | {
            "partner": self.library.partner(source)
        }

    def check_lora(self, source: str, row: WanModel, slot: str) -> tuple[str, ...]:
        """Sentences about a file at hand in a slot of a row. Raises LoraMismatch where it does not fit."""
        return check_fit(self.library.locate(source).header, row, slot, self._configs(row, row.slots[slot]))

    def pair_of_loras(self, one: str, other: str) -> tuple[bool, tuple[str, ...]]:
        """Whether two sources are one file, and what speaks against them being the halves of one save."""
        first, second = self.library.locate(one), self.library.locate(other)
        return first.sha256 == second.sha256, pair_messages(first.header, second.header)

    def pulse(self) -> str:
        """A short text that stays the same while no job and nothing that is at work has changed; it tells no more."""
        running = self._worker.at_work()
        at_work = None if running is None else (running.job_id, running.progress)  # the end of a write changes a row
        moment = repr((self._begun, self._store.changes, at_work, self.fetcher.moments()))
        return hashlib.sha256(moment.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def position(self, job_id: str) -> int | None:
        """1 for the next to run; None unless in_queue."""
        return self._store.job(job_id).position

    def recent(self, limit: int, visitor: str | None = None) -> tuple[Job, ...]:
        """The newest jobs, newest first; with `visitor`, of that browser alone."""
        return self._store.recent(limit, visitor)

    def hold(self, visitor: str, kind: Literal["lora", "image"], file_id: str) -> None:
        """Notes that a browser brought a file here."""
        self._store.hold(visitor, kind, file_id)

    def holds(self, visitor: str, kind: Literal["lora", "image"], file_id: str) -> bool:
        """Whether a browser brought this file here itself."""
        return self._store.holds(visitor, kind, file_id)

    def entries(self, wanted: Filter, cursor: str | None = None, limit: int = PAGE) -> Page:
        """A page of the gallery. Raises InvalidRequest for a cursor that no page gave."""
        return self.gallery.page(EVERYBODY, wanted, cursor, limit)

    def entry_choices(self) -> Choices:
        """What the gallery can be filtered by."""
        return self.gallery.choices(EVERYBODY)

    def entry(self, entry_id: str) -> Entry:
        """One entry of the gallery. Raises VideoNotFound."""
        return self.gallery.entry(entry_id)

    def may_change_entry(self, entry: Entry) -> bool:
        """Whether an entry is for the one who asks to keep or delete: here, everyone's is."""
        return True

    def keep_entry(self, entry_id: str, kept: bool) -> Entry:
        """Marks an entry as one that stays, or not any more. Raises VideoNotFound."""
        return self.gallery.keep(entry_id, kept)

    def delete_entry(self, entry_id: str) -> None:
        """Deletes an entry with its files. Raises what Gallery.delete raises."""
        self.gallery.delete(entry_id)

    def poster(self, entry: Entry) -> Path | None:
        """The file of an entry's poster, None where it is still to be made."""
        return self.gallery.poster(entry)

    def make_poster(self, entry: Entry) -> Path:
        """Makes the poster that is missing. Raises VideoNotFound."""
        return self.gallery.make_poster(entry)

    def publish_files(self, file_ids: frozenset[str]) -> None:
        """Says which of Gradio's files are part of the page itself, and so for everybody, whoever else brings them."""
        self._published = file_ids

    def is_for(self, visitor: str | None, file_id: str) -> bool:
        """Whether one of Gradio's files may be read by a browser: its own, or nobody's."""
        return file_id in self._published or self._store.is_free_for(visitor, "image", file_id)

    def at_work(self) -> Running | None:
        """What is being rendered, whoever it is for."""
        return self._worker.at_work()

    def line(self, limit: int | None = None) -> tuple[Job, ...]:
        """The running job and those waiting, in their order; at most `limit` of them."""
        return self._store.unfinished(limit)

    def waiting(self) -> int:
        """How many jobs wait in line."""
        return self._store.waiting()

    def clip_path(self, job_id: str, index: int) -> Path:
        """The file of the clip of generation `index`. Raises VideoNotFound if it is not made, or not there any more."""
        for clip in self._store.job(job_id).clips:
            path = self._data_dir / clip.file
            if clip.index == index and path.is_file():
                return path
        raise VideoNotFound(f"This request has no video {index}.")
