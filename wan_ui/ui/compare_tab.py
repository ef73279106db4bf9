"""The Compare tab: the values along a grid's columns and rows, starting a comparison, and its player."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from wan_ui.axes import ONE_PER_LINE, SCALES, by_training_step
from wan_ui.errors import InvalidRequest, RequestNotFound, VideoNotFound, WanUIError
from wan_ui.models import MODELS, WanModel
from wan_ui.ui import comparison, form_schema, player, render
from wan_ui.ui.events import EDIT, POLL, QUIET, Update, answered, filled, look_ended, looked_again
from wan_ui.ui.form import Form, FormState
from wan_ui.ui.status_panel import StatusPanel
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import text_of

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.job import ClipRecord, Job
    from wan_ui.jobs.service import JobService
    from wan_ui.request import Compare

ID = "compare"
RECENT = 60  # jobs looked at for how long a step takes
WITH_BASELINE = "0.5, 1, 1.5"  # scales beside a baseline without LoRA, which is scale 0
NOTHING_RUNS = {"progress": None, "status": "", "cancel": False, "retry": ""}


@dataclass(frozen=True)
class Axis:
    """The controls of one axis."""

    name: str
    field: gr.Dropdown
    values: gr.Textbox
    folder: gr.Dropdown


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
            self.seen = gr.State({})
            with gr.Column(elem_classes=["form", "compare-form"]):
                with gr.Column(elem_classes="section"):
                    self.summary = gr.HTML()
                with gr.Row(elem_classes="axes"):
                    columns = self._axis("columns", "scale")
                    self.axes = (columns, self._axis("rows", comparison.NOTHING))
                self.baseline = gr.Checkbox(True, label=text_of("axis.baseline"))
                with gr.Column(elem_classes="act"):
                    self.count = gr.HTML(elem_classes=["problems", "count-line"])
                    self.start = gr.Button(text_of("axis.start"), variant="primary", elem_classes="generate")
            with gr.Column(elem_classes="compare-board"):
                with gr.Row(elem_classes="board-head"):
                    self.status = gr.HTML(comparison.status(None), elem_classes="board-status")
                    self.cancel = gr.Button(text_of("axis.cancel"), size="sm", visible=False)
                    self.retry = gr.Button(text_of("axis.retry_failed"), size="sm", visible=False)
                self.player = player.build()

    def _axis(self, name: str, field: str) -> Axis:
        title = text_of(f"axis.{name}")
        with gr.Column(min_width=220, elem_classes="axis"):
            chosen = gr.Dropdown(comparison.fields(None), value=field, label=title, elem_classes="chooser")
            values = gr.Textbox(
                WITH_BASELINE if field else "",
                label=text_of("axis.values", axis=title),
                placeholder=comparison.hint(field),
                lines=1,
                max_lines=8,
                visible=bool(field),
            )
            folder = gr.Dropdown(
                [], label=text_of("axis.all_checkpoints", axis=title), visible=False, elem_classes="chooser"
            )
        return Axis(name, chosen, values, folder)

    @property
    def _axis_inputs(self) -> list[Component]:
        """Field and values of the columns, field and values of the rows, baseline: `axis_values` of the handlers."""
        return [component for axis in self.axes for component in (axis.field, axis.values)] + [self.baseline]

    @property
    def _axis_outputs(self) -> list[Any]:
        """What depends on the axes."""
        texts = [axis.values for axis in self.axes]
        return [self.count, self.draft, *texts, *(axis.folder for axis in self.axes)]

    @property
    def changed(self) -> list[Any]:
        """Everything that another request in the form changes."""
        fields = [axis.field for axis in self.axes]
        return [self.base, self.summary, self.baseline, *fields, *self._axis_outputs]

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
            [self.shown, self.draft, *self._axis_inputs, form.draft],
            [self.shown, self.tabs, form.open_tab, *self.changed, *view],
            **QUIET,
        )
        restored.then(**filled(".compare-form"))
        # Again: the browser may have put the stored comparison's id in the place of what the address asks for.
        restored.then(self.on_restored, looking, [self.shown, *view], **QUIET).then(**looked_again())
        self._connect_form()
        self._connect_board()

    def _connect_form(self) -> None:
        form, outputs = [self.base, *self._axis_inputs], self._axis_outputs
        self.container.select(
            self.on_tab,
            [self.page_opened, self.form.open_tab, *self._axis_inputs, *self.form.inputs],
            [self.form.open_tab, *self.changed],
            **EDIT,
        )
        for axis in self.axes:
            axis.field.input(
                lambda base, *axis_values, name=axis.name: self.on_field(name, base, axis_values),
                form,
                outputs,
                **EDIT,
            )
            axis.values.input(self.on_edit, form, outputs, trigger_mode="always_last", **EDIT)
            axis.folder.input(
                lambda folder, base, *axis_values, name=axis.name: self.on_folder(name, folder, base, axis_values),
                [axis.folder, *form],
                outputs,
                **EDIT,
            )
        self.baseline.input(self.on_edit, form, outputs, **EDIT)

    def _connect_board(self) -> None:
        panel, view, looking = self.status_panel, self.view[1:], [self.shown, self.seen]
        followed: list[Any] = [panel.picked, *panel.view]
        self.start.click(
            self.on_start,
            [panel.seen, self.seen, self.base, *self._axis_inputs],
            [self.count, self.shown, *view, *followed],
            api_visibility="private",
            show_progress="minimal",
            show_progress_on=[self.count],
            preprocess=False,
            concurrency_limit=8,
        ).then(**answered())
        panel.pulse.click(self.look, looking, view, **POLL).then(**look_ended("comparison"))
        self.cancel.click(self.on_cancel, looking, view, **QUIET).then(**answered())
        self.retry.click(self.on_retry, looking, view, **QUIET).then(**answered())
        scales = self.form.parts.scales
        scales.run.click(
            self.on_scales,
            [scales.text, panel.seen, self.seen, *self.form.inputs],
            [scales.problem, self.tabs, self.form.open_tab, self.shown, *self.changed, *view, *followed],
            api_visibility="private",
            show_progress="minimal",
            show_progress_on=[scales.problem],
            preprocess=False,
            concurrency_limit=8,
        )

    # The form

    def _over(self, read: Callable[[], FormState], axis_values: Sequence[Any]) -> Update:
        """The form of the tab over the Generate form's request: its summary, and the fields that it can change."""
        model = next(iter(MODELS.values()))
        try:
            state = read()
            model = state.model
            base = state.body()
        except WanUIError as error:
            problem = render.problem(error, lambda location: form_schema.label_of(model, location))
            return self._with(model, None, axis_values, problem)
        return self._with(model, base, axis_values, comparison.summary(model, base))

    def _with(self, model: WanModel, base: dict[str, Any] | None, axis_values: Sequence[Any], summary: str) -> Update:
        choices = comparison.fields(model)
        allowed = [value for _, value in choices]
        kept = list(axis_values)
        updates: dict[Any, Any] = {self.base: base, self.summary: summary}
        for index, axis in enumerate(self.axes):
            if kept[2 * index] not in allowed:
                kept[2 * index] = comparison.NOTHING
            updates[axis.field] = gr.Dropdown(choices=choices, value=kept[2 * index])
        return {**updates, **self._axis_updates(base, kept)}

    def open(self, model: WanModel, values: form_schema.Values, compare: Compare) -> Update:
        """The form over these values, with the axes of a request. Raises InvalidRequest where they cannot be typed."""
        axis_values: list[Any] = []
        for axis in (compare.columns, compare.rows):
            if axis is None or not axis.values:
                axis_values += [comparison.NOTHING, ""]
            else:
                axis_values += [axis.field, comparison.typed(axis.field, axis.values)]
        base = form_schema.body(model, values)
        return {
            **self._with(model, base, [*axis_values, compare.baseline], comparison.summary(model, base)),
            self.baseline: compare.baseline,
            **self._in_front(),
        }

    def _in_front(self) -> Update:
        return {self.tabs: gr.Tabs(selected=ID), self.form.open_tab: ID}

    def _axis_updates(self, base: Mapping[str, Any] | None, axis_values: Sequence[Any]) -> Update:
        """What follows from the axes: count and time, or what is wrong; the boxes that are needed; the draft."""
        updates: dict[Any, Any] = {self.draft: {"axes": list(axis_values)}}
        for index, axis in enumerate(self.axes):
            chosen, text = axis_values[2 * index : 2 * index + 2]
            updates[axis.values] = gr.Textbox(value=text, **self._box(chosen))
            updates[axis.folder] = (
                gr.Dropdown(choices=self._jobs(), value=None, visible=True)
                if chosen == "lora"
                else gr.Dropdown(visible=False)
            )
        updates[self.count] = self._count(base, axis_values)
        return updates

    @staticmethod
    def _box(field: str) -> dict[str, Any]:
        """How the box of an axis's values is shown."""
        lines = 4 if field in ONE_PER_LINE else 1
        return {"visible": bool(field), "placeholder": comparison.hint(field), "lines": lines}

    def _count(self, base: Mapping[str, Any] | None, axis_values: Sequence[Any]) -> str:
        """How many cells there will be and how long they take, or why that is not known yet."""
        if base is None:
            return render.hint(text_of("axis.not_ready"))
        try:
            if not any(str(text or "").strip() for text in axis_values[1:4:2]):
                return render.hint(text_of("axis.no_values"))
            prepared = self.service.plan(comparison.body(base, axis_values), self.access())
        except WanUIError as error:
            return render.problem(error, lambda location: comparison.name_of(base, location))
        cells, distinct = len(prepared.cells), len(prepared.generations)
        rest = text_of("axis.to_generate", count=distinct) if distinct < cells else ""
        seconds = comparison.expected(prepared.generations, self.service.recent(RECENT, self.access()))
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

    def on_open(self, request: gr.Request, shown: Any, draft: Any, *rest: Any) -> Update:
        """A page opens: the comparison of its address or the one it showed last, and the form's draft."""
        axis_values, (form_draft,) = self._split(rest)
        if isinstance(draft, Mapping):
            drafted = draft.get("axes")
            if isinstance(drafted, list) and [type(item) for item in drafted] == [str, str, str, str, bool]:
                axis_values = drafted
        asked = dict(request.query_params).get(ID)
        shown = asked or (shown if isinstance(shown, str) else None)
        return {
            **self._over(lambda: self.form.state_of_draft(form_draft) or self.form.first_state(), axis_values),
            self.baseline: axis_values[4],
            self.shown: shown,
            **self.look(shown, {}),
            **(self._in_front() if asked else {}),
        }

    def on_restored(self, request: gr.Request, shown: Any, seen: Any) -> Update:
        """The page was opened: the comparison of its address once more, or the one it showed last."""
        shown = dict(request.query_params).get(ID) or shown
        return {self.shown: shown, **self.look(shown, seen)}

    def _split(self, inputs: Sequence[Any]) -> tuple[list[Any], Sequence[Any]]:
        """The axis values, and the inputs behind them."""
        count = len(self._axis_inputs)
        return list(inputs[:count]), inputs[count:]

    def on_tab(self, opened: Any, open_tab: Any, *rest: Any) -> Update:
        """The tab was selected: it takes the values of the Generate form."""
        if not opened or open_tab == ID:
            return {self.count: gr.skip()}  # the page itself selected it, and has filled it or fills it
        axis_values, raw = self._split(rest)
        updates = self._over(lambda: self.form.read(raw), axis_values)
        for index, axis in enumerate(self.axes):  # do not overwrite what is being typed meanwhile
            updates[axis.values] = gr.Textbox(**self._box(axis_values[2 * index]))
        return {self.form.open_tab: ID, **updates}

    def on_edit(self, base: Any, *axis_values: Any) -> Update:
        """The values of an axis, or the baseline, were changed."""
        updates = self._axis_updates(base, axis_values)
        for axis in self.axes:
            del updates[axis.values], updates[axis.folder]  # do not overwrite what is being typed
        return updates

    def on_field(self, name: str, base: Any, axis_values: Sequence[Any]) -> Update:
        """Another field was chosen, for which the values of the one before make no sense."""
        kept = list(axis_values)
        index = [axis.name for axis in self.axes].index(name)
        kept[2 * index + 1] = WITH_BASELINE if kept[2 * index] in SCALES else ""
        updates = self._axis_updates(base, kept)
        for number, axis in enumerate(self.axes):
            if kept[2 * number + 1] == axis_values[2 * number + 1]:
                # Do not overwrite what is being typed meanwhile.
                updates[axis.values] = gr.Textbox(**self._box(kept[2 * number]))
        return updates

    def on_folder(self, name: str, folder: Any, base: Any, axis_values: Sequence[Any]) -> Update:
        """Every checkpoint of a job as a value, in training order; of a pair one half stands for both."""
        paths = [path for path in self.service.library.listing() if str(PurePosixPath(path).parent) == folder]
        two = base is not None and MODELS[base["model"]].two_transformers
        lines: list[str] = []
        for save in by_training_step(paths):
            if isinstance(save, str):
                lines.append(save)
            else:
                lines += list(save.values())[: 1 if two else None]
        kept = list(axis_values)
        kept[2 * [axis.name for axis in self.axes].index(name) + 1] = "\n".join(lines)
        return self._axis_updates(base, kept)

    # The comparison

    def on_start(self, seen: Any, board: Any, base: Any, *axis_values: Any) -> Update:
        """Starts the comparison."""
        try:
            if base is None:
                raise InvalidRequest(text_of("axis.not_ready"))
            job = self.service.submit(comparison.body(base, axis_values), self.access())
        except WanUIError as error:
            return {self.count: render.problem(error, lambda location: comparison.name_of(base or {}, location))}
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
        axis_values = ("scale", scales, comparison.NOTHING, "", False)
        job = self.service.submit(comparison.body(base, axis_values), self.access())
        return {
            **self._in_front(),
            self.baseline: axis_values[4],
            self.shown: job.id,
            **self._with(model, base, axis_values, comparison.summary(model, base)),
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
        known: Mapping[str, Any] = seen if isinstance(seen, Mapping) else {}
        wanted = self._board(shown, known)
        changed = {name: value for name, value in wanted.items() if name not in known or known[name] != value}
        if not changed:
            return {self.seen: gr.skip()}
        updates: dict[Any, Any] = {self.seen: {**known, **wanted}}
        # The grid is sent only when a cell begins or ends: mere progress must not reload its videos.
        props = {prop: changed[name] for name, prop in (("grid", "value"), ("progress", "progress")) if name in changed}
        if props:
            updates[self.player] = gr.HTML(**props)
        if "status" in changed:
            updates[self.status] = wanted["status"]
        if "cancel" in changed:
            updates[self.cancel] = gr.Button(visible=wanted["cancel"])
        if "retry" in changed:
            updates[self.retry] = gr.Button(
                wanted["retry"] or text_of("axis.retry_failed"), visible=bool(wanted["retry"])
            )
        return updates

    def _board(self, shown: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        """Each part of the board, by its name in `seen`."""
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
            return {**known, "status": render.trouble(error)}
        return {
            "grid": None if job is None else player.grid(job, running, self.service.shares.may_share(self.access())),
            "progress": player.advance(running),
            "status": comparison.status(job, outlook),
            "cancel": job is not None and may_change and job.status in render.LIVE and not job.cancel_requested,
            "retry": comparison.rest(job) if may_change else "",
        }
