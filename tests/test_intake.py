"""Intake: the order of its refusals, what is stored, what is noted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.fakes import FakeImages, FakeLibrary
from wan_ui.access import LOCAL_ACCESS
from wan_ui.errors import (
    ControlImageInvalid,
    ControlImageRequired,
    InvalidRequest,
    LoraMismatch,
    LoraNotFound,
    ModelNotFound,
    MoeFormatRequired,
    WanUIError,
)
from wan_ui.intake import PreparedRequest, prepare
from wan_ui.models import PAIR_NOTE, WanModel
from wan_ui.render_order import same_video
from wan_ui.request import LoraUse, parse

if TYPE_CHECKING:
    from wan_ui.lora.library import Library
    from wan_ui.media.image import ImageStore


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


HIGH = {"path": "high.safetensors", "transformer": "high", "network_multiplier": 0.5}
LOW = {"path": "low.safetensors", "transformer": "low"}


class Door:
    """Everything prepare() needs, and what it did with it."""

    def __init__(self) -> None:
        self.library, self.images, self.draws = FakeLibrary(), FakeImages(), 0
        self.checked: list[tuple[Any, str, str, Any]] = []

    def prepare(self, body: Any) -> PreparedRequest:
        library, images = cast("Library", self.library), cast("ImageStore", self.images)
        return prepare(
            body,
            library,
            images,
            lambda model, component: {"of": component},
            LOCAL_ACCESS,
            self.draw,
            self.check_fit,
        )

    def check_fit(self, header: Any, row: WanModel, slot: str, config: Mapping[str, Any] | None) -> tuple[str, ...]:
        self.checked.append((header, row.id, slot, config))
        if header == "header of misfit.safetensors":
            raise LoraMismatch("It does not fit.", fits=[])
        return ("A note.",)

    def draw(self) -> int:
        self.draws += 1
        return 1000 + self.draws


@pytest.fixture
def door() -> Door:
    return Door()


def i2v(*prompts: dict[str, Any], loras: tuple[dict[str, Any], ...] = (HIGH, LOW), **fields: Any) -> dict[str, Any]:
    return {
        "model": "wan22_14b_i2v",
        "prompts": [{"prompt": "a fox", **prompt} for prompt in prompts],
        "loras": list(loras),
        **fields,
    }


def test_a_whole_request(door: Door) -> None:
    prepared = door.prepare(i2v({"ctrl_img": "one", "seed": -1, "neg": None}, {"ctrl_img": "two"}))
    assert [one.image for one in prepared.generations] == [sha("one"), sha("two")]
    assert [one.seed for one in prepared.generations] == [1001, 43]
    for generation in prepared.generations:
        assert generation.loras == (
            LoraUse("high", "high.safetensors", 0.5, sha("high.safetensors")),
            LoraUse("low", "low.safetensors", 1.0, sha("low.safetensors")),
        )
    assert prepared.notes == ("A note.",)
    assert door.draws == 1


def test_each_lora_is_checked_against_its_slots_transformer(door: Door) -> None:
    door.prepare(i2v({"ctrl_img": "one"}, {"ctrl_img": "two"}))
    assert door.checked == [
        ("header of high.safetensors", "wan22_14b_i2v", "high", {"of": "transformer"}),
        ("header of low.safetensors", "wan22_14b_i2v", "low", {"of": "transformer_2"}),
    ]


def test_the_wire_form_has_uploads_for_images_no_nulls_and_the_seed_as_asked(door: Door) -> None:
    prepared = door.prepare(i2v({"ctrl_img": "data:image/png;base64,AAAA", "seed": -1, "fps": None}, colour=None))
    (item,) = prepared.wire["prompts"]
    assert item["ctrl_img"] == f"upload://{sha('data:image/png;base64,AAAA')}"
    assert (item["seed"], item["fps"]) == (-1, 16)
    assert "colour" not in prepared.wire
    assert None not in item.values()
    assert parse(prepared.wire) == prepared.request


def test_the_wire_form_goes_through_again(door: Door) -> None:
    first = door.prepare(i2v({"ctrl_img": "one", "seed": 5}, trigger_word="sks"))
    again = door.prepare(first.wire)
    assert [(g.prompt, g.seed, g.loras) for g in again.generations] == [
        (g.prompt, g.seed, g.loras) for g in first.generations
    ]


def test_an_equal_image_is_taken_in_once(door: Door) -> None:
    prepared = door.prepare(i2v({"ctrl_img": "one"}, {"ctrl_img": "two"}, {"ctrl_img": "one"}))
    assert door.images.taken == ["one", "two"]
    assert [one.image for one in prepared.generations] == [sha("one"), sha("two"), sha("one")]


def test_an_optional_image_may_be_empty(door: Door) -> None:
    prepared = door.prepare({"model": "wan22_5b", "prompts": [{"prompt": "x", "ctrl_img": ""}]})
    assert prepared.generations[0].image is None
    assert "ctrl_img" not in prepared.wire["prompts"][0]
    assert door.images.taken == []


BAD_SCHEMA = {"width": 1}
NO_LORA = {**LOW, "path": "none.safetensors"}


@pytest.mark.parametrize(
    ("body", "error", "asked", "taken"),
    [
        # Each body is wrong in this way and in every way after it.
        (i2v({"ctrl_img": "broken", **BAD_SCHEMA}, {}, loras=({"path": "x"},), model="none"), InvalidRequest, [], []),
        (i2v({"ctrl_img": "broken"}, {}, loras=({"path": "x"},), model="none"), ModelNotFound, [], []),
        (i2v({"ctrl_img": "broken"}, {}, loras=({"path": "none"},)), MoeFormatRequired, ["none"], []),
        (i2v({"ctrl_img": "broken"}, {}, loras=(HIGH, NO_LORA)), ControlImageRequired, [], []),
        (
            i2v({"ctrl_img": "good"}, {"ctrl_img": "broken"}, loras=(HIGH, NO_LORA)),
            LoraNotFound,
            ["high.safetensors", "none.safetensors"],
            [],
        ),
        (
            i2v({"ctrl_img": "good"}, {"ctrl_img": "broken"}, loras=({**LOW, "path": "misfit.safetensors"},)),
            LoraMismatch,
            ["misfit.safetensors", "misfit.safetensors"],
            [],
        ),
        (
            i2v({"ctrl_img": "good"}, {"ctrl_img": "broken"}),
            ControlImageInvalid,
            ["high.safetensors", "low.safetensors"],
            ["good"],
        ),
    ],
    ids=["schema", "model", "slots", "image rule", "lora file", "lora fit", "image"],
)
def test_the_cheapest_refusal_comes_first(
    door: Door, body: Any, error: type[WanUIError], asked: list[str], taken: list[str]
) -> None:
    with pytest.raises(error):
        door.prepare(body)
    assert (door.library.asked, door.images.taken) == (asked, taken)


@pytest.mark.parametrize(
    ("loras", "noted"),
    [
        ((), False),
        ((HIGH,), True),
        ((LOW,), True),
        ((HIGH, LOW), False),
        ((HIGH, {**LOW, "network_multiplier": 0}), True),
    ],
)
def test_one_side_of_a_pair_is_noted(door: Door, loras: tuple[dict[str, Any], ...], noted: bool) -> None:
    assert (PAIR_NOTE in door.prepare(i2v({"ctrl_img": "one"}, loras=loras)).notes) is noted


def test_what_was_adjusted_or_ignored_is_noted(door: Door) -> None:
    body = {"model": "wan22_5b", "prompts": [{"prompt": "x", "width": 1000, "height": 700, "num_frames": 40}]}
    assert door.prepare(body).notes == (
        "1000 × 700 became 992 × 672: Wan 2.2 TI2V 5B takes sides that are multiples of 32.",
        "40 frames became 37: Wan makes 4N + 1 frames.",
    )
    prompts = [{"prompt": "x"}, {"prompt": "x", "sampler": "ddim", "width": 100}]
    assert door.prepare({"model": "wan22_14b_t2v", "recipe": "preview", "prompts": prompts}).notes == (
        "Prompt 2: 100 × 1024 became 96 × 1024: Wan 2.2 T2V A14B takes sides that are multiples of 16.",
        "Prompt 2: Ignored, as the reference server does: sampler.",
    )


@pytest.mark.parametrize(("width", "height", "noted"), [(832, 480, False), (480, 864, False), (1024, 1024, True)])
def test_a_size_above_what_a_model_is_tuned_for_is_noted(door: Door, width: int, height: int, noted: bool) -> None:
    prompt = {"prompt": "x", "ctrl_img": "one", "width": width, "height": height}
    notes = door.prepare({"model": "wan21_i2v_14b480p", "prompts": [prompt]}).notes
    assert any("is tuned for sizes up to about 864 × 480" in note for note in notes) is noted


# Comparisons


def compared(body: dict[str, Any], columns: Any, rows: Any = None, **fields: Any) -> dict[str, Any]:
    axes = {"columns": columns, "rows": rows}
    named = {name: {"field": axis[0], "values": axis[1]} for name, axis in axes.items() if axis is not None}
    return {**body, "compare": {**named, **fields}}


def test_a_comparison_comes_as_its_cells(door: Door) -> None:
    body = compared(i2v({"ctrl_img": "one", "seed": -1}), ("scale_low", [0, 0.5, 0.5]), ("guidance_scale", [1, 3]))
    prepared = door.prepare(body)
    assert [(cell.column_label, cell.row_label) for cell in prepared.cells[3:5]] == [
        ("low scale 0.5", "guidance 1"),
        ("no LoRA", "guidance 3"),
    ]
    assert (len(prepared.cells), len(prepared.generations), door.draws) == (8, 6, 1)
    assert {one.seed for one in prepared.generations} == {1001}
    assert prepared.cells[2].generation == prepared.cells[3].generation
    for cell in prepared.cells:
        assert cell.request["prompts"][0]["ctrl_img"] == f"upload://{sha('one')}"
        (alone,) = door.prepare(cell.request).generations
        made = prepared.generations[cell.generation]
        assert made.image == sha("one")
        assert same_video(replace(alone, image=made.image)) == same_video(made)
        assert "compare" not in cell.request
    assert door.images.taken[:1] == ["one"] and door.images.taken.count("one") == 1
    assert prepared.wire["compare"]["columns"] == {"field": "scale_low", "values": [0, 0.5, 0.5]}
    assert parse(prepared.wire) == prepared.request


def test_each_file_of_a_comparison_is_checked_once(door: Door) -> None:
    door.prepare(compared(i2v({"ctrl_img": "one"}), ("seed", [1, 2, 3, 4])))
    assert [(slot, config) for _, _, slot, config in door.checked] == [
        ("high", {"of": "transformer"}),
        ("low", {"of": "transformer_2"}),
    ]


def test_every_file_of_an_axis_is_located_and_fits_before_anything_is_kept(door: Door) -> None:
    base = i2v({"ctrl_img": "one"})
    files = [{"high": "high.safetensors"}, {"low": "misfit.safetensors"}]
    with pytest.raises(LoraMismatch, match="misfit.safetensors: It does not fit."):
        door.prepare(compared(base, ("lora", files)))
    with pytest.raises(LoraNotFound, match="none.safetensors"):
        door.prepare(compared(base, ("lora", [files[0], {"low": "none.safetensors"}])))
    with pytest.raises(InvalidRequest, match=r"compare.rows.values.1: 99"):
        door.prepare(compared(base, ("lora", [{"high": "none.safetensors"}]), ("guidance_scale", [1, 99])))
    assert door.images.taken == []


def test_a_comparison_takes_one_prompt(door: Door) -> None:
    with pytest.raises(InvalidRequest, match="exactly one prompt"):
        door.prepare(compared(i2v({"ctrl_img": "one"}, {"ctrl_img": "two"}), ("seed", [1])))


def test_the_notes_of_a_comparison_name_no_prompts(door: Door) -> None:
    body = {"model": "wan22_5b", "prompts": [{"prompt": "x", "width": 1000, "sampler": "ddim"}]}
    prepared = door.prepare(compared(body, ("num_frames", [5, 40, 41]), ("seed", [1, 2])))
    assert prepared.notes == (
        "1000 × 1024 became 992 × 1024: Wan 2.2 TI2V 5B takes sides that are multiples of 32.",
        "Ignored, as the reference server does: sampler.",
        "40 frames became 37: Wan makes 4N + 1 frames.",
    )


@pytest.mark.parametrize(("loras", "noted"), [((HIGH,), True), ((HIGH, LOW), False)])
def test_one_side_of_a_pair_is_noted_unless_a_cell_has_both(
    door: Door, loras: tuple[dict[str, Any], ...], noted: bool
) -> None:
    prepared = door.prepare(compared(i2v({"ctrl_img": "one"}, loras=loras), ("scale", [0, 1])))
    assert (PAIR_NOTE in prepared.notes) is noted
