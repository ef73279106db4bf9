"""Which processes stay connected from one clip of a group to the next, and which are ended first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.fakes import FakeRender
from tests.jobs.helpers import body
from tests.pool.helpers import FakeSlot
from wan_ui.engine.result import ignore_progress
from wan_ui.engine.split import GroupPlace, Split
from wan_ui.pool.groups import SlotGroup
from wan_ui.request import parse, resolve

(GENERATION,) = resolve(parse(body(1)), store_image=str)


@pytest.fixture
def slots() -> list[FakeSlot]:
    return [FakeSlot(f"GPU {number}", FakeRender()) for number in range(4)]


def render(slots: Sequence[FakeSlot], split: Split) -> list[GroupPlace]:
    """The places of a clip, in the order of the slots' names."""
    for slot in slots:
        slot.ended.clear()
    SlotGroup(slots, split).render(GENERATION, ignore_progress, lambda: None)
    places = [slot.places[-1] for slot in sorted(slots, key=lambda slot: slot.name)]
    return [place for place in places if place is not None]


def ended(slots: Sequence[FakeSlot]) -> list[bool]:
    return [slot.ended.is_set() for slot in slots]


def test_the_same_slots_stay_connected_however_they_are_ordered_and_divided(slots: list[FakeSlot]) -> None:
    first = render(slots[:2], Split(2))
    second = render(slots[1::-1], Split(1, 2))
    third = render(slots[:2], Split(2))
    assert [place.rank for place in first] == [0, 1]
    assert second == [GroupPlace(Split(1, 2), rank, first[0].rendezvous, 1) for rank in (0, 1)]
    assert third == [GroupPlace(Split(2), rank, first[0].rendezvous, 2) for rank in (0, 1)]
    assert ended(slots[:2]) == [False, False]


def test_a_clip_in_between_that_is_rendered_alone_changes_nothing(slots: list[FakeSlot]) -> None:
    (first, _) = render(slots[:2], Split(2))
    slots[1].render(GENERATION, ignore_progress, lambda: None)
    assert render(slots[:2], Split(2))[1] == GroupPlace(Split(2), 1, first.rendezvous, 1)


def test_after_one_has_ended_the_other_is_ended_too(slots: list[FakeSlot]) -> None:
    (first, _) = render(slots[:2], Split(2))
    slots[1].end()
    again = render(slots[:2], Split(2))
    assert again[0].rendezvous == again[1].rendezvous != first.rendezvous and again[1].clip == 0
    assert ended(slots[:2]) == [True, False]


def test_a_slot_joins_others_only_after_its_process_was_ended(slots: list[FakeSlot]) -> None:
    (first, _) = render(slots[:2], Split(2))
    whole = render(slots, Split(2, 2))
    assert {place.rendezvous for place in whole} != {first.rendezvous}
    assert [place.rank for place in whole] == [0, 1, 2, 3]
    assert ended(slots) == [True, True, False, False]
    for slot in slots:
        slot.ended.clear()
    half = render(slots[2:], Split(2))
    assert half[0].rendezvous != whole[0].rendezvous and [place.rank for place in half] == [0, 1]
    assert ended(slots) == [False, False, True, True]
