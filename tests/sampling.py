"""Grids of parameters of which the ordinary tests hold an even sample and `scripts/soak` the rest; it runs no test."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product
from typing import Any

import pytest


def sampled(every: int, *axes: Collection[Any]) -> list[Any]:
    """All combinations of the axes' values: of `every` neighbours along any axis one is ordinary, the others a soak.

    So each value is in the sample as often as any other of its axis, whatever else is in it.
    """
    assert all(len(axis) >= every for axis in axes)
    found = []
    for places in product(*(list(enumerate(axis)) for axis in axes)):
        ordinary = sum(index for index, _ in places) % every == 0
        found.append(pytest.param(*(value for _, value in places), marks=() if ordinary else pytest.mark.soak))
    return found
