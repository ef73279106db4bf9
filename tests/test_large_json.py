"""Large JSON decoded in pieces: the values and the errors of Python's own decoder, and a limit on what is not text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from wan_ui.api.bodies import decode_json
from wan_ui.errors import PayloadTooLarge
from wan_ui.large_json import LONG, MOST_LEFT, PIECE, decode

PARTS = ("a", 'b"', "\\", "é", "\U0001f600", "\n", "中", "{", ",", ":", "[", "\u0001")
DAMAGE = b'"\\{},:x\n\xff'


def refuse(literal: str) -> NoReturn:
    raise ValueError(literal)


def whole(data: bytes) -> Any:
    return json.loads(data.decode("utf-8-sig"), parse_constant=refuse)


def outcome(decoder: Callable[[bytes], Any], data: bytes) -> Any:
    """What a decoder returns, or what it raises and where."""
    try:
        return decoder(data)
    except json.JSONDecodeError as error:
        return error.msg, error.lineno, error.colno
    except UnicodeDecodeError:
        return "not UTF-8"
    except ValueError as error:
        return str(error)


def document(rng: random.Random, depth: int = 0) -> Any:
    def text(*lengths: int) -> str:
        return "".join(rng.choices(PARTS, k=rng.choice(lengths)))

    kind = rng.random()
    if depth > 3 or kind < 0.3:
        return text(0, 3, LONG + 400, 2 * LONG)
    if kind < 0.5:
        return rng.choice((1, 2.5, None, True))
    if kind < 0.75:
        return [document(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {text(1, LONG + 400): document(rng, depth + 1) for _ in range(rng.randrange(4))}


@pytest.mark.parametrize("piece", [16, 256])
def test_values_and_errors_are_those_of_pythons_decoder(piece: int) -> None:
    """Long texts as values and as names, escaped and not; a damaged byte gives the same message, line and column."""
    rng = random.Random(1)

    def in_pieces(data: bytes) -> Any:
        return decode(data, refuse, piece=piece)

    for _ in range(60):
        value = document(rng)
        for ascii_only in (True, False):
            data = json.dumps(value, ensure_ascii=ascii_only, indent=rng.choice((None, 1))).encode()
            data = rng.choice((b"", b"\xef\xbb\xbf")) + data
            assert in_pieces(data) == value
            damaged = bytearray(data)
            damaged[rng.randrange(len(data))] = rng.choice(DAMAGE)
            assert outcome(in_pieces, bytes(damaged)) == outcome(whole, bytes(damaged))


def test_a_large_body_is_made_of_a_few_long_texts() -> None:
    """28 MB of prompts decoded in one go kept all other threads waiting for 95 ms; in pieces it is 10."""
    prompts = {"prompts": [{"prompt": "a" * 20_000}] * 60}
    data = json.dumps(prompts).encode()
    assert len(data) > PIECE and decode_json(data) == prompts
    for large in (b'["a"' + b" " * MOST_LEFT + b"]", json.dumps(["a" * (LONG - 40)] * (MOST_LEFT // 800)).encode()):
        with pytest.raises(PayloadTooLarge):
            decode_json(large)
