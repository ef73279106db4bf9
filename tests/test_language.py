"""The catalogue of the page's texts, and which language a request is answered in."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from wan_ui import language
from wan_ui.language import DEFAULT, Text

ROOT = Path(language.__file__).parent
TEMPLATES = (*ROOT.glob("*/templates/*.html"), *ROOT.glob("ui/static/*.html"))
STYLE_SHEETS = (*ROOT.glob("ui/static/*.css"), *ROOT.glob("web/templates/*.css"))
SCRIPTS = tuple(ROOT.glob("ui/static/*.js"))
NAMES = {"wan-ui", "config.yaml", "MP4", "API"}  # that stand in templates as they are
EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|\[\[.*?\]\]|\$\{.*?\}", re.DOTALL)
CODE = re.compile(r"<(script|style|svg|code)\b.*?</\1>|&\w+;", re.DOTALL)
ATTRIBUTE = re.compile(r'\b(?:aria-label|title|placeholder|alt)="([^"]*)"')
SENTENCE = re.compile(r"""(['"`])[A-Z][a-z]+ [a-z]+(?:(?!\1).)*\1""")
PLACEHOLDER = re.compile(r"\{(\w*)\}")
MARKUP = re.compile(r"[<>]|&\w+;")
OTHERS = [code for code in language.languages() if code != DEFAULT]


def forms(text: Text) -> list[str]:
    return list(text.values()) if isinstance(text, Mapping) else [text]


def placeholders(text: Text) -> set[str]:
    return {name for form in forms(text) for name in PLACEHOLDER.findall(form)}


def test_english_and_chinese_are_there():
    assert {"en", "zh"} <= set(language.languages())


@pytest.mark.parametrize("code", OTHERS)
def test_every_language_has_every_text(code: str):
    assert set(language.catalogue(code)) == set(language.catalogue(DEFAULT))


@pytest.mark.parametrize("code", OTHERS)
def test_a_text_has_the_same_placeholders_in_every_language(code: str):
    english, other = language.catalogue(DEFAULT), language.catalogue(code)
    for key, text in other.items():
        own, needed = placeholders(text), placeholders(english[key])
        assert own <= needed and needed - own <= {"count"}, key


@pytest.mark.parametrize("code", language.languages())
def test_texts_are_no_markup_and_not_empty(code: str):
    texts = [(key, form) for key, text in language.catalogue(code).items() for form in forms(text)]
    assert [key for key, form in texts if MARKUP.search(form) or not form.strip()] == []


def words(html: str) -> set[str]:
    """The words of a template outside its expressions: text nodes, and attributes that are read out or shown."""
    plain = CODE.sub("", EXPRESSION.sub("", html))
    texts = [*ATTRIBUTE.findall(plain), *re.sub(r"<[^>]*>", "\n", plain).split("\n")]
    named = {text.strip(" –:") for text in texts if re.search(r"[A-Za-z]{2}", text) and "--" not in text}  # no style
    return named - NAMES


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_has_no_text_of_its_own(path: Path):
    assert words(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_has_no_sentence_of_its_own(path: Path):
    code = re.sub(r"^\s*//.*$|\s// .*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [match[0] for match in SENTENCE.finditer(code)] == []


@pytest.mark.parametrize("path", STYLE_SHEETS, ids=lambda path: path.name)
def test_a_style_sheet_has_no_words_of_its_own(path: Path):
    contents: list[str] = re.findall(r'content: "([^"]*)"', path.read_text(encoding="utf-8"))
    assert [text for text in contents if re.search("[A-Za-z]{2}", text)] == []


def test_every_key_that_is_named_is_in_the_catalogue():
    known = set(language.catalogue(DEFAULT))
    named: set[str] = set()
    for path in (*ROOT.rglob("*.py"), *TEMPLATES):
        named |= set(re.findall(r"""\btext_of\(\s*"([\w.]+)\"""", path.read_text(encoding="utf-8")))
    for path in TEMPLATES:
        named |= set(re.findall(r"\[\[([\w.]+)\]\]", path.read_text(encoding="utf-8")))
    for path in SCRIPTS:
        named |= {f"script.{key}" for key in re.findall(r"\btextOf\('([\w.]+)'", path.read_text(encoding="utf-8"))}
    assert named - known == set()


def test_every_row_of_the_checklist_has_a_name():
    source = (ROOT / "trainer/checklist_rows.py").read_text(encoding="utf-8")
    rows = set(re.findall(r'\b(?:Row|compared)\(\s*"(\w+)"', source))
    assert len(rows) > 20
    assert {row for row in rows if f"check.{row}" not in language.catalogue(DEFAULT)} == set()


def test_a_text_depends_on_its_count_where_the_language_has_such_forms():
    assert language.text_in("en", "count.videos", count=1) == "1 video"
    assert language.text_in("en", "count.videos", count=2) == "2 videos"
    assert "2" in language.text_in("zh", "count.videos", count=2)


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("must be at least 64", "不能小于 64"),
        ("Match training samples", "匹配训练样本"),
        ("A sentence that nobody translated.", "A sentence that nobody translated."),
    ],
)
def test_the_messages_of_the_api_are_told_by_their_english(english: str, chinese: str):
    assert language.translate("zh", english) == chinese
    assert language.translate("en", english) == english


def nearly(key: str, size: int) -> list[str]:
    """Texts that a message of the catalogue nearly matches, in many ways, and messages within each other."""
    entry = language.catalogue(DEFAULT)[key]
    texts = re.split(r"\{\w+\}", entry if isinstance(entry, str) else entry["other"])
    between = "".join(f"x{text}" for text in texts[1:-1]) or "x"
    return [
        (texts[0] + between * size)[:size] + "\0",
        ((texts[0] or texts[-1] or "x") * size)[:size],
        texts[0] * (size // 40) + "x" + "".join(texts[1:]) * (size // 40),
    ]


@pytest.mark.parametrize(
    "key",
    [*[key for key in language.catalogue(DEFAULT) if key.startswith("messages.")][::19], "messages.became_as_trainer"],
)
def test_a_text_that_nearly_matches_a_message_takes_no_time(key: str):
    """One of 2,000 characters took a minute, in which no other thread ran; one of many levels was an error."""
    begun = time.thread_time()
    for text in nearly(key, 1_900):
        language.translate("zh", text)
    assert time.thread_time() - begun < 5


@pytest.mark.parametrize(
    ("cookies", "accepted", "chosen"),
    [
        ([], "", "en"),
        ([], "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ([], "en-GB,en;q=0.9,zh;q=0.8", "en"),
        ([], "fr-FR,fr;q=0.9,zh;q=0.3,en;q=0.2", "zh"),
        ([], "zh;q=0, fr", "en"),
        ([], "zh;q=x", "en"),
        (["wan_ui_language=zh"], "en", "zh"),
        (["a=b; wan_ui_language=en; c=d"], "zh-CN", "en"),
        (["wan_ui_language=xx"], "zh-CN", "zh"),
        (["wan_ui_language=zh; wan_ui_language=en"], "", "en"),
        (["wan_ui_language=../../etc/passwd"], "", "en"),
    ],
)
def test_the_cookie_decides_and_else_the_browser(cookies: list[str], accepted: str, chosen: str):
    assert language.preferred(cookies, accepted) == chosen
