"""The inspection of a LoRA file as JSON-ready values, for the page, the HTTP API and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.lora.fit import Configs, candidates, is_ambiguous, no_configs, shares, verdicts
from wan_ui.lora.header import LoraHeader, Spread, pair_messages, read_header
from wan_ui.lora.pair_names import partner_name
from wan_ui.models import MODELS
from wan_ui.text import one_line


def inspect(path: Path, name: str | None = None, configs: Configs = no_configs) -> dict[str, Any]:
    """What a file is, from its header; its partner is looked for in the same folder. `name`: its original name.

    Raises LoraInvalid when the file is not valid or holds no LoRA, LoraNotFound when it cannot be opened.
    """
    header = read_header(path, name)
    expected = partner_name(path.name if name is None else name)
    partner = None if expected is None else path.parent / expected
    if partner is None or not partner.is_file():
        return describe(header, None, None, configs)
    try:
        other = read_header(partner)
    except (LoraInvalid, LoraNotFound) as error:
        inspection = describe(header, None, None, configs)
        message = f"The other half beside it, {one_line(partner.name)}, cannot be used: {error.message}"
        inspection["messages"].append(message)
        return inspection
    return describe(header, partner.name, other, configs)


def describe(
    header: LoraHeader, partner: str | None, partner_header: LoraHeader | None, configs: Configs = no_configs
) -> dict[str, Any]:
    """The fields of an inspection. `family` is a model family, or None when the header cannot tell which."""
    likely = candidates(header, configs)
    families = {model.family for model in likely}
    messages = list(header.messages)
    if header.modules and not likely:
        width = "unknown" if header.hidden is None else str(header.hidden)
        known = ", ".join(str(size) for size in sorted({model.hidden_size for model in MODELS.values()}))
        messages.append(f"It fits no supported model: its hidden size is {width}, those of Wan are {known}.")
    elif likely and is_ambiguous(likely):
        messages.append(
            f"The file does not say which of these it was made for: {', '.join(model.label for model in likely)}."
        )
    elif header.image_layers:
        messages.append("Made for Wan 2.1 image-to-video; files never state whether for 480P or 720P.")
    if header.slot in ("high", "low") and header.slots == ("single",):
        messages.append(
            f"That it is the {header.slot}-noise half is guessed from the file name: swapped names cannot be detected."
        )
    if partner_header is not None:
        messages += pair_messages(header, partner_header)
    return {
        "family": families.pop() if len(families) == 1 else None,
        "candidates": [model.id for model in likely],
        "slot": header.slot,
        "type": header.type,
        "rank": _spread(header.rank),
        "alpha": _spread(header.alpha),
        "dtype": header.dtype,
        "modules": len({(item.slot, item.module) for item in header.modules}),
        "blocks": _ranges(header.blocks),
        "trainer": _named(header.trainer, header.trainer_version),
        "step": header.step,
        "trigger_word": header.trigger_word,
        "partner": None if partner is None else one_line(partner),
        "fits": verdicts(header, configs),
        "coverage": shares(header, configs),
        "messages": messages,
    }


def _spread(spread: Spread | None) -> dict[str, float] | None:
    if spread is None:
        return None
    return {"min": spread.min, "median": spread.median, "max": spread.max}


def _named(trainer: str | None, version: str | None) -> str | None:
    return f"{trainer} {version}" if trainer and version else trainer


def _ranges(blocks: tuple[int, ...]) -> str:
    """Sorted block numbers as ranges: (0, 1, 2, 5) -> "0-2, 5"; none: ""."""
    ranges: list[list[int]] = []
    for number in blocks:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)
