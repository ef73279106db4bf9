"""The decision of what fits, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tools.memory_table import Files, choice
from wan_ui.engine.budget import (
    MODES,
    MemoryPlan,
    PlacementMode,
    Sizes,
    activation_bytes,
    check_host,
    decide,
    device_bytes,
    note,
    packed_sizes,
)
from wan_ui.errors import OutOfMemory
from wan_ui.models import MODELS

GB = 10**9
PAIR = Sizes(transformers=(28 * GB, 28 * GB), text_encoder=11 * GB, rest=GB // 4, block=28 * GB // 40)
ACTIVATIONS = 4 * GB


@pytest.mark.parametrize(
    ("free", "mode"), [(141, "resident"), (80, "resident"), (48, "pair"), (40, "pair"), (24, "stream"), (12, "stream")]
)
def test_the_loosest_mode_that_fits(free: int, mode: PlacementMode) -> None:
    assert decide("auto", PAIR, ACTIVATIONS, ACTIVATIONS, free * GB) == mode


def test_too_little_for_any_mode_says_what_to_try() -> None:
    with pytest.raises(OutOfMemory, match="smaller width"):
        decide("auto", PAIR, ACTIVATIONS, ACTIVATIONS, 4 * GB)


@pytest.mark.parametrize("mode", MODES)
def test_an_override_is_taken(mode: PlacementMode) -> None:
    assert decide(mode, PAIR, ACTIVATIONS, ACTIVATIONS, GB) == mode


def test_tighter_modes_need_less() -> None:
    amounts = [device_bytes(mode, PAIR, ACTIVATIONS) for mode in MODES]
    assert amounts == sorted(amounts, reverse=True)
    assert [bool(note(mode)) for mode in MODES] == [False, True, True]


def test_activations_grow_with_the_clip() -> None:
    model = MODELS["wan22_14b_t2v"]
    small, large = activation_bytes(model, 832, 480, 41), activation_bytes(model, 1280, 720, 81)
    assert small < large < 30 * GB


def test_where_whole_frames_have_no_room_streaming_with_tiles_does() -> None:
    model, clip = MODELS["wan22_5b"], (1280, 704, 121)
    whole, tiled = (activation_bytes(model, *clip, tiled=tiled) for tiled in (False, True))
    sizes = Sizes(transformers=(10 * GB,), text_encoder=11 * GB, rest=int(1.4 * GB), block=10 * GB // 30)
    assert device_bytes("stream", sizes, tiled) < 12 * GB < device_bytes("stream", sizes, whole)
    assert decide("auto", sizes, whole, tiled, 12 * GB) == "stream"
    with pytest.raises(OutOfMemory):
        decide("auto", sizes, whole, whole, 12 * GB)


@pytest.mark.parametrize(("mode", "available"), [("resident", 0), ("stream", 72), ("pair", 128)])
def test_a_host_with_room_is_fine(mode: PlacementMode, available: int) -> None:
    check_host("auto", mode, PAIR, available * GB, packable=True)


def test_a_host_without_room_is_said_before_anything_is_loaded() -> None:
    with pytest.raises(OutOfMemory, match=r"60 GB free of about 71 GB.*fp8_storage.*--memory stream"):
        check_host("auto", "stream", PAIR, 60 * GB, packable=True)
    with pytest.raises(OutOfMemory, match=r"^((?!fp8_storage).)*--memory stream"):
        check_host("auto", "stream", PAIR, 60 * GB, packable=False)
    check_host("auto", "stream", packed_sizes(PAIR), 60 * GB, packable=False)
    check_host("stream", "stream", PAIR, 60 * GB, packable=True)


PAIR_MODEL, SINGLE_MODEL = "wan22_14b_t2v", "wan21_14b"
FP8, ONE = MemoryPlan("stream", fp8_in_memory=True), MemoryPlan("stream", fp8_in_memory=True, one_transformer=True)


@pytest.mark.parametrize(
    ("model", "fp8", "host", "on_24", "on_16_and_12"),
    [
        (PAIR_MODEL, True, 64, replace(FP8, mode="pair"), FP8),
        (PAIR_MODEL, True, 32, replace(ONE, mode="pair"), ONE),
        (PAIR_MODEL, True, 24, None, None),
        (PAIR_MODEL, False, 128, MemoryPlan("stream"), MemoryPlan("stream")),
        (PAIR_MODEL, False, 64, None, None),
        (PAIR_MODEL, False, 32, None, None),
        (SINGLE_MODEL, True, 64, replace(FP8, mode="pair"), FP8),
        (SINGLE_MODEL, True, 32, replace(FP8, mode="pair"), FP8),
        (SINGLE_MODEL, False, 64, MemoryPlan("stream"), MemoryPlan("stream")),
        (SINGLE_MODEL, False, 32, None, None),
    ],
)
def test_14b_models_on_common_hosts_and_cards(
    model: str, fp8: bool, host: int, on_24: MemoryPlan | None, on_16_and_12: MemoryPlan | None
) -> None:
    files = Files(model, fp8)
    assert [choice(files, host, card) for card in (24, 16, 12)] == [on_24, on_16_and_12, on_16_and_12]


def test_on_a_large_card_nothing_is_packed_or_kept_on_the_host() -> None:
    assert choice(Files(PAIR_MODEL, fp8=True), 16, 80) == MemoryPlan("resident")
