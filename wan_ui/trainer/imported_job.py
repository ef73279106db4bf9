"""An imported training job: its config, checkpoints and sample files, and a checkpoint's LoRAs for a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from wan_ui.lora.header import LoraHeader
from wan_ui.models import MODELS
from wan_ui.request import LoraItem
from wan_ui.trainer.folder import SampleFile
from wan_ui.trainer.job import Imported


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as LoRA sources for a request, by side: "high" and "low", or "whole". `step` None: the final one.

    `trained` is the step that its own metadata states.
    """

    name: str
    step: int | None
    files: Mapping[str, str]
    trained: int | None

    @property
    def key(self) -> str:
        """The checkpoint's name in requests: its step, or "final"."""
        return "final" if self.step is None else str(self.step)

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Checkpoint:
        """A checkpoint from what `body` gave."""
        return cls(record["name"], record["step"], MappingProxyType(record["files"]), record["trained"])

    def body(self) -> dict[str, Any]:
        """The checkpoint as JSON-ready data."""
        return {"name": self.name, "step": self.step, "files": dict(self.files), "trained": self.trained}

    @property
    def label(self) -> str:
        """The name for people: `step 500`, `final (step 2000)`."""
        known = f" (step {self.trained})" if self.trained is not None else ""
        half = f", {next(iter(self.files))} only" if len(self.files) == 1 and "whole" not in self.files else ""
        return (f"final{known}" if self.step is None else f"step {self.step}") + half


@dataclass(frozen=True)
class ImportedJob:
    """An imported job. `checkpoints` by step, the final one last; `samples`: its sample files; `notes` for the user.

    `folder`: the folder that it was imported from, as a path of the library; None for a file or an upload.
    """

    id: str
    origin: str
    config: bytes
    imported: Imported
    checkpoints: tuple[Checkpoint, ...]
    samples: tuple[SampleFile, ...]
    images: Mapping[str, str]
    notes: tuple[str, ...]
    folder: str | None = None

    def checkpoint(self, key: str | None) -> Checkpoint | None:
        """A checkpoint by its key, "final" or its step; with None the last one, if there is any."""
        if key is None:
            return self.checkpoints[-1] if self.checkpoints else None
        return next((each for each in self.checkpoints if each.key == key), None)

    def checkpoint_at(self, step: int | None) -> Checkpoint | None:
        """The checkpoint that a sample of a step was made with, else the nearest; None at step 0, before training."""
        if step == 0 or not self.checkpoints:
            return None
        if step is None:
            return self.checkpoints[-1]
        exact = [each for each in self.checkpoints if step in (each.step, each.trained)]
        last = max((each.step for each in self.checkpoints if each.step is not None), default=0)
        final = [each for each in self.checkpoints if each.step is None and each.trained is None and step > last]
        return (exact or final or [min(self.checkpoints, key=lambda each: _distance(each, step))])[0]


def _distance(checkpoint: Checkpoint, step: int) -> int:
    its_step = checkpoint.step if checkpoint.step is not None else checkpoint.trained
    return 10**9 if its_step is None else abs(its_step - step)


def lora_items(job: Imported, checkpoint: Checkpoint | None, header: LoraHeader | None) -> tuple[LoraItem, ...]:
    """A checkpoint's files as a request for the job's model takes them."""
    if checkpoint is None:
        return ()
    two = MODELS[job.model].two_transformers
    items = []
    for side, source in checkpoint.files.items():
        slot: str | None = None
        if two and side == "whole":
            if header is not None and header.slot in ("high", "low"):
                slot = header.slot
            elif header is None or header.slot != "combined":
                slot = job.slots[0] if len(job.slots) == 1 else None
        elif two:
            slot = side
        items.append(LoraItem.model_validate({"path": source, "transformer": slot}))
    return tuple(items if two else items[:1])
