"""Whether two machines have the same checkpoint of a model: a short text about its files, without reading weights."""

from __future__ import annotations

import hashlib
import json
import threading

from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.checkpoints.sources import CheckpointSources, Sourced, base_of
from wan_ui.errors import WanUIError
from wan_ui.pool.messages import EngineOptions
from wan_ui.request import find_model

RequestBase = str | tuple[tuple[str, str], ...]


def sources_of(options: EngineOptions) -> CheckpointSources:
    """What models are loaded from with these options."""
    return CheckpointSources(
        Checkpoints(options.models_dir),
        comfy_dir=options.comfy_dir,
        models_dir=options.models_dir,
        configs_dir=options.configs_dir,
    )


def checkpoint_print(sources: CheckpointSources, model: str, base: RequestBase) -> str | WanUIError:
    """Equal for machines whose files for a model and a request's `base` are equal; the error where they are not whole.

    Of folders it covers names, sizes and the small files, of single files samples of their bytes: see
    folders.identity and catalog.fingerprint. A revision is left out, which a plain folder does not have.
    """
    described, chosen_base = find_model(model), base_of(base)
    try:
        chosen = sources.choose(described, chosen_base)
        weights = sources.local(described, chosen_base, tuple(described.components))
        listed = sources.identity_of(described, Sourced(weights, chosen))
    except WanUIError as error:
        error.__cause__ = error.__context__ = error.__traceback__ = None
        return error
    facts = sorted([str(each["repo"]), str(each["files"]), str(each.get("component"))] for each in listed)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class CheckpointPrints:
    """Which checkpoint counts for each model: the server's own, or the first that a machine of the cluster offers."""

    def __init__(self, sources: CheckpointSources) -> None:
        self._sources = sources
        self._lock = threading.Lock()
        self._first: dict[tuple[str, RequestBase], str] = {}

    def agrees(self, model: str, base: RequestBase, offered: str) -> bool:
        """Whether a machine's checkpoint is the one that counts."""
        own = checkpoint_print(self._sources, model, base)
        if isinstance(own, str):
            return own == offered
        with self._lock:
            return self._first.setdefault((model, base), offered) == offered
