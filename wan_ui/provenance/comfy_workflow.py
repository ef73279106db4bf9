"""A generation as a ComfyUI workflow: core nodes with the same files and scales, and a note of what cannot be equal.

The result is ComfyUI's API format, {id: {class_type, inputs, _meta}}, which its page opens and its /prompt runs. An
input that comes from another node is [id, number of that node's output].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from wan_ui.engine.recipes import RECIPES
from wan_ui.lora.library import COMFY_FOLDER
from wan_ui.lora.remote import shown_name
from wan_ui.models import (
    NUM_TRAIN_TIMESTEPS,
    WAN21_1B,
    WAN21_14B,
    WAN21_I2V_14B,
    WAN21_I2V_14B_480P,
    WAN22_5B,
    WAN22_14B_I2V,
    WAN22_14B_T2V,
    Sampler,
    WanModel,
)
from wan_ui.request import Generation, find_model
from wan_ui.scale import is_constant, largest, scale_words

COMFY_LORAS = f"{COMFY_FOLDER}/"  # what paths of files in ComfyUI's own folders start with
TEXT_ENCODER, CLIP_VISION = "umt5_xxl_fp16.safetensors", "clip_vision_h.safetensors"
TRANSFORMERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        WAN22_5B.id: ("wan2.2_ti2v_5B_fp16.safetensors",),
        WAN22_14B_I2V.id: (
            "wan2.2_i2v_high_noise_14B_fp16.safetensors",
            "wan2.2_i2v_low_noise_14B_fp16.safetensors",
        ),
        WAN22_14B_T2V.id: (
            "wan2.2_t2v_high_noise_14B_fp16.safetensors",
            "wan2.2_t2v_low_noise_14B_fp16.safetensors",
        ),
        WAN21_14B.id: ("wan2.1_t2v_14B_fp16.safetensors",),
        WAN21_1B.id: ("wan2.1_t2v_1.3B_fp16.safetensors",),
        WAN21_I2V_14B.id: ("wan2.1_i2v_720p_14B_fp16.safetensors",),
        WAN21_I2V_14B_480P.id: ("wan2.1_i2v_480p_14B_fp16.safetensors",),
    }
)
"""ComfyUI's own files of the models, the high-noise one first."""
VAE = {8: "wan_2.1_vae.safetensors", 16: "wan2.2_vae.safetensors"}  # by spatial compression
SAMPLERS: Mapping[Sampler, str] = MappingProxyType(
    {"unipc": "uni_pc", "euler": "euler", "lcm": "lcm", "dpm++": "dpmpp_2m"}
)
LAST_STEP = 10_000  # "to the end"
USUAL_SHIFT, USUAL_BOUNDARY = 3.0, 0.875  # of checkpoints whose own values are not known before a clip is rendered
NEVER_EQUAL = (
    "Made by wan-ui. These are its files, scales and settings as ComfyUI's core nodes; the video will be similar and "
    "not the same: ComfyUI computes attention, text and sampler steps with other code and rounding, and its files may "
    "have another precision."
)

Link = list[Any]


class _Graph:
    """Nodes in the order in which they were added."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, class_type: str, title: str, **inputs: Any) -> str:
        """Adds a node and returns its id."""
        name = str(len(self.nodes) + 1)
        self.nodes[name] = {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}
        return name


@dataclass(frozen=True)
class _Plan:
    """What the nodes are made from: the generation, its model, and what its clip's metadata says, {} before that."""

    generation: Generation
    model: WanModel
    clip: Mapping[str, Any]

    @property
    def sampler(self) -> Sampler:
        """The sampler's name: the recipe's, where the request has none."""
        return self.generation.sampler or RECIPES[self.generation.recipe].sampler

    @property
    def shift(self) -> float:
        """The shift of the noise schedule."""
        used = self.clip.get("sampler", {}).get("shift")
        built = self.model.euler_shift if self.sampler in ("euler", "lcm") else self.model.unipc_shift
        return float(used or self.generation.flow_shift or built or USUAL_SHIFT)

    @property
    def high_steps(self) -> int:
        """How many steps the high-noise transformer makes: σ = shift × s / (1 + (shift − 1) × s), s = 1 − i / n."""
        generation = self.generation
        if generation.switch_step is not None:
            return generation.switch_step
        if "high_noise" in self.clip.get("steps", {}):
            return int(self.clip["steps"]["high_noise"])
        stated = self.model.boundary[generation.recipe]
        boundary = generation.boundary if generation.boundary is not None else stated
        share = boundary if isinstance(boundary, float | int) else USUAL_BOUNDARY
        unshifted = [1 - step / generation.sample_steps for step in range(generation.sample_steps)]
        times = [NUM_TRAIN_TIMESTEPS * self.shift * s / (1 + (self.shift - 1) * s) for s in unshifted]
        return sum(time >= share * NUM_TRAIN_TIMESTEPS for time in times)


def workflow(generation: Generation, clip: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The workflow of a generation, in API format. `clip` is its finished clip's metadata."""
    plan, graph = _Plan(generation, find_model(generation.model), clip or {}), _Graph()
    vae = graph.add("VAELoader", "VAE", vae_name=_file(plan, "vae", VAE[plan.model.spatial_compression]))
    encoder = _file(plan, "text_encoder", TEXT_ENCODER)
    text = graph.add("CLIPLoader", "Text encoder", clip_name=encoder, type="wan", device="default")
    positive, negative = (
        graph.add("CLIPTextEncode", title, text=words, clip=[text, 0])
        for title, words in (("Prompt", generation.prompt), ("Negative prompt", generation.neg))
    )
    conditions, latent = _conditioned(graph, plan, [vae, 0], [positive, 0], [negative, 0])
    models = {slot: _model(graph, plan, slot, index) for index, slot in enumerate(plan.model.slots)}
    samples = _sampled(graph, plan, models, conditions, latent)
    images = graph.add("VAEDecode", "Decode", samples=samples, vae=[vae, 0])
    video = graph.add("CreateVideo", "Video", images=[images, 0], fps=float(generation.fps))
    # Since 2026 the codec is an input of the format; older versions ask for it beside the format and ignore the other.
    codec = {"codec": "h264", "format.codec": "h264"}
    graph.add("SaveVideo", "Save", video=[video, 0], filename_prefix="video/wan-ui", format="mp4", **codec)
    graph.add("PrimitiveStringMultiline", "What cannot be equal", value="\n".join((NEVER_EQUAL, *_notes(plan))))
    return graph.nodes


def _model(graph: _Graph, plan: _Plan, slot: str, index: int) -> Link:
    """A transformer with its LoRAs, one after another, and its shift."""
    component = plan.model.slots[slot]
    name = _file(plan, component, TRANSFORMERS[plan.model.id][index])
    made = graph.add("UNETLoader", f"Transformer ({slot})", unet_name=name, weight_dtype="default")
    for use in plan.generation.loras:
        if use.slot == slot and use.scale != 0:
            made = graph.add(
                "LoraLoaderModelOnly",
                f"LoRA ({slot})",
                model=[made, 0],
                lora_name=_lora_name(use.path),
                strength_model=float(largest(use.scale)),
            )
    return [graph.add("ModelSamplingSD3", f"Shift ({slot})", model=[made, 0], shift=plan.shift), 0]


def _conditioned(
    graph: _Graph, plan: _Plan, vae: Link, positive: Link, negative: Link
) -> tuple[tuple[Link, Link], Link]:
    """The text conditions, with the given frames where the model takes them, and the latents to start from."""
    generation = plan.generation
    size = {"width": generation.width, "height": generation.height, "length": generation.num_frames, "batch_size": 1}
    first = _image(graph, generation, generation.image, "First frame")
    last = _image(graph, generation, generation.image_last, "Last frame")
    if plan.model.conditioning == "first_latent":
        start = {} if first is None else {"start_image": first}
        return (positive, negative), [graph.add("Wan22ImageToVideoLatent", "Latents", vae=vae, **size, **start), 0]
    if first is None:
        return (positive, negative), [graph.add("EmptyHunyuanLatentVideo", "Latents", **size), 0]
    inputs = {"positive": positive, "negative": negative, "vae": vae, **size, "start_image": first}
    if last is None:
        if plan.model.image_layers:
            inputs["clip_vision_output"] = _image_embedding(graph, plan, first)
        made = graph.add("WanImageToVideo", "First frame to video", **inputs)
    else:
        if plan.model.image_layers:
            inputs |= {"clip_vision_start_image": _image_embedding(graph, plan, first)}
            inputs |= {"clip_vision_end_image": _image_embedding(graph, plan, last)}
        made = graph.add("WanFirstLastFrameToVideo", "First and last frame to video", end_image=last, **inputs)
    return ([made, 0], [made, 1]), [made, 2]


def _image(graph: _Graph, generation: Generation, sha256: str | None, title: str) -> Link | None:
    """A given frame at exactly the clip's size, by LANCZOS and without cropping, as wan-ui resizes it."""
    if sha256 is None:
        return None
    loaded = graph.add("LoadImage", title, image=_image_name(sha256))
    sized = {"upscale_method": "lanczos", "width": generation.width, "height": generation.height, "crop": "disabled"}
    return [graph.add("ImageScale", f"{title}, exact size", image=[loaded, 0], **sized), 0]


def _image_embedding(graph: _Graph, plan: _Plan, image: Link) -> Link:
    """A frame's CLIP embedding, which Wan 2.1 image-to-video takes."""
    name = _file(plan, "image_encoder", CLIP_VISION)
    loader = next((key for key, node in graph.nodes.items() if node["class_type"] == "CLIPVisionLoader"), None)
    loader = loader or graph.add("CLIPVisionLoader", "Image encoder", clip_name=name)
    return [graph.add("CLIPVisionEncode", "Image embedding", clip_vision=[loader, 0], image=image, crop="none"), 0]


def _sampled(
    graph: _Graph, plan: _Plan, models: Mapping[str, Link], conditions: tuple[Link, Link], latent: Link
) -> Link:
    """The denoised latents: one sampler, or one for each transformer with the noise handed on between them."""
    generation, steps = plan.generation, plan.generation.sample_steps
    low_scale = generation.guidance_scale_2
    scales = {"low": generation.guidance_scale if low_scale is None else low_scale}
    high = plan.high_steps if plan.model.two_transformers else 0
    spans = dict.fromkeys(models, (0, LAST_STEP))
    if plan.model.two_transformers:
        spans = {"high": (0, LAST_STEP if high >= steps else high), "low": (high, LAST_STEP)}
        spans = {slot: span for slot, span in spans.items() if span[0] < min(span[1], steps)}
    for slot, (start, end) in spans.items():
        sampler = graph.add(
            "KSamplerAdvanced",
            f"Sampler ({slot})",
            model=models[slot],
            add_noise="enable" if start == 0 else "disable",
            noise_seed=generation.seed,
            steps=steps,
            cfg=max(1.0, float(scales.get(slot, generation.guidance_scale))),
            sampler_name=SAMPLERS[plan.sampler],
            scheduler="simple",
            positive=conditions[0],
            negative=conditions[1],
            latent_image=latent,
            start_at_step=start,
            end_at_step=end,
            return_with_leftover_noise="enable" if end < steps else "disable",
        )
        latent = [sampler, 0]
    return latent


def _file(plan: _Plan, component: str, usual: str) -> str:
    """The single file that a component was loaded from, or ComfyUI's own file of it."""
    for item in plan.clip.get("base", {}).get("components", ()):
        name = str(item.get("name", ""))
        if item.get("component") == component and name.endswith(".safetensors"):
            return PurePosixPath(name).name
    return usual


def _lora_name(path: str) -> str:
    """A LoRA's name in ComfyUI's `loras` folder: its path there, or the file's name for one of another folder."""
    if path.startswith(COMFY_LORAS):
        return path.removeprefix(COMFY_LORAS)
    return PurePosixPath(shown_name(path)).name


def _image_name(sha256: str) -> str:
    return f"wan-ui-{sha256[:16]}.png"


def _notes(plan: _Plan) -> Sequence[str]:
    """What is to be put where, and what these nodes cannot express."""
    generation, notes = plan.generation, []
    for use in generation.loras:
        if not use.path.startswith(COMFY_LORAS):
            notes.append(f"Put {_lora_name(use.path)} (SHA-256 {use.sha256 or 'unknown'}) into ComfyUI's loras folder.")
        if not is_constant(use.scale):
            notes.append(
                f"{_lora_name(use.path)} changes its scale over the steps ({scale_words(use.scale)}); the node has the "
                "largest value for all steps."
            )
    for title, sha256 in (("first", generation.image), ("last", generation.image_last)):
        if sha256 is not None:
            notes.append(f"Put the {title} frame into ComfyUI's input folder as {_image_name(sha256)}.")
    if plan.sampler == "unipc":
        notes.append("ComfyUI's uni_pc is another implementation of UniPC, on slightly other timesteps.")
    if generation.recipe == "preview" and generation.sampler is None:
        notes.append("The trainer's noise levels end nearer to 0 than those of the scheduler simple.")
    if plan.model.conditioning == "latent_channels":
        notes.append("wan-ui samples the encoded frames from the VAE's posterior, ComfyUI takes its mean.")
    if generation.speedup != "none":
        notes.append(f"The speed-up {generation.speedup} is not part of this workflow.")
    return notes
