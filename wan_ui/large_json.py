"""Decodes large JSON in pieces: Python's own decoder lets no other thread run until it has read the last byte."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from wan_ui.errors import PayloadTooLarge

PIECE = 1 << 20  # bytes that are decoded without a pause, about a millisecond
LONG = 1024  # bytes of a text that is decoded apart from the rest
MOST_LEFT = 8 << 20  # bytes of a document without its long texts
_BOM = b"\xef\xbb\xbf"
_QUOTE, _BACKSLASH = b'"', 0x5C
# A text may be cut before the last byte of this: no escape reaches over it, nor does a character of several bytes.
_CUT = re.compile(rb"[^\\]{12}[^\\\x80-\xbf]", re.DOTALL)
_CUT_BYTES = 64 << 10  # in which such a place is looked for


@dataclass(frozen=True)
class _LongText:
    """A text that was taken out: where it is in the document, without its quotes, and what it says."""

    start: int
    end: int
    value: str


def _no_check(_short: bytes) -> None:
    """Any document is decoded."""


def decode(
    data: bytes,
    parse_constant: Callable[[str], NoReturn],
    check: Callable[[bytes], object] = _no_check,
    piece: int = PIECE,
) -> Any:
    """The values of a JSON document, as json.loads gives them. `piece` is how many bytes of a text are decoded at once.

    `check` is given the document without its long texts before that is decoded in one go, and may raise.

    Long texts are decoded by themselves, and the rest as a short document with a mark in the place of each. Raises
    what json.loads raises, with the same positions, and PayloadTooLarge for a document of more than MOST_LEFT bytes
    without its long texts.
    """
    start, mark = len(_BOM) if data.startswith(_BOM) else 0, secrets.token_hex(16)
    texts: dict[str, _LongText] = {}
    parts: list[bytes] = []
    done = start
    for text_start, text_end in _long_texts(data, start):
        name = f"{mark}-{len(texts)}"
        texts[name] = _LongText(text_start, text_end, _text(data, text_start, text_end, piece))
        parts += (data[done:text_start], name.encode())
        done = text_end
    parts.append(data[done:])
    check(b"".join(parts))
    try:
        short = b"".join(parts).decode()
    except UnicodeDecodeError as error:
        raise _undecodable(data, _byte(error.start, start, parts, texts), error.reason) from None
    try:
        value = json.loads(short, parse_constant=parse_constant)
    except json.JSONDecodeError as error:
        at = _byte(len(short[: error.pos].encode()), start, parts, texts)
        raise _wrong(error.msg, data, at) from None
    return _with_texts(value, {name: text.value for name, text in texts.items()})


def _long_texts(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Where the long texts are, without their quotes. Raises PayloadTooLarge as soon as too much is not in them."""
    done, left = start, 0  # the end of the last long text, and the bytes before it that are in none
    opened = data.find(_QUOTE, start)
    while opened >= 0:
        closed = data.find(_QUOTE, opened + 1)
        while closed >= 0 and _is_escaped(data, closed):
            closed = data.find(_QUOTE, closed + 1)
        if closed < 0:
            break  # the text has no end, which the decoder says
        if closed - opened > LONG:
            left += opened + 1 - done
            done = closed
            yield opened + 1, closed
        if left + opened - done > MOST_LEFT:
            break
        opened = data.find(_QUOTE, closed + 1)
    if left + len(data) - done > MOST_LEFT:
        raise PayloadTooLarge(
            f"Only texts of more than {LONG} bytes may make a JSON document larger than {MOST_LEFT} bytes.",
            limit=MOST_LEFT,
        )


def _is_escaped(data: bytes, at: int) -> bool:
    """Whether an odd number of backslashes stands before a byte."""
    first = at
    while data[first - 1] == _BACKSLASH:
        first -= 1
    return (at - first) % 2 == 1


def _text(data: bytes, start: int, end: int, piece: int) -> str:
    """What a text says, without its quotes."""
    pieces = []
    while start < end:
        stop = end
        if end - start > piece and (cut := _CUT.search(data, start + piece, min(end, start + piece + _CUT_BYTES))):
            stop = cut.end() - 1
        try:
            raw = data[start:stop].decode()
        except UnicodeDecodeError as error:
            raise _undecodable(data, start + error.start, error.reason) from None
        try:
            pieces.append(json.loads(f'"{raw}"'))
        except json.JSONDecodeError as error:
            raise _wrong(error.msg, data, start + len(raw[: error.pos - 1].encode())) from None
        start = stop
    return "".join(pieces)


def _with_texts(value: Any, texts: dict[str, str]) -> Any:
    """A decoded document with its long texts in their places, which are names of fields too."""
    if isinstance(value, str):
        return texts.get(value, value)
    containers = [value] if texts and isinstance(value, dict | list) else []
    while containers:
        container = containers.pop()
        if isinstance(container, list):
            container[:] = [texts.get(item, item) if isinstance(item, str) else item for item in container]
        else:
            items = list(container.items())
            container.clear()
            for name, item in items:
                container[texts.get(name, name)] = texts.get(item, item) if isinstance(item, str) else item
        inside = container.values() if isinstance(container, dict) else container
        containers += [item for item in inside if isinstance(item, dict | list)]
    return value


# Where an error is


def _byte(at: int, start: int, parts: list[bytes], texts: dict[str, _LongText]) -> int:
    """Where a byte of the short document is in the whole one. `parts`: what is between long texts, and their marks."""
    for before, name, text in zip(parts[::2], parts[1::2], texts.values(), strict=False):
        if at < len(before):
            break
        at = max(0, at - len(before) - len(name))
        start = text.end
    return start + at


def _undecodable(data: bytes, at: int, reason: str) -> UnicodeDecodeError:
    return UnicodeDecodeError("utf-8", data, at, at + 1, reason)


def _wrong(message: str, data: bytes, at: int) -> json.JSONDecodeError:
    """An error at a byte of a document, with its line and column in characters."""
    error = json.JSONDecodeError(message, "", 0)
    line = data.rfind(b"\n", 0, at) + 1
    error.pos, error.lineno = at, data.count(b"\n", 0, at) + 1
    error.colno = len(data[line:at].removeprefix(_BOM).decode("utf-8", "replace")) + 1
    return error
