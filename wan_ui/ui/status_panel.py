"""The right column: what runs, the result, queue and finished jobs, and the public link's line; it fills no form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import gradio as gr

from wan_ui.errors import RequestNotFound, WanUIError
from wan_ui.ui import render
from wan_ui.ui.events import POLL, QUIET, Update

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.job import Job
    from wan_ui.jobs.service import JobService

RECENT = 40  # jobs looked at; the list of finished ones is at most as long
QUEUE_SHOWN = 60  # jobs of the line; a longer one would cost every page's every poll
_PICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-job]');
  if (button) trigger('click', {job: button.dataset.job});
});
"""
_PULSE = (Path(__file__).parent / "pulse.js").read_text(encoding="utf-8")


class Link(Protocol):
    """The public link, see tunnel.Tunnel."""

    @property
    def url(self) -> str | None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True)
class Sharing:
    """A link and what to sign in with."""

    link: Link
    user: str
    password: str


class StatusPanel:
    """Holds the column's components; every method named `on_…` is an event's handler."""

    def __init__(self, service: JobService, access: Callable[[], Access], sharing: Sharing | None) -> None:
        """Lays out the public link's line, and what the page shows as it shows it."""
        self.service = service
        self.access = access
        self.sharing = sharing
        with gr.Row(elem_id="link-line", visible=False) as self.link_line:
            self.link = gr.HTML("", elem_id="link")
            self.stop_sharing = gr.Button("Stop sharing", size="sm", scale=0, visible=False, elem_id="stop-sharing")
        self.picked = gr.State(None)
        # In the browser, not in gr.State: answers may overtake each other, and only there is it what the page shows.
        self.seen = gr.JSON({}, visible=False)

    def lay_out_now(self) -> None:
        """What runs, and the result, in the surrounding column."""
        with gr.Column(elem_id="now"):
            self.now = gr.HTML(render.now(None, None, None))
            self.cancel = gr.Button("Cancel", interactive=False, size="sm", elem_id="cancel")
        with gr.Column(elem_id="result"):
            self.result = gr.HTML(render.result(None))
            self.reuse = gr.Button("Use these settings", interactive=False, size="sm", elem_id="reuse")

    def lay_out_lists(self) -> None:
        """The queue and what is finished, in the surrounding column."""
        with gr.Column(elem_classes="list"):
            gr.HTML("<h2>Queue</h2>")
            self.queue = gr.HTML(render.queue((), (), None), js_on_load=_PICK)
        with gr.Column(elem_classes="list"):
            gr.HTML("<h2>Finished</h2>")
            self.finished = gr.HTML(render.finished((), None), js_on_load=_PICK)

    def lay_out_pulse(self) -> None:
        """What asks every second whether anything changed."""
        self.pulse = gr.HTML("", js_on_load=_PULSE, elem_id="pulse")

    @property
    def view(self) -> list[Any]:
        """All that a look changes."""
        shown = [self.now, self.cancel, self.result, self.reuse, self.queue, self.finished, self.seen]
        return [*shown, self.link_line, self.link, self.stop_sharing]

    @property
    def looking(self) -> list[Any]:
        """What a look has to know."""
        return [self.picked, self.seen]

    def connect(self, blocks: gr.Blocks) -> None:
        """Wires its buttons, its polls and its first look."""
        for button, handler in ((self.cancel, self.on_cancel), (self.stop_sharing, self.on_stop_sharing)):
            button.click(handler, self.looking, self.view, **QUIET)
        self.queue.click(self.on_remove, self.looking, self.view, **QUIET)
        self.pulse.click(self.look, self.looking, self.view, **POLL)
        blocks.load(self.look, self.looking, self.view, **POLL)

    def follow(self, seen: Mapping[str, Any]) -> Update:
        """The right column after a job was added: the card turns to it."""
        return {self.picked: None, **self.look(None, seen)}

    def on_cancel(self, picked: str | None, seen: Mapping[str, Any]) -> Update:
        """Cancels the job that the card shows, which is the one the person saw."""
        if seen.get("cancel") and seen.get("lead"):
            self.service.cancel(str(seen["lead"]), self.access())
        return self.look(picked, seen)

    def on_stop_sharing(self, picked: str | None, seen: Mapping[str, Any]) -> Update:
        """Closes the public link, for the owner alone; the password is asked for as before."""
        if self.sharing is not None and self.access().identity.owner:
            self.sharing.link.stop()
        return self.look(picked, seen)

    def on_remove(self, picked: str | None, seen: Mapping[str, Any], event: gr.EventData) -> Update:
        try:
            self.service.cancel(str(event.job), self.access())
        except WanUIError as error:
            raise gr.Error(error.message, print_exception=False) from error
        return self.look(picked, seen)

    def look(self, picked: str | None, seen: Mapping[str, Any] | None) -> Update:
        """What the right column shows now; parts that are as they were are left out."""
        seen = seen if isinstance(seen, Mapping) else {}
        try:
            line, recent = self.service.queue(self.access(), QUEUE_SHOWN), self.service.recent(RECENT, self.access())
            own = {job.id for job in (*line, *recent) if self.access().is_from(job.visitor)}
            lead = _lead(line, recent, own)
            shown = self._shown(picked, recent, own)
            running = line[0] if line and line[0].status == "in_progress" else None
            ahead = None
            if running is not None and (lead is None or running.id != lead.id):
                ahead = (running, self.service.progress(running.id))
            progress = self.service.progress(lead.id) if lead is not None else None
        except WanUIError as error:
            return self._changed({"now": render.trouble(error)}, seen)
        ended = [job for job in recent if job.status not in render.LIVE]
        # The card's button ends only what this browser began; another's job that it shows stands in the queue too.
        others = [job for job in line if lead is None or job.id != lead.id or lead.id not in own]
        waiting = ((job.id, self.service.progress(job.id)) for job in others if job.status == "in_queue")
        fetching = {job_id: progress for job_id, progress in waiting if progress is not None}
        stoppable = lead is not None and lead.id in own and lead.status in render.LIVE and not lead.cancel_requested
        removable = {job.id for job in others if self.service.may_change(job, self.access())}
        return self._changed(
            {
                "now": render.now(lead, progress, ahead),
                "cancel": stoppable,
                "result": render.result(shown),
                "reuse": shown is not None,
                "queue": render.queue(others, own, ahead, fetching, removable),
                "finished": render.finished(ended, shown.id if shown else None),
                "link": self._link(),
                "stop": self._link() != "" and self.access().identity.owner,
                "lead": lead.id if lead else None,
                "shown": shown.id if shown else None,
            },
            seen,
        )

    def _link(self) -> str:
        """What the page says of the public link: to all that it is on, to the owner how to come in."""
        url = None if self.sharing is None else self.sharing.link.url
        if self.sharing is None or url is None:
            return ""
        if not self.access().identity.owner:
            return '<p class="banner" role="note">This page is open to everybody who has its link and password.</p>'
        said = {
            "Link": f'<a href="{escape(url, quote=True)}" rel="noreferrer">{escape(url)}</a>',
            "Name": f"<code>{escape(self.sharing.user)}</code>",
            "Password": f"<code>{escape(self.sharing.password)}</code>",
        }
        facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in said.items())
        return (
            '<div class="banner" role="note"><p><strong>The public link is on.</strong> Whoever has it and the '
            f"password can use this page.</p><dl>{facts}</dl></div>"
        )

    def _changed(self, wanted: Mapping[str, Any], seen: Mapping[str, Any]) -> Update:
        """Updates for the parts that differ from what the page has; a video is never replaced by itself."""
        marks = {name: _mark(value) for name, value in wanted.items()}
        changed = {name: value for name, value in wanted.items() if seen.get(name, "") != marks[name]}
        if not changed:
            return {self.seen: gr.skip()}
        made: Update = {self.seen: {**seen, **marks}}
        html = {"now": self.now, "result": self.result, "queue": self.queue, "finished": self.finished}
        html["link"] = self.link
        if "link" in changed:
            made[self.link_line] = gr.Row(visible=bool(changed["link"]))
        if "stop" in changed:
            made[self.stop_sharing] = gr.Button(visible=changed["stop"])
        buttons = {"cancel": self.cancel, "reuse": self.reuse}
        for name, value in changed.items():
            if name in html:
                made[html[name]] = value
            elif name in buttons:
                made[buttons[name]] = gr.Button(interactive=value)
        return made

    def _shown(self, picked: str | None, recent: Sequence[Job], own: Collection[str]) -> Job | None:
        """The job whose clips are shown: the picked one, else the newest own one with clips, else the newest."""
        if picked:
            try:
                return self.service.job(picked, self.access())
            except RequestNotFound:
                pass  # a list that was left open over a change of data folder
        with_clips = [job for job in recent if job.clips]
        return next((job for job in with_clips if job.id in own), with_clips[0] if with_clips else None)


def _mark(value: Any) -> Any:
    """What stands for a part of the page in `seen`: long HTML as its hash, as it travels with every poll."""
    if isinstance(value, str) and len(value) > 64:
        return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return value


def _lead(line: Sequence[Job], recent: Sequence[Job], own: Collection[str]) -> Job | None:
    """The job the card is about: one's own that is next to end, else one's own failure, else whatever runs."""
    live = next((job for job in line if job.id in own), None)
    if live is not None:
        return live
    ended = next((job for job in recent if job.id in own), None)
    running = line[0] if line else None
    if ended is not None and (running is None or ended.status == "failed"):
        return ended
    return running
