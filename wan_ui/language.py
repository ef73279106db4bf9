"""The languages of the page: the catalogue of its texts in each, and the one that a request is answered in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).parent / "ui" / "text"
"""One JSON file for each language, named by its code: `zh.json`."""
DEFAULT = "en"
COOKIE = "wan_ui_language"
SCOPE_KEY = "wan_ui.language"
"""Where web.page_language notes a request's language in its ASGI scope."""
PLURAL = frozenset({"one", "other"})
"""The forms of a text that depends on its value `count`; a language without such forms has one text."""

LONGEST = 2000  # characters of a sentence that is looked up
MOST_SENTENCES = 8  # of a message that is translated sentence by sentence
MOST_COLONS = 8  # of a message, after one of which a known one may begin
MOST_NESTED = 12  # messages within each other
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_BOUNDARY = re.compile(r"[.!?] +[A-Z]")
_SENTENCES = re.compile(r"(?<=[.!?]) +(?=[A-Z])")

current_language: ContextVar[str] = ContextVar("current_language", default=DEFAULT)
"""The language of the request that is being answered, or that the page is being built in."""

Text = str | Mapping[str, str]
"""A text with its placeholders in braces; or its form for one and for any other number."""


@cache
def languages() -> tuple[str, ...]:
    """The codes of all languages, the default one first."""
    codes = sorted(path.stem for path in CATALOGUE.glob("*.json"))
    return (DEFAULT, *(code for code in codes if code != DEFAULT))


@cache
def catalogue(language: str) -> Mapping[str, Text]:
    """The texts of a language by their keys, such as `form.first_frame`."""
    return dict(_flat(json.loads((CATALOGUE / f"{language}.json").read_text(encoding="utf-8"))))


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Text]]:
    for name, value in section.items():
        if isinstance(value, str) or set(value) == PLURAL:
            yield prefix + name, value
        else:
            yield from _flat(value, f"{prefix}{name}.")


def text_in(language: str, key: str, /, **values: Any) -> str:
    """The text of a key in a language, in English where the language has none; `values` fill its placeholders.

    Raises KeyError for a key that the English catalogue does not have, or a placeholder without a value.
    """
    text = catalogue(language).get(key) or catalogue(DEFAULT)[key]
    if not isinstance(text, str):
        text = text["one" if values["count"] == 1 else "other"]
    return text.format_map(values) if values else text


def text_of(key: str, /, **values: Any) -> str:
    """The text of a key in the current language."""
    return text_in(current_language.get(), key, **values)


def translate(language: str, sentence: str) -> str:
    """An English message of the API, such as an error's, in a language; itself where the catalogue has none.

    The catalogue's section "messages" has sentences with placeholders, and so tells the values in this one. A message
    may be several of them, or one after a name and a colon.
    """
    return sentence if language == DEFAULT or len(sentence) > LONGEST else _translated(language, sentence)


@lru_cache(maxsize=4096)
def _translated(language: str, sentence: str, depth: int = MOST_NESTED) -> str:
    """The translation of a message whose values may be messages too, `depth` levels deep."""
    if depth == 0:
        return sentence
    parts = _SENTENCES.split(sentence)
    known = _joined(language, parts if len(parts) <= MOST_SENTENCES else [sentence], depth)
    if known is not None:
        return known
    name, _, rest = sentence.partition(": ")
    known = _translated(language, rest, depth - 1) if 0 < sentence.count(": ") <= MOST_COLONS else rest
    return sentence if known == rest else f"{_translated(language, name, depth - 1)}: {known}"


def _joined(language: str, parts: list[str], depth: int) -> str | None:
    """The translation of several sentences, of which entries of the catalogue match one or more; None without one."""
    made = ""
    while parts:
        ends = range(len(parts), 0, -1)
        tried = ((end, _as_one(language, " ".join(parts[:end]), depth)) for end in ends)
        end, known = next(((end, one) for end, one in tried if one), (0, None))
        if known is None:
            return None
        made, parts = made + known, parts[end:]
    return made


def _as_one(language: str, sentence: str, depth: int) -> str | None:
    """A sentence that one entry of the catalogue matches; None where there is none."""
    for form in _forms():
        values = form.values_in(sentence)
        if values is not None:
            translations = {name: _translated(language, value, depth - 1) for name, value in values.items()}
            return text_in(language, form.key, **translations)
    return None


@dataclass(frozen=True)
class _Form:
    """A message of the catalogue: its texts, and the names of the values between them.

    `takes_several`: the value that ends the message may hold several sentences.
    """

    key: str
    texts: tuple[str, ...]
    names: tuple[str, ...]
    takes_several: bool

    def values_in(self, message: str) -> dict[str, str] | None:
        """The values that make a message of this form, each as short as may be; None for a message of another one.

        In linear time: a regular expression with five values takes minutes for 2,000 characters that nearly match.
        """
        start, end = len(self.texts[0]), len(message) - len(self.texts[-1])
        if not (message.startswith(self.texts[0]) and message.endswith(self.texts[-1])):
            return None
        if not self.names:
            return {} if message == self.texts[0] else None
        values = {}
        for number, name in enumerate(self.names, 1):
            is_last = number == len(self.names)
            stop = end if is_last else message.find(self.texts[number], start + 1, end)
            if stop <= start:
                return None
            boundary = None if is_last and self.takes_several else _BOUNDARY.search(message, start)
            if boundary is not None and boundary.start() < stop:
                return None
            values[name] = message[start:stop]
            start = stop + len(self.texts[number])
        return values


@cache
def _forms() -> list[_Form]:
    """The English messages, those that say most first."""
    forms = []
    for key, entry in catalogue(DEFAULT).items():
        for text in () if not key.startswith("messages.") else [entry] if isinstance(entry, str) else entry.values():
            pieces = _PLACEHOLDER.split(text)
            forms.append(_Form(key, tuple(pieces[::2]), tuple(pieces[1::2]), len(pieces[-1]) <= 1))
    return sorted(forms, key=lambda form: -sum(map(len, form.texts)))


def tag(language: str) -> str:
    """The language tag for HTML's `lang`, such as `zh-CN`."""
    return text_in(language, "language.tag")


def choices() -> list[tuple[str, str, str]]:
    """Code, language tag and own name of each language."""
    return [(language, tag(language), text_in(language, "language.name")) for language in languages()]


def section(language: str, name: str) -> Mapping[str, Text]:
    """The texts of one section of the catalogue, by their keys without its name."""
    start = f"{name}."
    return {
        key.removeprefix(start): catalogue(language).get(key) or text
        for key, text in catalogue(DEFAULT).items()
        if key.startswith(start)
    }


def messages_path(language: str) -> str:
    """Where web.page_language serves the messages of a language, relative to the page."""
    return f"texts/{language}.json"


def messages(language: str) -> dict[str, str]:
    """What `translate` knows, for the page's scripts: the text in a language by the English one, longest first."""
    translations = section(language, "messages")
    pairs = {str(text): str(translations[key]) for key, text in section(DEFAULT, "messages").items()}
    return {english: pairs[english] for english in sorted(pairs, key=len, reverse=True)}


@contextmanager
def in_language(language: str) -> Iterator[None]:
    """Makes a language the current one."""
    token = current_language.set(language)
    try:
        yield
    finally:
        current_language.reset(token)


def preferred(cookies: Iterable[str], accept_language: str) -> str:
    """The language that a request's Cookie headers name, else the best that its Accept-Language header accepts."""
    chosen = {value.strip() for header in cookies for name, _, value in _pairs(header, "=") if name.strip() == COOKIE}
    for language in languages():
        if chosen == {language}:
            return language
    weighted = [(_weight(weight), name.strip().lower()) for name, _, weight in _pairs(accept_language, ";", ",")]
    for weight, name in sorted(weighted, key=lambda item: -item[0]):
        for language in languages():
            if weight > 0 and name.partition("-")[0] == language:
                return language
    return DEFAULT


def _pairs(header: str, within: str, between: str = ";") -> Iterator[tuple[str, str, str]]:
    return (part.partition(within) for part in header.split(between))


def _weight(parameter: str) -> float:
    """The `q` of one entry of an Accept-Language header; 0 for one that is not a number."""
    name, _, value = parameter.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
