"""Turns untrusted text into one safe line of bounded length."""

from __future__ import annotations

LONGEST_TEXT = 200  # characters of anything a file says about itself


def one_line(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text in one line of at most `longest` characters; control, format and surrogate characters become spaces."""
    printable = "".join(character if character.isprintable() else " " for character in text[: 4 * longest])
    printable = " ".join(printable.split())
    return printable if len(printable) <= longest else printable[: longest - 1] + "…"
