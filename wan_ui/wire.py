"""A request's JSON: as it is stored, for other people, and without its speed LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wan_ui.request import InferenceRequest
from wan_ui.speed_loras import SPEED_FIELDS


def wire_form(request: InferenceRequest) -> dict[str, Any]:
    """The request as JSON without nulls. What a speed LoRA sets stays left out, so that it is not taken for given."""
    body = request.model_dump(mode="json", exclude_none=True)
    if request.speed_lora is not None:
        for item, fields in zip(request.prompts, body["prompts"], strict=True):
            for name in SPEED_FIELDS:
                if name not in item.model_fields_set:
                    fields.pop(name, None)
    return body


def without_training_samples(wire: Mapping[str, Any]) -> dict[str, Any]:
    """A request's JSON for other people: an imported job is open to everyone who knows its id, so the id is removed."""

    def kept(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: one for name, one in value.items() if name != "training_sample"}

    given = {**wire, "prompts": [kept(item) for item in wire["prompts"]]}
    if wire.get("compare"):  # a prompt axis may name one for each of its values
        given["compare"] = {
            name: {**part, "values": [kept(value) for value in part.get("values", ())]}
            if isinstance(part, Mapping)
            else part
            for name, part in wire["compare"].items()
        }
    return given


def in_full(wire: Mapping[str, Any]) -> dict[str, Any]:
    """The same request without its speed LoRA: the prompts' own settings, or the defaults."""
    return {name: value for name, value in wire.items() if name != "speed_lora"}
