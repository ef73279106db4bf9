"""What the page says of a chosen LoRA file: the card under its control, the note on a pair; it knows no controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from wan_ui.errors import LoraMismatch, WanUIError
from wan_ui.lora.remote import check_source, is_remote, shown_name
from wan_ui.models import MODELS, WanModel
from wan_ui.ui import render

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

State = Literal["good", "warn", "bad", "plain"]
TYPES: Mapping[str, str] = {
    "lora": "LoRA",
    "dora": "DoRA",
    "lokr": "LoKr",
    "full": "full rank",
    "diff": "full layers",
    "mixed": "mixed types",
    "none": "no LoRA layers",
}
SIDES: Mapping[str, str] = {"high": "high noise", "low": "low noise", "combined": "high and low noise in one file"}
ONE_SIDE = (
    "One side of a pair: the effect will not match the trainer's samples. Wan 2.2 A14B LoRAs come in pairs; choose "
    "the other file too."
)
BOTH_SIDES = "One file fills both sides: it holds the high- and the low-noise half. The other control may stay empty."
SAME_TWICE = (
    "The same file stands on both sides, and it does not hold both halves: one side gets the wrong half. Choose the "
    "other file."
)
ADDRESS = "An address: the file is fetched and checked after you press Generate, before a model loads."
MOST_SAID = 6  # sentences of one card


@dataclass(frozen=True)
class Card:
    """A chosen file as one control shows it. Texts are plain and untrusted; `html` escapes them.

    `about` is what Desk.inspect_lora says, None for a file that is not at hand. `goes` are the ids of the rows whose
    tabs it belongs to rather than (or as well as) this one; `swaps`: the other side is where its name says it belongs.
    """

    state: State
    head: str
    about: Mapping[str, Any] | None = None
    says: tuple[str, ...] = ()
    goes: tuple[str, ...] = ()
    swaps: bool = False
    fetches: bool = False
    name: str = field(default="")

    @property
    def slot(self) -> str:
        """ "high", "low", "combined" or "unknown"."""
        return "unknown" if self.about is None else self.about["slot"]

    @property
    def trigger_word(self) -> str:
        return "" if self.about is None else self.about["trigger_word"] or ""

    @property
    def partner(self) -> str | None:
        """The source of the other half, where there is one at hand."""
        return None if self.about is None else self.about["partner"]


def look(service: JobService, row: WanModel, slot: str, source: str, access: Access) -> Card | None:
    """What to say of a source in a slot of a row's tab; None for no file. Never raises for a wrong file."""
    if not source:
        return None
    try:
        if is_remote(source):
            check_source(source)
            if service.needs_download(source):
                return Card("plain", "Not checked yet", says=(ADDRESS,), fetches=True, name=shown_name(source))
        about = service.inspect_lora(source, access)
    except WanUIError as error:
        return refused(source, error)
    return judge(service, row, slot, source, about, access)


def refused(source: str, error: WanUIError) -> Card:
    """The card of a source that is no file, or no LoRA."""
    name = shown_name(source) if is_remote(source) else source.rsplit("/", 1)[-1]
    return Card("bad", "Cannot be used", says=(error.message,), name=name)


def judge(service: JobService, row: WanModel, slot: str, source: str, about: Mapping[str, Any], access: Access) -> Card:
    """A sound file's card: whether it fits the slot, and where else it belongs."""
    made_for = tuple(about["candidates"])
    elsewhere = tuple(model for model in made_for if model != row.id)
    try:
        notes = service.check_lora(source, row, slot, access)
    except LoraMismatch as error:
        says = (f"{_sentence(error.details['why'])}.", *about["messages"])
        head = "Does not fit this tab"
        return Card("bad", head, about, _unique(says), elsewhere, name=about["name"])
    says = _unique((*notes, *about["messages"]))
    swaps = row.two_transformers and about["slot"] in row.slots and about["slot"] != slot
    if row.id not in made_for:
        return Card("warn", "Probably for another model", about, says, elsewhere, swaps, name=about["name"])
    if about["fits"][row.id] != "yes":
        return Card("warn", "May be for this tab", about, says, elsewhere, swaps, name=about["name"])
    if swaps:
        return Card("warn", "Fits, on the other side", about, says, (), swaps, name=about["name"])
    if not row.two_transformers and about["slot"] in ("high", "low"):
        return Card("warn", "Looks like half of a pair", about, says, elsewhere, name=about["name"])
    return Card("good", "Fits this tab", about, says, name=about["name"])


def _unique(says: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(says))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def spread(name: str, value: Mapping[str, float] | None) -> str:
    """`rank 16`, or `rank 4–64, mostly 16` where modules differ."""
    if value is None:
        return ""
    if value["min"] == value["max"]:
        return f"{name} {render.number(value['min'])}"
    return (
        f"{name} {render.number(value['min'])}–{render.number(value['max'])}, median {render.number(value['median'])}"
    )


def _facts(about: Mapping[str, Any]) -> list[str]:
    """The file in a few words each, plain text."""
    blocks = about["blocks"].replace("-", "–")
    return [
        part
        for part in (
            TYPES.get(about["type"], about["type"]),
            SIDES.get(about["slot"], ""),
            spread("rank", about["rank"]),
            spread("alpha", about["alpha"]),
            about["dtype"],
            render.plural(about["modules"], "module"),
            f"blocks {blocks}" if blocks else "",
            about["trainer"] or "",
            "" if about["step"] is None else f"step {about['step']}",
        )
        if part
    ]


def _made_for(about: Mapping[str, Any]) -> str:
    """One line; "" where several could be meant, which the messages list."""
    rows = [MODELS[model] for model in about["candidates"]]
    if not rows:
        return "Made for no model of this app"
    if len({(row.family, row.conditioning) for row in rows}) > 1:
        return ""
    return f"Made for {' or '.join(row.label for row in rows)}"


def _button(text: str, where: str, do: str, more: str = "") -> str:
    return f'<button type="button" class="small" data-do="{do}" {where}{more}>{escape(text)}</button>'


def html(found: Card | None, row: WanModel, place: str, trigger: str, beside: str = "") -> str:
    """The card under a control. `place` is the control's name in the form; `trigger` what the Trigger word field
    holds; `beside` the label of the other half that was found and is not chosen yet."""
    if found is None:
        return ""
    where = f'data-tab="{row.id}" data-place="{escape(place)}"'
    parts = [f'<p class="fit"><strong>{escape(found.head)}</strong>']
    if found.about is not None:
        made_for = _made_for(found.about)
        parts.append(f'<span class="for">{escape(made_for)}</span>' if made_for else "")
    parts.append("</p>")
    if found.about is not None:
        parts.append(f'<ul class="is">{"".join(f"<li>{escape(part)}</li>" for part in _facts(found.about))}</ul>')
    if found.trigger_word:
        use = "" if trigger else _button("Use trigger word", where, "trigger")
        parts.append(f'<p class="word">Trigger word <q>{escape(found.trigger_word)}</q>{use}</p>')
    if beside:
        parts.append(f'<p class="word">Other half found: {escape(beside)}{_button("Use it", where, "partner")}</p>')
    if found.says:
        more = len(found.says) - MOST_SAID
        lines = [*found.says[:MOST_SAID], *([f"and {more} more"] if more > 0 else [])]
        parts.append(f'<ul class="says">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>')
    buttons = [
        _button(f"Open {MODELS[model].label} with this file", where, "open", f' data-model="{model}"')
        for model in found.goes
    ]
    if found.swaps:
        buttons.insert(0, _button(f"Move it to {SIDES[found.slot]}", where, "swap"))
    if found.fetches:
        buttons.append(_button("Fetch and check it now", where, "fetch"))
    if buttons:
        parts.append(f'<div class="goes">{"".join(buttons)}</div>')
    label = escape(f"About {found.name}", quote=True)
    return f'<section class="lora-card {found.state}" aria-label="{label}">{"".join(parts)}</section>'


def pair(
    service: JobService,
    row: WanModel,
    sources: Mapping[str, str],
    cards: Mapping[str, Card | None],
    access: Access,
) -> str:
    """The note below a pair's two controls: what is missing, doubled or not of one save. "" for one transformer."""
    if not row.two_transformers:
        return ""
    chosen = {slot: source for slot, source in sources.items() if source}
    if not chosen:
        return ""
    combined = any(found is not None and found.slot == "combined" for found in cards.values())
    if len(chosen) == 1:
        return f'<p class="hint">{BOTH_SIDES}</p>' if combined else render.note(ONE_SIDE)
    one, other = chosen.values()
    try:
        same, said = service.check_pair(one, other, access)
    except WanUIError:
        return ""  # the card of the one that cannot be used says so
    if same:
        return f'<p class="hint">{BOTH_SIDES}</p>' if combined else render.note(SAME_TWICE)
    return "".join(render.note(text) for text in said)
