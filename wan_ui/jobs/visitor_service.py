"""The desk as whoever asks may use it: own jobs and files, all of them for the owner; it knows no cookie and no door.

| | the owner | the browser it came from | another browser | over HTTP without a browser |
|---|---|---|---|---|
| a browser's job: read | yes | yes | with a shared gallery | no |
| a browser's job: cancel, retry; keep, delete | yes | yes | no | no |
| a job sent over HTTP without a browser | yes | by its id | by its id | by its id |
| a browser's LoRA upload, first frame or preview: use | yes | yes | no | no |
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wan_ui.errors import RequestNotFound, VideoNotFound
from wan_ui.identity import Identity
from wan_ui.jobs import gallery
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Job

if TYPE_CHECKING:
    from wan_ui.engine.result import Progress
    from wan_ui.intake import Prepared
    from wan_ui.jobs.sample_comparisons import SampleComparisons
    from wan_ui.jobs.worker import Running
    from wan_ui.lora.library import Library
    from wan_ui.media.image import ImageStore
    from wan_ui.models import WanModel
    from wan_ui.provenance.restoring import Restoration
    from wan_ui.trainer.imported_jobs import ImportedJobs


class VisitorJobService:
    """A desk for many: `who` says at each call who asks. `shared`: browsers may read each other's jobs.

    Methods do and raise what those of `Desk` do; of what is not theirs to see they say, as of what does not exist,
    that it is not there.
    """

    def __init__(self, service: JobService, who: Callable[[], Identity], shared: bool = False) -> None:
        self._service = service
        self._who = who
        self._shared = shared

    @property
    def who(self) -> Identity:
        """Who asks."""
        return self._who()

    @property
    def library(self) -> Library:
        return self._here().library

    @property
    def images(self) -> ImageStore:
        return self._here().images

    @property
    def trainer(self) -> ImportedJobs:
        """Imported training jobs, each read by its random id; the files in those that the one who asks brings are
        theirs."""
        service, holds = self._service, partial(self._holds, "lora")
        library = service.library.seen_by(may=_anyone, holds=holds, took=partial(self._took, "lora"))
        images = service.images.seen_by(may=_anyone, took=partial(self._took, "image"))
        may, took = partial(self._may_use, "image"), partial(self._took, "image")
        return service.trainer.seen_by(library, images, may=may, took=took)

    @property
    def previews(self) -> SampleComparisons:
        """To be asked about jobs that `job` gave."""
        return self._service.previews.seen_by(self.trainer)

    def submit(self, body: Any) -> Job:
        return self._here().submit(body, self._who())

    def plan(self, body: Any) -> Prepared:
        return self._here().plan(body)

    def job(self, job_id: str) -> Job:
        job = self._service.job(job_id)
        if not self._may_read(job):
            raise RequestNotFound("There is no request with this id.")
        return job

    def cancel(self, job_id: str) -> Job:
        self._own(job_id)
        return self._service.cancel(job_id)

    def retry(self, job_id: str) -> Job:
        self._own(job_id)
        return self._service.retry(job_id, self._who())

    def clip_path(self, job_id: str, index: int) -> Path:
        self.job(job_id)
        return self._service.clip_path(job_id, index)

    def running(self, job_id: str) -> Running | None:
        """What is being rendered of a job, by its id; None for one that may not be read, as for one that waits."""
        running = self._service.running(job_id)
        return running if running is not None and self._may_read(self._service.job(job_id)) else None

    def progress(self, job_id: str) -> Progress | None:
        """How far a job of `line` is; of another's without the note, which names files and cells."""
        running = self._service.at_work()
        if running is not None and hidden_id(running.job_id) == job_id:
            return replace(running.progress, note="")
        return self._service.progress(job_id)

    def line(self, limit: int | None = None) -> tuple[Job, ...]:
        """The running job and those waiting, in their order; others' with nothing but model, place and state."""
        return tuple(job if self._lists(job) else _hidden(job) for job in self._service.line(limit))

    def recent(self, limit: int) -> tuple[Job, ...]:
        """The newest jobs, newest first, that are for the one who asks to see."""
        who = self._who()
        if who.owner:
            return self._service.recent(limit)
        if self._shared:
            return tuple(job for job in self._service.recent(limit) if self._lists(job))
        return () if who.visitor is None else self._service.recent(limit, who.visitor)

    # The gallery

    def entries(self, wanted: gallery.Filter, cursor: str | None = None, limit: int = gallery.PAGE) -> gallery.Page:
        """A page of the entries that are listed for the one who asks. Raises InvalidRequest for a foreign cursor."""
        scope = self._scope()
        return gallery.NO_PAGE if scope is None else self._service.gallery.page(scope, wanted, cursor, limit)

    def entry_choices(self) -> gallery.Choices:
        """What these can be filtered by."""
        scope = self._scope()
        return gallery.NO_CHOICES if scope is None else self._service.gallery.choices(scope)

    def entry(self, entry_id: str) -> gallery.Entry:
        """One that the one who asks may see. Raises VideoNotFound."""
        found = self._service.entry(entry_id)
        if found.visitor is not None and not self._lists_of(found.visitor):
            raise VideoNotFound("There is no such entry in the gallery, or not any more.")
        return found

    def may_change_entry(self, entry: gallery.Entry) -> bool:
        """Whether it is for the one who asks to keep or delete."""
        who = self._who()
        return who.owner or entry.visitor is None or entry.visitor == who.visitor

    def keep_entry(self, entry_id: str, kept: bool) -> gallery.Entry:
        self._own_entry(entry_id)
        return self._service.keep_entry(entry_id, kept)

    def delete_entry(self, entry_id: str) -> None:
        self._own_entry(entry_id)
        self._service.delete_entry(entry_id)

    def poster(self, entry: gallery.Entry) -> Path | None:
        """To be asked about entries that `entry` gave."""
        return self._service.poster(entry)

    def make_poster(self, entry: gallery.Entry) -> Path:
        """To be asked about entries that `entry` gave."""
        return self._service.make_poster(entry)

    def _own_entry(self, entry_id: str) -> None:
        if not self.may_change_entry(self.entry(entry_id)):
            raise VideoNotFound("There is no such entry in the gallery that is yours.")

    def _scope(self) -> gallery.Scope | None:
        """Whose entries are listed for the one who asks; None: nobody's."""
        who = self._who()
        if who.owner:
            return gallery.EVERYBODY
        if self._shared:
            return gallery.BROWSERS
        return None if who.visitor is None else gallery.own(who.visitor)

    def is_mine(self, job: Job) -> bool:
        """Whether the job came from the browser that asks."""
        visitor = self._who().visitor
        return visitor is not None and job.visitor == visitor

    def may_change(self, job: Job) -> bool:
        """Whether a job of `line` is for the one who asks to cancel."""
        return not job.hidden and (job.visitor is None or self.is_mine(job) or self._who().owner)

    def pulse(self) -> str:
        return self._service.pulse()

    def waiting(self) -> int:
        return self._service.waiting()

    def keep_image(self, sha256: str) -> None:
        """Notes that the one who asks brought this image: its bytes came in another way than through `images`."""
        self._took("image", sha256)

    def keep_file(self, file_id: str) -> None:
        """Notes that the one who asks sent one of the files that Gradio keeps for the page."""
        self._took("image", file_id)

    def may_open(self, file_id: str) -> bool:
        """Whether one of Gradio's files is for the one who asks: their own, or one that no browser sent."""
        who = self._who()
        return who.owner or self._service.is_for(who.visitor, file_id)

    def inspect(self, source: str) -> dict[str, Any]:
        return self._here().inspect(source)

    def inspect_file(self, file: Path, name: str) -> dict[str, Any]:
        return self._service.inspect_file(file, name)

    def restore(self, file: Path, from_video: bool = False) -> Restoration:
        return self._here().restore(file, from_video)

    def lora_at_hand(self, source: str) -> bool:
        return self._here().lora_at_hand(source)

    def inspect_lora(self, source: str) -> dict[str, Any]:
        return self._here().inspect_lora(source)

    def check_lora(self, source: str, row: WanModel, slot: str) -> tuple[str, ...]:
        return self._here().check_lora(source, row, slot)

    def pair_of_loras(self, one: str, other: str) -> tuple[bool, tuple[str, ...]]:
        return self._here().pair_of_loras(one, other)

    def _here(self) -> JobService:
        """The desk over the files that the one who asks may use."""
        library = self._service.library.seen_by(
            may=partial(self._may_use, "lora"),
            # An own pair has both halves from one browser; whoever has no browser has no uploads of its own.
            holds=partial(self._holds, "lora"),
            took=partial(self._took, "lora"),
        )
        images = self._service.images.seen_by(may=partial(self._may_use, "image"), took=partial(self._took, "image"))
        return self._service.over(library, images, self.trainer)

    def _may_use(self, kind: Literal["lora", "image"], file_id: str) -> bool:
        return self._who().owner or self._holds(kind, file_id)

    def _holds(self, kind: Literal["lora", "image"], file_id: str) -> bool:
        who = self._who()
        if who.visitor is None:
            return who.owner
        return self._service.holds(who.visitor, kind, file_id)

    def _took(self, kind: Literal["lora", "image"], file_id: str) -> None:
        visitor = self._who().visitor
        if visitor is not None:
            self._service.hold(visitor, kind, file_id)

    def _may_read(self, job: Job) -> bool:
        return job.visitor is None or self._lists(job)

    def _lists(self, job: Job) -> bool:
        """Whether a job is shown to the one who asks without their knowing its id."""
        return self._lists_of(job.visitor)

    def _lists_of(self, visitor: str | None) -> bool:
        who = self._who()
        return who.owner or (visitor is not None and (visitor == who.visitor or self._shared))

    def _own(self, job_id: str) -> None:
        if not self.may_change(self.job(job_id)):
            raise RequestNotFound("There is no request with this id that is yours.")


def _anyone(_file_id: str) -> bool:
    return True


def hidden_id(job_id: str) -> str:
    """What another's job is called where its id would let one read it: the same for the same job."""
    return f"other-{hashlib.sha256(job_id.encode()).hexdigest()[:16]}"


def _hidden(job: Job) -> Job:
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
