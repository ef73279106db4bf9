"""Blocks whose events cost what they change, not what they might change."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import gradio as gr

if TYPE_CHECKING:
    from gradio.block_function import BlockFunction
    from gradio.state_holder import SessionState


class SparseBlocks(gr.Blocks):
    """Blocks that touch only the outputs which a handler's answer changes.

    Gradio builds every output of an event anew, with its configuration, even where the answer is `gr.skip()` or leaves
    the output out. A look at the page has 22 outputs, most looks change two of them, and the rest was four fifths of
    the processor's time for the look.
    """

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[Any, Any], state: SessionState | None
    ) -> list[Any]:
        """The answer as it is sent: for each output of the event its new value, or that it stays as it is."""
        if not isinstance(predictions, dict) or not all(isinstance(key, gr.blocks.Block) for key in predictions):
            return await super().postprocess_data(block_fn, predictions, state)
        changes = {block._id: value for block, value in predictions.items() if value != gr.skip()}
        indices = [index for index, block in enumerate(block_fn.outputs) if block._id in changes]
        if len(indices) != len(changes):  # a key that is no output, which Gradio knows how to report
            return await super().postprocess_data(block_fn, predictions, state)
        answer: list[Any] = [gr.skip() for _ in block_fn.outputs]
        if indices:
            changed = copy.copy(block_fn)
            changed.outputs = [block_fn.outputs[index] for index in indices]
            values = [changes[block._id] for block in changed.outputs]
            # Gradio takes the value itself where an event has one output, else a list.
            sent = await super().postprocess_data(changed, values[0] if len(values) == 1 else values, state)
            for index, value in zip(indices, sent, strict=True):
                answer[index] = value
        return answer
