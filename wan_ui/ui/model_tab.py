"""One model's tab: its controls laid out, and what it says about them as they change; it knows no jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from wan_ui.engine.recipes import RECIPES
from wan_ui.engine.speedups import CHOICES, WARNING
from wan_ui.errors import InvalidRequest, WanUIError
from wan_ui.models import FIRST_FRAME_NOTE, SIZE_480P_NOTE, Preset, WanModel
from wan_ui.ui import form_schema, render

LORA_HINT = (
    "Choose a file, upload one, or type an address: https://… or hf://org/name/path.safetensors, with @revision for "
    "another than the main branch."
)
PICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (!button) return;
  if (button.dataset.do === 'fetch') {
    button.disabled = true;
    button.textContent = 'Fetching…';
  }
  trigger('click', {pressed: {...button.dataset}});
});
"""
SETTINGS_HINT = (
    "Seed −1 draws one, and the result states it. At a guidance scale of 1 or less the negative prompt is not used."
)
MATCH_HINT = (
    "Reference server: as AI Toolkit inference servers render. Trainer preview: as AI Toolkit draws its samples while "
    "training."
)
SCALE_VALUES = "0, 0.5, 1, 1.5"
TILES_HINT = "Only to match previews of a job with low_vram or vae_tiling; otherwise leave it off."


@dataclass(frozen=True)
class Scales:
    """The two-click way in a model's tab: the values, the button that runs them, and what is wrong with them."""

    text: gr.Textbox
    run: gr.Button
    problem: gr.HTML


@dataclass(frozen=True)
class ModelTab:
    """A built tab. `components` are the controls by name, in form order; the rest are what its events write to.

    `uploads`, `cards` and `rows` are by the name of the LoRA's control; `rows` holds those behind the first of a slot.
    `another` and what `height` holds (how many rows are seen) are by slot; `pair` speaks about both sides.
    """

    row: WanModel
    container: gr.Tab
    components: Mapping[str, Any]  # Component has no events to mypy's eyes
    uploads: Mapping[str, gr.File]
    cards: Mapping[str, gr.HTML]
    rows: Mapping[str, gr.Column]
    another: Mapping[str, gr.Button]
    height: gr.State
    pair: gr.HTML
    scales: Scales
    presets: Sequence[tuple[Preset, gr.Button]]
    refresh: gr.Button
    shape: gr.Button | None
    said: Mapping[str, gr.HTML]
    problem: gr.HTML
    generate: gr.Button
    draft: gr.BrowserState

    @property
    def inputs(self) -> list[Component]:
        return list(self.components.values())

    def named(self, held: Sequence[Any]) -> form_schema.Values:
        """Raw component values, in the order of `inputs`, by control name."""
        return dict(zip(self.components, held, strict=True))


@dataclass(frozen=True)
class Picture:
    """The first frame as the tab holds it: its reference on the wire and its size in pixels, or what is wrong."""

    reference: str | None = None
    size: tuple[int, int] | None = None
    error: WanUIError | None = None


def build(
    row: WanModel, starting: Mapping[str, Any], choices: list[tuple[str, str]], draft: gr.BrowserState
) -> ModelTab:
    """Lays the row's tab out inside the surrounding gr.Tabs.

    `draft` is made outside of them: what stands inside a tab reads the browser's storage only once the tab is opened.
    """
    specs = {control.name: control for control in form_schema.controls(row, starting)}
    made: dict[str, Component] = {}

    def put(name: str) -> None:
        made[name] = form_schema.make(specs[name], choices)

    with gr.Tab(row.label, id=row.id) as container:
        with gr.Column(elem_classes="form"):
            with gr.Column(elem_classes=["section", "words"]):
                put("prompt")
                with gr.Row(elem_classes="pair"):
                    put("neg")
                    put("trigger_word")
                said_prompt = gr.HTML(elem_classes="said")
            shape, said_image = None, None
            if "ctrl_img" in specs:
                with gr.Column(elem_classes="section"):
                    put("ctrl_img")
                    with gr.Row(elem_classes="line"):
                        said_image = gr.HTML(elem_classes="said")
                        shape = gr.Button("Use the image's shape", size="sm", interactive=False, scale=0)
                    if FIRST_FRAME_NOTE in row.notes:
                        gr.HTML(f'<p class="hint">{FIRST_FRAME_NOTE}</p>')
            with gr.Column(elem_classes="section"):
                with gr.Row(elem_classes="four"):
                    for name in ("width", "height", "num_frames", "fps"):
                        put(name)
                presets: list[tuple[Preset, gr.Button]] = []
                if row.presets:
                    with gr.Row(elem_classes="presets"):
                        presets = [
                            (preset, gr.Button(render.size(preset.width, preset.height), size="sm", min_width=96))
                            for preset in row.presets
                        ]
                said_size = gr.HTML(elem_classes=["said", "size", *(["tall"] if row.tuned_for else [])])
            with gr.Column(elem_classes="section"):
                with gr.Row(elem_classes="three"):
                    for name in ("sample_steps", "guidance_scale", "seed"):
                        put(name)
                gr.HTML(f'<p class="hint">{SETTINGS_HINT}</p>')
            with gr.Column(elem_classes=["section", "loras"]):
                uploads: dict[str, gr.File] = {}
                cards: dict[str, gr.HTML] = {}
                stacked: dict[str, gr.Column] = {}
                another: dict[str, gr.Button] = {}
                height = gr.State(dict.fromkeys(row.slots, 1))

                def choose(place: form_schema.Place) -> None:
                    put(place.lora)
                    uploads[place.lora] = gr.File(
                        label=f"Upload {specs[place.lora].label} (.safetensors)",
                        file_types=[".safetensors"],
                        height=84,
                        elem_classes="upload",
                    )
                    cards[place.lora] = gr.HTML(elem_classes="about", js_on_load=PICK)
                    put(place.scale)

                with gr.Row(elem_classes="pair"):
                    width = "half" if row.two_transformers else "whole"
                    for slot in row.slots:
                        with gr.Column(min_width=240, elem_classes="side"):
                            for place in form_schema.places(row):
                                if place.slot != slot:
                                    continue
                                with gr.Column(
                                    min_width=240,
                                    elem_classes=["slot", width],
                                    visible=place.number == 1,
                                ) as column:
                                    choose(place)
                                if place.number > 1:
                                    stacked[place.lora] = column
                            another[slot] = gr.Button("Add another LoRA", size="sm", elem_classes="another")
                pair = gr.HTML(elem_classes=["said", *(["tall"] if row.two_transformers else [])])
                with gr.Row(elem_classes="line"):
                    gr.HTML(f'<p class="hint">{LORA_HINT}</p>')
                    refresh = gr.Button("Refresh the list", size="sm", scale=0)
                compared = _scales()
            with gr.Column(elem_classes="section"):
                put("recipe")
                gr.HTML(f'<p class="hint">{MATCH_HINT}</p>')
                put("vae_tiling")
                gr.HTML(f'<p class="hint">{TILES_HINT}</p>')
                with gr.Accordion("Faster or smaller, at a price", open=False, elem_classes="speedups"):
                    put("speedup")
                    gr.HTML(_prices())
        with gr.Column(elem_classes="act"):
            problem = gr.HTML(elem_classes="problems")
            generate = gr.Button("Generate", variant="primary", elem_classes="generate")
    return ModelTab(
        row=row,
        container=container,
        components={name: made[name] for name in specs},
        uploads=uploads,
        cards=cards,
        rows=stacked,
        another=another,
        height=height,
        pair=pair,
        scales=compared,
        presets=presets,
        refresh=refresh,
        shape=shape,
        said={
            "prompt": said_prompt,
            "size": said_size,
            **({} if said_image is None else {"image": said_image}),
        },
        problem=problem,
        generate=generate,
        draft=draft,
    )


def _prices() -> str:
    lossy = [choice for choice in CHOICES.values() if choice.distance is not None]
    each = "".join(f"<li><b>{escape(one.label)}:</b> {escape(one.sentence)}</li>" for one in lossy)
    return f'<p class="hint">{escape(WARNING)}</p><ul class="prices">{each}</ul>'


def _scales() -> Scales:
    """Lays out "Compare scales" beside a tab's scale sliders."""
    with gr.Accordion("Compare scales", open=False, elem_classes="scales"):
        with gr.Row(elem_classes="line"):
            text = gr.Textbox(SCALE_VALUES, label="Scales to compare", max_lines=1)
            run = gr.Button("Run the comparison", size="sm", scale=0)
        problem = gr.HTML(elem_classes="problems")
    return Scales(text, run, problem)


def _prompt_note(held: Mapping[str, Any]) -> str:
    trigger, prompt = held.get("trigger_word"), str(held.get("prompt") or "")
    if "[trigger]" in prompt and not trigger:
        return render.note("The prompt has [trigger] but there is no trigger word: it stays as written.")
    if trigger and "[trigger]" not in prompt and trigger not in prompt:
        return render.note("The trigger word is not used: write [trigger] in the prompt where it belongs.")
    return ""


def _image_note(row: WanModel, held: Mapping[str, Any], picture: Picture) -> tuple[str, bool]:
    """What to say of the first frame, and whether "Use the image's shape" would change anything."""
    if picture.error is not None:
        return f'<p class="wrong" role="alert">{escape(picture.error.message)}</p>', False
    size = form_schema.size(row, held)
    if picture.size is None or size is None:
        if picture.size is None and row.control_image == "optional":
            return '<p class="hint">Optional. With a first frame the video starts from it.</p>', False
        return "", False
    recipe = RECIPES[held["recipe"]].id
    image = render.size(*picture.size)
    if form_schema.stretches(row, recipe, size[2:], picture.size):
        return render.note(f"The first frame will be stretched: {image} → {render.size(*size[2:])}."), True
    return f'<p class="hint">Image: {image}, resized to {render.size(*size[2:])}.</p>', False


def _bounds_message(row: WanModel, held: Mapping[str, Any]) -> str:
    parts = [
        f"{control.label} is a whole number from {control.low:g} to {control.high:g}."
        for control in form_schema.controls(row)
        if control.name in ("width", "height", "num_frames", "fps")
        and form_schema.whole(held.get(control.name), control.name) is None
    ]
    return f'<p class="wrong">{" ".join(parts)}</p>'


def _size_note(row: WanModel, held: Mapping[str, Any]) -> str:
    size, frames = form_schema.size(row, held), form_schema.frames(row, held)
    if size is None or frames is None:
        return _bounds_message(row, held)
    asked, effective, fps = frames
    shown = render.change(render.size(*size[:2]), render.size(*size[2:]))
    count = render.change(str(asked), str(effective))
    unit = "frame" if effective == 1 else "frames"
    divisor = row.divisor[RECIPES[held["recipe"]].id]
    line = (
        f'<p class="effective"><span><b>{shown}</b></span><span><b>{count}</b> {unit}</span>'
        f"<span>{render.seconds(effective / fps)}</span></p>"
        f'<p class="hint">Sides go down to a multiple of {divisor}; frames are 4N + 1.</p>'
    )
    tuned = row.tuned_for
    if tuned is not None and size[2] * size[3] > tuned.width * tuned.height and SIZE_480P_NOTE in row.notes:
        line += render.note(SIZE_480P_NOTE)
    return line


def say(tab: ModelTab, held: Mapping[str, Any], picture: Picture) -> dict[Component, Any]:
    """What the tab says about the values it holds, by the component that says it."""
    row = tab.row
    image, usable = _image_note(row, held, picture)
    texts = {
        "prompt": _prompt_note(held),
        "image": image,
        "size": _size_note(row, held),
    }
    found: dict[Component, Any] = {component: texts[name] for name, component in tab.said.items()}
    if tab.shape is not None:
        found[tab.shape] = gr.Button(interactive=usable)
    return found


def request_text(row: WanModel, held: form_schema.Values) -> str:
    """The tab's request as JSON text, or why there is none yet."""
    try:
        return json.dumps(form_schema.body(row, held), indent=2, ensure_ascii=False)
    except InvalidRequest as error:
        return f"({error.message})"
