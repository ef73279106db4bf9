"""The form of the Generate page laid out: one set of controls for all models, and what its events write to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from wan_ui.engine.speedups import CHOICES, WARNING
from wan_ui.models import MODELS, Preset, WanModel
from wan_ui.ui import form_schema, speed_choice
from wan_ui.ui.static_files import component_options, component_script, static_text
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import text_of, translated

SCALE_VALUES = "0, 0.5, 1, 1.5"

_WITH_FIRST_FRAME, _WITH_LAST_FRAME, _WITH_PAIR = "with-first-frame", "with-last-frame", "with-pair"
"""Classes of what only some models have; the style sheet shows them by the attributes that model_strip.js sets."""
_COMMON_SIZES: Mapping[int, tuple[Preset, ...]] = {
    32: (Preset(832, 480), Preset(480, 832), Preset(640, 640), Preset(1280, 704)),
    16: (Preset(832, 480), Preset(480, 832), Preset(640, 640), Preset(1280, 720)),
}
"""Sizes offered by the multiple that a model's sides are rounded to."""


@dataclass(frozen=True)
class Scales:
    """ "Compare strengths": the values, the button that runs them, and what is wrong with them."""

    text: gr.Textbox
    run: gr.Button
    problem: gr.HTML


@dataclass(frozen=True)
class FormParts:
    """The laid-out form. `components` are the controls by name, in form order, without model and LoRAs."""

    strip: gr.HTML
    loras: gr.HTML
    lora_problem: gr.HTML
    components: Mapping[str, Any]  # mypy knows no events of Component
    scales: Scales
    shape: gr.Button
    notes: Mapping[str, gr.HTML]
    problem: gr.HTML
    generate: gr.Button

    @property
    def inputs(self) -> list[Any]:
        """The model, the controls in form order, and the LoRAs."""
        return [self.strip, *self.components.values(), self.loras]

    @property
    def described(self) -> list[Any]:
        """What the notes on the values change."""
        return [*self.notes.values(), self.shape]


def negative_prompt(model: WanModel) -> str:
    """The negative prompt that Wan's own programs use where none is given; 2.1 image-to-video adds camera shake."""
    usual = static_text("negative_prompt.txt").strip()
    shakes = model.family.startswith("wan21") and model.control_image == "required"
    return static_text("negative_prompt_shake.txt").strip() + usual if shakes else usual


def model_facts(model: WanModel) -> dict[str, Any]:
    """What the browser knows of a model: its tab, which controls it has, and its sizes."""
    divisor = model.divisor["reference"]
    sizes = [*model.presets, model.form_size, *_COMMON_SIZES[16 if divisor < 32 else 32]]
    return {
        "label": model.label,
        "about": text_of(
            "form.about_model",
            images=text_of(f"form.first_frame_{model.control_image}"),
            loras=text_of("form.two_loras" if model.two_transformers else "form.one_transformer"),
            divisor=divisor,
        ),
        "firstFrame": model.control_image,
        "lastFrame": model.takes_last_frame,
        "pair": model.two_transformers,
        "sizes": list(dict.fromkeys((size.width, size.height) for size in sizes)),
        "speed": speed_choice.facts(model),
        "negative": negative_prompt(model),
    }


@dataclass
class _Layout:
    """The form while it is laid out: the controls still to be placed, and the components made so far."""

    specs: Mapping[str, form_schema.Control]
    components: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, gr.HTML] = field(default_factory=dict)

    def put(self, *names: str, **options: Any) -> None:
        """Places controls here."""
        for name in names:
            self.components[name] = form_schema.make(self.specs[name], **options)

    def loras(self, value: Mapping[str, Any]) -> tuple[gr.HTML, gr.HTML]:
        """The LoRA block, with the drop zone and the chosen files, and what is wrong with them."""
        block = gr.HTML(value, elem_id="loras", **component_options("lora_block"))
        return block, gr.HTML(elem_classes="problems", elem_id="lora-problem")

    def words(self) -> None:
        """The prompt, with what is to be said of it, and the trigger word."""
        with gr.Column(elem_classes=["section", "words"]):
            self.put("prompt", placeholder=text_of("form.prompt_hint"))
            self.notes["prompt"] = gr.HTML(elem_classes="remarks", elem_id="prompt-note")
            self.put("trigger_word", placeholder=text_of("form.trigger_word_hint"))

    def first_frame(self) -> gr.Button:
        """The first frame, of models that take one; returns the button that takes its aspect ratio."""
        with gr.Column(elem_classes=["section", _WITH_FIRST_FRAME, "first-frame"]):
            self.put("ctrl_img")
            with gr.Row(elem_classes="line"):
                self.notes["image"] = gr.HTML(elem_classes="remarks")
                shape = gr.Button(text_of("form.use_image_aspect"), size="sm", interactive=False, scale=0)
        return shape

    def size(self) -> None:
        """Size chips, width, height, frames and fps, and the length in seconds."""
        with gr.Column(elem_classes=["section", "sizes"]):
            gr.HTML(None, elem_id="size-chips", **component_options("size_chips"))
            self.put("width", "height", "num_frames", "fps")
            self.notes["size"] = gr.HTML(elem_classes=["remarks", "size"])

    def sampling(self) -> None:
        """Seed, steps and guidance scale."""
        with gr.Column(elem_classes=["section", "sampling"]):
            self.put("seed", "sample_steps", "guidance_scale")

    def more(self) -> None:
        """What is seldom changed, behind a fold."""
        with gr.Accordion(text_of("form.more"), open=False, elem_id="more"):
            self.put("neg", placeholder=text_of("form.negative_unused"))
            self.put("recipe", info=text_of("form.recipe_hint"))
            with gr.Row(elem_classes="three"):
                self.put("sampler", "flow_shift")
                self.put("boundary", "switch_step", "guidance_scale_2", elem_classes=_WITH_PAIR)
            self.put("ctrl_img_last", elem_classes=_WITH_LAST_FRAME)
            self.notes["last_image"] = gr.HTML(elem_classes=["remarks", _WITH_LAST_FRAME])
            self.put("apply_exif", elem_classes=_WITH_FIRST_FRAME)
            self.put("vae_tiling", info=text_of("form.tiles_hint"))
            self.put("speedup")
            choices = [choice for choice in CHOICES.values() if choice.distance is not None]
            gr.HTML(
                render_template(
                    "speedups",
                    warning=translated(WARNING),
                    choices=[(translated(choice.label), translated(choice.sentence)) for choice in choices],
                )
            )
            base = self.specs["base"].default
            self.components["base"] = gr.HTML(base, elem_id="field-base", **component_options("base_choice"))


def model_strip(chosen: str) -> gr.HTML:
    """The tabs of the models; its value is the id of the chosen one."""
    models = {model.id: model_facts(model) for model in MODELS.values()}
    return gr.HTML(chosen, elem_id="models", models=models, **component_options("model_strip"))


def lay_out(strip: gr.HTML, starting: Mapping[str, Any], loras: Mapping[str, Any]) -> FormParts:
    """Lays the form out in the surrounding column.

    `starting`: values by control name in place of the schema's defaults; `loras`: the LoRA block's first value.
    """
    specs = {control.name: control for control in form_schema.shared_controls(starting)}
    layout = _Layout(specs)
    with gr.Column(elem_classes="form", elem_id="form"):
        block, lora_problem = layout.loras(loras)
        layout.words()
        # The bar with Generate stays at the bottom of the window; here it is the stop of the Tab key after the prompt.
        with gr.Column(elem_classes="act"):
            problem = gr.HTML(
                elem_classes="problems", elem_id="form-problem", js_on_load=component_script("pick_card_action")
            )
            generate = gr.Button(text_of("form.generate"), variant="primary", elem_classes="generate")
        scales = _scales()
        shape = layout.first_frame()
        layout.size()
        layout.sampling()
        layout.more()
    return FormParts(
        strip=strip,
        loras=block,
        lora_problem=lora_problem,
        components={name: layout.components[name] for name in specs},
        scales=scales,
        shape=shape,
        notes=layout.notes,
        problem=problem,
        generate=generate,
    )


def _scales() -> Scales:
    """Lays out "Compare strengths"."""
    with gr.Accordion(text_of("form.compare_strengths"), open=False, elem_classes="scales"):
        with gr.Row(elem_classes="line"):
            text = gr.Textbox(SCALE_VALUES, label=text_of("form.strengths"), max_lines=1)
            run = gr.Button(text_of("form.compare"), size="sm", scale=0)
        problem = gr.HTML(elem_classes="problems")
    return Scales(text, run, problem)
