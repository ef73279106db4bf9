"""Grids as tables: values as people type them, cells and their labels, refusals by name, and the order to render."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise, permutations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wan_ui.axes import FIELDS, by_training_step, label, parse_values
from wan_ui.compare import NO_LORA, Grid, expand
from wan_ui.errors import InvalidRequest, ModelNotFound
from wan_ui.render_order import high_noise_part, render_order
from wan_ui.request import (
    MOST_CELLS,
    Axis,
    Compare,
    Generation,
    InferenceRequest,
    LoraUse,
    parse,
    resolve,
)
from wan_ui.wire import without_training_samples

ONE = "wan21_1b"
PAIR = "wan22_14b_t2v"
HIGH, LOW = "job_high_noise.safetensors", "job_low_noise.safetensors"
BOTH: list[dict[str, Any]] = [
    {"path": HIGH, "transformer": "high"},
    {"path": LOW, "transformer": "low", "network_multiplier": 0.5},
]


def halves(path: str) -> dict[str, str] | None:
    """A Pair by name alone."""
    if "both" in path:
        return {"high": path, "low": path}
    if "_noise" not in path:
        return None
    return {
        slot: path.replace("high_noise", f"{slot}_noise").replace("low_noise", f"{slot}_noise")
        for slot in ("high", "low")
    }


def request(model: str = ONE, prompt: Mapping[str, Any] | None = None, **fields: Any) -> InferenceRequest:
    return parse({"model": model, "prompts": [{"prompt": "a fox", **(prompt or {})}], **fields})


def grid(asked: InferenceRequest, columns: Any = None, rows: Any = None, baseline: bool = True) -> Grid:
    """`columns` and `rows` as (field, values)."""
    named = {"columns": columns, "rows": rows}
    axes = {name: {"field": axis[0], "values": axis[1]} for name, axis in named.items() if axis}
    return expand(asked, Compare.model_validate({**axes, "baseline": baseline}), pair=halves, random_seed=lambda: 777)


def generations(made: Grid) -> tuple[Generation, ...]:
    return tuple(resolve(cell.request, store_image=str)[0] for cell in made.cells)


def refused(asked: InferenceRequest, columns: Any = None, rows: Any = None) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as refusal:
        grid(asked, columns, rows)
    assert refusal.value.message.startswith(refusal.value.details["fields"][0]["loc"])
    json.dumps(refusal.value.body())
    return {field["loc"]: field["msg"] for field in refusal.value.details["fields"]}


# Typed values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0, 0.5, 1", (0, 0.5, 1)),
        ("0.2..1.0 step 0.2", (0.2, 0.4, 0.6, 0.8, 1)),
        ("42..45", (42, 43, 44, 45)),
        ("45..42", (45, 44, 43, 42)),
        ("1..0 step 0.25", (1, 0.75, 0.5, 0.25, 0)),
        ("1..0 step -0.5", (1, 0.5, 0)),
        ("0..1 step 0.3", (0, 0.3, 0.6, 0.9)),
        ("-0.5..0.5 step .5", (-0.5, 0, 0.5)),
        ("-2..-1", (-2, -1)),
        ("−1, −0.5", (-1, -0.5)),
        ("0 … 2", (0, 1, 2)),
        ("0..0", (0,)),
        ("1, 20..22, 5", (1, 20, 21, 22, 5)),
        ("0 0.5 1", (0, 0.5, 1)),
        ("0;1\n2", (0, 1, 2)),
        (" .5, +1., 007 ", (0.5, 1, 7)),
        ("0.5, 0.5", (0.5, 0.5)),
        ("1.0", (1,)),
        ("9223372036854775807", (2**63 - 1,)),
        ("9223372036854775805..9223372036854775807", (2**63 - 3, 2**63 - 2, 2**63 - 1)),
        ("0.1..0.3 STEP 0.1", (0.1, 0.2, 0.3)),
        ("", ()),
        (" ,, ;\n", ()),
        ("1..64", tuple(range(1, 65))),
    ],
)
def test_values_as_typed(text: str, values: tuple[Any, ...]) -> None:
    parsed = parse_values(text)
    assert parsed == values
    assert [type(one) for one in parsed] == [int if one == int(one) else float for one in parsed]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("0, half, 1", "half"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("1e3", "1e3"),
        ("٣", "٣"),
        ("1..", "1.."),
        ("1..2..3", "1..2..3"),
        ("0.2..1.0", "step"),
        ("0..1 step 0", "must not be 0"),
        ("0..1 step", "step"),
        ("1 - 4", "-"),
        ("1" * 5000, "111"),
        ("1..65", "64"),
        ("0..1000000000 step 0.000001", "64"),
        (", ".join(["1"] * 65), "64"),
        ("1 " * 65, "64"),
        ("0..40, 0..40", "64"),
    ],
)
def test_values_that_are_none(text: str, named: str) -> None:
    with pytest.raises(InvalidRequest, match="rows") as refusal:
        parse_values(text, loc="rows")
    assert named in refusal.value.message
    assert len(refusal.value.message) < 200


def test_texts_are_typed_one_a_line() -> None:
    assert parse_values("a fox, red\n\n two cats \n", "prompt") == ("a fox, red", "two cats")
    assert parse_values("a,b.safetensors\nc.safetensors", "lora") == ("a,b.safetensors", "c.safetensors")
    assert parse_values("reference, preview", "recipe") == ("reference", "preview")
    assert parse_values("none step_cache", "speedup") == ("none", "step_cache")


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    for field in FIELDS:
        try:
            assert len(parse_values(text, field)) <= MOST_CELLS
        except InvalidRequest as error:
            assert error.details["fields"][0]["loc"] == "values"


@given(st.integers(-200, 200), st.integers(0, 63), st.integers(1, 100))
def test_a_range_of_hundredths_is_exact(first: int, count: int, step: int) -> None:
    last = first + count * step
    text = f"{first / 100:.2f}..{last / 100:.2f} step {step / 100:.2f}"
    assert parse_values(text) == tuple((first + step * n) / 100 for n in range(count + 1))


# On the wire


def test_a_request_with_a_comparison() -> None:
    body = {
        "model": ONE,
        "prompts": [{"prompt": "a fox"}],
        "compare": {"columns": {"field": "seed", "values": [1, 2]}, "rows": None, "baseline": None},
    }
    asked = parse(body)
    assert asked.compare == Compare(columns=Axis(field="seed", values=(1, 2)), rows=None, pages=None, baseline=True)
    assert asked.model_copy(update={"compare": None}) == request() == parse({**body, "compare": None})


@pytest.mark.parametrize(
    ("compare", "loc"),
    [
        ({"column": {}}, "compare.column"),
        ({"columns": {"field": "speed", "values": [1]}}, "compare.columns.field"),
        ({"columns": {"values": [1]}}, "compare.columns.field"),
        ({"rows": {"field": "seed", "values": 3}}, "compare.rows.values"),
        ({"rows": {"field": "seed", "values": [1], "step": 2}}, "compare.rows.step"),
        ({"rows": {"field": "seed", "values": list(range(65))}}, "compare.rows.values"),
        ({"baseline": "perhaps"}, "compare.baseline"),
        ([], "compare"),
        ("seed", "compare"),
    ],
)
def test_a_comparison_of_the_wrong_shape(compare: Any, loc: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse({"model": ONE, "prompts": [{"prompt": "a fox"}], "compare": compare})
    assert [field["loc"] for field in refusal.value.details["fields"]] == [loc]


@pytest.mark.parametrize("body", [None, [], "x", {"compare": {}}])
def test_a_body_that_is_no_request(body: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse(body)


# Cells


def test_two_axes_make_a_grid_row_by_row() -> None:
    made = grid(request(), ("seed", [1, 2, 3]), ("sample_steps", [10, 20]))
    assert (made.columns, made.rows) == (("seed 1", "seed 2", "seed 3"), ("steps 10", "steps 20"))
    assert [(cell.column, cell.row) for cell in made.cells] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    assert [(one.seed, one.sample_steps) for one in generations(made)] == [
        (1, 10), (2, 10), (3, 10), (1, 20), (2, 20), (3, 20),
    ]  # fmt: skip
    assert [(cell.column_label, cell.row_label) for cell in made.cells[2:4]] == [
        ("seed 3", "steps 10"),
        ("seed 1", "steps 20"),
    ]


def test_a_third_axis_makes_pages() -> None:
    compare = Compare.model_validate(
        {
            "columns": {"field": "seed", "values": [1, 2]},
            "rows": {"field": "sample_steps", "values": [10, 20]},
            "pages": {"field": "guidance_scale", "values": [1, 3.5, 5]},
        }
    )
    made = expand(request(), compare)
    assert made.pages == ("guidance 1", "guidance 3.5", "guidance 5")
    assert [(cell.page, cell.row, cell.column) for cell in made.cells] == list(product(range(3), range(2), range(2)))
    assert [(one.guidance_scale, one.sample_steps, one.seed) for one in generations(made)] == list(
        product((1, 3.5, 5), (10, 20), (1, 2))
    )
    assert {cell.page_label for cell in made.cells if cell.page == 1} == {"guidance 3.5"}


@pytest.mark.parametrize(
    ("axes", "loc", "message"),
    [
        ({"rows": ("seed", [1]), "pages": ("seed", [2])}, "compare.pages.field", "seed sets what the rows' seed sets"),
        ({"columns": ("seed", range(1, 9)), "rows": ("sample_steps", range(1, 9)), "pages": ("num_frames", [1, 5])},
         "compare", "8 columns × 8 rows × 2 pages are more than 64 cells"),
        ({"columns": ("prompt", [{"prompt": "a", "seed": 1}]), "pages": ("seed", [1])},
         "compare.pages.field", "the prompts set seed too"),
    ],
)  # fmt: skip
def test_three_axes_that_do_not_go_together(axes: dict[str, Any], loc: str, message: str) -> None:
    compare = Compare.model_validate(
        {name: {"field": field, "values": list(values)} for name, (field, values) in axes.items()}
    )
    with pytest.raises(InvalidRequest) as refusal:
        expand(request(), compare)
    assert refusal.value.details["fields"] == [{"loc": loc, "msg": message}]


@pytest.mark.parametrize(
    ("field", "values", "read", "labels"),
    [
        ("seed", [1, 2**63 - 1], lambda one: one.seed, ("seed 1", f"seed {2**63 - 1}")),
        ("sample_steps", [1, 150], lambda one: one.sample_steps, ("steps 1", "steps 150")),
        ("guidance_scale", [0, 3.5], lambda one: one.guidance_scale, ("guidance 0", "guidance 3.5")),
        ("num_frames", [1, 81], lambda one: one.num_frames, ("frames 1", "frames 81")),
        ("prompt", ["a cat", "b" * 99], lambda one: one.prompt, ("a cat", "b" * 59 + "…")),
        ("recipe", ["reference", "preview"], lambda one: one.recipe, ("reference", "preview")),
        ("speedup", ["none", "fp8_storage"], lambda one: one.speedup, ("speed-up none", "speed-up fp8_storage")),
        ("base", ["auto", "folder"], lambda one: one.base, ("base auto", "base folder")),
    ],
)
def test_each_field_of_the_prompt(field: str, values: list[Any], read: Any, labels: tuple[str, ...]) -> None:
    made = grid(request(), (field, values))
    assert (made.columns, made.rows) == (labels, ("",))
    assert [read(one) for one in generations(made)] == values


def test_a_base_axis_takes_files_by_name() -> None:
    """A name alone is the transformer's; the cells' requests name it by component."""
    names = ["T2V/model_fp16.safetensors", {"transformer": "b.safetensors", "vae": "c.safetensors"}, "folder"]
    made = grid(request(), ("base", names))
    assert made.columns == ("model_fp16", "b", "base folder")
    assert [one.base for one in generations(made)] == [
        (("transformer", "T2V/model_fp16.safetensors"),),
        (("transformer", "b.safetensors"), ("vae", "c.safetensors")),
        "folder",
    ]
    assert made.cells[0].request.model_dump(mode="json", exclude_none=True)["base"] == {
        "transformer": "T2V/model_fp16.safetensors"
    }


def test_bases_are_rendered_one_after_the_other() -> None:
    """Each is another load."""
    made = grid(request(), ("base", ["auto", "folder"]), ("seed", [1, 2, 3]))
    bases = [one.base for one in render_order(generations(made)).distinct]
    assert bases in (["auto"] * 3 + ["folder"] * 3, ["folder"] * 3 + ["auto"] * 3)


def test_a_cell_is_the_same_request_alone() -> None:
    asked = request(PAIR, {"seed": 7, "neg": "blurry"}, loras=BOTH, trigger_word="sks", recipe="preview")
    made = grid(asked, ("scale_low", [0.25]), ("guidance_scale", [3]), baseline=False)
    alone = request(
        PAIR,
        {"seed": 7, "neg": "blurry", "guidance_scale": 3},
        loras=[BOTH[0], {**BOTH[1], "network_multiplier": 0.25}],
        trigger_word="sks",
        recipe="preview",
        first_step_change=False,
    )
    assert [cell.request for cell in made.cells] == [alone]
    assert parse(made.cells[0].request.model_dump(mode="json", exclude_none=True)) == alone


SCALED: tuple[tuple[str, list[tuple[float, float]]], ...] = (
    ("scale", [(0.25, 0.25), (2, 2)]),
    ("scale_high", [(0.25, 0.5), (2, 0.5)]),
    ("scale_low", [(1, 0.25), (1, 2)]),
)


@pytest.mark.parametrize(("field", "scales"), SCALED)
def test_scales_of_a_pair(field: str, scales: list[tuple[float, float]]) -> None:
    made = grid(request(PAIR, loras=BOTH), (field, [0.25, 2]))
    assert made.columns[0] == NO_LORA
    assert [tuple(use.scale for use in one.loras) for one in generations(made)] == [(), *scales]


def test_both_scales_at_once() -> None:
    made = grid(request(PAIR, loras=BOTH), ("scale_high", [0, 1]), ("scale_low", [0, 1]))
    assert (made.columns, made.rows) == ((NO_LORA, "high scale 0", "high scale 1"), ("low scale 0", "low scale 1"))
    assert [tuple(use.scale for use in one.loras) for one in generations(made)] == [
        (), (0, 0), (1, 0), (), (0, 1), (1, 1),
    ]  # fmt: skip
    assert len(render_order(generations(made)).distinct) == 4


def test_checkpoints_keep_the_scale_they_replace() -> None:
    asked = request(loras=[{"path": "old.safetensors", "network_multiplier": 0.8}])
    made = grid(asked, ("lora", ["sub/a_000000250.safetensors", "sub/a.safetensors"]))
    assert made.columns == (NO_LORA, "a_000000250", "a")
    assert [one.loras for one in generations(made)] == [
        (),
        (LoraUse("single", "sub/a_000000250.safetensors", 0.8),),
        (LoraUse("single", "sub/a.safetensors", 0.8),),
    ]
    assert [one.loras[0].scale for one in generations(grid(request(), ("lora", ["a"]), baseline=False))] == [1.0]


def test_pairs_of_checkpoints() -> None:
    values = [
        {"high": "a_high_noise.safetensors", "low": "a_low_noise.safetensors"},
        "b_low_noise.safetensors",
        {"low": "c_low_noise.safetensors", "high": None},
        "both.safetensors",
    ]
    made = grid(request(PAIR, loras=BOTH), ("lora", values), baseline=False)
    assert made.columns == ("a", "b", "c (low only)", "both")
    assert [one.loras for one in generations(made)] == [
        (LoraUse("high", "a_high_noise.safetensors", 1), LoraUse("low", "a_low_noise.safetensors", 0.5)),
        (LoraUse("high", "b_high_noise.safetensors", 1), LoraUse("low", "b_low_noise.safetensors", 0.5)),
        (LoraUse("low", "c_low_noise.safetensors", 0.5),),
        (LoraUse("high", "both.safetensors", 1), LoraUse("low", "both.safetensors", 0.5)),
    ]


def test_a_combined_file_is_scaled_on_one_side() -> None:
    asked = request(PAIR, loras=[{"path": "both.safetensors", "network_multiplier": 0.8}])
    made = grid(asked, ("scale_low", [0.1]), baseline=False)
    assert [one.loras for one in generations(made)] == [
        (LoraUse("high", "both.safetensors", 0.8), LoraUse("low", "both.safetensors", 0.1))
    ]


def test_scales_by_checkpoints() -> None:
    made = grid(request(), ("scale", [0.5, 1]), ("lora", ["a", "b"]))
    assert (made.columns, made.rows) == ((NO_LORA, "scale 0.5", "scale 1"), ("a", "b"))
    assert [[(use.path, use.scale) for use in one.loras] for one in generations(made)] == [
        [], [("a", 0.5)], [("a", 1)], [], [("b", 0.5)], [("b", 1)],
    ]  # fmt: skip
    assert len(render_order(generations(made)).distinct) == 5


@pytest.mark.parametrize(
    "field", ["seed", "sample_steps", "guidance_scale", "prompt", "recipe", "num_frames", "speedup"]
)
def test_no_baseline_without_a_scale_or_lora(field: str) -> None:
    values = {"prompt": ["x"], "recipe": ["preview"], "speedup": ["step_cache"]}.get(field, [5])
    assert NO_LORA not in grid(request(loras=[{"path": "a"}]), (field, values)).columns


def test_the_baseline_stands_where_its_axis_stands() -> None:
    asked = request(loras=[{"path": "a"}])
    assert grid(asked, ("seed", [1, 2]), ("scale", [1])).rows == (NO_LORA, "scale 1")
    assert grid(asked, ("scale", [1]), ("seed", [1, 2])).columns == (NO_LORA, "scale 1")
    off = grid(asked, ("scale", [1]), ("seed", [1, 2]), baseline=False)
    assert (off.columns, off.rows) == (("scale 1",), ("seed 1", "seed 2"))
    seeds = [(one.seed, len(one.loras)) for one in generations(grid(asked, ("seed", [1, 2]), ("scale", [1])))]
    assert seeds == [(1, 0), (2, 0), (1, 1), (2, 1)]


@pytest.mark.parametrize("axes", [(None, None), (("seed", []), None), (("scale", []), ("lora", []))])
def test_empty_axes_leave_the_request_itself(axes: tuple[Any, Any]) -> None:
    made = grid(request(), *axes)
    assert (made.columns, made.rows) == (("",), ("",))
    assert [cell.request for cell in made.cells] == [request(first_step_change=False)]


def test_an_empty_axis_beside_another() -> None:
    assert grid(request(), ("seed", []), ("sample_steps", [1, 2])).rows == ("steps 1", "steps 2")


def test_sixty_four_cells_and_not_one_more() -> None:
    asked = request(loras=[{"path": "a"}])
    assert len(grid(asked, ("seed", list(range(64)))).cells) == 64
    assert len(grid(asked, ("seed", list(range(8))), ("sample_steps", list(range(1, 9)))).cells) == 64
    assert len(grid(asked, ("seed", list(range(8))), ("scale", [n / 7 for n in range(7)])).cells) == 64
    assert "compare" in refused(asked, ("seed", list(range(8))), ("scale", [n / 8 for n in range(8)]))
    assert "9 columns × 8 rows" in refused(asked, ("seed", list(range(9))), ("num_frames", [1] * 8))["compare"]


def test_a_random_seed_is_drawn_once_for_all_cells() -> None:
    made = grid(request(prompt={"seed": -1}), ("sample_steps", [1, 2]))
    assert [one.seed for one in generations(made)] == [777, 777]
    assert "random" in refused(request(), ("seed", [-1, 1]))["compare.columns.values.0"]
    assert [one.seed for one in generations(grid(request(), ("num_frames", [1, 5])))] == [42, 42]


def test_in_a_stack_the_axes_are_about_the_first() -> None:
    asked = request(loras=[{"path": "mine"}, {"path": "fast", "network_multiplier": 0.9}], stack=True)
    scaled = [[(use.path, use.scale) for use in one.loras] for one in generations(grid(asked, ("scale", [0.5])))]
    assert scaled == [[], [("mine", 0.5), ("fast", 0.9)]]
    (attached,) = generations(grid(asked, ("lora", ["other"]), baseline=False))
    assert [(use.path, use.scale) for use in attached.loras] == [("other", 1), ("fast", 0.9)]


# Refusals


WRONG: tuple[tuple[str, Any], ...] = (
    ("scale", 4.01), ("scale", -4.01), ("scale", "strong"), ("scale", True), ("scale", None), ("scale", float("nan")),
    ("scale", []), ("scale", {}), ("scale", [5]),
    ("seed", 2**63), ("seed", 1.5), ("seed", -1), ("seed", -2), ("seed", ""),
    ("sample_steps", 0), ("sample_steps", 151), ("sample_steps", 2.5), ("guidance_scale", 20.1),
    ("guidance_scale", -0.1), ("guidance_scale", float("inf")), ("num_frames", 0), ("num_frames", 1001),
    ("prompt", 3), ("prompt", None), ("prompt", "x" * 20_001), ("recipe", "best"), ("recipe", 1), ("lora", ""),
    ("speedup", "fast"), ("speedup", True), ("base", 3), ("base", {"tokenizer": "a"}), ("base", "../a.safetensors"),
    ("lora", 4), ("lora", {"high": "a"}), ("lora", "x" * 4097),
)  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_value_is_refused_by_its_name_and_place(field: str, value: Any) -> None:
    sound = {"prompt": "ok", "recipe": "preview", "speedup": "none", "lora": "a", "base": "auto"}.get(field, 1)
    problems = refused(
        request(loras=[{"path": "a"}]),
        ("num_frames" if field == "seed" else "seed", [1]),
        (field, [sound, value, sound]),
    )
    assert list(problems) == ["compare.rows.values.1"]
    shown = str(value) if isinstance(value, str) else repr(value)
    assert shown[:50] in problems["compare.rows.values.1"]
    assert len(problems["compare.rows.values.1"]) < 300


def test_every_wrong_value_is_named() -> None:
    problems = refused(request(), ("seed", [1, -5, "x"]), ("num_frames", [0, 5]))
    assert list(problems) == ["compare.columns.values.1", "compare.columns.values.2", "compare.rows.values.0"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({}, "path"),
        ({"single": "a"}, "path"),
        ({"high": ""}, "at least 1"),
        ({"high": 3}, "must be text"),
        ({"high": None, "low": None}, "path"),
        ("no_side.safetensors", "neither high nor low"),
    ],
)
def test_a_pair_that_is_none(value: Any, why: str) -> None:
    assert why in refused(request(PAIR), ("lora", [value]))["compare.columns.values.0"]


@pytest.mark.parametrize(
    ("columns", "rows"), [("seed", "seed"), ("scale", "scale_low"), ("scale_high", "scale"), ("lora", "lora")]
)
def test_two_axes_that_set_the_same(columns: str, rows: str) -> None:
    values = {"lora": ["a_high_noise"]}
    problems = refused(request(PAIR, loras=BOTH), (columns, values.get(columns, [1])), (rows, values.get(rows, [1])))
    assert list(problems) == ["compare.rows.field"]
    assert columns in problems["compare.rows.field"]


def test_nothing_to_scale() -> None:
    assert "no LoRA" in refused(request(), ("scale", [1]))["compare.columns.field"]
    assert "no low LoRA" in refused(request(PAIR, loras=BOTH[:1]), ("scale_low", [1]))["compare.columns.field"]
    assert "no high LoRA" in refused(request(PAIR), ("lora", [{"low": "a"}]), ("scale_high", [1]))["compare.rows.field"]
    assert "use scale" in refused(request(loras=[{"path": "a"}]), ("scale_high", [1]))["compare.columns.field"]
    assert list(refused(request(PAIR), ("lora", ["x"]), ("scale", [1]))) == ["compare.columns.values.0"]


def test_exactly_one_prompt() -> None:
    asked = parse({"model": ONE, "prompts": [{"prompt": "a"}, {"prompt": "b"}]})
    assert "one prompt" in refused(asked, ("seed", [1]))["prompts"]


def test_an_unknown_model() -> None:
    with pytest.raises(ModelNotFound):
        grid(request("nope"), ("seed", [1]))


def test_a_refusal_draws_no_seed() -> None:
    def draw() -> int:
        raise AssertionError("drawn")

    compare = Compare(columns=Axis(field="num_frames", values=(0,)), rows=None, pages=None, baseline=True)
    with pytest.raises(InvalidRequest):
        expand(request(prompt={"seed": -1}), compare, random_seed=draw)


# Checkpoints


def test_checkpoints_in_order_of_training() -> None:
    files = [f"j/job{step}.safetensors" for step in ("", "_000001000", "_000000250", "_000000500")]
    wanted = (files[2], files[3], files[1], files[0])
    assert all(by_training_step(order) == wanted for order in permutations(files))
    assert by_training_step([]) == ()


def test_pairs_in_order_of_training() -> None:
    steps = ("", "_000001000", "_000000250")
    files = [f"job{step}_{slot}_noise.safetensors" for step in steps for slot in ("low", "high")]
    assert by_training_step([*files, "job_000000500_low_noise.safetensors"]) == (
        {"high": "job_000000250_high_noise.safetensors", "low": "job_000000250_low_noise.safetensors"},
        {"low": "job_000000500_low_noise.safetensors"},
        {"high": "job_000001000_high_noise.safetensors", "low": "job_000001000_low_noise.safetensors"},
        {"high": "job_high_noise.safetensors", "low": "job_low_noise.safetensors"},
    )


def test_labels() -> None:
    assert label("scale", 0.6) == "scale 0.6"
    assert label("guidance_scale", 4.0) == "guidance 4"
    assert label("lora", {"high": "a.safetensors", "low": "b.safetensors"}) == "a + b"
    assert "\n" not in label("prompt", "two\nlines")


# The order


def ordered(made: Grid) -> tuple[list[Generation], tuple[int, ...]]:
    asked = generations(made)
    order = render_order(asked)
    assert len(set(order.of_cell)) == len(order.distinct)
    for one, index in zip(asked, order.of_cell, strict=True):
        found = order.distinct[index]
        assert replace(found, loras=one.loras, requested_num_frames=one.requested_num_frames) == one
        assert [use for use in found.loras if use.scale] == [use for use in one.loras if use.scale]
    return list(order.distinct), order.of_cell


def test_one_cell_and_none() -> None:
    assert len(ordered(grid(request()))[0]) == 1
    assert render_order(()) == render_order([])
    assert render_order(()).distinct == ()


def test_what_resolves_to_the_same_video_is_rendered_once() -> None:
    asked = request(loras=[{"path": "a"}])
    distinct, of_cell = ordered(grid(asked, ("scale", [0, 0.5, 0.5, 1])))
    assert len(distinct) == 3
    assert of_cell == (0, 0, 1, 1, 2)
    assert len(ordered(grid(request(), ("num_frames", [40, 41, 45])))[0]) == 2
    assert len(ordered(grid(request(), ("seed", [42] * 64)))[0]) == 1


def test_equal_files_under_two_names_are_one() -> None:
    (one,) = generations(grid(request(loras=[{"path": "a"}])))
    same = [replace(one, loras=(LoraUse("single", name, 1.0, "abc"),)) for name in ("a", "b")]
    assert render_order(same).of_cell == (0, 0)
    other = replace(one, loras=(LoraUse("single", "a", 1.0, "abd"),))
    assert len(render_order([*same, other]).distinct) == 2


def test_the_file_is_the_outer_loop() -> None:
    distinct, _ = ordered(grid(request(), ("lora", ["a", "b", "c"]), ("seed", [1, 2, 3])))
    files = [tuple(use.path for use in one.loras) for one in distinct]
    assert files == [()] * 3 + [("a",)] * 3 + [("b",)] * 3 + [("c",)] * 3


def test_a_merged_scale_changes_least_often_within_its_file() -> None:
    distinct, _ = ordered(grid(request(loras=[{"path": "a"}]), ("seed", [1, 2]), ("scale", [0.5, 1]), baseline=False))
    assert [(one.loras[0].scale, one.seed) for one in distinct] == [(0.5, 1), (0.5, 2), (1, 1), (1, 2)]


def test_the_recipe_is_outside_the_file() -> None:
    distinct, _ = ordered(grid(request(), ("recipe", ["reference", "preview"]), ("lora", ["a", "b"]), baseline=False))
    assert [(one.recipe, one.loras[0].path) for one in distinct] == [
        ("reference", "a"), ("reference", "b"), ("preview", "a"), ("preview", "b"),
    ]  # fmt: skip


def test_packed_weights_come_last() -> None:
    asked = ("fp8_products", "none", "fp8_storage", "step_cache")
    distinct, _ = ordered(grid(request(), ("speedup", list(asked)), ("lora", ["a", "b"]), baseline=False))
    assert [(one.speedup, one.loras[0].path) for one in distinct] == [
        (speedup, path) for speedup in ("none", "step_cache", "fp8_storage", "fp8_products") for path in ("a", "b")
    ]


def test_a_speedup_shares_no_high_steps_with_another() -> None:
    made = grid(request(PAIR, loras=BOTH), ("speedup", ["none", "step_cache"]), ("scale_low", [0.5, 1]), baseline=False)
    distinct, _ = ordered(made)
    assert len(distinct) == 4 and shared(distinct) == 2


def test_a_preview_in_a_grid_takes_no_speedup() -> None:
    made = grid(request(), ("recipe", ["reference", "preview"]), ("speedup", ["none", "step_cache"]))
    with pytest.raises(InvalidRequest, match="training samples exactly"):
        generations(made)


def shared(distinct: list[Generation]) -> int:
    """How many could take over their neighbour's high-noise steps."""
    parts = [high_noise_part(one) for one in distinct]
    return sum(one == other for one, other in pairwise(parts))


@pytest.mark.parametrize(
    ("columns", "rows", "renders", "sharing"),
    [
        (("scale_low", [0, 0.5, 1, 1.5]), None, 4, 3),
        (("scale_low", [0.5, 1]), ("scale_high", [0.5, 1]), 4, 2),
        (("scale_low", [0.5, 1, 2]), ("seed", [1, 2]), 6, 4),
        (("seed", [1, 2]), ("scale_low", [0.5, 1, 2]), 6, 4),
        (("scale_high", [0, 0.5, 1, 1.5]), None, 4, 0),
        (("scale", [0, 0.5, 1]), None, 3, 0),
        (("lora", [{"high": "h", "low": "l1"}, {"high": "h", "low": "l2"}]), ("seed", [1, 2]), 4, 2),
        (("lora", ["a_high_noise", "b_high_noise"]), ("scale_low", [0.5, 1]), 4, 2),
        (("seed", [1, 2]), ("num_frames", [5, 9]), 4, 0),
    ],
)
def test_what_differs_only_in_the_low_noise_side_stands_together(
    columns: Any, rows: Any, renders: int, sharing: int
) -> None:
    made = grid(request(PAIR, loras=BOTH), columns, rows, baseline=False)
    distinct, _ = ordered(made)
    assert (len(distinct), shared(distinct)) == (renders, sharing)


def test_no_more_file_changes_than_needed_beside_sharing() -> None:
    lows = [{"high": "h", "low": "l1"}, {"high": "h", "low": "l2"}]
    distinct, _ = ordered(grid(request(PAIR), ("lora", lows), ("seed", [1, 2, 3]), baseline=False))
    assert [(one.seed, one.loras[1].path) for one in distinct] == [
        (1, "l1"), (1, "l2"), (2, "l2"), (2, "l1"), (3, "l1"), (3, "l2"),
    ]  # fmt: skip


def test_a_baseline_shares_with_a_low_noise_lora_alone() -> None:
    distinct, _ = ordered(grid(request(PAIR, loras=BOTH[1:]), ("scale", [0, 0.5, 1])))
    assert (len(distinct), shared(distinct)) == (3, 2)


def test_a_model_with_one_transformer_shares_no_steps() -> None:
    distinct, _ = ordered(grid(request(loras=[{"path": "a"}]), ("scale", [0, 0.5, 1])))
    assert shared(distinct) == 0


@given(st.permutations([(seed, high, low) for seed in (1, 2) for high in (0, 0.5, 1) for low in (0, 1)]))
def test_any_order_of_cells_gives_the_same_sharing(cells: list[tuple[int, float, float]]) -> None:
    (base,) = generations(grid(request(PAIR, loras=BOTH)))
    asked = [
        replace(base, seed=seed, loras=(LoraUse("high", HIGH, high), LoraUse("low", LOW, low)))
        for seed, high, low in cells
    ]
    order = render_order(asked)
    assert (len(order.distinct), shared(list(order.distinct))) == (12, 6)
    assert [order.distinct[index] for index in order.of_cell] == asked


# Prompts with more of their own


def test_a_prompt_may_bring_its_own_seed_and_preview() -> None:
    sample = {"job": "0" * 32, "sample": 1, "step": 500}
    found = grid(
        request(),
        ("prompt", ["a", {"prompt": "b", "seed": 7}, {"prompt": "c", "training_sample": sample}]),
    )
    assert found.columns == ("a", "b", "c")
    items = [cell.request.prompts[0] for cell in found.cells]
    assert [item.prompt for item in items] == ["a", "b", "c"]
    assert items[1].seed == 7 and items[0].seed == items[2].seed != 7
    assert [item.training_sample is None for item in items] == [True, True, False]
    assert {(item.width, item.sample_steps) for item in items} == {(items[0].width, items[0].sample_steps)}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"seed": 7}, "prompt: is missing"),
        ({"prompt": "b", "width": 64}, "width is the same in all cells"),
        ({"prompt": "b", "ctrl_img": "x"}, "ctrl_img is the same in all cells"),
        ({"prompt": "b", "seed": -1}, "cannot be compared"),
        ({"prompt": "b", "seed": True}, "must be a number"),
        ({"prompt": "b", "sample_steps": 0}, "sample_steps: "),
        ({"prompt": "b", "training_sample": {"job": "x"}}, "training_sample.job: "),
        ({"prompt": 3}, "prompt: "),
        ({}, "prompt: is missing"),
    ],
)
def test_a_prompt_with_anything_else_is_refused(value: Any, said: str) -> None:
    assert said in refused(request(), ("prompt", ["a", value]))["compare.columns.values.1"]


def test_what_the_prompts_set_is_no_other_axis() -> None:
    prompts = ("prompt", [{"prompt": "b", "seed": 7}, "c"])
    assert refused(request(), prompts, ("seed", [1, 2])) == {"compare.rows.field": "the prompts set seed too"}
    assert len(grid(request(), prompts, ("guidance_scale", [1, 2])).cells) == 4


def test_an_imported_jobs_id_is_given_away_in_no_axis() -> None:
    wire: dict[str, Any] = {
        "prompts": [{"prompt": "a", "training_sample": {"job": "0" * 32}}],
        "compare": {
            "columns": {"field": "prompt", "values": ["a", {"prompt": "b", "training_sample": {"job": "0" * 32}}]},
            "baseline": True,
        },
    }
    away = without_training_samples(wire)
    assert "0" * 32 not in str(away) and away["compare"]["columns"]["values"] == ["a", {"prompt": "b"}]
    assert away["compare"]["baseline"] is True
