"""A LoRA's strength as it is typed, and the form's request with it, both ways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wan_ui.errors import InvalidRequest
from wan_ui.models import MODELS
from wan_ui.request import parse, resolve
from wan_ui.scale import Ramp, Scale, scale_from
from wan_ui.ui import form_schema, lora_block, lora_strength
from wan_ui.ui.error_texts import concerns_loras, field_of, sentences
from wan_ui.ui.form_schema import lora_name, scale_name

MODEL, PAIR = MODELS["wan22_5b"], MODELS["wan22_14b_t2v"]
VALUES = st.floats(-4, 4)


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("0.5", 0.5),
        (" -4 ", -4),
        ("1,", None),
        ("1, 0.5, 0", [1, 0.5, 0]),
        ("1\uff0c.5\u30010;1e-1", [1, 0.5, 0, 0.1]),
        ("1 to 0.2", {"from": 1, "to": 0.2}),
        ("-1\u5230 2", {"from": -1, "to": 2}),
        ("1 -> 0", {"from": 1, "to": 0}),
        ("1 0.5", None),
        ("1 to 0.2, 3", None),
        ("nan", None),
        ("inf", None),
        ("strong", None),
        ("", None),
    ],
)
def test_what_is_typed(text: str, wire: Any) -> None:
    if wire is None:
        with pytest.raises(ValueError, match="must be a number"):
            lora_strength.typed(text)
    else:
        assert lora_strength.typed(text) == wire


@given(VALUES | st.builds(Ramp, VALUES, VALUES) | st.lists(VALUES, min_size=2, max_size=150).map(tuple))
def test_what_is_shown_is_read_as_the_same_scale(scale: Scale) -> None:
    shown = lora_strength.shown(scale)
    assert (scale_from(lora_strength.typed(shown)) if isinstance(shown, str) else shown) == scale


@pytest.mark.parametrize(
    ("sent", "read"),
    [(1, 1.0), ("1, 0", "1, 0"), (None, None), ("", None), (True, None), ([1], None), ("1" * 2001, None)],
)
def test_what_a_browser_sends(sent: Any, read: Any) -> None:
    assert lora_strength.read(sent) == read
    chosen = lora_block.read({"items": [{"source": "a", "slot": "single", "scale": sent}]}).chosen
    assert [lora.scale for lora in chosen] == [read]


@pytest.mark.parametrize("given_scale", [0.5, [1, 0.5, 0], {"from": 1, "to": 0.2}])
def test_a_request_is_the_same_after_the_form(given_scale: Any) -> None:
    loras = [
        {"path": "h.safetensors", "transformer": "high", "network_multiplier": given_scale},
        {"path": "l.safetensors", "transformer": "low", "network_multiplier": 2},
    ]
    asked = parse({"model": PAIR.id, "prompts": [{"prompt": "a", "seed": 1}], "loras": loras})
    model, values = form_schema.values(asked)
    draft = form_schema.kept(model, values)
    assert draft[scale_name("high")] == values[scale_name("high")]
    chosen = lora_block.from_values(model, draft)
    body = form_schema.body(model, {**values, **lora_block.to_values(model, chosen)})
    assert body["loras"] == loras
    assert resolve(parse(body), str)[0].loras == resolve(asked, str)[0].loras


def test_a_wrong_text_is_refused_at_its_field() -> None:
    _, values = form_schema.values(parse({"model": PAIR.id, "prompts": [{"prompt": "a", "seed": 1}]}))
    values |= {lora_name("high"): "h", scale_name("high"): 1.0, lora_name("low"): "l", scale_name("low"): "1 0"}
    with pytest.raises(InvalidRequest) as refused:
        form_schema.body(PAIR, values)
    assert refused.value.details["fields"] == [{"loc": "loras.1.network_multiplier", "msg": lora_strength.WRONG}]
    assert concerns_loras(refused.value)


def test_one_of_several_values_is_named_by_the_field_and_its_bounds() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse({"model": MODEL.id, "prompts": [{"prompt": "a"}], "loras": [{"path": "a", "network_multiplier": [1, 5]}]})
    assert field_of(refused.value.details["fields"][0]["loc"]) == "loras.0.network_multiplier"
    said = sentences(refused.value, lambda loc: form_schema.label_of(MODEL, loc))
    assert said == ["LoRA scale (strength) must be between -4 and 4."]
