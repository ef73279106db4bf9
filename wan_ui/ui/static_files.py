"""The page's scripts, style sheets and component templates, read from the folder `static`."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "static"


def static_text(name: str) -> str:
    """The text of one file of the folder `static`."""
    return (_FOLDER / name).read_text(encoding="utf-8")
