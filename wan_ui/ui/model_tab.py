"""One model's tab: its controls laid out, and the notes beside them as their values change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component
from markupsafe import Markup

from wan_ui.engine.recipes import RECIPES
from wan_ui.engine.speedups import CHOICES, WARNING
from wan_ui.errors import InvalidRequest, WanUIError
from wan_ui.models import FIRST_FRAME_NOTE, SIZE_480P_NOTE, Preset, WanModel
from wan_ui.ui import form_schema, render
from wan_ui.ui.error_texts import between
from wan_ui.ui.static_files import shared_script
from wan_ui.ui.templating import render_template

LORA_HINT = (
    "Choose a file, upload one, or type an address: https://… or hf://org/name/path.safetensors, with @revision for "
    "another than the main branch."
)
SETTINGS_HINT = (
    "Seed −1 draws one, and the result states it. At a guidance scale of 1 or less the negative prompt is not used."
)
MATCH_HINT = (
    "Reference server: as AI Toolkit inference servers render. Trainer preview: as AI Toolkit draws its samples while "
    "training."
)
SCALE_VALUES = "0, 0.5, 1, 1.5"
TILES_HINT = "Only to match previews of a job with low_vram or vae_tiling; otherwise leave it off."
UNKNOWN_TRIGGER = "The prompt has [trigger] but there is no trigger word: it stays as written."
UNUSED_TRIGGER = "The trigger word is not used: write [trigger] in the prompt where it belongs."
OPTIONAL_FIRST_FRAME = "Optional. With a first frame the video starts from it."


@dataclass(frozen=True)
class Scales:
    """A tab's "Compare scales": the values, the button that runs them, and what is wrong with them."""

    text: gr.Textbox
    run: gr.Button
    problem: gr.HTML


@dataclass(frozen=True)
class LoraControls:
    """The LoRA section of a tab.

    `uploads`, `cards` and `stacked` are by the name of the LoRA's control; `stacked` holds the columns of those behind
    the first of a slot. `another` and the value of `height`, the number of visible columns, are by slot; `pair` is the
    note on both halves of a pair.
    """

    uploads: Mapping[str, gr.File]
    cards: Mapping[str, gr.HTML]
    stacked: Mapping[str, gr.Column]
    another: Mapping[str, gr.Button]
    height: gr.State
    pair: gr.HTML
    scales: Scales
    refresh: gr.Button


@dataclass(frozen=True)
class ModelTab:
    """A built tab. `components` are the controls by name, in form order; the rest are what its events write to."""

    model: WanModel
    container: gr.Tab
    components: Mapping[str, Any]  # mypy knows no events of Component
    loras: LoraControls
    presets: Sequence[tuple[Preset, gr.Button]]
    shape: gr.Button | None
    notes: Mapping[str, gr.HTML]
    problem: gr.HTML
    generate: gr.Button
    draft: gr.BrowserState

    @property
    def inputs(self) -> list[Component]:
        """The controls in form order."""
        return list(self.components.values())

    @property
    def described(self) -> list[Component]:
        """What `describe` changes."""
        return [*self.notes.values(), *([self.shape] if self.shape is not None else [])]

    def named(self, raw: Sequence[Any]) -> form_schema.Values:
        """Raw component values, in the order of `inputs`, by control name."""
        return dict(zip(self.components, raw, strict=True))


@dataclass(frozen=True)
class FirstFrame:
    """The first frame of a tab: its reference on the wire and its size in pixels, or what is wrong with it."""

    reference: str | None = None
    size: tuple[int, int] | None = None
    error: WanUIError | None = None


@dataclass
class _Layout:
    """A tab while it is laid out: the controls still to be placed, and the components made so far."""

    model: WanModel
    specs: Mapping[str, form_schema.Control]
    choices: list[tuple[str, str]]
    components: dict[str, Component] = field(default_factory=dict)
    notes: dict[str, gr.HTML] = field(default_factory=dict)
    shape: gr.Button | None = None
    presets: list[tuple[Preset, gr.Button]] = field(default_factory=list)

    def put(self, name: str) -> None:
        """Places one control here."""
        self.components[name] = form_schema.make(self.specs[name], self.choices)

    def words(self) -> None:
        """Prompt, negative prompt and trigger word."""
        with gr.Column(elem_classes=["section", "words"]):
            self.put("prompt")
            with gr.Row(elem_classes="pair"):
                self.put("neg")
                self.put("trigger_word")
            self.notes["prompt"] = gr.HTML(elem_classes="remarks")

    def first_frame(self) -> None:
        """The first frame, of models that take one."""
        if "ctrl_img" not in self.specs:
            return
        with gr.Column(elem_classes="section"):
            self.put("ctrl_img")
            with gr.Row(elem_classes="line"):
                self.notes["image"] = gr.HTML(elem_classes="remarks")
                self.shape = gr.Button("Use the image's shape", size="sm", interactive=False, scale=0)
            self.put("apply_exif")
            if FIRST_FRAME_NOTE in self.model.notes:
                gr.HTML(render.hint(FIRST_FRAME_NOTE))

    def size(self) -> None:
        """Width, height, frames and fps, with the model's preset sizes."""
        with gr.Column(elem_classes="section"):
            with gr.Row(elem_classes="four"):
                for name in ("width", "height", "num_frames", "fps"):
                    self.put(name)
            if self.model.presets:
                with gr.Row(elem_classes="presets"):
                    self.presets = [
                        (preset, gr.Button(render.size(preset.width, preset.height), size="sm", min_width=96))
                        for preset in self.model.presets
                    ]
            tall = ["tall"] if self.model.tuned_for else []
            self.notes["size"] = gr.HTML(elem_classes=["remarks", "size", *tall])

    def sampling(self) -> None:
        """Steps, guidance scale and seed."""
        with gr.Column(elem_classes="section"):
            with gr.Row(elem_classes="three"):
                for name in ("sample_steps", "guidance_scale", "seed"):
                    self.put(name)
            gr.HTML(render.hint(SETTINGS_HINT))

    def loras(self) -> LoraControls:
        """The LoRA controls of each slot, and "Compare scales"."""
        uploads: dict[str, gr.File] = {}
        cards: dict[str, gr.HTML] = {}
        stacked: dict[str, gr.Column] = {}
        another: dict[str, gr.Button] = {}
        two = self.model.two_transformers
        with gr.Column(elem_classes=["section", "loras"]):
            height = gr.State(dict.fromkeys(self.model.slots, 1))
            with gr.Row(elem_classes="pair"):
                for slot in self.model.slots:
                    with gr.Column(min_width=240, elem_classes="side"):
                        for position in form_schema.lora_positions(self.model):
                            if position.slot != slot:
                                continue
                            name, first = position.lora, position.number == 1
                            width = "half" if two else "whole"
                            with gr.Column(min_width=240, elem_classes=["slot", width], visible=first) as column:
                                uploads[name], cards[name] = self._lora(position)
                            if not first:
                                stacked[name] = column
                        another[slot] = gr.Button("Add another LoRA", size="sm", elem_classes="another")
            pair = gr.HTML(elem_classes=["remarks", *(["tall"] if two else [])])
            with gr.Row(elem_classes="line"):
                gr.HTML(render.hint(LORA_HINT))
                refresh = gr.Button("Refresh the list", size="sm", scale=0)
            return LoraControls(uploads, cards, stacked, another, height, pair, _scales(), refresh)

    def _lora(self, position: form_schema.LoraPosition) -> tuple[gr.File, gr.HTML]:
        """One LoRA: its list, its upload, its card and its scale."""
        self.put(position.lora)
        upload = gr.File(
            label=f"Upload {self.specs[position.lora].label} (.safetensors)",
            file_types=[".safetensors"],
            height=84,
            elem_classes="upload",
        )
        card = gr.HTML(elem_classes="about", js_on_load=shared_script("pick_card_action"))
        self.put(position.scale)
        return upload, card

    def recipe(self) -> None:
        """Recipe, tiled decoding and speed-up."""
        with gr.Column(elem_classes="section"):
            self.put("recipe")
            gr.HTML(render.hint(MATCH_HINT))
            self.put("vae_tiling")
            gr.HTML(render.hint(TILES_HINT))
            with gr.Accordion("Faster or smaller, at a price", open=False, elem_classes="speedups"):
                self.put("speedup")
                choices = [choice for choice in CHOICES.values() if choice.distance is not None]
                gr.HTML(render_template("speedups", warning=WARNING, choices=choices))


def build(
    model: WanModel, starting: Mapping[str, Any], choices: list[tuple[str, str]], draft: gr.BrowserState
) -> ModelTab:
    """Lays the model's tab out inside the surrounding gr.Tabs.

    `draft` is made outside of them: a BrowserState inside a tab reads the browser's storage only once the tab is
    opened.
    """
    specs = {control.name: control for control in form_schema.controls(model, starting)}
    layout = _Layout(model, specs, choices)
    with gr.Tab(model.label, id=model.id) as container:
        with gr.Column(elem_classes="form"):
            layout.words()
            layout.first_frame()
            layout.size()
            layout.sampling()
            loras = layout.loras()
            layout.recipe()
        with gr.Column(elem_classes="act"):
            problem = gr.HTML(elem_classes="problems")
            generate = gr.Button("Generate", variant="primary", elem_classes="generate")
    return ModelTab(
        model=model,
        container=container,
        components={name: layout.components[name] for name in specs},
        loras=loras,
        presets=layout.presets,
        shape=layout.shape,
        notes={name: layout.notes[name] for name in ("prompt", "size", "image") if name in layout.notes},
        problem=problem,
        generate=generate,
        draft=draft,
    )


def _scales() -> Scales:
    """Lays out "Compare scales" beside a tab's scale sliders."""
    with gr.Accordion("Compare scales", open=False, elem_classes="scales"):
        with gr.Row(elem_classes="line"):
            text = gr.Textbox(SCALE_VALUES, label="Scales to compare", max_lines=1)
            run = gr.Button("Run the comparison", size="sm", scale=0)
        problem = gr.HTML(elem_classes="problems")
    return Scales(text, run, problem)


def _prompt_note(values: Mapping[str, Any]) -> Markup | str:
    trigger, prompt = values.get("trigger_word"), str(values.get("prompt") or "")
    if "[trigger]" in prompt and not trigger:
        return render.note(UNKNOWN_TRIGGER)
    if trigger and "[trigger]" not in prompt and trigger not in prompt:
        return render.note(UNUSED_TRIGGER)
    return ""


def _image_note(model: WanModel, values: Mapping[str, Any], image: FirstFrame) -> tuple[Markup | str, bool]:
    """The note on the first frame, and whether "Use the image's shape" would change anything."""
    if image.error is not None:
        return render.paragraph("wrong", image.error.message, role="alert"), False
    size = form_schema.size(model, values)
    if image.size is None or size is None:
        if image.size is None and model.control_image == "optional":
            return render.hint(OPTIONAL_FIRST_FRAME), False
        return "", False
    recipe = RECIPES[values["recipe"]].id
    given, used = render.size(*image.size), render.size(*size[2:])
    if form_schema.stretches(model, recipe, size[2:], image.size):
        return render.note(f"The first frame will be stretched: {given} → {used}."), True
    return render.hint(f"Image: {given}, resized to {used}."), False


def _bounds_note(model: WanModel, values: Mapping[str, Any]) -> Markup:
    sentences = [
        f"{control.label} must be a whole number {between(control.low, control.high)}."
        for control in form_schema.controls(model)
        if control.name in ("width", "height", "num_frames", "fps")
        and control.low is not None
        and control.high is not None
        and form_schema.whole(values.get(control.name), control.name) is None
    ]
    return render.paragraph("wrong", " ".join(sentences))


def _size_note(model: WanModel, values: Mapping[str, Any]) -> Markup:
    size, frames = form_schema.size(model, values), form_schema.frames(model, values)
    if size is None or frames is None:
        return _bounds_note(model, values)
    asked, effective, fps = frames
    tuned = model.tuned_for
    too_large = tuned is not None and size[2] * size[3] > tuned.width * tuned.height and SIZE_480P_NOTE in model.notes
    return render_template(
        "effective_size",
        size=render.change(render.size(*size[:2]), render.size(*size[2:])),
        count=render.change(str(asked), str(effective)),
        unit="frame" if effective == 1 else "frames",
        length=render.seconds(effective / fps),
        divisor=model.divisor[RECIPES[values["recipe"]].id],
        warning=SIZE_480P_NOTE if too_large else "",
    )


def describe(tab: ModelTab, values: Mapping[str, Any], image: FirstFrame) -> dict[Component, Any]:
    """The notes on the tab's values, by the component that shows them."""
    image_note, usable = _image_note(tab.model, values, image)
    notes = {"prompt": _prompt_note(values), "image": image_note, "size": _size_note(tab.model, values)}
    updates: dict[Component, Any] = {component: notes[name] for name, component in tab.notes.items()}
    if tab.shape is not None:
        updates[tab.shape] = gr.Button(interactive=usable)
    return updates


def request_text(model: WanModel, values: form_schema.Values) -> str:
    """The tab's request as JSON text, or why there is none yet."""
    try:
        return json.dumps(form_schema.body(model, values), indent=2, ensure_ascii=False)
    except InvalidRequest as error:
        return f"({error.message})"
