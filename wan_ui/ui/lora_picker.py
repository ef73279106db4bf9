"""The LoRA choosers of the tabs: what they offer, the cards beside them, the halves of a pair; it handles no event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from wan_ui.ui import form_schema, lora_card
from wan_ui.ui.events import Update
from wan_ui.ui.model_tab import ModelTab

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

UPLOAD = "upload://"

Choices = list[tuple[str, str]]


def upload_names(value: Any) -> dict[str, str]:
    """Uploads a browser remembers, by source: the name each file had."""
    found = value.items() if isinstance(value, Mapping) else ()
    return {source: str(name) for source, name in found if str(source).startswith(UPLOAD)}


class LoraPicker:
    """Over the tabs by model; `names` are always a browser's uploads, the name each file had by its source."""

    def __init__(self, service: JobService, access: Callable[[], Access], rows: Mapping[str, ModelTab]) -> None:
        self.service = service
        self.access = access
        self.rows = rows

    @property
    def choosers(self) -> list[Component]:
        """Every tab's."""
        return [tab.components[name] for tab in self.rows.values() for name in tab.cards]

    @staticmethod
    def said_by(tab: ModelTab) -> list[Any]:
        """What belongs to a tab's LoRA files: cards, the pair's note, the rows that are seen."""
        return [*tab.cards.values(), tab.pair, *tab.rows.values(), *tab.another.values(), tab.height]

    def choices(self, names: Mapping[str, str]) -> Choices:
        """(label, source) of every LoRA that can be chosen: none, this browser's names, the LoRA folder."""
        return [
            (form_schema.NO_LORA_LABEL, form_schema.NO_LORA),
            *((f"{name} (uploaded)", source) for source, name in reversed(list(names.items()))),
            *((path, path) for path in self.service.library.listing()),
        ]

    def told(self, tab: ModelTab, held: form_schema.Values, names: Mapping[str, str]) -> Update:
        """The cards of a tab's LoRA files and the note on a pair. `names` are this browser's uploads."""
        row, trigger = tab.row, str(held.get("trigger_word") or "")
        found: Update = {}
        cards: dict[str, lora_card.Card | None] = {}
        for place in form_schema.places(row):
            seen = cards[place.lora] = lora_card.look(
                self.service, row, place.slot, held.get(place.lora) or "", self.access()
            )
            beside = ""
            if seen is not None and place.number == 1:
                other = self.partner(tab, place, seen, names)
                if other is not None and held.get(other[0]) != other[1]:
                    beside = names.get(other[1], other[1])
            found[tab.cards[place.lora]] = lora_card.html(seen, row, place.lora, trigger, beside)
        first = {slot: form_schema.lora_name(slot) for slot in row.slots}
        found[tab.pair] = lora_card.pair(
            self.service,
            row,
            {slot: held.get(name) or "" for slot, name in first.items()},
            {slot: cards[name] for slot, name in first.items()},
            self.access(),
        )
        return found

    def partner(
        self, tab: ModelTab, place: form_schema.Place, seen: lora_card.Card, names: Mapping[str, str]
    ) -> tuple[str, str] | None:
        """The control and the source of the other half of a file that stands where its name says it belongs."""
        if seen.slot != place.slot or seen.state == "bad" or seen.partner is None:
            return None
        if seen.partner.startswith(UPLOAD) and seen.partner not in names:
            return None  # another visitor's
        other = next(slot for slot in tab.row.slots if slot != place.slot)
        return form_schema.lora_name(other), seen.partner

    def pair_up(
        self,
        tab: ModelTab,
        place: form_schema.Place,
        held: form_schema.Values,
        names: Mapping[str, str],
        filled: Mapping[str, str],
    ) -> tuple[form_schema.Values, dict[str, str]]:
        """The values with the other half of a pair beside the half just chosen, and what was so filled in.

        What the person chose is never replaced; what was filled in goes with the file that it was filled in for.
        """
        filled = {**filled}
        filled.pop(f"{tab.row.id}:{place.lora}", None)
        if not tab.row.two_transformers or place.number != 1 or not held.get(place.lora):
            return held, filled
        seen = lora_card.look(self.service, tab.row, place.slot, held[place.lora], self.access())
        partner = None if seen is None else self.partner(tab, place, seen, names)
        (other,) = (form_schema.lora_name(slot) for slot in tab.row.slots if slot != place.slot)
        key = f"{tab.row.id}:{other}"
        ours = bool(held.get(other)) and filled.get(key) == held.get(other)
        if partner is not None and (ours or not held.get(other)):
            return {**held, other: partner[1]}, {**filled, key: partner[1]}
        if partner is None and ours:
            filled.pop(key)
            return {**held, other: form_schema.NO_LORA}, filled
        return held, filled

    def shown_rows(self, tab: ModelTab, height: Mapping[str, int]) -> Update:
        """Shows as many rows of each slot as `height` says."""
        found: Update = {tab.height: dict(height)}
        for place in form_schema.places(tab.row):
            if place.lora in tab.rows:
                seen = place.number <= height[place.slot]
                found[tab.rows[place.lora]] = gr.Column(visible=seen)
        for slot, button in tab.another.items():
            found[button] = gr.Button(visible=height[slot] < form_schema.MOST_STACKED)
        return found

    def offer(self, choices: Choices, *tabs: ModelTab) -> Update:
        """The LoRA files to choose from, in the choosers of some tabs, of all when none is given."""
        return {
            tab.components[name]: gr.Dropdown(choices=choices)
            for tab in tabs or self.rows.values()
            for name in tab.cards
        }
