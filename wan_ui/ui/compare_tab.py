"""The Compare tab: the values along a grid's columns, rows and pages, starting a comparison, and its player."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.axes import SCALES, by_training_step
from wan_ui.errors import InvalidRequest, RequestNotFound, VideoNotFound, WanUIError
from wan_ui.models import MODELS, WanModel
from wan_ui.request import AXES
from wan_ui.ui import comparison, events, form_schema, player, render
from wan_ui.ui.comparison import TypedAxes
from wan_ui.ui.events import (
    AFTER_OPENING,
    EDIT,
    POLL,
    QUIET,
    Update,
    answered,
    filled,
    run_after,
    submitting,
    tell_answered,
    unseen,
)
from wan_ui.ui.form import Form, FormState
from wan_ui.ui.static_files import component_options
from wan_ui.ui.status_panel import StatusPanel
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import text_of

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.job import ClipRecord, Job
    from wan_ui.jobs.service import JobService
    from wan_ui.request import Compare

ID = "compare"
NOTHING_RUNS = {"progress": None, "status": "", "cancel": False, "retry": ""}
# Of the tab's selection, before the server is asked: notes the time of a press; what the page itself selects has none.
_PRESSED = f"""(opened, tab) => tab === '{ID}' ? [opened, tab] : [{{ ...opened, press: performance.now() }}, '{ID}']"""


@dataclass(frozen=True)
class Base:
    """The request that the tab's form is over, None where it is none yet, and the press of the tab that it is of.

    `press` is None where the page itself filled the form.
    """

    body: dict[str, Any] | None
    press: float | None = None


def _body_of(base: Any) -> dict[str, Any] | None:
    return base.body if isinstance(base, Base) else None


def _press_of(opened: Any) -> float | None:
    """The press that brought the tab to the front; None where the page itself did."""
    return opened.get("press") if isinstance(opened, Mapping) else None


class CompareTab:
    """Holds the tab's components; every method named `on_…` is an event's handler."""

    def __init__(
        self,
        service: JobService,
        access: Callable[[], Access],
        form: Form,
        status_panel: StatusPanel,
        tabs: gr.Tabs,
        stored: tuple[gr.BrowserState, gr.BrowserState],
    ) -> None:
        """Lays the tab out inside the surrounding `tabs`. `stored` are the shown comparison's id and the draft."""
        self.service = service
        self.access = access
        self.form = form
        self.status_panel = status_panel
        self.tabs = tabs
        self.shown, self.draft = stored
        with gr.Tab(text_of("tab.compare"), id=ID) as self.container:
            # In here: Gradio counts a component between two tabs as a tab, and drops one of them from the tab bar.
            self.base = gr.State(None)
            # In the browser, where answers may arrive in another order than they were made in: the parts that it shows.
            self.seen = gr.JSON({}, visible=False)
            with gr.Column(elem_classes=["form", "compare-form"]):
                self.summary = gr.HTML()
                self.axes = gr.HTML(
                    comparison.TypedAxes().value,
                    elem_id="axes",
                    choices=comparison.choices(None),
                    folders=[],
                    checkpoints={},
                    **component_options("compare_axes"),
                )
                self.count = gr.HTML(elem_classes=["problems", "count-line"])
                self.start = gr.Button(text_of("axis.start"), variant="primary", elem_classes="generate")
            with gr.Column(elem_classes="compare-board"):
                with gr.Row(elem_classes="board-head"):
                    self.status = gr.HTML(comparison.status(None), elem_classes="board-status")
                    self.cancel = gr.Button(text_of("axis.cancel"), size="sm", visible=False)
                    self.retry = gr.Button(text_of("axis.retry_failed"), size="sm", visible=False)
                self.player = player.build()

    @property
    def changed(self) -> list[Any]:
        """Everything that another request in the form changes."""
        return [self.base, self.summary, self.axes, self.count, self.draft]

    @property
    def front(self) -> list[Any]:
        """What brings a tab to the front."""
        return [self.tabs, self.form.open_tab, self.page_opened]

    @property
    def view(self) -> list[Any]:
        """The board: which comparison it shows, and all that it shows of it."""
        return [self.shown, self.player, self.status, self.cancel, self.retry, self.seen]

    def connect(self, opened: Any, page_opened: gr.JSON) -> None:
        """Wires the events. `opened` is the event after which the form holds its values and `page_opened` is set."""
        self.page_opened = page_opened
        view, looking = self.view[1:], [self.shown, self.seen]
        form = self.form
        restored = opened.then(
            self.on_open,
            [self.shown, self.draft, self.axes, form.draft],
            [self.shown, *self.front, *self.changed, *view],
            **POLL,
        )
        run_after(restored, filled(".compare-form"))
        # Again: the browser may have put the stored comparison's id in the place of what the address asks for.
        run_after(restored.then(self.on_restored, looking, [self.shown, *view], **POLL), events.opened())
        restored.failure(**events.opened())
        opened.failure(**filled(".compare-form")).then(**events.opened())
        self._connect_form()
        self._connect_board()

    def _connect_form(self) -> None:
        pressing = [self.page_opened, self.form.open_tab]
        pressed = self.container.select(None, pressing, pressing, js=_PRESSED, **POLL)
        selected = pressed.then(
            self.on_tab,
            [self.page_opened, self.base, self.axes, *self.form.inputs],
            self.changed,
            trigger_mode="always_last",
            **EDIT,
        )
        tell_answered(selected, "wan-ui-axes")
        edited = [self.base, self.axes]
        self.axes.input(self.on_edit, edited, [self.count, self.draft], trigger_mode="always_last", **EDIT)
        self.axes.click(self.on_folder, self.base, self.axes, **EDIT)

    def _connect_board(self) -> None:
        panel, view, looking = self.status_panel, self.view[1:], [self.shown, self.seen]
        followed: list[Any] = [panel.picked, *panel.view]
        started = self.start.click(
            self.on_start,
            [panel.seen, self.seen, self.base, self.axes, self.page_opened, *self.form.inputs],
            [self.count, self.shown, *view, *followed],
            **submitting(self.count),
        )
        cancelled = self.cancel.click(self.on_cancel, looking, view, **QUIET)
        for pressed in (started, cancelled, self.retry.click(self.on_retry, looking, view, **QUIET)):
            run_after(pressed, answered())
        scales = self.form.parts.scales
        scales.run.click(
            self.on_scales,
            [scales.text, panel.seen, self.seen, *self.form.inputs],
            [scales.problem, *self.front, self.shown, *self.changed, *view, *followed],
            **submitting(scales.problem),
            **AFTER_OPENING,
        )

    # The form

    def _over(self, read: Callable[[], FormState], axes: TypedAxes, fill: bool = False) -> Update:
        """The form of the tab over the Generate form's request: its summary, and the fields that it can change.

        With `fill`, the axes are put into their controls.
        """
        model = next(iter(MODELS.values()))
        try:
            state = read()
            model = state.model
            base = state.body()
        except WanUIError as error:
            problem = render.problem(error, lambda location: form_schema.label_of(model, location))
            return self._with(model, None, axes, problem, fill)
        return self._with(model, base, axes, comparison.summary(model, base), fill)

    def _with(
        self, model: WanModel, base: dict[str, Any] | None, axes: TypedAxes, summary: str, fill: bool = False
    ) -> Update:
        kept, choices = axes.of(model), comparison.choices(model)
        return {
            self.base: Base(base),
            self.summary: summary,
            self.axes: gr.HTML(kept.value, choices=choices) if fill else gr.HTML(choices=choices),
            **self._counted(base, kept),
        }

    def open(self, model: WanModel, values: form_schema.Values, compare: Compare) -> Update:
        """The form over these values, with the axes of a request. Raises InvalidRequest where they cannot be typed."""
        pairs: list[tuple[str, str]] = []
        for name in AXES:
            axis = compare.axes.get(name)
            pairs.append(
                (comparison.NOTHING, "") if axis is None else (axis.field, comparison.typed(axis.field, axis.values))
            )
        axes = TypedAxes(tuple(field for field, _ in pairs), tuple(text for _, text in pairs), compare.baseline)
        base = form_schema.body(model, values)
        return {**self._with(model, base, axes, comparison.summary(model, base), fill=True), **self._in_front()}

    def _in_front(self) -> Update:
        return {self.tabs: gr.Tabs(selected=ID), self.form.open_tab: ID, self.page_opened: {"tab": ID}}

    def _counted(self, base: Mapping[str, Any] | None, axes: TypedAxes) -> Update:
        """How many cells there will be and how long they take, or why that is not known yet; and the draft."""
        return {self.draft: axes.value, self.count: self._count(base, axes)}

    def _count(self, base: Mapping[str, Any] | None, axes: TypedAxes) -> str:
        if base is None:
            return render.hint(text_of("axis.not_ready"))
        try:
            if axes.are_empty:
                return render.hint(text_of("axis.no_values"))
            if not base["loras"] and axes.fields[0] in SCALES and not any(axes.fields[1:]):
                return render.hint(text_of("axis.no_lora"))  # as the tab opens: nothing was done wrong yet
            prepared = self.service.plan(comparison.body(base, axes), self.access())
        except WanUIError as error:
            return render.problem(error, lambda location: comparison.name_of(base, location))
        cells, distinct = len(prepared.cells), len(prepared.generations)
        rest = text_of("axis.to_generate", count=distinct) if distinct < cells else ""
        seconds = self.service.outlooks.expected(prepared.generations)
        if seconds is not None:
            rest += text_of("axis.about", seconds=comparison.about(seconds))
        return render_template("comparison_count", cells=text_of("count.videos", count=cells), rest=rest)

    def _jobs(self) -> list[tuple[str, str]]:
        """(label, folder) of the folders of the LoRA folder that hold more than one file."""
        folders: dict[str, int] = {}
        for path in self.service.library.listing():
            folder = str(PurePosixPath(path).parent)
            folders[folder] = folders.get(folder, 0) + 1
        return [
            (text_of("axis.lora_folder") if name == "." else name, name) for name, count in folders.items() if count > 1
        ]

    def on_open(self, request: gr.Request, shown: Any, draft: Any, axes: Any, form_draft: Any) -> Update:
        """A page opens: the comparison of its address or the one it showed last, and the form's draft."""
        kept = comparison.typed_axes(draft) or comparison.typed_axes(axes) or TypedAxes()
        asked = dict(request.query_params).get(ID)
        shown = asked or (shown if isinstance(shown, str) else None)
        return {
            **self._over(lambda: self.form.state_of_draft(form_draft) or self.form.first_state(), kept, fill=True),
            self.shown: shown,
            **self.look(shown, {}),
            **(self._in_front() if asked else {}),
        }

    def look_again(self, request: gr.Request, shown: Any, seen: Any) -> Update:
        """What the board shows after something has changed.

        Without a comparison, that of the address: the browser's stored value may have replaced it.
        """
        asked = None if shown else dict(request.query_params).get(ID)
        return self.look(shown, seen) if asked is None else {self.shown: asked, **self.look(asked, seen)}

    def on_restored(self, request: gr.Request, shown: Any, seen: Any) -> Update:
        """The page was opened: the comparison of its address once more, or the one it showed last."""
        shown = dict(request.query_params).get(ID) or shown
        return {self.shown: shown, **self.look(shown, seen)}

    def on_tab(self, opened: Any, base: Any, axes: Any, *raw: Any) -> Update:
        """The tab was selected: it takes the values of the Generate form."""
        press = _press_of(opened)
        is_filled = press is None or (isinstance(base, Base) and base.press == press)
        if is_filled or "tab" not in opened:
            return {self.count: gr.skip()}  # the page itself selected it, and has filled it or fills it
        typed = comparison.typed_axes(axes) or TypedAxes()
        updates = self._over(lambda: self.form.read(raw), typed)
        del updates[self.count], updates[self.draft]  # counted afterwards, with what has been typed since
        return {**updates, self.base: replace(updates[self.base], press=press)}

    def on_edit(self, base: Any, axes: Any) -> Update:
        """An axis, or the baseline, was changed."""
        return self._counted(_body_of(base), comparison.typed_axes(axes) or TypedAxes())

    def on_folder(self, base: Any, event: gr.EventData) -> Update:
        """The training jobs to choose from, or every checkpoint of one for the axis `name`.

        The page puts them into that axis alone, and asks to count: the others may have changed since the press, which
        `turn` tells from the same one before.
        """
        folder = str(event.folder)
        if not folder:
            return {self.axes: gr.HTML(folders=self._jobs())}
        body = _body_of(base)
        two = body is not None and MODELS[body["model"]].two_transformers
        paths = self._checkpoints(folder, two)
        return {self.axes: gr.HTML(checkpoints={"axis": event.name, "paths": paths, "turn": event.turn})}

    def _checkpoints(self, folder: str, two: bool) -> list[str]:
        """The files of a training job in training order; of a pair one half stands for both."""
        paths = [path for path in self.service.library.listing() if str(PurePosixPath(path).parent) == folder]
        lines: list[str] = []
        for save in by_training_step(paths):
            lines += [save] if isinstance(save, str) else list(save.values())[: 1 if two else None]
        return lines

    # The comparison

    def _latest(self, base: Any, opened: Any, raw: Sequence[Any]) -> dict[str, Any] | None:
        """The request of the tab's form, or that of the Generate form while the answer to the tab's press is awaited.

        None where it is none yet, of which the summary says why.
        """
        if isinstance(base, Base) and _press_of(opened) in (None, base.press):
            return base.body
        try:
            return self.form.read(raw).body()
        except WanUIError:
            return None

    def on_start(self, seen: Any, board: Any, base: Any, axes: Any, opened: Any, *raw: Any) -> Update:
        """Starts the comparison."""
        body = self._latest(base, opened, raw)
        try:
            if body is None:
                raise InvalidRequest(text_of("axis.not_ready"))
            typed = comparison.typed_axes(axes) or TypedAxes()
            job = self.service.submit(comparison.body(body, typed), self.access())
        except WanUIError as error:
            return {self.count: render.problem(error, lambda location: comparison.name_of(body or {}, location))}
        return {self.shown: job.id, **self.look(job.id, board), **self.status_panel.follow(seen)}

    def on_scales(self, text: Any, seen: Any, board: Any, *raw: Any) -> Update:
        """ "Compare strengths" of the form: these scales as columns, with the form's other values."""
        problem = self.form.parts.scales.problem
        state = self.form.read(raw)
        try:
            return {problem: "", **self.compare_scales(state.model, state.body(), str(text or ""), seen, board)}
        except WanUIError as error:
            return {problem: render.problem(error, lambda location: form_schema.label_of(state.model, location))}

    def compare_scales(self, model: WanModel, base: dict[str, Any], scales: str, seen: Any, board: Any) -> Update:
        """Runs a request at several LoRA scales and shows the comparison. Raises what JobService.submit raises."""
        axes = TypedAxes(texts=(scales, "", ""), baseline=False)
        job = self.service.submit(comparison.body(base, axes), self.access())
        return {
            **self._in_front(),
            self.shown: job.id,
            **self._with(model, base, axes, comparison.summary(model, base), fill=True),
            **self.look(job.id, board),
            **self.status_panel.follow(seen),
        }

    def show(self, job_id: str, board: Any) -> Update:
        """Opens the tab with a comparison on its board and leaves its form as it is."""
        return {**self._in_front(), self.shown: job_id, **self.look(job_id, board)}

    def _video(self, entry_id: str) -> tuple[Job, ClipRecord]:
        """The job and the clip of an entry of the gallery. Raises VideoNotFound."""
        entry = self.service.entry(entry_id, self.access())
        job = self.service.job(entry.job_id, self.access())
        return job, next(clip for clip in job.clips if clip.index == entry.shown)

    def on_cancel(self, shown: Any, seen: Any) -> Update:
        """Cancels the comparison on the board."""
        if shown:
            self.service.cancel(shown, self.access())
        return self.look(shown, seen)

    def on_retry(self, shown: Any, seen: Any) -> Update:
        """Renders the cells that failed or were never rendered."""
        try:
            if shown:
                self.service.retry(shown, self.access())
        except WanUIError as error:
            return {**self.look(shown, seen), self.status: render.problem(error)}
        return self.look(shown, seen)

    def look(self, shown: Any, seen: Any) -> Update:
        """What the board shows now; parts that did not change are left out."""
        changed, known = unseen(self._board(shown), seen)
        if not changed:
            return {self.seen: gr.skip()}
        updates: Update = {self.seen: known}
        # The grid is sent only when a cell begins or ends: mere progress must not reload its videos.
        props = {prop: changed[name] for name, prop in (("grid", "value"), ("progress", "progress")) if name in changed}
        if props:
            updates[self.player] = gr.HTML(**props)
        if "status" in changed:
            updates[self.status] = changed["status"]
        if "cancel" in changed:
            updates[self.cancel] = gr.Button(visible=changed["cancel"])
        if "retry" in changed:
            rest = changed["retry"]
            updates[self.retry] = gr.Button(rest or text_of("axis.retry_failed"), visible=bool(rest))
        return updates

    def _board(self, shown: Any) -> dict[str, Any]:
        """The parts of the board that are known, by their names in `seen`."""
        videos = player.paired(str(shown)) if shown else None
        try:
            if videos is not None:
                return {**NOTHING_RUNS, "grid": player.side_by_side([self._video(entry_id) for entry_id in videos])}
            # Read before the job, so that the cell it names either has no clip yet or is seen to be done.
            running = self.service.running(shown, self.access()) if shown else None
            job = self.service.job(shown, self.access()) if shown else None
            outlook = None if job is None else self.service.outlook(job.id)
            may_change = job is not None and self.service.may_change(job, self.access())
            if job is not None and not job.cells:
                raise RequestNotFound(text_of("axis.no_comparison"))
        except (RequestNotFound, VideoNotFound) as error:
            return {**NOTHING_RUNS, "grid": None, "status": render.problem(error)}
        except WanUIError as error:
            return {"status": render.trouble(error)}
        return {
            "grid": None if job is None else player.grid(job, running, self.service.shares.may_share(self.access())),
            "progress": player.advance(running),
            "status": comparison.status(job, outlook),
            "cancel": job is not None and may_change and job.status in render.LIVE and not job.cancel_requested,
            "retry": comparison.rest(job) if may_change else "",
        }
