"""Loads untrusted YAML or JSON as plain dicts, lists, strings and numbers, within limits."""

from __future__ import annotations

import codecs
import json
from typing import Any

import yaml

from wan_ui.errors import JobConfigInvalid

LARGEST_TEXT = 256 * 1024  # characters; a job config has a few thousand
MOST_NODES = 20_000  # with every alias counted as what it stands for
DEEPEST = 40


def decode(data: bytes) -> str:
    """The text of a config: UTF-8, or UTF-16 with its mark, which Windows' editors and PowerShell write.

    Raises UnicodeDecodeError.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def load(text: str | bytes) -> Any:
    """The document as plain data; dates stay text.

    JSON is read by its own reader, because YAML takes no tabs and the trainer's own JSON configs are indented by them.
    Raises JobConfigInvalid, with the line, for text that is not YAML, not text, too large, too deep, or too large once
    its aliases are expanded, and for any tag: a document must not choose which Python objects are built.
    """
    if len(text) > LARGEST_TEXT:
        raise _invalid(f"it is larger than {LARGEST_TEXT // 1024} KB")
    try:
        decoded = decode(text) if isinstance(text, bytes) else text.removeprefix("\ufeff")
        document = _json_object(decoded)
        if document is not None:
            return document
        _check(decoded)
        return yaml.load(decoded, Loader=_Plain)
    except UnicodeDecodeError as error:
        raise _invalid("it is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        where = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise _invalid(f"it is not valid YAML{where}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise _invalid("it is not valid YAML") from error


def _invalid(problem: str) -> JobConfigInvalid:
    return JobConfigInvalid(
        f"The job config cannot be read: {problem}.", fields=[{"loc": "config.yaml", "msg": problem}]
    )


def _json_object(text: str) -> dict[str, Any] | None:
    """The document of a JSON object; None for anything else, which YAML's reader reads or refuses."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        document: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        return None
    _check_size(document)
    return document


def _check_size(document: Any) -> None:
    """The limits of entries and depth for data that was read from JSON, and that its texts are Unicode."""
    waiting: list[tuple[Any, int]] = [(document, 1)]
    total = 0
    while waiting:
        value, depth = waiting.pop()
        total += 1
        if total > MOST_NODES:
            raise _invalid(f"it has more than {MOST_NODES} entries")
        if isinstance(value, dict | list):
            if depth > DEEPEST:
                raise _invalid(f"it is nested deeper than {DEEPEST} levels")
            waiting += [(item, depth + 1) for item in value]  # a dict's keys count too
            waiting += [(item, depth + 1) for item in value.values()] if isinstance(value, dict) else []
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise _invalid("it holds half of a character (a lone surrogate)") from error


class _Plain(yaml.SafeLoader):
    """Without dates: a name such as 2026-01-02 is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _check_tag(event: yaml.ScalarEvent | yaml.CollectionStartEvent, line: int) -> None:
    if event.tag not in (None, "!"):
        raise _invalid(f"line {line} has a tag, which job configs must not have")


def _check(text: str) -> None:
    """Counts the nodes that loading would build, from the parser's events, which build nothing."""
    sizes: dict[str, int] = {}
    open_collections: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
            _check_tag(event, line)
            total += 1
        if isinstance(event, yaml.ScalarEvent) and event.anchor is not None:
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            if event.anchor is not None:
                sizes.pop(event.anchor, None)
            open_collections.append((event.anchor, total - 1))
            if len(open_collections) > DEEPEST:
                raise _invalid(f"it is nested deeper than {DEEPEST} levels in line {line}")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_collections.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise _invalid(f"the alias in line {line} refers to nothing, or to what it is part of")
            total += sizes[event.anchor]
        if total > MOST_NODES:
            raise _invalid(f"it has more than {MOST_NODES} entries")
