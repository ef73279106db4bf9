"""The way of a request's body through the modules stays short."""

from __future__ import annotations

from collections import Counter

from tools.walk import submit_walk


def test_the_body_enters_no_module_often() -> None:
    modules = [module for module, _ in submit_walk()]
    last = len(modules) - modules[::-1].index("intake")
    body = modules[modules.index("intake") - 1 : last]
    assert body[0] == "jobs.service" and len(body) <= 29
    assert max(Counter(body).values()) <= 3
