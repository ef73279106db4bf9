"""What the page says of a chosen LoRA file: its card, and the note on a high- and low-noise pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from wan_ui.errors import LoraMismatch, WanUIError
from wan_ui.lora.remote import check_source, is_remote, shown_name
from wan_ui.models import MODELS, WanModel
from wan_ui.ui import render
from wan_ui.ui.templating import render_template
from wan_ui.ui.texts import text_of, translated

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

State = Literal["good", "warn", "bad", "plain"]
HALF = 0.5  # a share of a file's layers below which its card is red
TYPES = ("lora", "dora", "lokr", "full", "diff", "mixed", "none")
SIDES = ("high", "low", "combined")
MOST_MESSAGES = 6  # of one card


@dataclass(frozen=True)
class Card:
    """A chosen file as the block shows it. Texts are plain and untrusted; the template escapes them.

    `about` is what JobService.inspect_lora returns, None for a file that is not on this machine. `other_models` are
    ids of models it fits rather than (or as well as) the chosen one; `swaps`: by its name it belongs in the other slot;
    `fetches`: it can be downloaded.
    """

    state: State
    head: str
    about: Mapping[str, Any] | None = None
    messages: tuple[str, ...] = ()
    other_models: tuple[str, ...] = ()
    swaps: bool = False
    fetches: bool = False
    name: str = field(default="")

    @property
    def slot(self) -> str:
        """ "high", "low", "combined" or "unknown"."""
        return "unknown" if self.about is None else self.about["slot"]

    @property
    def trigger_word(self) -> str:
        """The trigger word in the file's metadata, or ""."""
        return "" if self.about is None else self.about["trigger_word"] or ""

    def is_for_another(self, model: WanModel) -> bool:
        """Whether the file was made for other models than this one."""
        return self.about is not None and bool(self.about["candidates"]) and model.id not in self.about["candidates"]

    @property
    def partner(self) -> str | None:
        """The source of the other half, where it was found."""
        return None if self.about is None else self.about["partner"]


@dataclass(frozen=True)
class Action:
    """A button of a card: its label, what it does, and further attributes."""

    label: str
    do: str
    data: Mapping[str, str] = field(default_factory=dict)


def look(service: JobService, model: WanModel, slot: str, source: str, access: Access) -> Card | None:
    """The card of a source in a slot of a model; None for no file. Never raises for a wrong file."""
    if not source:
        return None
    try:
        if is_remote(source):
            check_source(source)
            if service.needs_download(source):
                return Card(
                    "plain",
                    text_of("lora_card.not_checked"),
                    messages=(text_of("lora_card.address"),),
                    fetches=True,
                    name=shown_name(source),
                )
        about = service.inspect_lora(source, access)
    except WanUIError as error:
        return refused(source, error)
    return judge(service, model, slot, source, about, access)


def refused(source: str, error: WanUIError) -> Card:
    """The card of a source that is no file, or no LoRA."""
    name = shown_name(source) if is_remote(source) else source.rsplit("/", 1)[-1]
    return Card("bad", text_of("lora_card.unusable"), messages=(translated(error.message),), name=name)


def judge(
    service: JobService, model: WanModel, slot: str, source: str, about: Mapping[str, Any], access: Access
) -> Card:
    """A readable file's card: whether it fits the slot, and where else it belongs."""
    candidates = tuple(about["candidates"])
    elsewhere = tuple(model_id for model_id in candidates if model_id != model.id)
    try:
        notes = service.check_lora(source, model, slot, access)
    except LoraMismatch as error:
        messages = _unique(translated(f"{_sentence(error.details['why'])}."), *map(translated, about["messages"]))
        return Card("bad", text_of("lora_card.incompatible"), about, messages, elsewhere, name=about["name"])
    messages = _unique(*map(translated, (*notes, *about["messages"])))
    swaps = model.two_transformers and about["slot"] in model.slots and about["slot"] != slot
    share = about["coverage"][model.id]
    if share < 1:
        head = text_of("lora_card.in_part", share=f"{share:.0%}")
        return Card("warn" if share >= HALF else "bad", head, about, messages, elsewhere, swaps, name=about["name"])
    if model.id not in candidates:
        return Card("warn", text_of("lora_card.probably_other"), about, messages, elsewhere, swaps, name=about["name"])
    if about["fits"][model.id] != "yes":
        return Card("warn", text_of("lora_card.probably"), about, messages, elsewhere, swaps, name=about["name"])
    if swaps:
        head = text_of(f"lora_card.belongs_{about['slot']}")
        return Card("warn", head, about, messages, (), swaps, name=about["name"])
    if not model.two_transformers and about["slot"] in ("high", "low"):
        return Card("warn", text_of("lora_card.half"), about, messages, elsewhere, name=about["name"])
    return Card("good", text_of("lora_card.compatible"), about, messages, name=about["name"])


def _unique(*messages: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(messages))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def spread(name: str, value: Mapping[str, float] | None) -> str:
    """`rank 16`, or `rank 4–64, median 16` where modules differ."""
    if value is None:
        return ""
    low, high = render.number(value["min"]), render.number(value["max"])
    if value["min"] == value["max"]:
        return f"{name} {low}"
    median = render.number(value["median"])
    return text_of("lora_card.spread", name=name, low=low, high=high, median=median)


def _facts(about: Mapping[str, Any]) -> list[str]:
    """The file in a few words each, plain text."""
    blocks = about["blocks"].replace("-", "–")
    facts = (
        text_of(f"lora_card.type_{about['type']}") if about["type"] in TYPES else about["type"],
        text_of(f"lora_card.side_{about['slot']}") if about["slot"] in SIDES else "",
        spread("rank", about["rank"]),
        spread("alpha", about["alpha"]),
        about["dtype"],
        text_of("count.modules", count=about["modules"]),
        text_of("lora_card.blocks", blocks=blocks) if blocks else "",
        about["trainer"] or "",
        "" if about["step"] is None else text_of("lora_card.step", step=about["step"]),
    )
    return [fact for fact in facts if fact]


def _made_for(about: Mapping[str, Any]) -> str:
    """One line; "" where models of several kinds are possible, which the messages list."""
    candidates = [MODELS[model_id] for model_id in about["candidates"]]
    if not candidates:
        return text_of("lora_card.unsupported")
    if len({(model.family, model.conditioning) for model in candidates}) > 1:
        return ""
    return text_of("lora_card.made_for", models=_any_of(candidates))


def _any_of(models: Sequence[WanModel]) -> str:
    return text_of("lora_card.or").join(model.label for model in models)


def _actions(card: Card) -> Iterator[Action]:
    if card.swaps:
        yield Action(text_of(f"lora_card.move_{card.slot}"), "swap")
    for model_id in card.other_models:
        yield Action(text_of("other_model.switch_to", model=MODELS[model_id].label), "open", {"data-model": model_id})
    if card.fetches:
        yield Action(text_of("lora_card.check_now"), "fetch")


def html(card: Card | None, index: int, other_half: str = "") -> Markup | str:
    """The card of the chosen LoRA at an index of the block; its pressed buttons name it.

    `other_half`: the label of the other half that was found and is not chosen yet. The button that takes the file's
    trigger word is always in it; the style sheet shows it while the form has none.
    """
    if card is None:
        return ""
    messages = list(card.messages[:MOST_MESSAGES])
    if len(card.messages) > MOST_MESSAGES:
        messages.append(f"and {len(card.messages) - MOST_MESSAGES} more")
    return render_template(
        "lora_card",
        card=card,
        made_for="" if card.about is None else _made_for(card.about),
        facts=[] if card.about is None else _facts(card.about),
        messages=messages,
        actions=list(_actions(card)),
        target={"data-index": str(index)},
        other_half=other_half,
    )


def question(card: Card, index: int) -> Markup:
    """Whether a LoRA is to run on a model that it was not made for."""
    assert card.about is not None
    models = [MODELS[model_id] for model_id in card.about["candidates"]]
    return render_template("other_model", name=card.name, made_for=_any_of(models), model=models[0], index=index)


def pair(
    service: JobService,
    model: WanModel,
    sources: Mapping[str, str],
    cards: Mapping[str, Card | None],
    access: Access,
) -> Markup | str:
    """The note below a pair's controls: what is missing, doubled or not of one checkpoint. "" for one transformer."""
    if not model.two_transformers:
        return ""
    chosen = [source for source in sources.values() if source]
    if not chosen:
        return ""
    combined = any(card is not None and card.slot == "combined" for card in cards.values())
    if len(chosen) == 1:
        return render.hint(text_of("lora_card.both_sides")) if combined else render.note(text_of("lora_card.one_side"))
    try:
        same, notes = service.check_pair(chosen[0], chosen[1], access)
    except WanUIError:
        return ""  # the card of the file that cannot be used says why
    if same:
        return (
            render.hint(text_of("lora_card.both_sides")) if combined else render.note(text_of("lora_card.same_twice"))
        )
    return Markup().join(render.note(translated(text)) for text in notes)
