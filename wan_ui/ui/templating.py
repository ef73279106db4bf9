"""The one Jinja2 environment: every HTML fragment of the page is rendered here, with autoescape."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup

from wan_ui.ui.texts import text_of

TEMPLATES = Path(__file__).parent / "templates"
_VERBATIM = re.compile(r"(<script>.*?</script>|<style>.*?</style>)", re.DOTALL)
_BESIDE_A_TAG = re.compile(r"(?<=[>}])\s*\n\s*|\s*\n\s*(?=<|\{[%#])")
_LINE_BREAK = re.compile(r"\s*\n\s*")
_FLAG = re.compile(r"((?<![\w-])--[a-z][a-z0-9-]*[a-z0-9])")


class JoinLines(Extension):
    """Removes a template's line breaks: none beside a tag, one space within text.

    White space between inline elements would be visible on the page, so templates can be indented freely only if it
    is removed. Scripts and styles stay as they are.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """The source as it is compiled. Called by Jinja2."""
        parts = _VERBATIM.split(source)
        return "".join(part if index % 2 else _joined(part) for index, part in enumerate(parts))


def _joined(source: str) -> str:
    return _LINE_BREAK.sub(" ", _BESIDE_A_TAG.sub("", source))


def flag_parts(text: str) -> list[str]:
    """The text split at command-line flags such as `--max-disk-gb`: text and flag in turn, text first and last."""
    return _FLAG.split(text)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, extensions=[JoinLines]
    )
    environment.filters["flag_parts"] = flag_parts
    environment.globals["text_of"] = text_of
    return environment


_ENVIRONMENT = _environment()


def render_template(template: str, /, **values: Any) -> Markup:
    """The template `templates/{template}.html` with these values, each escaped unless it is Markup already."""
    return Markup(_ENVIRONMENT.get_template(f"{template}.html").render(values))
