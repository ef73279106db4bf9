"""Ranks items from pair votes with the Bradley–Terry model, and says how certain the ranking is.

In the model every item i has a strength θᵢ, and i is preferred to j with probability σ(θᵢ − θⱼ) = 1 / (1 + e^(θⱼ − θᵢ))
(R. A. Bradley and M. E. Terry, Biometrika 39, 1952). The strengths here are the maximum of the posterior under a normal
prior with standard deviation `PRIOR_DEVIATION`, found by Newton's method. The prior keeps the strengths finite when an
item won or lost all of its votes, and it fixes the origin: without it, adding a constant to all θ changes nothing.
The inverse of the Hessian at the maximum is the covariance of the strengths (Laplace's approximation).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

PRIOR_DEVIATION = 1.5  # of a strength, in logits: two items differ by less than 4.2 in 95 of 100 cases
ITERATIONS = 100  # of Newton's method; 5 to 10 are used
TOLERANCE = 1e-10  # logits
CONFIDENCE = 0.95

Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True)
class Vote(Generic[Item]):
    """One comparison of two items: `winner` was preferred to `loser`; a tie counts half for each."""

    winner: Item
    loser: Item
    tie: bool = False


@dataclass(frozen=True)
class Rank(Generic[Item]):
    """One item's place.

    `strength` is θ in logits. `wins` and `votes` are counts; a tie is half a win.
    `share` is the probability, in 0…1, that this item is preferred to another item of the ranking chosen at random, and
    `margin` is half the width of its 95 % interval.
    """

    item: Item
    strength: float
    wins: float
    votes: int
    share: float
    margin: float


@dataclass(frozen=True)
class Ranking(Generic[Item]):
    """Items from the most to the least preferred, with the covariance (items × items) of their strengths."""

    ranks: tuple[Rank[Item], ...]
    covariance: npt.NDArray[np.float64]

    def certainty(self, first: int, second: int) -> float:
        """The probability that the item at place `first` is really stronger than the one at place `second`."""
        difference = self.ranks[first].strength - self.ranks[second].strength
        variance = self.covariance[first, first] + self.covariance[second, second] - 2 * self.covariance[first, second]
        return 0.5 if variance <= 0 else NormalDist().cdf(difference / math.sqrt(variance))

    def is_settled(self, first: int, second: int) -> bool:
        """Whether the order of two places is certain enough that all settled orders hold together with 95 % confidence.

        Each of the n(n − 1) / 2 pairs may be wrong with an equal part of the 5 % (Bonferroni's correction).
        """
        pairs = len(self.ranks) * (len(self.ranks) - 1) / 2
        return self.certainty(first, second) >= 1 - (1 - CONFIDENCE) / pairs


def rank(items: Sequence[Item], votes: Iterable[Vote[Item]]) -> Ranking[Item]:
    """Ranks `items` by the votes among them; votes that name other items are left out.

    Items without votes are in the middle. The order of equal strengths is that of `items`.
    """
    index = {item: number for number, item in enumerate(items)}
    count = len(items)
    wins = np.zeros((count, count))  # wins[i, j]: how often i was preferred to j
    for vote in votes:
        if vote.winner in index and vote.loser in index and vote.winner != vote.loser:
            winner, loser = index[vote.winner], index[vote.loser]
            wins[winner, loser] += 0.5 if vote.tie else 1.0
            wins[loser, winner] += 0.5 if vote.tie else 0.0
    strengths, covariance = _fit(wins)
    order = sorted(range(count), key=lambda number: (-strengths[number], number))
    ranks = tuple(
        Rank(
            items[number],
            float(strengths[number]),
            float(wins[number].sum()),
            round(float(wins[number].sum() + wins[:, number].sum())),
            *_share(number, strengths, covariance),
        )
        for number in order
    )
    return Ranking(ranks, covariance[np.ix_(order, order)])


def rank_groups(votes: Iterable[Vote[Item]], group_of: Mapping[Item, Hashable]) -> Ranking[Hashable]:
    """Ranks groups of items, such as the cells of one training step: votes within a group are left out."""
    groups = list(dict.fromkeys(group_of.values()))
    between = [
        Vote(group_of[vote.winner], group_of[vote.loser], vote.tie)
        for vote in votes
        if vote.winner in group_of and vote.loser in group_of and group_of[vote.winner] != group_of[vote.loser]
    ]
    return rank(groups, between)


def _fit(wins: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Strengths (items,) and their covariance (items, items) for a matrix of wins."""
    count = len(wins)
    strengths = np.zeros(count)
    precision = np.eye(count) / PRIOR_DEVIATION**2
    games = wins + wins.T
    hessian: npt.NDArray[np.float64] = precision
    for _ in range(ITERATIONS):
        probability = 1.0 / (1.0 + np.exp(strengths[None, :] - strengths[:, None]))  # of i over j
        gradient = wins.sum(axis=1) - (games * probability).sum(axis=1) - precision @ strengths
        # ∂²/∂θᵢ∂θⱼ of the negative log posterior: −nᵢⱼ p(1 − p) off the diagonal, the row's sum and the prior on it.
        information = games * probability * (1.0 - probability)
        hessian = np.diag(information.sum(axis=1)) - information + precision
        step = np.linalg.solve(hessian, gradient) if count else gradient
        strengths = strengths + step
        if count == 0 or np.abs(step).max() < TOLERANCE:
            break
    return strengths, np.asarray(np.linalg.inv(hessian), dtype=np.float64) if count else np.zeros((0, 0))


def _share(number: int, strengths: npt.NDArray[np.float64], covariance: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The mean probability that an item is preferred to the others, and half of its 95 % interval (delta method)."""
    others = [other for other in range(len(strengths)) if other != number]
    if not others:
        return 0.5, 0.0
    probability = 1.0 / (1.0 + np.exp(strengths[others] - strengths[number]))
    slope = probability * (1.0 - probability) / len(others)
    gradient = np.zeros(len(strengths))
    gradient[others] = -slope
    gradient[number] = slope.sum()
    deviation = math.sqrt(max(0.0, float(gradient @ covariance @ gradient)))
    return float(probability.mean()), NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * deviation
