"""Text for people: untrusted text as one safe line, sizes in words, and what an address is."""

from __future__ import annotations

import base64

LONGEST_TEXT = 200  # characters of anything a file says about itself
BASE64_PIECE = 1 << 20  # characters, a multiple of four, that are decoded in one go, in which no other thread runs


def one_line(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text in one line of at most `longest` characters; control, format and surrogate characters become spaces."""
    printable = "".join(character if character.isprintable() else " " for character in text[: 4 * longest])
    printable = " ".join(printable.split())
    return printable if len(printable) <= longest else printable[: longest - 1] + "…"


def is_utf8(name: str) -> bool:
    """Whether a file's name is UTF-8: one of an old archive may not be, and no JSON can state it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def gigabytes(size: float, decimals: int = 1) -> str:
    """A number of bytes for people: `13.5 GB`, or `95.0 MB` below 0.1 GB (decimal units)."""
    return f"{size / 1e9:.{decimals}f} GB" if size >= 1e8 else f"{size / 1e6:.{decimals}f} MB"


def is_web_address(text: str) -> bool:
    """Whether a text is an http(s) address, white space around it aside."""
    return text.strip()[:8].lower().startswith(("http://", "https://"))


def decode_base64(text: str) -> bytes:
    """The bytes that a base64 text stands for. Raises ValueError for anything that base64 does not have."""
    data, last = bytearray(), (len(text) - 1) // BASE64_PIECE * BASE64_PIECE
    for start in range(0, len(text), BASE64_PIECE):
        piece = text[start : start + BASE64_PIECE]
        if start < last and piece.endswith("="):
            raise ValueError("base64 goes on after its end")
        data += base64.b64decode(piece, validate=True)
    return bytes(data)
