"""The page in another language than English."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.fakes import FakeRender
from tests.ui.fake_app import App, running
from tests.ui.kept_values import wait_for_draft
from tests.ui.page_object import field, filled
from tests.ui.test_document import config
from wan_ui import language
from wan_ui.engine.recipes import RECIPES

CHINESE = {"cookie": "wan_ui_language=zh"}
SENTENCE = re.compile(r"[A-Za-z]{2,}(?:[ ,]+[A-Za-z']{2,}){2,}")
"""Three English words in a row: names and units are shorter."""
NOT_SHOWN = ("js_on_load", "js", "css_template", "elem_id", "elem_classes", "name", "key")
VISIBLE_TEXTS = """() => {
  const named = [...document.querySelectorAll('[aria-label], [title], [placeholder]')];
  const found = named.filter((element) => !element.closest('.jobs')).flatMap((element) =>
    ['aria-label', 'title', 'placeholder'].map((name) => element.getAttribute(name) || ''));
  const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    const { data, parentElement } = nodes.currentNode;
    if (parentElement.closest('script, style, textarea, .jobs')) continue; // lists have prompts of other tests
    if (parentElement.getClientRects().length) {
      found.push(data);
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The document in English and in Chinese."""
    with running(tmp_path_factory.mktemp("languages"), FakeRender()) as app:
        chinese = httpx.get(app.url, headers=CHINESE).text
        return {"en": httpx.get(app.url).text, "zh": chinese, "messages": httpx.get(f"{app.url}texts/zh.json").text}


def test_the_document_states_its_language(documents: dict[str, str]):
    assert 'lang="en"' in documents["en"][:200]
    assert 'lang="zh-CN"' in documents["zh"][:200]


def test_the_messages_of_the_api_are_sent_apart(documents: dict[str, str]):
    """They would be a fifth of the document."""
    assert config(documents["zh"])["messages"] == "texts/zh.json"
    assert config(documents["en"])["messages"] == ""
    assert json.loads(documents["messages"])["Wrong name or password."] == language.text_in(
        "zh", "messages.wrong_name_password"
    )


def test_both_documents_are_the_same_page(documents: dict[str, str]):
    english, chinese = (config(documents[code]) for code in ("en", "zh"))
    assert english["dependencies"] == chinese["dependencies"]
    assert english["layout"] == chinese["layout"]

    def ids(page: dict) -> list[tuple[int, str, str]]:
        return [(part["id"], part["type"], part["props"].get("elem_id", "")) for part in page["components"]]

    assert ids(english) == ids(chinese)


def test_labels_and_scripts_texts_are_in_the_language(documents: dict[str, str]):
    chinese = config(documents["zh"])
    tabs = [part["props"]["label"] for part in chinese["components"] if part["type"] == "tabitem"]
    assert tabs[0] == "生成"
    assert set(chinese["texts"]) == set(config(documents["en"])["texts"])
    assert chinese["texts"]["pressed.cancelling"] == "正在取消…"


def strings(value: Any) -> Iterator[str]:
    """The strings in a component's properties, but for scripts, styles and names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in NOT_SHOWN:
                yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def pieces(properties: dict[str, Any]) -> Iterator[str]:
    """The texts in a component's properties, those of HTML by text node and attribute."""
    for text in strings(properties):
        shown = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
        yield from re.findall(r'(?:aria-label|title|placeholder|alt)="([^"]*)"', shown)
        yield from re.sub(r"<[^>]*>", "\n", shown).split("\n")


def is_values(text: str) -> bool:
    """Whether a text is a list of values as the API names them, such as those of an axis."""
    return set(text.split(", ")) <= set(RECIPES)


def test_no_component_has_an_english_sentence(documents: dict[str, str]):
    chinese = config(documents["zh"])
    texts = [(part["props"].get("elem_id"), text) for part in chinese["components"] for text in pieces(part["props"])]
    found = [(name, text) for name, text in texts if SENTENCE.search(text) and not is_values(text)]
    assert found == []


@pytest.mark.browser
def test_a_chinese_page_generates_and_switches_to_english(page: Page, app: App):
    page.context.add_cookies([{"name": "wan_ui_language", "value": "zh", "url": app.url}])
    page.goto(app.url)
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    filled(page)
    for label, value in (
        ("宽", "64"),
        ("高", "64"),
        ("帧数", "5"),
        ("步数", "4"),
        ("种子", "8101"),
        ("提示词", "a cat"),
    ):
        field(page, label).fill(value)
    expect(page.locator(".effective")).to_contain_text("64 × 64")
    page.get_by_role("button", name="生成", exact=True).click()
    expect(page.locator("#result .used").filter(has_text="8101")).to_have_count(1)
    assert [text for text in page.evaluate(VISIBLE_TEXTS) if SENTENCE.search(text)] == []
    wait_for_draft(page, prompt="a cat", seed=8101)
    page.get_by_label("语言", exact=True).select_option("en")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_visible()
    expect(field(page, "Prompt")).to_have_value("a cat")
    expect(field(page, "Seed")).to_have_value("8101")
