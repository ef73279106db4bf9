"""The job service: submit, read and cancel jobs, the gallery and uploaded files, each call with the caller's access."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wan_ui.access import UploadedFiles
from wan_ui.checkpoints.trainer_base import FOLDER_BASE, planned_precisions
from wan_ui.errors import (
    ControlImageInvalid,
    FetchFailed,
    InvalidRequest,
    PictureNotFound,
    PreviewNotFound,
    RequestNotFound,
    VideoEncodingFailed,
    VideoNotFound,
)
from wan_ui.hub_token import NO_TOKEN, TOKEN_NOTE, secret
from wan_ui.intake import PreparedRequest, prepare
from wan_ui.jobs import gallery
from wan_ui.jobs.clock_watch import ClockWatch
from wan_ui.jobs.continuation import Continuation, check_continuable, continued, hash_of_last_frame
from wan_ui.jobs.fetcher import Fetcher
from wan_ui.jobs.gallery import Gallery
from wan_ui.jobs.judging import Judging
from wan_ui.jobs.limits import NO_LIMITS, DiskQuota, Limits
from wan_ui.jobs.machine import Machine
from wan_ui.jobs.outlooks import Outlooks
from wan_ui.jobs.queue_order import QueueOrder
from wan_ui.jobs.sample_comparisons import SampleComparisons
from wan_ui.jobs.sample_renders import SampleRender, sample_renders
from wan_ui.jobs.shared_views import SharedViews
from wan_ui.jobs.shares import ShareLinks
from wan_ui.jobs.stored_files import StoredFiles, expired, remove_leftovers, unlisted_clips
from wan_ui.jobs.watcher import Watcher
from wan_ui.lora.fit import check_fit
from wan_ui.lora.groups import LoraGroups
from wan_ui.lora.header import pair_messages
from wan_ui.lora.hub import SCHEME
from wan_ui.lora.remote import is_remote, shown_name
from wan_ui.lora.report import describe, inspect
from wan_ui.media import clip_frames, poster, video
from wan_ui.provenance import restoring
from wan_ui.provenance.restoring import UNKNOWN_ENVIRONMENT
from wan_ui.request import TrainingSample, find_model
from wan_ui.trainer.imported_jobs import ImportedJobs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wan_ui.access import Access
    from wan_ui.engine.result import Progress
    from wan_ui.errors import WanUIError
    from wan_ui.job import Job
    from wan_ui.jobs.outlooks import JobOutlook, QueueOutlook
    from wan_ui.jobs.runner import JobRunner, Running
    from wan_ui.jobs.store import Store
    from wan_ui.lora.library import Library
    from wan_ui.media.image import ImageStore
    from wan_ui.models import WanModel
    from wan_ui.provenance.restoring import Bases, Environment, Restoration
    from wan_ui.request import Generation

log = logging.getLogger(__name__)

COUNTED_FOLDERS = ("clips", "uploads", "images", "gradio", "trainer", "compared")  # of the data folder
LEFTOVERS_SECONDS = 3600.0  # between two searches for files that belong to nobody
RENDERS_READ = 200  # of the newest jobs, for the renders of a training job's samples
INSPECT_SECONDS = 120.0  # for downloading a LoRA that is inspected while the caller waits


class JobService:
    """Accepts requests and answers questions about jobs and files, without waiting for a render, from any thread.

    Methods that take `access` show and change only what the caller may see and change (the table in
    `wan_ui.access`): anything else is reported as not found, exactly like something that does not exist.

    `library` and `images` hold the files that requests may name. `data_dir` is the folder that the clips' file names
    are relative to. `environment` is what this server renders with. `fetcher` downloads the LoRAs that requests name
    by URL, once it is started. `imported_jobs` holds training jobs, `sample_comparisons` compares clips with the
    trainer's samples, `gallery` lists finished clips, `stored_files` deletes what visitors have sent, `shares` are the
    links that show one entry without the password, `judging` holds marks and votes on comparisons, `watcher` renders
    the new saves of watched training jobs, `machine` is what renders, `outlooks` estimates how long jobs still
    take, and `views` are what many callers share. `process_id` is another in each process.
    Methods that take a job's id raise RequestNotFound; all raise HostError when the database cannot be read or written.
    """

    def __init__(
        self,
        library: Library,
        images: ImageStore,
        store: Store,
        worker: JobRunner,
        data_dir: Path,
        limits: Limits = NO_LIMITS,
        environment: Environment = UNKNOWN_ENVIRONMENT,
    ) -> None:
        self.library = library
        self.images = images
        self._store = store
        self._worker = worker
        self._data_dir = data_dir
        self._limits = limits
        self._environment = environment
        self._configs = environment.transformer_config
        self._owned = UploadedFiles(store, "image")
        self._admission = threading.Lock()
        self._next_sweep = 0.0
        self._clock = ClockWatch()
        self._published: frozenset[str] = frozenset()
        self.process_id = secrets.token_hex(8)  # another process may have counted as many changes
        self._quota = DiskQuota(data_dir, COUNTED_FOLDERS, limits.disk, database=store.size)
        self.fetcher = Fetcher(
            store, library, self._configs, worker.wake, guests_use_hub_token=limits.guests_use_hub_token
        )
        self.imported_jobs = ImportedJobs(
            data_dir / "trainer", library, images, check_quota=self._quota.check, owners=store
        )
        self.sample_comparisons = SampleComparisons(
            self.imported_jobs, library, data_dir / "compared", self._clip_path, self._precisions
        )
        self.gallery = Gallery(store, data_dir, self.sample_comparisons.forget)
        self.lora_groups = LoraGroups(library, self._configs)
        self.stored_files = StoredFiles(store, library, self.imported_jobs, data_dir)
        self.outlooks = Outlooks(store, worker, environment)
        self.shares = ShareLinks(store, self.gallery)
        self.views = SharedViews(store, self.pulse)
        self.judging = Judging(store, self.job)
        self.machine = Machine(worker, data_dir)
        self.watcher = Watcher(store, self.imported_jobs, self.plan, self._quota.problem, worker.wake)

    def quota_problem(self, size: int) -> WanUIError | None:
        """Why a file of `size` bytes may not be stored, by the quota or by the free space; None if it may."""
        return self._quota.problem(size)

    def sweep(self) -> None:
        """Remove the files that a killed process left incomplete, except clips, which the worker recovers.

        Only for a process that alone uses the data folder, before it accepts anything.
        """
        self.library.sweep()
        self.images.sweep()
        self.imported_jobs.sweep()
        self.sample_comparisons.sweep()
        lost = unlisted_clips(self._store, self._data_dir)
        if lost:
            log.warning(
                "there are videos without a row in the job database: it was removed, or an older one was put in place",
                extra={"videos": len(lost), "first": lost[:3]},
            )

    def tidy(self, retention: gallery.Retention) -> None:
        """Delete what is older than may be kept: clips, cancelled requests, and now and then files of nobody."""
        now = time.monotonic()
        if self._clock.has_jumped():
            retention = replace(retention, days=None)  # by a wrong clock every clip may be old
        self.gallery.tidy(retention)
        if now < self._next_sweep:
            return
        self._next_sweep = now + LEFTOVERS_SECONDS
        days = None if retention.days is None else retention.days * 24 * 3600
        remove_leftovers(self._data_dir, expired(self._store, self._data_dir, days, self._published))

    # Jobs

    def submit(self, body: Any, access: Access) -> Job:
        """Queue a decoded JSON body as one job. Raises what intake.prepare and the limits raise.

        LoRAs named by URL are downloaded while the job waits; a problem with one of them fails the job later.
        """
        identity = access.identity
        self._check_queue(access)
        self._quota.check()
        prepared = self.plan(body, access)
        self._limits.check_text(prepared.wire, prepared.generations)
        self._limits.check_cost(identity, prepared.generations)
        self._check_training_samples(prepared, access)
        from_hub = any(source.lower().startswith(SCHEME) for source in prepared.awaited)
        token = prepared.request.hf_token if from_hub and secret(prepared.request.hf_token) else None
        with self._admission:  # nobody else is admitted between the count and the new job
            self._check_queue(access)
            add = partial(
                self._store.add,
                prepared.wire,
                prepared.generations,
                prepared.notes if token is None else (*prepared.notes, TOKEN_NOTE),
                ready=not prepared.awaited,
                cells=prepared.cells,
                visitor=identity.visitor,
                from_guest=not identity.owner,
            )
            job = self.fetcher.admit(add, token)
        log.info("queued", extra={"request_id": job.id, "videos": len(job.generations)})
        self._worker.wake()
        self.fetcher.wake()
        return job

    def plan(self, body: Any, access: Access) -> PreparedRequest:
        """What `submit` would queue, checked the same way and with the same errors, but not queued."""
        prepared = prepare(body, self.library, self.images, self._configs, access)
        if self._environment.check_speedup is not None:
            for speedup in {generation.speedup for generation in prepared.generations}:
                self._environment.check_speedup(speedup)
        if self._environment.bases is not None:
            for model, base in {(generation.model, generation.base) for generation in prepared.generations}:
                self._environment.bases.check_base(find_model(model), base)
        return prepared

    def bases(self, model: str) -> Mapping[str, Any]:
        """What a model can be loaded from, by names alone: the body of GET /v1/models/{id}/bases."""
        return self._bases().base_listing(find_model(model))

    def identify_base(self, model: str, component: str, name: str) -> Mapping[str, Any]:
        """Keeps which component of which model a checkpoint file is. Raises BaseNotFound."""
        self._bases().answer(find_model(model), component, name)
        return self.bases(model)

    def _precisions(self, generation: Generation) -> tuple[str, ...]:
        """The precisions of the transformers that a generation would be loaded from."""
        if self._environment.bases is None:
            return FOLDER_BASE.precisions
        return planned_precisions(self.bases(generation.model), generation.base)

    def _bases(self) -> Bases:
        if self._environment.bases is None:
            raise AssertionError("a server that lists bases has checkpoints")
        return self._environment.bases

    def job(self, job_id: str, access: Access) -> Job:
        """A job as it is now."""
        job = self._store.job(job_id)
        if not access.may_read(job.visitor):
            raise RequestNotFound("There is no request with this id.")
        return job

    def may_change(self, job: Job, access: Access) -> bool:
        """Whether the caller may cancel a job of `queue`, retry it or give it another sample to compare with."""
        return not job.hidden and access.may_change(job.visitor)

    def cancel(self, job_id: str, access: Access) -> Job:
        """Request a job's cancellation and return the job as it then is; a finished job is unchanged."""
        self._check_may_change(job_id, access)
        self._worker.cancel(job_id)
        self.fetcher.wake()
        return self._store.job(job_id)

    def retry(self, job_id: str, access: Access) -> Job:
        """Put a failed or canceled job at the end of the queue and return it; any other job is unchanged.

        Finished clips are kept: only what failed or was not reached is rendered. Raises what the limits on the queue
        and the disk raise, as for a new job.
        """
        self._check_may_change(job_id, access)
        if self._store.job(job_id).status not in ("failed", "canceled"):
            return self._store.job(job_id)
        self._quota.check()
        with self._admission:
            self._check_queue(access)
            self._store.retry(job_id)
        self._worker.wake()
        self.fetcher.wake()
        return self._store.job(job_id)

    def move(self, job_id: str, position: int, access: Access) -> Job:
        """Move a waiting job to a position of the queue and return it: the owner anywhere, others among their own.

        Raises NotWaiting.
        """
        self._check_may_change(job_id, access)
        with self._admission:
            QueueOrder(self._store).move(job_id, position, own_only=not access.identity.owner)
        if access.identity.owner:
            self._worker.place(job_id)
        else:
            self._worker.wake()
        return self._store.job(job_id)

    def running(self, job_id: str, access: Access) -> Running | None:
        """Which of a job's generations is being rendered and its latest progress; None if the job does not run.

        None also for a job that the caller may not read.
        """
        running = self._worker.running(job_id)
        return running if running is not None and access.may_read(self._store.job(job_id).visitor) else None

    def live_picture(self, job_id: str, access: Access) -> bytes:
        """The latest live picture of a job that is being denoised, an animated WebP. Raises PictureNotFound."""
        self.job(job_id, access)
        running = self._worker.running(job_id)
        if running is None or running.picture is None:
            raise PictureNotFound(
                "This request has no live picture now. There is one from its first denoising steps on until its video "
                "is finished."
            )
        return running.picture

    def first_frame(self, job_id: str, access: Access) -> bytes:
        """A small JPEG of the first frame that a job starts from, its first one. Raises PictureNotFound."""
        job = self.job(job_id, access)
        sha256 = next((generation.image for generation in job.generations if generation.image), None)
        if sha256 is None:
            raise PictureNotFound("This request has no first frame.")
        try:
            return poster.of_image(self.images.open(sha256, access))
        except ControlImageInvalid as error:
            raise PictureNotFound("The first frame of this request was deleted.") from error

    def progress(self, job_id: str) -> Progress | None:
        """The latest progress of a job that runs or whose LoRA files are being downloaded, else None.

        `job_id` is that of a job given by `job`, `queue` or `recent`. For a hidden job the note, which names files
        and cells, is left out.
        """
        running = self._worker.at_work()
        if running is not None and hidden_id(running.job_id) == job_id:
            return replace(running.progress, note="")
        return self._worker.progress(job_id) or self.fetcher.progress(job_id)

    def outlook(self, job_id: str) -> JobOutlook | None:
        """How far an unfinished job is and when it will be finished. The caller has read the job, or reads it next."""
        return self.outlooks.of(job_id)

    def queue_outlook(self) -> QueueOutlook:
        """How far the unfinished jobs are and when all of them will be finished, by their real ids."""
        return self.outlooks.queue()

    def queue(self, access: Access, limit: int | None = None) -> tuple[Job, ...]:
        """The running job and the waiting ones in their order, at most `limit`; others' jobs as `hidden_job`."""
        jobs = self._store.unfinished(limit)
        return tuple(job if access.may_list(job.visitor) else hidden_job(job) for job in jobs)

    def recent(self, limit: int, access: Access) -> tuple[Job, ...]:
        """The newest jobs that are listed for the caller, newest first."""
        if access.identity.owner:
            return self._store.recent(limit)
        if access.shared:
            return tuple(job for job in self._store.recent(limit) if access.may_list(job.visitor))
        visitor = access.identity.visitor
        return () if visitor is None else self._store.recent(limit, visitor)

    def sample_renders(self, job_id: str, access: Access) -> list[SampleRender]:
        """The caller's newest renders of an imported job's samples. Raises PreviewNotFound."""
        self.imported_jobs.job(job_id)
        return sample_renders(self.recent(RENDERS_READ, access), job_id)

    def waiting(self) -> int:
        """The number of jobs that wait in the queue."""
        return self._store.waiting()

    def pulse(self) -> str:
        """A short text that changes whenever a job or the progress of any work changes; it reveals nothing else.

        Clients poll it (`GET /v1/pulse`) and read the jobs again only when it has changed.
        """
        running = self._worker.at_work()
        at_work = None if running is None else (running.job_id, running.progress, running.pictures)
        state = repr((self.process_id, self._store.changes, at_work, self.fetcher.moments()))
        return hashlib.sha256(state.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def clip_path(self, job_id: str, index: int, access: Access) -> Path:
        """The file of the clip of generation `index`. Raises VideoNotFound if it is not finished or was deleted."""
        self.job(job_id, access)
        return self._clip_path(job_id, index)

    def continue_clip(self, job_id: str, index: int, access: Access) -> Continuation:
        """The request that continues a clip from its last frame, which is stored as an image of the caller.

        Raises VideoNotFound, ControlImageNotSupported for a model without first frame, and what the quota raises.
        """
        job, clip = self.job(job_id, access), self.clip_path(job_id, index, access)
        check_continuable(find_model(job.generations[index].model))
        self._quota.check()
        try:
            image, is_lossless = clip_frames.last_frame(clip)
        except VideoEncodingFailed as error:
            raise VideoNotFound("The file of this video cannot be read.") from error
        sha256 = self.images.put_bytes(image, access)
        return continued(job.request_of(index), job.generations[index], sha256, is_lossless)

    def last_frame_hash(self, job_id: str, index: int) -> str | None:
        """The SHA-256 of a clip's kept last frame, which a clip that continues it starts from; None where none is."""
        try:
            return hash_of_last_frame(self._clip_path(job_id, index).with_suffix(clip_frames.LAST_SUFFIX))
        except (OSError, VideoNotFound):
            return None

    def _clip_path(self, job_id: str, index: int) -> Path:
        for clip in self._store.job(job_id).clips:
            path = self._data_dir / clip.file
            if clip.index == index and path.is_file():
                return path
        raise VideoNotFound(f"This request has no video {index}.")

    def _check_may_change(self, job_id: str, access: Access) -> None:
        if not self.may_change(self.job(job_id, access), access):
            raise RequestNotFound("There is no request with this id that is yours.")

    def _check_queue(self, access: Access) -> None:
        visitor = access.identity.visitor
        self._limits.check_queue(
            access.identity,
            self._store.waiting(),
            lambda: self._store.waiting_of(visitor),
            self._store.waiting_of_guests,
        )

    def _check_training_samples(self, prepared: PreparedRequest, access: Access) -> None:
        """Raises InvalidRequest if a prompt or a cell is to be compared with a sample that is not found."""
        samples = {
            f"prompts.{index}.training_sample": item.training_sample
            for index, item in enumerate(prepared.request.prompts)
        }
        for cell in prepared.cells:
            fields = cell.request["prompts"][0].get("training_sample")
            sample = None if fields is None else TrainingSample.model_validate(fields)
            if sample not in samples.values():
                place = f"{cell.page}.{cell.row}.{cell.column}" if cell.page_label else f"{cell.row}.{cell.column}"
                samples[f"compare.cells.{place}.training_sample"] = sample
        for loc, sample in samples.items():
            if sample is None:
                continue
            try:
                self.imported_jobs.check(sample, access)
            except PreviewNotFound as error:
                raise InvalidRequest(f"{loc}: {error.message}", fields=[{"loc": loc, "msg": error.message}]) from error

    # LoRA files and videos

    def needs_download(self, source: str) -> bool:
        """Whether a LoRA source is a URL whose file is not on this machine yet."""
        return is_remote(source) and not self.library.is_downloaded(source)

    def inspect(self, source: str, access: Access, seconds: float = INSPECT_SECONDS) -> dict[str, Any]:
        """The report on a LoRA (see lora.report); one named by URL is downloaded first, within `seconds`.

        Raises what Library.fetch and Library.locate raise.
        """
        if self.needs_download(source):
            self._quota.check()
        deadline = time.monotonic() + seconds

        def check_deadline(received: int, total: int) -> None:
            if time.monotonic() > deadline:
                raise FetchFailed(
                    f"{shown_name(source)} could not be downloaded within {seconds:g} s. Name it in a request, which "
                    "waits for the download."
                )

        token = None if access.identity.owner or self._limits.guests_use_hub_token else NO_TOKEN
        notes = self.library.fetch(source, check_deadline, token) if is_remote(source) else ()
        report = self.library.inspect(source, access, self._configs)
        return {**report, "messages": [*notes, *report["messages"]]}

    def inspect_file(self, file: Path, name: str) -> dict[str, Any]:
        """The report on a file outside the library; `name` is the name its sender gave it. Raises LoraInvalid."""
        return inspect(file, name, self._configs)

    def inspect_lora(self, source: str, access: Access) -> dict[str, Any]:
        """The report on a file that needs no download, by itself, with its `name` and its partner's source.

        Raises what Library.locate raises.
        """
        file = self.library.locate(source, access)
        return {
            **describe(file.header, None, None, self._configs),
            "name": file.name,
            "partner": self.library.partner(source, access),
        }

    def check_lora(self, source: str, model: WanModel, slot: str, access: Access) -> tuple[str, ...]:
        """Notes on a LoRA in a slot of a model. Raises LoraMismatch if it does not fit."""
        header = self.library.locate(source, access).header
        return check_fit(header, model, slot, self._configs(model, model.slots[slot]))

    def check_pair(self, first: str, second: str, access: Access) -> tuple[bool, tuple[str, ...]]:
        """Whether two sources are the same file, and the reasons why they are not the halves of one checkpoint."""
        file, other = self.library.locate(first, access), self.library.locate(second, access)
        return file.sha256 == other.sha256, pair_messages(file.header, other.header)

    def restore(self, file: Path, access: Access, from_video: bool = False) -> Restoration:
        """The settings that a video carries, compared with what is on this machine now.

        `from_video`: if its first or last frame is not found, the video's own one is stored and used instead, except
        for a comparison's grid. Raises VideoInvalid and, for those frames, what ImageStore.put_bytes raises, and
        DiskFull.
        """
        restoration = restoring.restoration(restoring.read(file), self.library, self.images, self._environment, access)
        if from_video and restoration.wants_last_frame:
            restoration = restoration.ending_with(self.images.put_bytes(video.last_frame(file), access))
        if not (from_video and restoration.wants_first_frame):
            return restoration
        self._quota.check()
        return restoration.starting_from(self.images.put_bytes(video.first_frame(file), access))

    # Uploaded files

    def record_owner(self, file_id: str, access: Access) -> None:
        """Record that the caller uploaded an image, by SHA-256, or one of the files that Gradio keeps for the page."""
        self._owned.record_owner(file_id, access)

    def record_owners(self, file_ids: Sequence[str], access: Access) -> None:
        """As `record_owner` for many files, with one transaction for all."""
        self._owned.record_owners(file_ids, access)

    def publish_files(self, file_ids: frozenset[str]) -> None:
        """Set which of Gradio's files are part of the page and so readable by everybody, even if also uploaded."""
        self._published = file_ids

    def may_open(self, file_id: str, access: Access) -> bool:
        """Whether the caller may read one of Gradio's files: one they uploaded, or one that no browser uploaded."""
        if access.identity.owner or file_id in self._published:
            return True
        return self._store.is_available_to(access.identity.visitor, "image", file_id)

    def may_take(self, file_id: str, access: Access) -> bool:
        """Whether the caller may have one of Gradio's files moved: not one that is part of the page."""
        return file_id not in self._published and self.may_open(file_id, access)

    # The gallery

    def entries(
        self, wanted: gallery.Filter, access: Access, cursor: str | None = None, limit: int = gallery.PAGE
    ) -> gallery.Page:
        """A page of the gallery entries that are listed for the caller. Raises InvalidRequest for an unknown cursor."""
        scope = gallery.scope_of(access)
        return gallery.NO_PAGE if scope is None else self.gallery.page(scope, wanted, cursor, limit)

    def entry_choices(self, access: Access) -> gallery.Choices:
        """The values that these entries can be filtered by."""
        scope = gallery.scope_of(access)
        return gallery.NO_CHOICES if scope is None else self.gallery.choices(scope)

    def entry(self, entry_id: str, access: Access) -> gallery.Entry:
        """One gallery entry. Raises VideoNotFound."""
        entry = self.gallery.entry(entry_id)
        if not access.may_read(entry.visitor):
            raise VideoNotFound("There is no such entry in the gallery, or it was deleted.")
        return entry

    def may_change_entry(self, entry: gallery.Entry, access: Access) -> bool:
        """Whether the caller may keep or delete an entry."""
        return access.may_change(entry.visitor)

    def keep_entry(self, entry_id: str, kept: bool, access: Access) -> gallery.Entry:
        """Mark an entry as one that is never deleted automatically, or remove the mark. Raises VideoNotFound."""
        self._check_may_change_entry(entry_id, access)
        return self.gallery.keep(entry_id, kept)

    def delete_entry(self, entry_id: str, access: Access) -> None:
        """Delete an entry with its files, or a request without clips. Raises what Gallery.delete raises."""
        if self.gallery.is_request_without_clips(entry_id):
            if not access.may_change(self._store.job(entry_id).visitor):
                raise VideoNotFound("There is no such entry in the gallery that is yours.")
            self.gallery.delete_request(entry_id)
            return
        self._check_may_change_entry(entry_id, access)
        self.gallery.delete(entry_id)

    def _check_may_change_entry(self, entry_id: str, access: Access) -> None:
        if not self.may_change_entry(self.entry(entry_id, access), access):
            raise VideoNotFound("There is no such entry in the gallery that is yours.")


def hidden_id(job_id: str) -> str:
    """The stand-in for the id of another's job, since the id would allow reading the job; the same for the same job."""
    return f"other-{hashlib.sha256(job_id.encode()).hexdigest()[:16]}"


def hidden_job(job: Job) -> Job:
    """Another's job with nothing but its model, position and status."""
    first = replace(job.generations[0], prompt="", neg="", loras=(), image=None, seed=0, ignored=())
    return replace(
        job,
        id=hidden_id(job.id),
        request={},
        generations=(first,),
        notes=(),
        clips=(),
        error=None,
        cells=(),
        failures={},
        visitor=None,
        hidden=True,
    )
