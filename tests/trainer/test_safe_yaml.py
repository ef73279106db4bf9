"""Hostile YAML: bombs, tags, depth, size; each a typed refusal in little time and memory."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wan_ui.errors import JobConfigInvalid
from wan_ui.trainer.safe_yaml import DEEPEST, LARGEST_TEXT, MOST_NODES, load


def bomb(line: str) -> str:
    """Nine references to the line before, eleven times: 9¹¹ entries once expanded."""
    aliases = (",".join([f"*a{level - 1}"] * 9) for level in range(1, 12))
    return "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {line % one}\n" for n, one in enumerate(aliases, 1))


HOSTILE: dict[str, str | bytes] = {
    "aliases": bomb("[%s]"),
    "merged keys": bomb("{<<: [%s]}"),
    "an alias of itself": "a: &a [*a]",
    "an unknown alias": "a: *b",
    "python/object": "!!python/object/apply:os.system ['true']",
    "python/name": "a: !!python/name:os.system",
    "a private tag": "a: !thing 1",
    "a tag prefix": "%TAG ! tag:example.org,2026:\n---\na: !thing 1",
    "binary": "a: !!binary aGk=",
    "a set": "!!set {a, b}",
    "deep brackets": "[" * 100_000,
    "deep braces": "{a: " * 60_000,
    "deep dashes": "- " * 100_000,
    "deep keys": "? " * 100_000,
    "too deep": "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1),
    "10 MB": "a: b\n" * 2_000_000,
    "10 MB of bytes": b"a: b\n" * 2_000_000,
    "10 MB in one text": "a: " + "x" * 10_000_000,
    "a wide list": "\n".join(f"- {n}" for n in range(MOST_NODES + 1)),
    "a number of 200,000 digits": "a: " + "9" * 200_000,
    "two documents": "a: 1\n---\nb: 2",
    "not UTF-8": b"\xff\xfe\x00",
    "a null byte": "a: \x00",
    "a lone surrogate": "a: '\ud800'",
    "a tab": "a:\n\tb: 1",
    "an open bracket": "a: [1, 2",
    "a list as a key": "? [a]\n: b",
    "a wrong merge": "a: {<<: 3}",
    "HTML": "<!doctype html><html>: [",
}


LARGE = ("deep brackets", "a wide list", "a number of 200,000 digits")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in LARGE else ()) for case in HOSTILE]
)
def test_hostile_text_is_refused(case: str) -> None:
    tracemalloc.start()
    started = time.thread_time()  # of this thread's own computing: a busy machine takes it nothing
    with pytest.raises(JobConfigInvalid) as refusal:
        load(HOSTILE[case])
    seconds, (_, peak) = time.thread_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 20
    assert peak < 40 * 1024 * 1024
    assert refusal.value.message.startswith("The job config cannot be read: ")
    assert len(refusal.value.message) < 300
    assert refusal.value.details["fields"][0]["loc"] == "config.yaml"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1", {"a": 1}),
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
        ("\ufeffa: ü".encode(), {"a": "ü"}),
        ("a: 2026-01-02", {"a": "2026-01-02"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("base: &b {w: 1}\nc: {<<: *b, h: 2}", {"base": {"w": 1}, "c": {"w": 1, "h": 2}}),
        ("a: ! text", {"a": "text"}),
        ('{"a": [1.5, null, true]}', {"a": [1.5, None, True]}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("[" * DEEPEST + "]" * DEEPEST, ...),
        ("a: '" + "x" * 200_000 + "'", {"a": "x" * 200_000}),
        ("a: 1\na: 2", {"a": 2}),
    ],
)
def test_what_people_write(text: str | bytes, expected: Any) -> None:
    assert expected is ... or load(text) == expected


def test_u15_json_indented_by_tabs() -> None:
    assert load(b'{\n\t"config": {\n\t\t"name": "fox", "steps": [1, 2.5, null, true]\n\t}\n}') == {
        "config": {"name": "fox", "steps": [1, 2.5, None, True]}
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 100 + "1" + "}" * 100,
        '{"a":[' + "1," * 20_001 + "1]}",
        '{"a": "\\ud800"}',
        '{"a": 1',
        '{"a":' * 50_000,
    ],
)
def test_u15_hostile_json_is_refused(text: str) -> None:
    with pytest.raises(JobConfigInvalid):
        load(text)


def test_the_limit_of_size() -> None:
    assert load("#" * LARGEST_TEXT) is None
    with pytest.raises(JobConfigInvalid):
        load("#" * (LARGEST_TEXT + 1))


@given(st.text(max_size=60) | st.text("[]{}:,-?&*!|>'\"#%@`a1 \n", max_size=60) | st.binary(max_size=60))
def test_any_text_is_data_or_a_typed_refusal(text: str | bytes) -> None:
    try:
        found = load(text)
    except JobConfigInvalid:
        return
    assert found is None or isinstance(found, dict | list | str | int | float)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
                    max_leaves=12))  # fmt: skip
def test_plain_data_comes_back(data: Any) -> None:
    assert load(yaml.safe_dump(data)) == data
