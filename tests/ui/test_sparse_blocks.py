"""Events of many outputs: those that an answer leaves out are not built again, and the others arrive as before."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr
import pytest
from fastapi.encoders import jsonable_encoder
from gradio.state_holder import SessionState

from wan_ui.ui.sparse_blocks import SparseBlocks

SAME = {"__type__": "update"}


class Answers:
    """Blocks with one event of six outputs; `of` is what the browser is sent for an answer of its handler."""

    def __init__(self) -> None:
        with SparseBlocks(analytics_enabled=False) as self.blocks:
            self.texts = [gr.HTML("") for _ in range(3)]
            self.button = gr.Button("Cancel")
            self.known, self.kept = gr.JSON({}), gr.State("nothing")
            outputs = [*self.texts, self.button, self.known, self.kept]
            gr.on([self.button.click], dict, None, outputs)
        (self.event,) = self.blocks.fns.values()
        self.state = SessionState(self.blocks)

    def of(self, answer: Any) -> list[Any]:
        sent = asyncio.run(self.blocks.postprocess_data(self.event, answer, self.state))
        return [jsonable_encoder(value) for value in sent]


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers()


def test_what_an_answer_leaves_out_is_not_built_again(answers: Answers) -> None:
    """Gradio keeps the components of a page by id, and replaces those that it builds anew."""
    assert answers.of({answers.known: gr.skip()}) == [SAME] * 6
    assert answers.of({answers.texts[1]: "<b>new</b>"}) == [SAME, "<b>new</b>", SAME, SAME, SAME, SAME]
    assert all(answers.state[each._id] is each for each in (*answers.texts, answers.button, answers.known))


def test_values_updates_and_states_arrive(answers: Answers) -> None:
    sent = answers.of({answers.button: gr.Button(interactive=False), answers.known: {"a": 1}, answers.kept: "kept"})
    assert sent == [SAME, SAME, SAME, {**SAME, "interactive": False}, {"a": 1}, None]
    assert answers.state[answers.kept._id] == "kept"
    assert answers.of({answers.known: {"only": {"this": 2}}})[4] == {"only": {"this": 2}}
    assert answers.of({answers.kept: None})[5] is None and answers.state[answers.kept._id] is None


def test_other_answers_are_gradios_own(answers: Answers) -> None:
    assert all("value" not in update for update in answers.of(gr.skip())[:5])
    assert answers.of(["a", "b", "c", gr.skip(), {}, "d"])[:3] == ["a", "b", "c"]
    with SparseBlocks(analytics_enabled=False):
        other = gr.HTML("")
    with pytest.raises(ValueError, match="not specified as output"):
        answers.of({other: "lost"})
