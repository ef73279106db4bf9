"""The Compare tab: what changes along a grid's columns and rows, its start, and its player; it renders nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from wan_ui.axes import ONE_PER_LINE, SCALES, by_training_step
from wan_ui.errors import InvalidRequest, RequestNotFound, WanUIError
from wan_ui.models import MODELS, WanModel
from wan_ui.ui import comparison, form_schema, player, render
from wan_ui.ui.events import EDIT, POLL, QUIET, Update, filled
from wan_ui.ui.model_tab import ModelTab, Picture
from wan_ui.ui.model_tabs import ModelTabs
from wan_ui.ui.status_panel import StatusPanel

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService
    from wan_ui.request import Compare

ID = "compare"
RECENT = 60  # jobs looked at for how long a step takes
WITH_BASELINE = "0.5, 1, 1.5"  # with a baseline, which stands for 0


@dataclass(frozen=True)
class Axis:
    """One axis's controls."""

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
        forms: ModelTabs,
        side: StatusPanel,
        stored: tuple[gr.BrowserState, gr.BrowserState],
    ) -> None:
        """Lays the tab out inside the surrounding gr.Tabs. `stored` are the shown comparison's id and the draft."""
        self.service = service
        self.access = access
        self.forms = forms
        self.side = side
        self.shown, self.draft = stored
        with gr.Tab("Compare", id=ID) as self.container:
            # Inside: whatever stands between two tabs counts as one of them, and another would be lost from the strip.
            self.base = gr.State(None)
            self.seen = gr.State({})
            with gr.Column(elem_classes=["form", "compare-form"]):
                with gr.Column(elem_classes="section"):
                    self.model = gr.Dropdown(
                        [(row.label, row.id) for row in MODELS.values()],
                        value=next(iter(MODELS)),
                        label="Compare with the values of this form",
                        elem_classes="chooser",
                    )
                    self.summary = gr.HTML()
                with gr.Row(elem_classes="axes"):
                    columns = self._axis("columns", "Columns", "scale")
                    self.sides = (columns, self._axis("rows", "Rows", comparison.NOTHING))
                self.baseline = gr.Checkbox(True, label="With a scale or a LoRA, add a baseline without LoRA")
                with gr.Column(elem_classes="act"):
                    self.said = gr.HTML(elem_classes=["problems", "count-said"])
                    self.start = gr.Button("Start", variant="primary", elem_classes="generate")
            with gr.Column(elem_classes="compare-board"):
                with gr.Row(elem_classes="board-head"):
                    self.status = gr.HTML(comparison.status(None, None), elem_classes="board-status")
                    self.cancel = gr.Button("Cancel the comparison", size="sm", visible=False)
                    self.retry = gr.Button("Retry failed", size="sm", visible=False)
                self.player = player.build()

    def _axis(self, name: str, title: str, field: str) -> Axis:
        with gr.Column(min_width=220, elem_classes="axis"):
            chosen = gr.Dropdown(comparison.fields(None), value=field, label=title, elem_classes="chooser")
            values = gr.Textbox(
                WITH_BASELINE if field else "",
                label=f"{title}: values",
                placeholder=comparison.HINTS[field],
                lines=1,
                max_lines=8,
                visible=bool(field),
            )
            folder = gr.Dropdown([], label=f"{title}: all checkpoints of a job", visible=False, elem_classes="chooser")
        return Axis(name, chosen, values, folder)

    @property
    def _axes(self) -> list[Component]:
        return [component for side in self.sides for component in (side.field, side.values)] + [self.baseline]

    @property
    def _said(self) -> list[Any]:
        """What says something about the axes, or is laid out by them."""
        texts = [side.values for side in self.sides]
        return [self.said, self.draft, *texts, *(side.folder for side in self.sides)]

    @property
    def changed(self) -> list[Any]:
        """Everything that another request in the form changes."""
        fields = [side.field for side in self.sides]
        return [self.model, self.base, self.summary, self.baseline, *fields, *self._said]

    @property
    def view(self) -> list[Any]:
        """The board: which comparison it shows, and all that it shows of it."""
        return [self.shown, self.player, self.status, self.cancel, self.retry, self.seen]

    def connect(self, opened: Any) -> None:
        """Wires the events. `opened` is the event after which every form holds its values."""
        forms, side, said, own = self.forms, self.side, self._said, self.changed
        held = [component for tab in forms.rows.values() for component in tab.inputs]
        drafts = [tab.draft for tab in forms.rows.values()]
        view = self.view[1:]
        looking = [self.shown, self.seen]
        restored = opened.then(
            self.on_open,
            [self.shown, forms.place, self.draft, *self._axes, *drafts],
            [self.shown, forms.tabs, forms.place, *own, *view],
            **QUIET,
        )
        restored.then(**filled(".compare-form"))
        restored.then(self.look, looking, view, **QUIET)  # a first look at what was shown last may have come after it
        self.container.select(
            self.on_tab,
            [forms.opened, forms.place, self.model, *self._axes, *held],
            [forms.place, forms.text, *own],
            **EDIT,
        )
        self.model.input(self.on_model, [self.model, *self._axes, *held], own, **EDIT)
        for axis in self.sides:
            axis.field.input(
                lambda base, *axes, name=axis.name: self.on_field(name, base, axes),
                [self.base, *self._axes],
                said,
                **EDIT,
            )
            axis.values.input(self.on_edit, [self.base, *self._axes], said, trigger_mode="always_last", **EDIT)
            axis.folder.input(
                lambda folder, base, *axes, name=axis.name: self.on_folder(name, folder, base, axes),
                [axis.folder, self.base, *self._axes],
                said,
                **EDIT,
            )
        self.baseline.input(self.on_edit, [self.base, *self._axes], said, **EDIT)
        followed: list[Any] = [side.picked, *side.view]
        self.start.click(
            self.on_start,
            [side.seen, self.seen, self.base, *self._axes],
            [self.said, self.shown, *view, *followed],
            api_visibility="private",
            show_progress="minimal",
            show_progress_on=[self.said],
            preprocess=False,
            concurrency_limit=8,
        )
        side.pulse.click(self.look, looking, view, **POLL)
        self.cancel.click(self.on_cancel, looking, view, **QUIET)
        self.retry.click(self.on_retry, looking, view, **QUIET)
        for tab in forms.rows.values():
            tab.scales.run.click(
                lambda text, seen, here, *raw, tab=tab: self.on_scales(tab, text, seen, here, raw),
                [tab.scales.text, side.seen, self.seen, *tab.inputs],
                [tab.scales.problem, forms.tabs, forms.place, self.shown, *own, *view, *followed],
                api_visibility="private",
                show_progress="minimal",
                show_progress_on=[tab.scales.problem],
                preprocess=False,
                concurrency_limit=8,
            )

    # The form

    def _held(self, tab: ModelTab, raw: Sequence[Any]) -> form_schema.Values:
        """A tab's values. Raises what is wrong with its first frame."""
        return _sound(self.forms.held(tab, raw))

    def _left(self, tab: ModelTab, draft: Any) -> form_schema.Values:
        """The values that a tab holds when a page opens. Raises what is wrong with its first frame."""
        left = self.forms.left(tab, draft)
        return _sound(self.forms.starting_values(tab)) if left is None else left

    def _shows(self, model: Any, axes: Sequence[Any], raw: Sequence[Any]) -> Update:
        """The form over one model's tab: that tab's request, its summary, the fields it can change."""
        chosen = self._chosen(model)
        parts = iter(raw)
        own = {tab.row.id: list(islice(parts, len(tab.components))) for tab in self.forms.rows.values()}
        return self._over(chosen, lambda: self._held(chosen, own[chosen.row.id]), axes)

    def _chosen(self, model: Any) -> ModelTab:
        return self.forms.rows[model if model in self.forms.rows else next(iter(self.forms.rows))]

    def _over(self, tab: ModelTab, held: Callable[[], form_schema.Values], axes: Sequence[Any]) -> Update:
        row = tab.row
        try:
            base = form_schema.body(row, held())
        except WanUIError as error:
            return self._with(
                row, None, axes, render.problem(error, lambda location: form_schema.label_of(row, location))
            )
        return self._with(row, base, axes, comparison.summary(row, base))

    def _with(self, row: WanModel, base: dict[str, Any] | None, axes: Sequence[Any], summary: str) -> Update:
        choices = comparison.fields(row)
        allowed = [value for _, value in choices]
        kept = list(axes)
        found: dict[Any, Any] = {self.model: row.id, self.base: base, self.summary: summary}
        for index, side in enumerate(self.sides):
            if kept[2 * index] not in allowed:
                kept[2 * index] = comparison.NOTHING
            found[side.field] = gr.Dropdown(choices=choices, value=kept[2 * index])
        return {**found, **self._says(base, kept, row.id)}

    def open(self, row: WanModel, held: form_schema.Values, compare: Compare) -> Update:
        """The form over these values, with the axes of a request. Raises InvalidRequest where they cannot be typed."""
        axes: list[Any] = []
        for side in (compare.columns, compare.rows):
            if side is None or not side.values:
                axes += [comparison.NOTHING, ""]
            else:
                axes += [side.field, comparison.typed(side.field, side.values)]
        base = form_schema.body(row, held)
        return {
            **self._with(row, base, [*axes, compare.baseline], comparison.summary(row, base)),
            self.baseline: compare.baseline,
            self.forms.tabs: gr.Tabs(selected=ID),
            self.forms.place: ID,
        }

    def _says(self, base: Mapping[str, Any] | None, axes: Sequence[Any], model: str | None = None) -> Update:
        """What the form says of itself: count and time, or what is wrong; and which of its parts are needed."""
        found: dict[Any, Any] = {self.draft: {"model": model or (base or {}).get("model"), "axes": list(axes)}}
        for index, side in enumerate(self.sides):
            chosen, text = axes[2 * index : 2 * index + 2]
            found[side.values] = gr.Textbox(value=text, **self._box(chosen))
            found[side.folder] = (
                gr.Dropdown(choices=self._jobs(), value=None, visible=True)
                if chosen == "lora"
                else gr.Dropdown(visible=False)
            )
        found[self.said] = self._count(base, axes)
        return found

    @staticmethod
    def _box(field: str) -> dict[str, Any]:
        """How the box of an axis's values is shown."""
        lines = 4 if field in ONE_PER_LINE else 1
        return {"visible": bool(field), "placeholder": comparison.HINTS.get(field, ""), "lines": lines}

    def _count(self, base: Mapping[str, Any] | None, axes: Sequence[Any]) -> str:
        if base is None:
            return '<p class="hint">The form above has to be in order first.</p>'
        try:
            if not any(str(text or "").strip() for text in axes[1:4:2]):
                return '<p class="hint">Choose what changes and type its values.</p>'
            prepared = self.service.plan(comparison.body(base, axes), self.access())
        except WanUIError as error:
            return render.problem(error, lambda location: comparison.name_of(base, location))
        cells, distinct = len(prepared.cells), len(prepared.generations)
        text = f"<b>{render.plural(cells, 'cell')}</b>"
        if distinct < cells:
            text += f", {distinct} of them to render"
        seconds = comparison.expected(prepared.generations, self.service.recent(RECENT, self.access()))
        if seconds is not None:
            text += f", about {comparison.about(seconds)}"
        return f'<p class="counted" role="status">{text}</p>'

    def _jobs(self) -> list[tuple[str, str]]:
        """(label, folder) of the folders of the LoRA folder that hold more than one file."""
        folders: dict[str, int] = {}
        for path in self.service.library.listing():
            folder = str(PurePosixPath(path).parent)
            folders[folder] = folders.get(folder, 0) + 1
        return [("(the LoRA folder)" if name == "." else name, name) for name, count in folders.items() if count > 1]

    def on_open(self, request: gr.Request, shown: Any, place: Any, draft: Any, *rest: Any) -> Update:
        """A page that opens: the comparison of its address or the one it showed last, and the form as it was left."""
        axes, drafts = list(rest[: len(self._axes)]), rest[len(self._axes) :]
        model = place
        if isinstance(draft, Mapping):
            left = draft.get("axes")
            if isinstance(left, list) and [type(item) for item in left] == [str, str, str, str, bool]:
                axes = left
            model = draft.get("model") if place == ID or place not in MODELS else place
        asked = dict(request.query_params).get(ID)
        shown = asked or (shown if isinstance(shown, str) else None)
        tab = self._chosen(model)
        draft_of = dict(zip(self.forms.rows, drafts, strict=True))
        found: dict[Any, Any] = {
            **self._over(tab, lambda: self._left(tab, draft_of[tab.row.id]), axes),
            self.baseline: axes[4],
            self.shown: shown,
            **self.look(shown, {}),
        }
        if asked:
            found |= {self.forms.tabs: gr.Tabs(selected=ID), self.forms.place: ID}
        return found

    def on_tab(self, opened: Any, place: Any, model: Any, *rest: Any) -> Update:
        if place == ID or not opened:
            return {self.forms.text: ""}  # opened by the page itself, which fills it too, or from storage
        shown = self._shows(place if place in MODELS else model, rest[: len(self._axes)], rest[len(self._axes) :])
        return {self.forms.place: ID, self.forms.text: "", **shown}

    def on_model(self, model: Any, *rest: Any) -> Update:
        return self._shows(model, rest[: len(self._axes)], rest[len(self._axes) :])

    def on_edit(self, base: Any, *axes: Any) -> Update:
        found = self._says(base, axes)
        for side in self.sides:
            del found[side.values], found[side.folder]  # what is being typed is not written over
        return found

    def on_field(self, name: str, base: Any, axes: Sequence[Any]) -> Update:
        """Another field: values of the one before make no sense for it."""
        kept = list(axes)
        index = [side.name for side in self.sides].index(name)
        kept[2 * index + 1] = WITH_BASELINE if kept[2 * index] in SCALES else ""
        found = self._says(base, kept)
        for place, side in enumerate(self.sides):
            if kept[2 * place + 1] == axes[2 * place + 1]:
                # What is being typed meanwhile is not written over.
                found[side.values] = gr.Textbox(**self._box(kept[2 * place]))
        return found

    def on_folder(self, name: str, folder: Any, base: Any, axes: Sequence[Any]) -> Update:
        """Every save of a job as a value, in the order of training; of a pair one half stands for both."""
        paths = [path for path in self.service.library.listing() if str(PurePosixPath(path).parent) == folder]
        two = base is not None and MODELS[base["model"]].two_transformers
        lines: list[str] = []
        for save in by_training_step(paths):
            if isinstance(save, str):
                lines.append(save)
            else:
                lines += list(save.values())[: 1 if two else None]
        kept = list(axes)
        kept[2 * [side.name for side in self.sides].index(name) + 1] = "\n".join(lines)
        return self._says(base, kept)

    # The comparison

    def on_start(self, seen: Any, here: Any, base: Any, *axes: Any) -> Update:
        try:
            if base is None:
                raise InvalidRequest("The form above has to be in order first.")
            job = self.service.submit(comparison.body(base, axes), self.access())
        except WanUIError as error:
            return {self.said: render.problem(error, lambda location: comparison.name_of(base or {}, location))}
        return {self.shown: job.id, **self.look(job.id, here), **self.side.follow(seen)}

    def on_scales(self, tab: ModelTab, text: Any, seen: Any, here: Any, raw: Sequence[Any]) -> Update:
        """The two-click way: these scales as columns, with the form's other values, and nothing else."""
        axes = ("scale", str(text or ""), comparison.NOTHING, "", False)
        try:
            held = self._held(tab, raw)
            base = form_schema.body(tab.row, held)
            job = self.service.submit(comparison.body(base, axes), self.access())
        except WanUIError as error:
            problem = render.problem(error, lambda location: form_schema.label_of(tab.row, location))
            return {tab.scales.problem: problem}
        return {
            tab.scales.problem: "",
            self.forms.tabs: gr.Tabs(selected=ID),
            self.forms.place: ID,
            self.baseline: axes[4],
            self.shown: job.id,
            **self._over(tab, lambda: held, axes),
            **self.look(job.id, here),
            **self.side.follow(seen),
        }

    def shows(self, job_id: str, here: Any) -> Update:
        """The tab in front with a comparison that its form cannot say."""
        opened = {self.forms.tabs: gr.Tabs(selected=ID), self.forms.place: ID}
        return {**opened, self.shown: job_id, **self.look(job_id, here)}

    def on_cancel(self, shown: Any, seen: Any) -> Update:
        if shown:
            self.service.cancel(shown, self.access())
        return self.look(shown, seen)

    def on_retry(self, shown: Any, seen: Any) -> Update:
        try:
            if shown:
                self.service.retry(shown, self.access())
        except WanUIError as error:
            return {**self.look(shown, seen), self.status: render.problem(error)}
        return self.look(shown, seen)

    def look(self, shown: Any, seen: Any) -> Update:
        """What the board shows now; parts that are as they were are left out."""
        known: Mapping[str, Any] = seen if isinstance(seen, Mapping) else {}
        try:
            # Before the job: what then runs has no clip yet, or is seen to be done.
            running = self.service.running(shown, self.access()) if shown else None
            job = self.service.job(shown, self.access()) if shown else None
            may = job is not None and self.service.may_change(job, self.access())
            if job is not None and not job.cells:
                raise RequestNotFound("This request is no comparison: its videos are in the list of finished jobs.")
        except RequestNotFound as error:
            wanted: dict[str, Any] = {"grid": None, "status": render.problem(error)}
        except WanUIError as error:
            wanted = {**known, "status": render.trouble(error)}
        else:
            wanted = {
                "grid": None if job is None else player.grid(job, running),
                "progress": player.advance(running),
                "status": comparison.status(job, running),
                "cancel": job is not None and may and job.status in render.LIVE and not job.cancel_requested,
                "retry": comparison.rest(job) if may else "",
            }
        changed = {name: value for name, value in wanted.items() if name not in known or known[name] != value}
        if not changed:
            return {self.seen: gr.skip()}
        made: dict[Any, Any] = {self.seen: {**known, **wanted}}
        # The grid only when a cell began or ended, so that progress does not send it all again.
        news = {**({"value": wanted["grid"]} if "grid" in changed else {})}
        if "progress" in changed:
            news["progress"] = wanted["progress"]
        if news:
            made[self.player] = gr.HTML(**news)
        if "status" in changed:
            made[self.status] = wanted["status"]
        if "cancel" in changed:
            made[self.cancel] = gr.Button(visible=wanted["cancel"])
        if "retry" in changed:
            made[self.retry] = gr.Button(wanted["retry"] or "Retry failed", visible=bool(wanted["retry"]))
        return made


def _sound(read: tuple[form_schema.Values, Picture]) -> form_schema.Values:
    held, picture = read
    if picture.error is not None:
        raise picture.error
    return held
