"""The Compare tab: what changes along a grid's columns and rows, its start, and its player; it renders nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from wan_ui.compare import FIELDS, ONE_PER_LINE, SCALES, Order, by_training_step, estimate, parse_values
from wan_ui.engine.recipes import RECIPES
from wan_ui.engine.speedups import CHOICES, told
from wan_ui.errors import InvalidRequest, RequestNotFound, WanUIError
from wan_ui.models import MODELS, WanModel
from wan_ui.ui import card, form, player

if TYPE_CHECKING:
    from wan_ui.jobs.store import ClipRecord, Job
    from wan_ui.jobs.visitor_desk import VisitorDesk
    from wan_ui.request import Compare, Generation
    from wan_ui.ui.page import Page
    from wan_ui.ui.tab import Picture, Tab

ID = "compare"
NOTHING = ""
SCALE_VALUES = "0, 0.5, 1, 1.5"
WITH_BASELINE = "0.5, 1, 1.5"  # which stands for 0
FIELD_LABELS: Mapping[str, str] = {
    "scale": "LoRA scale",
    "scale_high": "High-noise scale",
    "scale_low": "Low-noise scale",
    "lora": "LoRA file or checkpoint",
    "seed": "Seed",
    "sample_steps": "Steps",
    "guidance_scale": "Guidance scale",
    "prompt": "Prompt",
    "recipe": "Match",
    "num_frames": "Frames",
    "speedup": "Speed-up",
}
HINTS: Mapping[str, str] = {
    "scale": "0, 0.5, 1 or 0.2..1.0 step 0.2",
    "scale_high": "0, 0.5, 1 or 0.2..1.0 step 0.2",
    "scale_low": "0, 0.5, 1 or 0.2..1.0 step 0.2",
    "lora": "one file per line, as in the list of LoRAs",
    "seed": "42, 7 or 42..45",
    "sample_steps": "10, 25, 40",
    "guidance_scale": "1, 3.5, 5",
    "prompt": "one prompt per line",
    "recipe": ", ".join(RECIPES),
    "num_frames": "41, 81",
    "speedup": ", ".join(CHOICES),
    NOTHING: "",
}
RECENT = 60  # jobs looked at for how long a step takes
Update = dict[Any, Any]
"""What a handler changes; outputs it leaves out stay as they are. Here, as Gradio reads the handlers' types."""

_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
_POLL: dict[str, Any] = {**_QUIET, "queue": False}
_EDIT: dict[str, Any] = {**_QUIET, "concurrency_limit": None}


@dataclass(frozen=True)
class Scales:
    """The two-click way in a model's tab: the values, the button that runs them, and what is wrong with them."""

    text: gr.Textbox
    run: gr.Button
    problem: gr.HTML


@dataclass(frozen=True)
class Side:
    """One axis's controls."""

    name: str
    field: gr.Dropdown
    values: gr.Textbox
    folder: gr.Dropdown


def scales() -> Scales:
    """Lays out "Compare scales" beside a tab's scale sliders."""
    with gr.Accordion("Compare scales", open=False, elem_classes="scales"):
        with gr.Row(elem_classes="line"):
            text = gr.Textbox(SCALE_VALUES, label="Scales to compare", max_lines=1)
            run = gr.Button("Run the comparison", size="sm", scale=0)
        problem = gr.HTML(elem_classes="problems")
    return Scales(text, run, problem)


class CompareTab:
    """Holds the tab's components; every method named `on_…` is an event's handler."""

    def __init__(self, desk: VisitorDesk, stored: tuple[gr.BrowserState, gr.BrowserState]) -> None:
        """Lays the tab out inside the surrounding gr.Tabs. `stored` are the shown comparison's id and the draft."""
        self.desk = desk
        self.shown, self.draft = stored
        self.base = gr.State(None)
        self.seen = gr.State({})
        with gr.Tab("Compare", id=ID) as self.container:
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
                    self.sides = (self._side("columns", "Columns", "scale"), self._side("rows", "Rows", NOTHING))
                self.baseline = gr.Checkbox(True, label="With a scale or a LoRA, add a baseline without LoRA")
                with gr.Column(elem_classes="act"):
                    self.said = gr.HTML(elem_classes=["problems", "count-said"])
                    self.start = gr.Button("Start", variant="primary", elem_classes="generate")
            with gr.Column(elem_classes="compare-board"):
                with gr.Row(elem_classes="board-head"):
                    self.status = gr.HTML(_status(None, None), elem_classes="board-status")
                    self.cancel = gr.Button("Cancel the comparison", size="sm", visible=False)
                    self.retry = gr.Button("Retry failed", size="sm", visible=False)
                self.player = player.build()

    def _side(self, name: str, title: str, field: str) -> Side:
        with gr.Column(min_width=220, elem_classes="axis"):
            chosen = gr.Dropdown(_fields(None), value=field, label=title, elem_classes="chooser")
            values = gr.Textbox(
                WITH_BASELINE if field else "",
                label=f"{title}: values",
                placeholder=HINTS[field],
                lines=1,
                max_lines=8,
                visible=bool(field),
            )
            folder = gr.Dropdown([], label=f"{title}: all checkpoints of a job", visible=False, elem_classes="chooser")
        return Side(name, chosen, values, folder)

    @property
    def _axes(self) -> list[Component]:
        return [component for side in self.sides for component in (side.field, side.values)] + [self.baseline]

    @property
    def _said(self) -> list[Any]:
        """What says something about the axes, or is laid out by them."""
        texts = [side.values for side in self.sides]
        return [self.said, self.draft, *texts, *(side.folder for side in self.sides)]

    @property
    def forms(self) -> list[Any]:
        """Everything that another request in the form changes."""
        fields = [side.field for side in self.sides]
        return [self.model, self.base, self.summary, self.baseline, *fields, *self._said]

    @property
    def view(self) -> list[Any]:
        """The board: which comparison it shows, and all that it shows of it."""
        return [self.shown, self.player, self.status, self.cancel, self.retry, self.seen]

    def connect(self, page: Page, opened: Any) -> None:
        """Wires the events. `opened` is the event after which every form holds its values."""
        self.page = page
        held = [component for tab in page.rows.values() for component in tab.inputs]
        drafts = [tab.draft for tab in page.rows.values()]
        said, forms = self._said, self.forms
        view = self.view[1:]
        looking = [self.shown, self.seen]
        opened.then(
            self.on_open,
            [self.shown, page.place, self.draft, *self._axes, *drafts],
            [self.shown, page.tabs, page.place, *forms, *view],
            **_QUIET,
        ).then(self.look, looking, view, **_QUIET)  # a first look at what was shown last may have come after it
        self.container.select(
            self.on_tab,
            [page.opened, page.place, self.model, *self._axes, *held],
            [page.place, page.text, *forms],
            **_EDIT,
        )
        self.model.input(self.on_model, [self.model, *self._axes, *held], forms, **_EDIT)
        for side in self.sides:
            side.field.input(
                lambda base, *axes, name=side.name: self.on_field(name, base, axes),
                [self.base, *self._axes],
                said,
                **_EDIT,
            )
            side.values.input(self.on_edit, [self.base, *self._axes], said, trigger_mode="always_last", **_EDIT)
            side.folder.input(
                lambda folder, base, *axes, name=side.name: self.on_folder(name, folder, base, axes),
                [side.folder, self.base, *self._axes],
                said,
                **_EDIT,
            )
        self.baseline.input(self.on_edit, [self.base, *self._axes], said, **_EDIT)
        followed: list[Any] = [page.picked, *page.view]
        self.start.click(
            self.on_start,
            [page.seen, self.seen, self.base, *self._axes],
            [self.said, self.shown, *view, *followed],
            api_visibility="private",
            show_progress="minimal",
            show_progress_on=[self.said],
            preprocess=False,
            concurrency_limit=8,
        )
        page.pulse.click(self.look, looking, view, **_POLL)
        self.cancel.click(self.on_cancel, looking, view, **_QUIET)
        self.retry.click(self.on_retry, looking, view, **_QUIET)
        self.player.click(self.on_use, [page.uploads], page.loaded, **_QUIET)
        for tab in page.rows.values():
            tab.scales.run.click(
                lambda text, seen, here, *raw, tab=tab: self.on_scales(tab, text, seen, here, raw),
                [tab.scales.text, page.seen, self.seen, *tab.inputs],
                [tab.scales.problem, page.tabs, page.place, self.shown, *forms, *view, *followed],
                api_visibility="private",
                show_progress="minimal",
                show_progress_on=[tab.scales.problem],
                preprocess=False,
                concurrency_limit=8,
            )

    # The form

    def _held(self, tab: Tab, raw: Sequence[Any]) -> form.Values:
        """A tab's values. Raises what is wrong with its first frame."""
        return _sound(self.page.held(tab, raw))

    def _left(self, tab: Tab, draft: Any) -> form.Values:
        """The values that a tab holds when a page opens. Raises what is wrong with its first frame."""
        left = self.page.left(tab, draft)
        return _sound(self.page.starting_values(tab)) if left is None else left

    def _shows(self, model: Any, axes: Sequence[Any], raw: Sequence[Any]) -> Update:
        """The form over one model's tab: that tab's request, its summary, the fields it can change."""
        chosen = self._chosen(model)
        parts = iter(raw)
        own = {tab.row.id: list(islice(parts, len(tab.components))) for tab in self.page.rows.values()}
        return self._over(chosen, lambda: self._held(chosen, own[chosen.row.id]), axes)

    def _chosen(self, model: Any) -> Tab:
        return self.page.rows[model if model in self.page.rows else next(iter(self.page.rows))]

    def _over(self, tab: Tab, held: Callable[[], form.Values], axes: Sequence[Any]) -> Update:
        row = tab.row
        try:
            base = form.body(row, held())
        except WanUIError as error:
            return self._with(row, None, axes, card.problem(error, lambda location: form.label_of(row, location)))
        return self._with(row, base, axes, _summary(row, base))

    def _with(self, row: WanModel, base: dict[str, Any] | None, axes: Sequence[Any], summary: str) -> Update:
        choices = _fields(row)
        allowed = [value for _, value in choices]
        kept = list(axes)
        found: dict[Any, Any] = {self.model: row.id, self.base: base, self.summary: summary}
        for index, side in enumerate(self.sides):
            if kept[2 * index] not in allowed:
                kept[2 * index] = NOTHING
            found[side.field] = gr.Dropdown(choices=choices, value=kept[2 * index])
        return {**found, **self._says(base, kept, row.id)}

    def open(self, row: WanModel, held: form.Values, compare: Compare) -> Update:
        """The form over these values, with the axes of a request. Raises InvalidRequest where they cannot be typed."""
        axes: list[Any] = []
        for side in (compare.columns, compare.rows):
            axes += [NOTHING, ""] if side is None or not side.values else [side.field, typed(side.field, side.values)]
        base = form.body(row, held)
        return {
            **self._with(row, base, [*axes, compare.baseline], _summary(row, base)),
            self.baseline: compare.baseline,
            self.page.tabs: gr.Tabs(selected=ID),
            self.page.place: ID,
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
        return {"visible": bool(field), "placeholder": HINTS.get(field, ""), "lines": lines}

    def _count(self, base: Mapping[str, Any] | None, axes: Sequence[Any]) -> str:
        if base is None:
            return '<p class="hint">The form above has to be in order first.</p>'
        try:
            if not any(str(text or "").strip() for text in axes[1:4:2]):
                return '<p class="hint">Choose what changes and type its values.</p>'
            prepared = self.desk.plan(body(base, axes))
        except WanUIError as error:
            return card.problem(error, lambda location: _name(base, location))
        cells, distinct = len(prepared.cells), len(prepared.generations)
        text = f"<b>{card.plural(cells, 'cell')}</b>"
        if distinct < cells:
            text += f", {distinct} of them to render"
        seconds = expected(prepared.generations, self.desk.recent(RECENT))
        if seconds is not None:
            text += f", about {_about(seconds)}"
        return f'<p class="counted" role="status">{text}</p>'

    def _jobs(self) -> list[tuple[str, str]]:
        """(label, folder) of the folders of the LoRA folder that hold more than one file."""
        folders: dict[str, int] = {}
        for path in self.desk.library.listing():
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
        draft_of = dict(zip(self.page.rows, drafts, strict=True))
        found: dict[Any, Any] = {
            **self._over(tab, lambda: self._left(tab, draft_of[tab.row.id]), axes),
            self.baseline: axes[4],
            self.shown: shown,
            **self.look(shown, {}),
        }
        if asked:
            found |= {self.page.tabs: gr.Tabs(selected=ID), self.page.place: ID}
        return found

    def on_tab(self, opened: Any, place: Any, model: Any, *rest: Any) -> Update:
        if place == ID or not opened:
            return {self.page.text: ""}  # opened by the page itself, which fills it too, or from storage
        shown = self._shows(place if place in MODELS else model, rest[: len(self._axes)], rest[len(self._axes) :])
        return {self.page.place: ID, self.page.text: "", **shown}

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
        paths = [path for path in self.desk.library.listing() if str(PurePosixPath(path).parent) == folder]
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
            job = self.desk.submit(body(base, axes))
        except WanUIError as error:
            return {self.said: card.problem(error, lambda location: _name(base or {}, location))}
        return {self.shown: job.id, **self.look(job.id, here), **self.page.follow(seen)}

    def on_scales(self, tab: Tab, text: Any, seen: Any, here: Any, raw: Sequence[Any]) -> Update:
        """The two-click way: these scales as columns, with the form's other values, and nothing else."""
        axes = ("scale", str(text or ""), NOTHING, "", False)
        try:
            held = self._held(tab, raw)
            base = form.body(tab.row, held)
            job = self.desk.submit(body(base, axes))
        except WanUIError as error:
            problem = card.problem(error, lambda location: form.label_of(tab.row, location))
            return {tab.scales.problem: problem}
        return {
            tab.scales.problem: "",
            self.page.tabs: gr.Tabs(selected=ID),
            self.page.place: ID,
            self.baseline: axes[4],
            self.shown: job.id,
            **self._over(tab, lambda: held, axes),
            **self.look(job.id, here),
            **self.page.follow(seen),
        }

    def shows(self, job_id: str, here: Any) -> Update:
        """The tab in front with a comparison that its form cannot say."""
        opened = {self.page.tabs: gr.Tabs(selected=ID), self.page.place: ID}
        return {**opened, self.shown: job_id, **self.look(job_id, here)}

    def on_cancel(self, shown: Any, seen: Any) -> Update:
        if shown:
            self.desk.cancel(shown)
        return self.look(shown, seen)

    def on_retry(self, shown: Any, seen: Any) -> Update:
        try:
            if shown:
                self.desk.retry(shown)
        except WanUIError as error:
            return {**self.look(shown, seen), self.status: card.problem(error)}
        return self.look(shown, seen)

    def on_use(self, uploads: Any, event: gr.EventData) -> Update:
        """A cell's request in its model's form, with the seed that was really used."""
        try:
            job = self.desk.job(str(event.job))
            cell = next(one for one in job.cells if (one.column, one.row) == (event.column, event.row))
            return self.page.reopen_request(cell.request, job.generations[cell.generation :], uploads)
        except WanUIError as error:
            raise gr.Error(error.message, print_exception=False) from error

    def look(self, shown: Any, seen: Any) -> Update:
        """What the board shows now; parts that are as they were are left out."""
        known: Mapping[str, Any] = seen if isinstance(seen, Mapping) else {}
        try:
            # Before the job: what then runs has no clip yet, or is seen to be done.
            running = self.desk.running(shown) if shown else None
            job = self.desk.job(shown) if shown else None
            may = job is not None and self.desk.may_change(job)
            if job is not None and not job.cells:
                raise RequestNotFound("This request is no comparison: its videos are in the list of finished jobs.")
        except RequestNotFound as error:
            wanted: dict[str, Any] = {"grid": None, "status": card.problem(error)}
        except WanUIError as error:
            wanted = {**known, "status": card.trouble(error)}
        else:
            wanted = {
                "grid": None if job is None else player.grid(job, running),
                "progress": player.advance(running),
                "status": _status(job, running),
                "cancel": job is not None and may and job.status in card.LIVE and not job.cancel_requested,
                "retry": _retry(job) if may else "",
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


def body(base: Mapping[str, Any], axes: Sequence[Any]) -> dict[str, Any]:
    """A request to compare, from a form's request and the axes' fields, values as typed, and the baseline.

    Raises InvalidRequest for values that cannot be read, and where nothing changes.
    """
    compare: dict[str, Any] = {"baseline": bool(axes[4])}
    for name, field, text in (("columns", axes[0], axes[1]), ("rows", axes[2], axes[3])):
        if field in FIELDS and str(text or "").strip():
            values = parse_values(str(text), field, f"compare.{name}.values")
            compare[name] = {"field": field, "values": list(values)}
    if len(compare) == 1:
        raise InvalidRequest("Choose what changes along the columns or rows, and type its values.")
    return {**base, "compare": compare}


def expected(generations: Sequence[Generation], jobs: Sequence[Job]) -> float | None:
    """Seconds for all of these, by the newest clip of the same model among `jobs`; None where there is none."""
    model = generations[0].model
    for job in jobs:
        if job.generations[0].model != model:
            continue
        for clip in reversed(job.clips):
            spent = clip.metadata.get("seconds")
            if not isinstance(spent, Mapping) or not spent.get("denoise"):
                continue
            made = job.generations[clip.index]
            work, steps = _work(made), _steps(clip, made)
            step, rest = spent["denoise"] / steps.rendered / work, spent.get("decode", 0) / work
            denoising = estimate(Order(tuple(generations), ()), partial(_scaled, step), steps.high_noise_of)
            return float(denoising + rest * sum(map(_work, generations)))
    return None


@dataclass(frozen=True)
class _Steps:
    """The denoising steps of a clip: in all, those of the high-noise transformer, and those it took itself."""

    total: int
    high_noise: int
    rendered: int

    def high_noise_of(self, one: Generation) -> int:
        """How many steps of another clip of the same model are high-noise ones."""
        return round(self.high_noise / self.total * one.sample_steps)


def _steps(clip: ClipRecord, made: Generation) -> _Steps:
    said = clip.metadata.get("steps", {})
    total = made.sample_steps
    return _Steps(total, said.get("high_noise", 0), max(1, total - said.get("shared", 0)))


def _sound(read: tuple[form.Values, Picture]) -> form.Values:
    held, picture = read
    if picture.error is not None:
        raise picture.error
    return held


def typed(field: str, values: Sequence[Any]) -> str:
    """An axis's values as one would type them. Raises InvalidRequest for values that no line of text can hold."""
    if field == "prompt" and any(isinstance(value, Mapping) for value in values):
        raise InvalidRequest(
            "The form takes prompts alone, and these have seeds or other values of their own. Send this comparison to "
            "POST /v1/inference instead."
        )
    # Of a pair one half stands for both.
    words = [str(next(iter(value.values()), "") if isinstance(value, Mapping) else value) for value in values]
    if field not in ONE_PER_LINE:
        return ", ".join(words)
    if any(len(word.splitlines()) != 1 or word != word.strip() for word in words):
        raise InvalidRequest("The form takes prompts of one line. Send this comparison to POST /v1/inference instead.")
    return "\n".join(words)


def _work(one: Generation) -> int:
    """How much there is to compute in a step, in pixels."""
    return one.width * one.height * one.num_frames


def _scaled(seconds_per_pixel: float, one: Generation) -> float:
    return seconds_per_pixel * _work(one)


def _fields(row: WanModel | None) -> list[tuple[str, str]]:
    """(label, field) of what an axis may be, for a row."""
    two = row is None or row.two_transformers
    return [("Nothing", NOTHING)] + [
        (label, field) for field, label in FIELD_LABELS.items() if two or SCALES.get(field) is None
    ]


def _name(base: Mapping[str, Any], location: str) -> str:
    """Who is meant by an error's `loc`."""
    parts = location.split(".")
    if parts[0] == "compare":
        return parts[1].capitalize() if len(parts) > 1 else "Comparison"
    return form.label_of(MODELS[base["model"]], location) if base.get("model") in MODELS else location


def _summary(row: WanModel, base: Mapping[str, Any]) -> str:
    prompt = base["prompts"][0]
    text = " ".join(str(prompt["prompt"]).split()) or "(no prompt)"
    facts = [
        ("Size", card.size(prompt["width"], prompt["height"])),
        ("Frames", f"{prompt['num_frames']} at {prompt['fps']} fps"),
        ("Steps", str(prompt["sample_steps"])),
        ("Guidance", f"{prompt['guidance_scale']:g}"),
        ("Seed", "drawn once for all cells" if prompt["seed"] == -1 else str(prompt["seed"])),
        ("Match", RECIPES[base["recipe"]].label if base["recipe"] in RECIPES else str(base["recipe"])),
    ]
    if base.get("speedup", "none") != "none":
        facts.append(("Speed-up", told(base["speedup"])))
    if row.control_image != "none":
        facts.append(("First frame", "as in the form" if prompt.get("ctrl_img") else "none"))
    for item in base["loras"]:
        name = PurePosixPath(str(item["path"])).name.removesuffix(".safetensors")
        slot = player.SLOT_WORDS.get(item.get("transformer") or "", "LoRA")
        facts.append((slot, f"{name} × {item['network_multiplier']:g}"))
    if not base["loras"]:
        facts.append(("LoRA", "none"))
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<div class="summary"><p class="words">{escape(text[:300])}</p><dl class="used">{shown}</dl></div>'


def _about(seconds: float) -> str:
    """A rough duration: 40 s, 6 min, 2 h 10 min."""
    if seconds < 55:
        return f"{max(1, round(seconds))} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _retry(job: Job | None) -> str:
    """What the button that renders the rest is called; nothing where there is no rest."""
    if job is None or job.status not in ("failed", "canceled"):
        return ""
    if job.status == "failed" and job.failures:
        failed = sum(cell.generation in job.failures for cell in job.cells)
        return f"Retry failed ({failed})"
    return "Render the rest"


def _status(job: Job | None, running: Any) -> str:
    """One line on the comparison."""
    if job is None:
        return '<p class="board-line quiet">No comparison yet.</p>'
    made = {clip.index for clip in job.clips}
    done, whole = sum(cell.generation in made for cell in job.cells), len(job.cells)
    kept = f"{done} of {card.plural(whole, 'cell')}"
    spent = card.took(job)
    if job.status == "in_queue":
        facts = f"position {job.position}" if job.position else "next"
        if done:
            facts += f" · {kept}"
    elif job.status == "in_progress":
        facts = f"{kept}{' · cancelling after this step' if job.cancel_requested else ''}"
    elif job.status == "succeeded":
        facts = card.plural(whole, "cell") + (f" in {card.seconds(spent)}" if spent else "")
    else:
        facts = f"{kept} kept" if done else ""
        if job.error and job.status == "failed":
            facts = " · ".join(filter(None, (facts, escape(str(job.error["message"])))))
    return (
        f'<p class="board-line {job.status}"><strong role="status">{card.STATES[job.status]}</strong> '
        f'<span>{escape(card.label(job))}</span> <span class="quiet">{f"· {facts}" if facts else ""}</span></p>'
    )
