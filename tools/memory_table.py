"""The table of docs/memory.md: what `--memory auto` does for 14B models on common hosts and cards.

The sizes are those of full-size files, the choice is wan_ui.engine.budget's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from wan_ui.engine.budget import MemoryPlan, Sizes, activation_bytes, check_host, decide, packed_sizes, plan
from wan_ui.errors import OutOfMemory
from wan_ui.models import MODELS

GB = 10**9
HOSTS, CARDS = (64, 32), (24, 16, 12)  # GB
USED_OF_HOST, USED_OF_CARD = 4, 1  # GB that the system, this program and a desktop take
CLIP = (832, 480, 81)
TEXT_ENCODER, TEXT_ENCODER_FP8 = 11_360_000_000, 6_700_000_000  # bytes: UMT5-XXL, and its fp8_scaled file
REST = 254_000_000  # bytes: the VAE
REFUSED = "refused"


@dataclass(frozen=True)
class Files:
    """A model's files: the model, and whether transformers and text encoder are fp8_scaled files."""

    model: str
    fp8: bool

    @property
    def sizes(self) -> tuple[Sizes, Sizes | None]:
        """Bytes unpacked to bf16, and as they are in fp8 files."""
        model = MODELS[self.model]
        one = 2 * model.parameters
        unpacked = Sizes((one,) * len(model.slots), TEXT_ENCODER, REST, one // model.blocks)
        packed = packed_sizes(Sizes(unpacked.transformers, TEXT_ENCODER_FP8, REST, unpacked.block))
        return unpacked, packed if self.fp8 else None


FILES = tuple(Files(model, fp8) for model in ("wan22_14b_t2v", "wan21_14b") for fp8 in (True, False))


def choice(files: Files, host: int, card: int) -> MemoryPlan | None:
    """What is done with such files on a host and a card of so many GB; None: refused before anything is loaded."""
    model, (unpacked, packed) = MODELS[files.model], files.sizes
    activations = activation_bytes(model, *CLIP), activation_bytes(model, *CLIP, tiled=True)
    free, available = (card - USED_OF_CARD) * GB, (host - USED_OF_HOST) * GB
    try:
        chosen = plan(unpacked, packed, lambda sizes: decide("auto", sizes, *activations, free), available)
        sizes = packed if chosen.fp8_in_memory and packed is not None else unpacked
        check_host("auto", chosen.mode, chosen.on_host(sizes), available, packable=False)
    except OutOfMemory:
        return None
    return chosen


def words(chosen: MemoryPlan | None) -> str:
    """A choice as the table has it."""
    if chosen is None:
        return REFUSED
    return f"`{chosen.mode}`" + (", one transformer at a time" if chosen.one_transformer else "")


def rows() -> list[list[str]]:
    """The table's rows: files, host, and what is done with each card."""
    return [
        [
            f"{MODELS[files.model].label}, {'fp8_scaled' if files.fp8 else 'bf16'}",
            f"{host} GB",
            *(words(choice(files, host, card)) for card in CARDS),
        ]
        for files in FILES
        for host in HOSTS
    ]
