"""What counts as an address, and base64 piece by piece."""

from __future__ import annotations

import base64
import random

import pytest

from wan_ui.text import BASE64_PIECE, decode_base64, is_web_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.example/b.png", True),
        ("  HTTP://a.example", True),
        ("upload://" + "ab" * 32, False),
        ("ftp://a.example", False),
        ("aHR0cHM6Ly8=", False),
        ("", False),
    ],
)
def test_only_http_addresses_count(text: str, expected: bool) -> None:
    assert is_web_address(text) is expected


@pytest.mark.parametrize("size", [0, 1, 2, 3, BASE64_PIECE // 4 * 3, 2 * BASE64_PIECE + 1])
def test_base64_is_decoded_as_in_one_piece(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert decode_base64(base64.b64encode(data).decode()) == data


@pytest.mark.parametrize("text", ["a", "ab=c", "AA==AAAA", "A" * (BASE64_PIECE - 2) + "==AAAA", "é" * 8, "AAAA AAAA"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode_base64(text)
