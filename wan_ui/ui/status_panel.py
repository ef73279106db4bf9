"""The right column: status card, result, queue, finished jobs, and the line about the public link."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import gradio as gr

from wan_ui.errors import RequestNotFound, WanUIError
from wan_ui.media.clip_frames import MOST_PARTS
from wan_ui.ui import job_lists, render
from wan_ui.ui.events import (
    POLL,
    QUIET,
    Update,
    answered,
    error_toast,
    fingerprint,
    looked_again,
    run_after,
    tell_answered,
    unseen,
)
from wan_ui.ui.static_files import component_script
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import language, text_of

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.job import Job
    from wan_ui.jobs.service import JobService

RECENT = 40  # jobs read for the list of finished ones
QUEUE_SHOWN = 60  # waiting jobs shown; each more is sent to every page at every poll


class Link(Protocol):
    """The public link: what the page needs of tunnel.Tunnel."""

    @property
    def url(self) -> str | None:
        """Its address; None while there is no link."""

    def stop(self) -> None:
        """Closes it."""


@dataclass(frozen=True)
class Sharing:
    """A public link and the name and password to sign in with."""

    link: Link
    user: str
    password: str


class StatusPanel:
    """Holds the column's components; every method named `on_…` is an event's handler."""

    def __init__(self, service: JobService, access: Callable[[], Access], sharing: Sharing | None) -> None:
        """Lays out the line about the public link and the hidden state, in the surrounding column."""
        self.service = service
        self.access = access
        self.sharing = sharing
        self.link = gr.HTML("", elem_id="link", js_on_load=component_script("pick_card_action"))
        self.picked = gr.State(None)
        # Fingerprints of what the page shows. In the browser and not in gr.State: answers may overtake each other, and
        # only the browser knows which one was applied last.
        self.seen = gr.JSON({}, visible=False)

    def lay_out_now(self) -> None:
        """The status card and the result, in the surrounding column."""
        with gr.Column(elem_id="now"):
            self.now = gr.HTML(render.now(None, None, None))
            self.cancel = gr.Button(text_of("render.cancel"), interactive=False, size="sm", elem_id="cancel")
            gr.HTML(render_template("stage"))
        with gr.Column(elem_id="result"):
            self.result = gr.HTML(render.result(None), js_on_load=component_script("result_acts"))
            self.reuse = gr.Button(text_of("result.use_settings"), interactive=False, size="sm", elem_id="reuse")

    def lay_out_lists(self) -> None:
        """The queue and the finished jobs, in the surrounding column."""
        with gr.Column(elem_classes="list"):
            gr.HTML(render.heading(text_of("queue.title")))
            self.queue = gr.HTML(job_lists.queue((), (), None), list="queue", js_on_load=component_script("pick_job"))
        with gr.Column(elem_classes="list"):
            gr.HTML(render.heading(text_of("finished.title")))
            self.finished = gr.HTML(
                job_lists.finished((), None), list="finished", js_on_load=component_script("pick_job")
            )

    @property
    def view(self) -> list[Any]:
        """The outputs of `look`."""
        shown = [self.now, self.cancel, self.result, self.reuse, self.queue, self.finished, self.seen]
        return [*shown, self.link]

    @property
    def looking(self) -> list[Any]:
        """The inputs of `look`."""
        return [self.picked, self.seen]

    def connect(self, blocks: gr.Blocks) -> None:
        """Wires its buttons, its polls and its first update."""
        for pressed, handler in ((self.cancel, self.on_cancel), (self.link, self.on_stop_sharing)):
            run_after(pressed.click(handler, self.looking, self.view, **QUIET), answered())
        tell_answered(self.queue.click(self.on_queue_press, self.looking, self.view, **QUIET), "wan-ui-picked", "queue")
        run_after(blocks.load(self.look, self.looking, self.view, **POLL), looked_again())

    def follow(self, seen: Mapping[str, Any]) -> Update:
        """The right column after a job was added: the status card shows it."""
        return {self.picked: None, **self.look(None, seen)}

    def on_cancel(self, picked: str | None, seen: Mapping[str, Any]) -> Update:
        """Cancels the job that the status card shows."""
        if seen.get("cancel") and seen.get("lead"):
            self.service.cancel(str(seen["lead"]), self.access())
        return self.look(picked, seen)

    def on_stop_sharing(self, picked: str | None, seen: Mapping[str, Any]) -> Update:
        """Closes the public link, for the owner only; the password stays required."""
        if self.sharing is not None and self.access().identity.owner:
            self.sharing.link.stop()
        return self.look(picked, seen)

    def on_queue_press(self, picked: str | None, seen: Mapping[str, Any], event: gr.EventData) -> Update:
        """Cancels the job of the queue whose button was pressed, or moves it to the queue's head."""
        try:
            if event.do == "next":
                self.service.move(str(event.job), 1, self.access())
            else:
                self.service.cancel(str(event.job), self.access())
        except WanUIError as error:
            raise error_toast(error) from error
        return self.look(picked, seen)

    def look(self, picked: str | None, seen: Mapping[str, Any] | None) -> Update:
        """What the right column shows now; parts that did not change are left out."""
        wanted = partial(self._wanted, picked)
        try:
            parts = self.service.views.of_jobs(self.access(), ("look", language(), fingerprint(picked)), wanted)
        except WanUIError as error:
            return self._changed({"now": render.trouble(error)}, seen)
        return self._changed({**parts, "link": self._link()}, seen)

    def _wanted(self, picked: str | None, access: Access) -> dict[str, Any]:
        """The parts that all callers with this access see alike, by their names in `seen`."""
        line, recent = self.service.queue(access, QUEUE_SHOWN), self.service.recent(RECENT, access)
        own = {job.id for job in (*line, *recent) if access.is_from(job.visitor)}
        lead = _lead(line, recent, own)
        shown = self._shown(picked, recent, own, access)
        running = line[0] if line and line[0].status == "in_progress" else None
        ahead = None
        if running is not None and (lead is None or running.id != lead.id):
            ahead = render.RunningJob(running, self.service.progress(running.id))
        progress = self.service.progress(lead.id) if lead is not None else None
        ended = [job for job in recent if job.status not in render.LIVE]
        # The card's button cancels only this browser's jobs; another visitor's job on the card is in the queue too.
        others = [job for job in line if lead is None or job.id != lead.id or lead.id not in own]
        waiting = ((job.id, self.service.progress(job.id)) for job in others if job.status == "in_queue")
        fetching = {job_id: progress for job_id, progress in waiting if progress is not None}
        stoppable = lead is not None and lead.id in own and lead.status in render.LIVE and not lead.cancel_requested
        removable = {job.id for job in (*others, *ended) if self.service.may_change(job, access)}
        return {
            "now": render.now(lead, progress, ahead, None if lead is None else self.service.outlook(lead.id)),
            "cancel": stoppable,
            "result": render.result(shown, self._parts_before(shown, recent)),
            "reuse": shown is not None,
            "queue": job_lists.queue(others, own, ahead, fetching, removable),
            "finished": job_lists.finished(ended, shown.id if shown else None, removable),
            "lead": lead.id if lead else None,
            "shown": shown.id if shown else None,
        }

    def _parts_before(self, shown: Job | None, recent: Sequence[Job]) -> dict[int, tuple[str, ...]]:
        """By a shown clip's index, the recent clips that it continues, the first part first, as in the gallery."""
        if shown is None or shown.cells or not any(generation.image for generation in shown.generations):
            return {}
        ending = {
            sha256: (job, clip.index)
            for job in reversed(recent)
            for clip in job.clips
            if job.id != shown.id and (sha256 := self.service.last_frame_hash(job.id, clip.index)) is not None
        }
        found = {}
        for clip in shown.clips:
            image = shown.generations[clip.index].image
            parts: list[str] = []
            while (part := ending.get(image or "")) is not None and len(parts) < MOST_PARTS - 1:
                parts.append(f"{part[0].id}-{part[1]}")
                image = part[0].generations[part[1]].image
            if parts:
                found[clip.index] = tuple(reversed(parts))
        return found

    def _link(self) -> str:
        """The line about the public link: everybody reads that it is on, the owner also its address and password."""
        url = None if self.sharing is None else self.sharing.link.url
        if self.sharing is None or url is None:
            return ""
        if not self.access().identity.owner:
            return render.paragraph("banner", text_of("link.open_to_everybody"), role="note")
        return render_template("link", url=url, user=self.sharing.user, password=self.sharing.password)

    def _changed(self, wanted: Mapping[str, Any], seen: Any) -> Update:
        """Updates for the parts that differ from what the page shows, so that a playing video is not replaced.

        The buttons are in each of them: where an answer overtakes another, `seen` is older than what the page shows.
        """
        changed, known = unseen(wanted, seen)
        if not changed:
            return {self.seen: gr.skip()}
        updates: Update = {self.seen: known}
        html = {"now": self.now, "result": self.result, "queue": self.queue, "finished": self.finished}
        html["link"] = self.link
        updates |= {html[name]: value for name, value in changed.items() if name in html}
        buttons = {"cancel": self.cancel, "reuse": self.reuse}
        updates |= {button: gr.Button(interactive=wanted[name]) for name, button in buttons.items() if name in wanted}
        return updates

    def _shown(self, picked: str | None, recent: Sequence[Job], own: Collection[str], access: Access) -> Job | None:
        """The job of the result: the picked one, else the visitor's newest with clips, else the newest of all."""
        if picked:
            try:
                return self.service.job(picked, access)
            except RequestNotFound:
                pass  # the page was open while the server changed its data folder
        with_clips = [job for job in recent if job.clips]
        return next((job for job in with_clips if job.id in own), with_clips[0] if with_clips else None)


def _lead(line: Sequence[Job], recent: Sequence[Job], own: Collection[str]) -> Job | None:
    """The status card's job: the visitor's first unfinished one, else their last if it failed, else what runs."""
    unfinished = next((job for job in line if job.id in own), None)
    if unfinished is not None:
        return unfinished
    ended = next((job for job in recent if job.id in own), None)
    running = line[0] if line else None
    if ended is not None and (running is None or ended.status == "failed"):
        return ended
    return running
