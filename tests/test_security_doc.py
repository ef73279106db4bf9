"""The threat model names tests; each of them has to be there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

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
