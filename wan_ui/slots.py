"""The slot of a model that each LoRA of a request is used on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wan_ui.errors import (
    InvalidRequest,
    MoeFormatNotSupported,
    MoeFormatRequired,
    SingleLoraOnly,
    SingleMoeConfigOnly,
)
from wan_ui.models import WanModel
from wan_ui.scale import Ramp, Scale, simplified


class RampEntry(Protocol):
    """A scale of a request that changes from one number to another."""

    @property
    def start(self) -> float:
        """At the first step."""
        ...

    @property
    def end(self) -> float:
        """At the last step."""
        ...


class LoraEntry(Protocol):
    """An entry of a request's `loras`, as request.LoraItem reads it."""

    @property
    def path(self) -> str:
        """Where the file is."""
        ...

    @property
    def transformer(self) -> str | None:
        """The transformer that was named: "high", "low" or none."""
        ...

    @property
    def network_multiplier(self) -> float | tuple[float, ...] | RampEntry:
        """The scale in one of its forms."""
        ...


@dataclass(frozen=True)
class LoraUse:
    """One LoRA in one slot of the model. `sha256` is None until the library has located the file.

    `scale` is the request's network_multiplier, a plain number where it does not change over the steps. `is_speed`: it
    comes from the request's `speed_lora`.
    """

    slot: str
    path: str
    scale: Scale
    sha256: str | None = None
    is_speed: bool = False


def never_combined(path: str) -> bool:
    """Default `is_combined`: assumes that no file holds both halves of a pair."""
    return False


def assign_slots(
    model: WanModel,
    loras: tuple[LoraEntry, ...],
    stack: bool = False,
    is_combined: Callable[[str], bool] = never_combined,
) -> tuple[LoraUse, ...]:
    """Each LoRA's slot of the model, in the request's order.

    A file that holds both halves of a pair (`is_combined`) fills its own slot and the other, unless another entry
    names that one; it alone may leave `transformer` out.
    Raises MoeFormatRequired, MoeFormatNotSupported, SingleMoeConfigOnly or SingleLoraOnly; InvalidRequest for one
    file twice in a stack.
    """
    uses = _pair_slots(model, loras, is_combined) if model.two_transformers else _single_slot(model, loras)
    for slot in model.slots:
        paths = [use.path for use in uses if use.slot == slot]
        if len(paths) > 1 and not stack:
            if model.two_transformers:
                raise SingleMoeConfigOnly(
                    f"{model.label} takes one high and one low LoRA; {len(paths)} were given for {slot}. To stack "
                    'them, set "stack": true.'
                )
            raise SingleLoraOnly(
                f'{model.label} takes one LoRA, {len(paths)} were given. To stack them, set "stack": true.'
            )
        if len(set(paths)) < len(paths):
            raise InvalidRequest(
                "loras: the same file is listed twice in one stack; list it once with the sum of the scales.",
                fields=[{"loc": "loras", "msg": "the same file twice in one stack"}],
            )
    return uses


def scale_of(item: LoraEntry) -> Scale:
    """The scale of a request's LoRA as it is used: a plain number where it does not change."""
    given = item.network_multiplier
    return simplified(given if isinstance(given, float | tuple) else Ramp(given.start, given.end))


def _single_slot(model: WanModel, loras: tuple[LoraEntry, ...]) -> tuple[LoraUse, ...]:
    if any(item.transformer is not None for item in loras):
        raise MoeFormatNotSupported(f"{model.label} has one transformer: leave out transformer in loras.")
    (slot,) = model.slots
    return tuple(LoraUse(slot, item.path, scale_of(item)) for item in loras)


def _pair_slots(
    model: WanModel, loras: tuple[LoraEntry, ...], is_combined: Callable[[str], bool]
) -> tuple[LoraUse, ...]:
    named = {item.transformer for item in loras}
    uses: list[LoraUse] = []
    for item in loras:
        unnamed = [slot for slot in model.slots if slot not in named]
        both = bool(unnamed) and is_combined(item.path)
        if item.transformer is None and not both:
            raise MoeFormatRequired(
                f'{model.label} has two transformers: give each entry of loras a transformer, "high" or "low".'
            )
        slots = [slot for slot in model.slots if slot == item.transformer or (both and slot in unnamed)]
        uses += [LoraUse(slot, item.path, scale_of(item)) for slot in slots]
    return tuple(uses)
