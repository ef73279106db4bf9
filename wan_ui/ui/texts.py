"""The page's texts in the language of the event that is handled, or of the page that is being built."""

from __future__ import annotations

import re
from typing import Any

from gradio.context import LocalContext
from markupsafe import escape

from wan_ui import language as languages

_KEY = re.compile(r"\[\[([\w.]+)\]\]")


def language() -> str:
    """The code of the current language. Gradio handles events outside the request that brought them."""
    event = LocalContext.request.get(None)
    if event is not None and event.request is not None:
        return str(event.request.scope.get(languages.SCOPE_KEY, languages.DEFAULT))
    return languages.current_language.get()


def text_of(key: str, /, **values: Any) -> str:
    """The text of a key of the catalogue; `values` fill its placeholders."""
    return languages.text_in(language(), key, **values)


def translated(sentence: str) -> str:
    """An English sentence from elsewhere, such as an error's message, in the current language where it is known."""
    return languages.translate(language(), sentence)


def with_texts(html: str) -> str:
    """HTML with the text of each `[[key]]` in its place."""
    return _KEY.sub(lambda match: str(escape(text_of(match[1]))), html)
