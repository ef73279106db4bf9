"""The page in another language than English."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.fakes import FakeRender
from tests.ui.fake_app import running
from tests.ui.test_document import config
from wan_ui import language

CHINESE = {"cookie": "wan_ui_language=zh"}


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
