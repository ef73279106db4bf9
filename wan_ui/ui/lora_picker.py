"""The LoRA lists of the tabs: their choices, the cards under them, and the two halves of a pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from wan_ui.ui import form_schema, lora_card
from wan_ui.ui.events import Update
from wan_ui.ui.form_schema import LoraPosition
from wan_ui.ui.model_tab import ModelTab

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

UPLOAD = "upload://"

Choices = list[tuple[str, str]]


def upload_names(value: Any) -> dict[str, str]:
    """The uploads that a browser remembers: the name each file had, by source."""
    if not isinstance(value, Mapping):
        return {}
    return {source: str(name) for source, name in value.items() if str(source).startswith(UPLOAD)}


class LoraPicker:
    """Over the tabs by model; `names` are always a browser's uploads, the name each file had by its source."""

    def __init__(self, service: JobService, access: Callable[[], Access], by_model: Mapping[str, ModelTab]) -> None:
        """`by_model` is filled later, as the tabs are laid out."""
        self.service = service
        self.access = access
        self.by_model = by_model

    @property
    def choosers(self) -> list[Component]:
        """The LoRA lists of all tabs."""
        return [tab.components[name] for tab in self.by_model.values() for name in tab.loras.cards]

    @staticmethod
    def outputs(tab: ModelTab) -> list[Any]:
        """What `describe` and `show_columns` change in a tab."""
        loras = tab.loras
        return [*loras.cards.values(), loras.pair, *loras.stacked.values(), *loras.another.values(), loras.height]

    def choices(self, names: Mapping[str, str]) -> Choices:
        """(label, source) of every LoRA that can be chosen: none, this browser's uploads, the LoRA folder."""
        return [
            (form_schema.NO_LORA_LABEL, form_schema.NO_LORA),
            *((f"{name} (uploaded)", source) for source, name in reversed(list(names.items()))),
            *((path, path) for path in self.service.library.listing()),
        ]

    def describe(self, tab: ModelTab, values: form_schema.Values, names: Mapping[str, str]) -> Update:
        """The cards of a tab's LoRA files and the note on a pair."""
        model, trigger_word = tab.model, str(values.get("trigger_word") or "")
        updates: Update = {}
        cards: dict[str, lora_card.Card | None] = {}
        for position in form_schema.lora_positions(model):
            source = values.get(position.lora) or ""
            card = cards[position.lora] = lora_card.look(self.service, model, position.slot, source, self.access())
            other_half = ""
            if card is not None and position.number == 1:
                partner = self.partner(tab, position, card, names)
                if partner is not None and values.get(partner[0]) != partner[1]:
                    other_half = names.get(partner[1], partner[1])
            target = lora_card.Target(model, position.lora, trigger_word)
            updates[tab.loras.cards[position.lora]] = lora_card.html(card, target, other_half)
        first = {slot: form_schema.lora_name(slot) for slot in model.slots}
        updates[tab.loras.pair] = lora_card.pair(
            self.service,
            model,
            {slot: values.get(name) or "" for slot, name in first.items()},
            {slot: cards[name] for slot, name in first.items()},
            self.access(),
        )
        return updates

    def partner(
        self, tab: ModelTab, position: LoraPosition, card: lora_card.Card, names: Mapping[str, str]
    ) -> tuple[str, str] | None:
        """The control and the source of the other half of a file that is in the slot that its name says."""
        if card.slot != position.slot or card.state == "bad" or card.partner is None:
            return None
        if card.partner.startswith(UPLOAD) and card.partner not in names:
            return None  # another visitor's
        other = next(slot for slot in tab.model.slots if slot != position.slot)
        return form_schema.lora_name(other), card.partner

    def pair_up(
        self,
        tab: ModelTab,
        position: LoraPosition,
        values: form_schema.Values,
        names: Mapping[str, str],
        filled: Mapping[str, str],
    ) -> tuple[form_schema.Values, dict[str, str]]:
        """The values with the other half of a pair beside the half just chosen, and what was so filled in.

        A person's own choice is never replaced; a half that was filled in is removed with the file it belongs to.
        """
        filled = {**filled}
        filled.pop(f"{tab.model.id}:{position.lora}", None)
        if not tab.model.two_transformers or position.number != 1 or not values.get(position.lora):
            return values, filled
        card = lora_card.look(self.service, tab.model, position.slot, values[position.lora], self.access())
        partner = None if card is None else self.partner(tab, position, card, names)
        (other,) = (form_schema.lora_name(slot) for slot in tab.model.slots if slot != position.slot)
        key = f"{tab.model.id}:{other}"
        filled_by_us = bool(values.get(other)) and filled.get(key) == values.get(other)
        if partner is not None and (filled_by_us or not values.get(other)):
            return {**values, other: partner[1]}, {**filled, key: partner[1]}
        if partner is None and filled_by_us:
            filled.pop(key)
            return {**values, other: form_schema.NO_LORA}, filled
        return values, filled

    def show_columns(self, tab: ModelTab, height: Mapping[str, int]) -> Update:
        """Shows as many LoRA columns of each slot as `height` says."""
        updates: Update = {tab.loras.height: dict(height)}
        for position in form_schema.lora_positions(tab.model):
            if position.lora in tab.loras.stacked:
                visible = position.number <= height[position.slot]
                updates[tab.loras.stacked[position.lora]] = gr.Column(visible=visible)
        for slot, button in tab.loras.another.items():
            updates[button] = gr.Button(visible=height[slot] < form_schema.MOST_STACKED)
        return updates

    def offer(self, choices: Choices, *tabs: ModelTab) -> Update:
        """The choices of the LoRA lists of some tabs, of all when none is given."""
        return {
            tab.components[name]: gr.Dropdown(choices=choices)
            for tab in tabs or self.by_model.values()
            for name in tab.loras.cards
        }
