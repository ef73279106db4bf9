"""The form's LoRA block: what is chosen in it, its value in the browser, and the two halves of a pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from wan_ui.errors import WanUIError
from wan_ui.lora.remote import is_remote, shown_name
from wan_ui.models import MODELS, WanModel
from wan_ui.request import LoraItem
from wan_ui.ui import form_schema, lora_card, lora_strength
from wan_ui.ui.form_schema import Values
from wan_ui.ui.texts import text_of

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

UPLOAD = "upload://"
USUAL_SCALE: float = LoraItem.model_fields["network_multiplier"].default
LONGEST_SOURCE = 4096


@dataclass(frozen=True)
class ChosenLora:
    """One LoRA of the form: its source, its slot of the model, its scale as lora_strength.read gives it.

    `filled_in`: it came as the other half of a pair and goes with it.
    """

    source: str
    slot: str
    scale: float | str | None = USUAL_SCALE
    filled_in: bool = False


Chosen = tuple[ChosenLora, ...]


@dataclass(frozen=True)
class Loras:
    """The block's content: the LoRAs that are used, and those set aside because the model cannot take them."""

    chosen: Chosen = ()
    aside: Chosen = ()


def upload_names(value: Any) -> dict[str, str]:
    """The uploads that a browser remembers: the name each file had, by source."""
    if not isinstance(value, Mapping):
        return {}
    return {source: str(name) for source, name in value.items() if str(source).startswith(UPLOAD)}


def read(value: Any) -> Loras:
    """The block's value as the browser sent it, without what is no LoRA of the form."""
    if not isinstance(value, Mapping):
        return Loras()
    return Loras(_read_list(value.get("items")), _read_list(value.get("aside")))


def read_turn(value: Any) -> int | None:
    """Which change of a strength the block's value has, as the browser sent it; 0 before the first one."""
    if not isinstance(value, Mapping):
        return None
    turn = value.get("turn")
    return turn if isinstance(turn, int) and not isinstance(turn, bool) else 0


def _read_list(items: Any) -> Chosen:
    if not isinstance(items, Sequence) or isinstance(items, str):
        return ()
    chosen = []
    for item in items:
        source, slot = (item.get("source"), item.get("slot")) if isinstance(item, Mapping) else (None, None)
        if isinstance(source, str) and 0 < len(source) <= LONGEST_SOURCE and slot in form_schema.SLOTS:
            scale = lora_strength.read(item.get("scale"))
            chosen.append(ChosenLora(source, str(slot), scale, item.get("filled_in") is True))
    return tuple(chosen)


def bare(chosen: Chosen) -> dict[str, Any]:
    """The block's value before anybody has opened the page: without cards."""
    return {"items": [{**_entry(lora, lora.source), "html": ""} for lora in chosen]}


def to_values(model: WanModel, chosen: Chosen) -> Values:
    """The LoRA controls' values of a model's form; LoRAs of slots it does not have are left out."""
    values: Values = {}
    for position in form_schema.lora_positions(model):
        in_slot = [lora for lora in chosen if lora.slot == position.slot]
        lora = in_slot[position.number - 1] if position.number <= len(in_slot) else None
        values[position.lora] = form_schema.NO_LORA if lora is None else lora.source
        values[position.scale] = USUAL_SCALE if lora is None else lora.scale
    return values


def from_values(model: WanModel, values: Mapping[str, Any]) -> Chosen:
    """The LoRAs that a form's values name, slot by slot."""
    return tuple(
        ChosenLora(values[position.lora], position.slot, values.get(position.scale, USUAL_SCALE))
        for position in form_schema.lora_positions(model)
        if values.get(position.lora)
    )


def without(chosen: Chosen, index: int) -> Chosen:
    """The LoRAs without one of them, and without the other half that came with it."""
    removed = chosen[index]
    left = chosen[:index] + chosen[index + 1 :]
    if removed.filled_in:
        return left
    return tuple(lora for lora in left if not (lora.filled_in and _is_partner_slot(removed.slot, lora.slot)))


def _fitting_models(card: lora_card.Card | None) -> list[str]:
    """The ids of the models that a LoRA was made for; none where that is not known."""
    return [] if card is None or card.about is None else list(card.about["candidates"])


def _is_partner_slot(slot: str, other: str) -> bool:
    return {slot, other} == {"high", "low"}


class LoraBlock:
    """Decides what the block holds; `names` are always a browser's uploads, the name each file had by its source."""

    def __init__(self, service: JobService, access: Callable[[], Access]) -> None:
        self.service = service
        self.access = access

    def card(self, model: WanModel, lora: ChosenLora) -> lora_card.Card | None:
        """The card of a chosen LoRA."""
        return lora_card.look(self.service, model, lora.slot, lora.source, self.access())

    def value(self, model: WanModel, loras: Loras, names: Mapping[str, str], notice: str = "") -> dict[str, Any]:
        """The block's value for the browser: each LoRA with its card, and the note on a pair."""
        cards = [self.card(model, lora) for lora in loras.chosen]
        items = []
        for index, (lora, card) in enumerate(zip(loras.chosen, cards, strict=True)):
            other_half = "" if card is None else self._missing_half(model, loras.chosen, lora, card, names)
            items.append(
                {
                    **_entry(lora, self.name(lora.source, names)),
                    "state": "plain" if card is None else card.state,
                    "html": str(lora_card.html(card, index, other_half)),
                }
            )
        return {
            "items": items,
            "aside": [_entry(lora, self.name(lora.source, names)) for lora in loras.aside],
            "pair": str(self._pair_note(model, loras.chosen, cards)),
            "notice": notice,
            "fits": _fitting_models(cards[0] if cards else None),
            "uploads": [{"source": source, "name": name} for source, name in reversed(list(names.items()))],
        }

    def name(self, source: str, names: Mapping[str, str]) -> str:
        """A source in words: the name an upload had, the path of a file, an address without its query."""
        if source in names:
            return text_of("lora_block.uploaded", name=names[source])
        return shown_name(source) if is_remote(source) else source

    def _about(self, source: str) -> Mapping[str, Any] | None:
        """What a file is; None for one that is not on this machine or cannot be read."""
        try:
            if self.service.needs_download(source):
                return None
            return self.service.inspect_lora(source, self.access())
        except WanUIError:
            return None  # its card says why

    # Which model a LoRA is for

    def model_for(self, source: str, current: WanModel) -> WanModel:
        """The model to run a LoRA on: the current one if the file was made for it or does not say, else its own."""
        about = self._about(source)
        candidates = [] if about is None else about["candidates"]
        if about is None or not candidates or current.id in candidates:
            return current
        return MODELS[candidates[0]]

    def slot_for(self, model: WanModel, source: str, wanted: str | None = None) -> str:
        """The slot of a model that a LoRA goes to: the wanted one, the one it says, else the first."""
        if wanted in model.slots:
            return str(wanted)
        about = self._about(source) if model.two_transformers else None
        slot = None if about is None else about["slot"]
        return str(slot) if slot in model.slots else next(iter(model.slots))

    def moved(self, loras: Loras, model: WanModel) -> Loras:
        """The LoRAs on another model: those that it cannot take are set aside, and come back where it can."""
        chosen: list[ChosenLora] = []
        aside: list[ChosenLora] = []
        for lora in (*loras.chosen, *loras.aside):
            about = self._about(lora.source)
            fits = about is None or about["fits"].get(model.id) != "no"
            slot = lora.slot if lora.slot in model.slots else self.slot_for(model, lora.source)
            room = sum(other.slot == slot for other in chosen) < form_schema.MOST_STACKED
            half = lora.filled_in and not model.two_transformers
            (chosen if fits and room and not half else aside).append(replace(lora, slot=slot if fits else lora.slot))
        return Loras(tuple(chosen), tuple(aside))

    # Choosing

    def choose(
        self, model: WanModel, loras: Loras, source: str, add: bool, slot: str | None, names: Mapping[str, str]
    ) -> Loras:
        """The LoRAs with one more, in place of the first of its slot unless it is to be added, and its other half."""
        wanted = self.slot_for(model, source, slot)
        chosen = loras.chosen
        index = next((index for index, lora in enumerate(chosen) if lora.slot == wanted), None)
        new = ChosenLora(source, wanted)
        if add or index is None:
            chosen = (*chosen, new)
            index = len(chosen) - 1
        else:
            scale = chosen[index].scale
            chosen = (*chosen[:index], replace(new, scale=scale), *chosen[index + 1 :])
        aside = tuple(lora for lora in loras.aside if lora.source != source)
        return Loras(self.paired(model, chosen, index, names), aside)

    def paired(self, model: WanModel, chosen: Chosen, index: int, names: Mapping[str, str]) -> Chosen:
        """The LoRAs with the other half of a pair beside the half at `index`.

        A person's own choice is never replaced; a half that was filled in is replaced or removed with the file it
        came with.
        """
        if not model.two_transformers:
            return chosen
        lora = chosen[index]
        card = self.card(model, lora)
        partner = None if card is None else self.partner(model, lora, card, names)
        others = [other for other in chosen if _is_partner_slot(lora.slot, other.slot)]
        filled = next((other for other in others if other.filled_in), None)
        if partner is None:
            return chosen if filled is None else tuple(other for other in chosen if other is not filled)
        new = ChosenLora(partner, other_slot(lora.slot), lora.scale, filled_in=True)
        if filled is not None:
            return tuple(replace(new, scale=other.scale) if other is filled else other for other in chosen)
        if others or any(other.source == partner for other in chosen):
            return chosen
        return (*chosen[: index + 1], new, *chosen[index + 1 :])

    def partner(self, model: WanModel, lora: ChosenLora, card: lora_card.Card, names: Mapping[str, str]) -> str | None:
        """The source of the other half of a file that is in the slot that its name says."""
        if not model.two_transformers or card.slot != lora.slot or card.state == "bad" or card.partner is None:
            return None
        if card.partner.startswith(UPLOAD) and card.partner not in names:
            return None  # another visitor's
        return card.partner

    def with_partner(self, model: WanModel, chosen: Chosen, index: int, names: Mapping[str, str]) -> Chosen:
        """The LoRAs with the other half of the one at `index` in place of what its slot holds first."""
        lora = chosen[index]
        card = self.card(model, lora)
        partner = None if card is None else self.partner(model, lora, card, names)
        if partner is None:
            return chosen
        new = ChosenLora(partner, other_slot(lora.slot), lora.scale)
        taken = next((place for place, other in enumerate(chosen) if other.slot == new.slot), None)
        if taken is None:
            return (*chosen[: index + 1], new, *chosen[index + 1 :])
        return (*chosen[:taken], replace(new, scale=chosen[taken].scale), *chosen[taken + 1 :])

    def _missing_half(
        self, model: WanModel, chosen: Chosen, lora: ChosenLora, card: lora_card.Card, names: Mapping[str, str]
    ) -> str:
        """The name of the other half that was found and is not chosen; "" where there is none."""
        partner = self.partner(model, lora, card, names)
        if partner is None or any(other.source == partner for other in chosen):
            return ""
        return self.name(partner, names)

    def _pair_note(self, model: WanModel, chosen: Chosen, cards: Sequence[lora_card.Card | None]) -> Markup | str:
        first: dict[str, tuple[str, lora_card.Card | None]] = {}
        for lora, card in zip(chosen, cards, strict=True):
            first.setdefault(lora.slot, (lora.source, card))
        return lora_card.pair(
            self.service,
            model,
            {slot: source for slot, (source, _) in first.items()},
            {slot: card for slot, (_, card) in first.items()},
            self.access(),
        )


def other_slot(slot: str) -> str:
    """The slot of the other half of a pair."""
    return "low" if slot == "high" else "high"


def _entry(lora: ChosenLora, name: str) -> dict[str, Any]:
    return {
        "source": lora.source,
        "slot": lora.slot,
        "scale": lora.scale,
        "filled_in": lora.filled_in,
        "name": name,
    }
