"""The listed LoRA files by training job: one entry for the checkpoints of a save, with what their header says."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cachetools import LRUCache

from wan_ui.errors import LoraInvalid, LoraNotFound
from wan_ui.lora.fit import Configs, candidates
from wan_ui.lora.hash_cache import file_mark
from wan_ui.lora.header import LoraHeader, read_header
from wan_ui.lora.library import Library
from wan_ui.lora.pair_names import partner_name, slot_of_name

_STEP = re.compile(r"[_-]0*(\d+)$")
_HALF = re.compile(r"[_ .-]?(?:high|low)(?:[_ .-]*noise)?", re.IGNORECASE)
MOST_SUMMARIES = 8192
READING_SECONDS = 1.5  # for headers that were not read yet, in one listing


@dataclass(frozen=True)
class GroupedFile:
    """One file of a group: its source, its training step ("final" for the last one), its half of a pair."""

    source: str
    label: str
    slot: str | None
    step: float


@dataclass(frozen=True)
class Group:
    """The files of one save, in training order."""

    name: str
    folder: str
    files: tuple[GroupedFile, ...]


@dataclass(frozen=True)
class Summary:
    """What one header says of a group: the ids of the models it was made for, its type, rank and trigger word."""

    models: tuple[str, ...]
    type: str
    rank: float | None
    trigger_word: str


def grouped(paths: Sequence[str]) -> tuple[Group, ...]:
    """The files by folder, and by name without training step and half of a pair."""
    groups: dict[tuple[str, str], list[GroupedFile]] = {}
    for path in paths:
        pure = PurePosixPath(path)
        slot = slot_of_name(pure.name) if partner_name(pure.name) is not None else None
        stem = _HALF.sub("", pure.stem) if slot is not None else pure.stem
        found = _STEP.search(stem)
        name = stem[: found.start()] if found is not None else stem
        label, step = ("final", float("inf")) if found is None else (found[1], float(found[1]))
        folder = "" if str(pure.parent) == "." else str(pure.parent)
        groups.setdefault((folder, name or stem), []).append(GroupedFile(path, label, slot, step))
    return tuple(
        Group(name, folder, tuple(sorted(files, key=lambda file: (file.step, file.slot or "", file.source))))
        for (folder, name), files in groups.items()
    )


class LoraGroups:
    """Lists the groups of a library with one header of each, read within a time limit and kept until it changes."""

    def __init__(self, library: Library, configs: Configs) -> None:
        self._library = library
        self._configs = configs
        self._known: LRUCache[tuple[str, object], Summary | None] = LRUCache(MOST_SUMMARIES)

    def listing(self, search: str, model: str, offset: int, limit: int) -> dict[str, Any]:
        """The listed LoRAs by training job, those for the model first: the body of GET /v1/loras."""
        groups = grouped(self._library.listing(search))
        described = sorted(
            zip(groups, self.summaries(groups), strict=True),
            key=lambda entry: entry[1] is None or model not in entry[1].models,
        )
        page = described[offset : offset + limit]
        return {
            "files": sum(len(group.files) for group in groups),
            "groups": [_body(group, summary, model) for group, summary in page],
            "left": max(0, len(described) - offset - limit),
        }

    def summaries(self, groups: Sequence[Group]) -> list[Summary | None]:
        """A summary for each group; None for one that cannot be read or was not reached in time."""
        end = time.monotonic() + READING_SECONDS
        return [self._summary(group.files[-1].source, end) for group in groups]

    def _summary(self, source: str, end: float) -> Summary | None:
        try:
            path = self._library.path_of(source)
            key = (str(path), file_mark(path.stat()))
        except (LoraInvalid, LoraNotFound, OSError):
            return None  # removed since it was listed
        if key not in self._known:
            if time.monotonic() > end:
                return None
            try:
                self._known[key] = self._summarised(read_header(path))
            except (LoraInvalid, LoraNotFound):
                self._known[key] = None  # its card says what is wrong once it is chosen
        return self._known[key]

    def _summarised(self, header: LoraHeader) -> Summary:
        models = tuple(model.id for model in candidates(header, self._configs))
        rank = None if header.rank is None else header.rank.median
        return Summary(models, header.type, rank, header.trigger_word or "")


def _body(group: Group, summary: Summary | None, model: str) -> dict[str, Any]:
    return {
        "name": group.name,
        "folder": group.folder,
        "files": [{"source": file.source, "label": file.label, "slot": file.slot} for file in group.files],
        "models": [] if summary is None else list(summary.models),
        "fits": summary is not None and model in summary.models,
        "type": None if summary is None else summary.type,
        "rank": None if summary is None else summary.rank,
        "trigger_word": None if summary is None else summary.trigger_word or None,
    }
