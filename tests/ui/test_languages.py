"""The page in another language than English."""

from __future__ import annotations

import httpx
import pytest

from tests.fakes import FakeRender
from tests.ui.fake_app import running
from tests.ui.test_document import config

CHINESE = {"cookie": "wan_ui_language=zh"}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The document in English and in Chinese."""
    with running(tmp_path_factory.mktemp("languages"), FakeRender()) as app:
        return {"en": httpx.get(app.url).text, "zh": httpx.get(app.url, headers=CHINESE).text}


def test_the_document_states_its_language(documents: dict[str, str]):
    assert 'lang="en"' in documents["en"][:200]
    assert 'lang="zh-CN"' in documents["zh"][:200]


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
