"""A LoRA's scale over the steps: how it is spread, what a request may give, and where it is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wan_ui.axes import label
from wan_ui.compare import expand
from wan_ui.errors import InvalidRequest
from wan_ui.job import generation_body, generation_from
from wan_ui.render_order import high_noise_part, render_order, same_video
from wan_ui.request import Compare, parse, resolve
from wan_ui.scale import Ramp, Scale, largest, scale_at, scale_body, scale_from, scale_words, simplified

PAIR, ONE = "wan22_14b_t2v", "wan21_1b"


def request(*scales: Any, model: str = ONE, **fields: Any) -> Any:
    slots = ("high", "low") if model == PAIR else (None,)
    loras = [
        {"path": f"{i}.safetensors", "transformer": slots[i], "network_multiplier": s} for i, s in enumerate(scales)
    ]
    return parse({"model": model, "prompts": [{"prompt": "a fox"}], "loras": loras, **fields})


@pytest.mark.parametrize(
    ("scale", "steps", "values"),
    [
        (0.5, 3, [0.5, 0.5, 0.5]),
        ((1, 0.5), 4, [1, 1, 0.5, 0.5]),
        ((1, 0.5), 5, [1, 1, 1, 0.5, 0.5]),
        ((1, 0.5, 0), 4, [1, 1, 0.5, 0]),
        ((1, 2, 3, 4, 5), 2, [1, 3]),
        ((1, 2, 3), 1, [1]),
        (Ramp(1, 0), 5, [1, 0.75, 0.5, 0.25, 0]),
        (Ramp(-1, 1), 3, [-1, 0, 1]),
        (Ramp(0.3, 1), 1, [0.3]),
    ],
)
def test_values_are_spread_over_the_steps(scale: Scale, steps: int, values: list[float]) -> None:
    assert [scale_at(scale, step, steps) for step in range(steps)] == pytest.approx(values)


@pytest.mark.parametrize(
    ("given", "used", "words"),
    [
        (0.5, 0.5, "0.5"),
        ([0.5, 0.5, 0.5], 0.5, "0.5"),
        ([0], 0, "0"),
        ({"from": 1, "to": 1}, 1, "1"),
        ([1, 0.5], (1, 0.5), "1, 0.5"),
        ({"from": 1, "to": -0.25}, Ramp(1, -0.25), "1 to -0.25"),
    ],
)
def test_what_a_request_gives_and_keeps(given: Any, used: Scale, words: str) -> None:
    asked = request(given)
    (generation,) = resolve(asked, str)
    assert generation.loras[0].scale == used == simplified(used)
    assert scale_words(used) == words
    assert asked.model_dump(mode="json")["loras"][0]["network_multiplier"] == given
    assert parse(asked.model_dump(mode="json", exclude_none=True)) == asked
    stored = json.loads(json.dumps(generation_body(generation)))
    assert generation_from(stored) == generation
    assert scale_from(json.loads(json.dumps(scale_body(used)))) == used
    assert generation.replaced == ({} if isinstance(used, float | int) else {"network_multiplier": [scale_body(used)]})


@pytest.mark.parametrize(
    ("given", "loc", "message"),
    [
        (5, "", "must be at most 4"),
        ([], "", "must have at least 1 entries"),
        ([1] * 151, "", "must have at most 150 entries"),
        ([1, -5], ".1", "must be at least -4"),
        ([True], ".0", "must be a number, not true or false"),
        ({"from": 9, "to": 1}, ".from", "must be at most 4"),
        ({"from": 1}, ".to", "is missing"),
        ({"from": 1, "to": 0, "by": 1}, ".by", "is not a known field"),
        ("1", None, None),
        (float("nan"), "", "must be a finite number"),
    ],
)
def test_bounds(given: Any, loc: str | None, message: str | None) -> None:
    if loc is None:
        return
    with pytest.raises(InvalidRequest) as raised:
        request(given)
    assert raised.value.details["fields"][0] == {"loc": f"loras.0.network_multiplier{loc}", "msg": message}


def test_a_scale_axis_takes_changing_scales() -> None:
    axis = {"field": "scale_high", "values": [1, [1, 0.5], {"from": 1, "to": 0}]}
    grid = expand(request(1.0, 0.5, model=PAIR), Compare.model_validate({"columns": axis, "baseline": False}))
    assert grid.columns == ("high scale 1", "high scale 1, 0.5", "high scale 1 to 0")
    scales = [resolve(cell.request, str)[0].loras for cell in grid.cells]
    assert [[use.scale for use in uses] for uses in scales] == [[1, 0.5], [(1, 0.5), 0.5], [Ramp(1, 0), 0.5]]
    assert label("scale", (1.0, 0.5)) == "scale 1, 0.5"
    with pytest.raises(InvalidRequest, match="must be at most 4"):
        expand(request(1.0), Compare.model_validate({"columns": {"field": "scale", "values": [[5, 1]]}}))


def test_runs_share_high_noise_steps_only_at_equal_scales() -> None:
    def generation(high: Any, low: Any) -> Any:
        return resolve(request(high, low, model=PAIR), str)[0]

    ramp, as_list = generation({"from": 1, "to": 0}, 1), generation([1, 0], 1)
    assert high_noise_part(ramp) == high_noise_part(generation({"from": 1, "to": 0}, [1, 0]))
    assert high_noise_part(ramp) != high_noise_part(as_list) != high_noise_part(generation(1, 1))
    assert same_video(generation([1, 1], 1)) == same_video(generation(1, {"from": 1, "to": 1}))
    assert len(render_order([ramp, as_list, generation([1, 1], 1), generation(1, 1)]).distinct) == 3


def test_the_largest_value_is_reported() -> None:
    assert [largest(scale) for scale in (0.5, (0.1, -0.7, 0.3), Ramp(0, -2))] == [0.5, -0.7, -2]
