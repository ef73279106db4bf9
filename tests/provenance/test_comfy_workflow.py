"""ComfyUI workflows: every node's inputs against a table of ComfyUI's own definitions, and the values in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wan_ui.models import MODELS
from wan_ui.provenance.comfy_workflow import NEVER_EQUAL, TRANSFORMERS, workflow
from wan_ui.request import Generation, parse, resolve

DEFINITIONS = json.loads((Path(__file__).parent.parent / "data" / "comfyui_nodes.json").read_text())["nodes"]
PAIR, I2V21, SMALL = "wan22_14b_t2v", "wan21_i2v_14b", "wan22_5b"
SHA = "ab" * 32
WHOLE = {"INT": int, "FLOAT": float, "STRING": str, "FILE": str, "COMBO": str}


def generation(model: str, loras: Any = (), **fields: Any) -> Generation:
    item = {"prompt": "a fox", "width": 832, "height": 480, "num_frames": 81, "sample_steps": 20, **fields}
    (made,) = resolve(parse({"model": model, "prompts": [item], "loras": loras, "stack": True}), lambda image: image)
    return made


def check(graph: dict[str, Any]) -> None:
    """Each node against its definition: known, complete, nothing more, in bounds, and links of the right type."""
    for node in graph.values():
        assert set(node) == {"class_type", "inputs", "_meta"}
        definition = DEFINITIONS[node["class_type"]]
        known = {**definition["required"], **definition["optional"]}
        assert set(definition["required"]) <= set(node["inputs"]) <= set(known), node
        for name, value in node["inputs"].items():
            rule = known[name]
            if isinstance(value, list):
                source, output = value
                assert DEFINITIONS[graph[source]["class_type"]]["output"][output] == rule["type"], (node, name)
                continue
            assert type(value) is WHOLE[rule["type"]], (node, name)
            if "min" in rule:
                assert rule["min"] <= value <= rule["max"], (node, name)
            assert value in rule.get("options", [value]), (node, name)
            if "step" in rule and name in ("width", "height"):
                assert value % rule["step"] == 0


def test_every_definition_says_where_it_was_checked() -> None:
    assert all(definition["source"] and definition["checked"] for definition in DEFINITIONS.values())


def nodes_of(graph: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [node["inputs"] for node in graph.values() if node["class_type"] == kind]


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.id)
@pytest.mark.parametrize("frames", ["none", "first", "both"])
def test_every_node_is_as_comfyui_defines_it(model: Any, frames: str) -> None:
    fields: dict[str, Any] = {"neg": "blurry"}
    if model.control_image == "required" or (frames != "none" and model.control_image != "none"):
        fields["ctrl_img"] = SHA
    if frames == "both" and model.takes_last_frame:
        fields["ctrl_img_last"] = "cd" * 32
    slots = [{"transformer": slot} if model.two_transformers else {} for slot in model.slots]
    loras = [
        {"path": f"ComfyUI/wan/{i}.safetensors", "network_multiplier": 0.5, **slot} for i, slot in enumerate(slots)
    ]
    for sampler in (None, "euler", "lcm", "dpm++", "unipc"):
        graph = workflow(generation(model.id, loras, sampler=sampler, **fields))
        check(graph)
    assert {node["unet_name"] for node in nodes_of(graph, "UNETLoader")} == set(TRANSFORMERS[model.id])
    assert len(nodes_of(graph, "LoraLoaderModelOnly")) == len(model.slots)
    assert len(nodes_of(graph, "LoadImage")) == len([name for name in fields if name.startswith("ctrl")])


def test_a_pair_hands_its_noise_on_at_the_switch() -> None:
    made = generation(PAIR, sample_steps=4, sampler="euler", flow_shift=5, guidance_scale=3.5, guidance_scale_2=1)
    high, low = nodes_of(workflow(made), "KSamplerAdvanced")
    assert (high["start_at_step"], high["end_at_step"], high["return_with_leftover_noise"]) == (0, 2, "enable")
    assert (low["start_at_step"], low["add_noise"], low["return_with_leftover_noise"]) == (2, "disable", "disable")
    assert (high["cfg"], low["cfg"], high["scheduler"]) == (3.5, 1.0, "simple")
    for steps, kinds in ((0, ["low"]), (4, ["high"])):
        graph = workflow(generation(PAIR, sample_steps=4, switch_step=steps))
        (only,) = nodes_of(graph, "KSamplerAdvanced")
        assert only["add_noise"] == "enable" and only["return_with_leftover_noise"] == "disable"
        check(graph)
        assert graph[only["model"][0]]["_meta"]["title"] == f"Shift ({kinds[0]})"


def test_the_clips_own_values_come_first() -> None:
    base = {"components": [{"component": "transformer", "name": "wan/mine.safetensors", "precision": "bf16"}]}
    clip = {"sampler": {"name": "x", "shift": 7.0}, "steps": {"high_noise": 6}, "base": base}
    graph = workflow(generation(PAIR), clip)
    assert nodes_of(graph, "UNETLoader")[0]["unet_name"] == "mine.safetensors"
    assert nodes_of(graph, "ModelSamplingSD3")[0]["shift"] == 7
    assert nodes_of(graph, "KSamplerAdvanced")[0]["end_at_step"] == 6


def test_the_note_says_what_to_put_where_and_what_differs() -> None:
    loras = [{"path": "style.safetensors", "network_multiplier": [1, 0.5]}]
    graph = workflow(generation(I2V21, loras, ctrl_img=SHA))
    (note,) = nodes_of(graph, "PrimitiveStringMultiline")
    assert note["value"].startswith(NEVER_EQUAL)
    for words in ("style.safetensors", "1, 0.5", f"wan-ui-{SHA[:16]}.png", "UniPC"):
        assert words in note["value"]
    (lora,) = nodes_of(graph, "LoraLoaderModelOnly")
    assert (lora["lora_name"], lora["strength_model"]) == ("style.safetensors", 1.0)
    (scaled,) = nodes_of(graph, "ImageScale")
    assert (scaled["upscale_method"], scaled["crop"], scaled["width"]) == ("lanczos", "disabled", 832)
    (text,) = nodes_of(workflow(generation(SMALL)), "Wan22ImageToVideoLatent")
    assert "start_image" not in text
