"""Which idle slots help with a clip, and that a group which failed is not made again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.jobs.helpers import body
from wan_ui.engine.split import GroupPlace, Split
from wan_ui.jobs.lending import MOST_LOST, WORTH_A_LOAD, Helper, LostGroups, choose_helpers
from wan_ui.jobs.scheduler import Affinity, Unit
from wan_ui.request import Generation, parse, resolve

LEADER = Helper("GPU 0", "H200", 31)


def guided(scale: float = 5.0) -> Generation:
    (generation,) = resolve(parse(body(1)), store_image=str)
    return replace(generation, guidance_scale=scale, width=832, height=480, num_frames=81)


def helpers(*idle: Helper, seconds: float = 1.0, leader_loads: bool = False, most: int = 8) -> tuple[str, ...]:
    split, names = choose_helpers(guided(), LEADER, idle, most, seconds, leader_loads)
    assert split.ranks == 1 + len(names)
    return names


def test_the_best_prepared_of_the_same_kind_of_gpu_help() -> None:
    idle = [Helper("GPU 1", "H200", 16), Helper("GPU 2", "RTX 4090", 31), Helper("GPU 3", "H200", 24)]
    assert helpers(*idle) == ("GPU 3",)  # 3 GPUs count as 2
    assert helpers(*idle, Helper("GPU 4", "H200", 31)) == ("GPU 4", "GPU 3", "GPU 1")
    assert helpers(*idle, most=1) == helpers() == ()


def test_a_gpu_of_another_machine_does_not_help() -> None:
    assert helpers(Helper("GPU 1", "H200", 31, machine="other")) == ()


def test_a_gpu_whose_model_is_not_known_does_not_help() -> None:
    assert helpers(Helper("GPU 1", None, 31)) == ()
    unknown = replace(LEADER, gpu=None)
    assert choose_helpers(guided(), unknown, [Helper("GPU 1", None, 31)], 8, 1.0, False) == (Split(), ())


def test_slots_that_are_connected_already_help_each_other() -> None:
    def connected(number: int, group: str, fit: int = 31, ranks: int = 2) -> Helper:
        return Helper(f"GPU {number}", "H200", fit, joined=GroupPlace(Split(2, ranks // 2), number % ranks, group))

    def chosen(*idle: Helper, leader: Helper, most: int = 2) -> tuple[str, ...]:
        return choose_helpers(guided(), leader, idle, most, 1.0, False)[1]

    leader, free = connected(0, "first"), Helper("GPU 5", "H200", 31)
    assert chosen(free, connected(1, "first", fit=16), leader=leader) == ("GPU 1",)
    assert chosen(connected(2, "second"), free, leader=LEADER) == ("GPU 5",)  # that group stays as it is
    assert chosen(connected(2, "second"), leader=LEADER) == ("GPU 2",)
    whole = [connected(number, "four", ranks=4) for number in range(4)]
    assert chosen(free, *whole[1:], leader=whole[0], most=4) == ("GPU 1", "GPU 2", "GPU 3")
    assert chosen(*whole[1:], free, leader=whole[0]) == ("GPU 5",)  # two of four have to find each other anew


@pytest.mark.parametrize(
    ("seconds", "leader_loads", "names"),
    [(1.0, False, ()), (WORTH_A_LOAD, False, ("GPU 1",)), (1.0, True, ("GPU 1",))],
)
def test_one_that_has_to_load_the_model_helps_where_that_pays(
    seconds: float, leader_loads: bool, names: tuple[str, ...]
) -> None:
    assert helpers(Helper("GPU 1", "H200"), seconds=seconds, leader_loads=leader_loads) == names


def test_without_guidance_two_divide_the_tokens() -> None:
    idle = [Helper(f"GPU {number}", "H200", 31) for number in (1, 2, 3)]
    assert choose_helpers(guided(1.0), LEADER, idle, 8, 1.0, False) == (Split(1, 2), ("GPU 1",))


def test_a_clip_is_given_to_a_group_once_and_after_some_losses_none_is() -> None:
    lost, units = LostGroups(), [Unit(f"job {number}", 0, None, Affinity("model")) for number in range(10)]
    lost.add(units[0], "")
    assert (lost.allow(units[0], ""), lost.allow(units[1], "")) == (False, True)
    lost.forget(units[0].job_id)
    assert lost.allow(units[0], "")
    lost.succeeded("")
    for unit in units[:MOST_LOST]:
        assert lost.allow(unit, "")
        lost.add(unit, "")
    assert (lost.allow(units[-1], ""), lost.allow(units[-1], "another machine")) == (False, True)
