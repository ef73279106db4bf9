"""The threat model names tests; each of them has to be there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from wan_ui import config, field_errors
from wan_ui.api import bodies, dependencies, event_streams
from wan_ui.jobs import gallery, judging, limits
from wan_ui.media import clip_frames
from wan_ui.web import login

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "security.md"


def test_every_test_that_the_threat_model_names_is_there() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    there = {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert named - there == set() and len(named) > 30
    files = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert [file for file in files if not (TESTS.parent / file).is_file()] == []


def test_every_attack_is_in_the_threat_model_or_says_itself() -> None:
    """A family that is tested and not named would be missing from what an operator reads."""
    tree = ast.parse((TESTS / "web" / "test_attacks.py").read_text(encoding="utf-8"))
    tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_no_")]
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [name for name in tests if name not in text] == []


def budgets() -> dict[str, tuple[str, str, str]]:
    """What each budget is for: its limit, its flag or constant, and its tests, as the tables state them."""
    text = DOCUMENT.read_text(encoding="utf-8")
    tables = text[text.index("## Budgets for visitors") : text.index("## Attacks of our own")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in tables.splitlines() if line[:2] == "| "]
    return {what: (limit, where, tests) for what, limit, where, tests in rows if what != "what"}


def test_every_budget_has_a_flag_or_a_constant_and_a_test() -> None:
    rows = budgets()
    assert len(rows) > 25
    assert [what for what, (_, where, tests) in rows.items() if "`" not in where or "`test_" not in tests] == []
    flags = {option.flag for option in config.OPTIONS.values()}
    named = {flag for _, where, _ in rows.values() for flag in re.findall(r"--[a-z-]+", where)}
    assert named <= flags and len(named) >= 10


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("waiting requests, of all", config.Settings.max_waiting),
        ("of all guests and programs", config.Settings.max_waiting_guests),
        ("of one visitor", limits.VISITORS_WAITING),
        ("frames × pixels of a request", f"{limits.VISITORS_COST // 10**9}e9"),
        ("sign-ins a minute", config.Settings.max_sign_ins),
        ("wrong passwords", login.TRIES),
        ("wrong passwords", login.TRIES_OF_ALL),
        ("age of a session", config.Settings.session_days),
        ("connections", config.Settings.max_connections),
        ("time without a byte", config.Settings.slow_client_seconds),
        ("event streams of the API", event_streams.MOST_EACH),
        ("event streams of the API", event_streams.MOST_OF_PROGRAMS),
        ("event streams of the API", event_streams.MOST_OF_GUESTS),
        ("event streams of the API", event_streams.MOST),
        ("votes on pairs", judging.MOST_VOTES),
        ("a JSON body", bodies.MOST_MARKS),
        ("a JSON body", field_errors.MOST_VALUES),
        ("a JSON body", field_errors.MOST_ERRORS),
        ("JSON bodies of more", dependencies.BODIES_OF_ALL >> 20),
        ("JSON bodies of more", dependencies.BODIES_EACH >> 20),
        ("clips joined", clip_frames.MOST_PARTS),
        ("text of a request", limits.MOST_TEXT),
        ("a cancelled request", gallery.CANCELED_HOURS),
    ],
)
def test_a_budget_is_the_one_in_the_code(what: str, number: float | str) -> None:
    (stated,) = [limit for name, (limit, _, _) in budgets().items() if name.startswith(what)]
    text = number if isinstance(number, str) else f"{number:,.10g}"
    assert re.search(rf"(?<![\d,]){re.escape(text)}(?![\d,]\d)", stated), stated
