"""Rankings from pair votes: simulated voters with known preferences, and the borders of the model."""

from __future__ import annotations

import math
import random

import pytest

from wan_ui.ranking import Vote, rank, rank_groups


def simulated_votes(strengths: dict[str, float], count: int, seed: int) -> list[Vote[str]]:
    """A voter who prefers a to b with probability σ(strength a − strength b)."""
    choice = random.Random(seed)
    votes = []
    for _ in range(count):
        first, second = choice.sample(list(strengths), 2)
        prefers_first = choice.random() < 1 / (1 + math.exp(strengths[second] - strengths[first]))
        votes.append(Vote(first, second) if prefers_first else Vote(second, first))
    return votes


def contradictions(strengths: dict[str, float], votes: list[Vote[str]]) -> int:
    """Pairs whose order the ranking calls settled although the true order is the opposite."""
    ranking = rank(list(strengths), votes)
    places = range(len(strengths))
    return sum(
        ranking.is_settled(upper, lower) and strengths[ranking.ranks[upper].item] < strengths[ranking.ranks[lower].item]
        for upper in places
        for lower in places
        if upper < lower
    )


def test_the_true_order_is_within_the_stated_uncertainty() -> None:
    """In at least 19 of 20 seeded runs no pair is called settled the wrong way round."""
    strengths = {"a": 1.5, "b": 0.9, "c": 0.4, "d": 0.0, "e": -0.6, "f": -1.2}
    right = sum(contradictions(strengths, simulated_votes(strengths, 120, seed)) == 0 for seed in range(20))
    assert right >= 19


def test_many_votes_give_the_true_order_and_settle_it() -> None:
    strengths = {"a": 2.0, "b": 1.0, "c": 0.0, "d": -1.0}
    ranking = rank(list(strengths), simulated_votes(strengths, 2000, 1))
    assert [place.item for place in ranking.ranks] == ["a", "b", "c", "d"]
    assert all(ranking.is_settled(place, place + 1) for place in range(3))


def test_the_interval_of_a_share_covers_the_true_share() -> None:
    strengths = {"a": 1.0, "b": 0.0, "c": -0.5}
    true_share = sum(1 / (1 + math.exp(strengths[other] - strengths["a"])) for other in "bc") / 2
    covered = 0
    for seed in range(100):
        first = next(p for p in rank(list(strengths), simulated_votes(strengths, 150, seed)).ranks if p.item == "a")
        covered += abs(first.share - true_share) <= first.margin
    assert covered >= 90


def test_an_item_that_won_everything_stays_finite() -> None:
    ranking = rank(["a", "b"], [Vote("a", "b")] * 50)
    assert ranking.ranks[0].item == "a" and math.isfinite(ranking.ranks[0].strength)
    assert ranking.ranks[0].wins == 50 and ranking.ranks[1].wins == 0 and ranking.ranks[1].votes == 50
    assert 0.9 < ranking.ranks[0].share < 1


def test_no_votes_keep_the_given_order_and_settle_nothing() -> None:
    ranking = rank(["x", "y", "z"], [])
    assert [place.item for place in ranking.ranks] == ["x", "y", "z"]
    assert not ranking.is_settled(0, 2) and ranking.ranks[0].share == 0.5


def test_a_tie_counts_half_for_each() -> None:
    ranking = rank(["a", "b"], [Vote("a", "b", tie=True)] * 4)
    assert [place.wins for place in ranking.ranks] == [2, 2]
    assert ranking.ranks[0].strength == pytest.approx(ranking.ranks[1].strength)


def test_votes_on_other_items_and_on_oneself_are_left_out() -> None:
    ranking = rank(["a", "b"], [Vote("a", "gone"), Vote("b", "b"), Vote("b", "a")])
    assert ranking.ranks[0].item == "b" and ranking.ranks[0].votes == 1


def test_the_values_of_an_axis_are_ranked_over_their_cells() -> None:
    cells = {(row, column): column for row in range(3) for column in ("500", "1500")}
    votes = [Vote((row, "1500"), (row, "500")) for row in range(3)] + [Vote((0, "500"), (1, "500"))]
    ranking = rank_groups(votes, cells)
    assert ranking.ranks[0].item == "1500" and ranking.ranks[0].votes == 3


def test_one_item_and_none() -> None:
    assert rank(["only"], []).ranks[0].share == 0.5
    assert rank([], []).ranks == ()
