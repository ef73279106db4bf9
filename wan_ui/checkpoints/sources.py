"""Where a model's components come from under a request's `base`: folders in diffusers' layout and single files.

It joins `folders.Checkpoints`, the `catalog` of single files and the choice in `bases`, and hands the loader one
`Component` per part, whatever its form. Nothing is asked of the hub for a component that a local file gives.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_ui.checkpoints import bases
from wan_ui.checkpoints.bases import FOLDER, WEIGHTS, Base, Chosen, FolderState, Option
from wan_ui.checkpoints.catalog import Answers, Catalog, Listing, ModelFile, fingerprint
from wan_ui.checkpoints.configs import CONFIG_NAMES, TOKENIZER_FILES, ModelConfigs
from wan_ui.checkpoints.detection import Candidate
from wan_ui.checkpoints.folders import Checkpoints, Component, SingleFile
from wan_ui.checkpoints.headers import FileHeader, brings_vocabulary
from wan_ui.checkpoints.key_maps import ComponentKind
from wan_ui.engine.result import OnProgress
from wan_ui.errors import BaseNotFound, CheckpointIncomplete, CheckpointInvalid, CheckpointNotFound
from wan_ui.models import WanModel

KINDS: Mapping[str, ComponentKind] = {
    "transformer": "transformer",
    "transformer_2": "transformer",
    "vae": "vae",
    "text_encoder": "text_encoder",
    "image_encoder": "image_encoder",
}


@dataclass(frozen=True)
class Sourced:
    """What a model is loaded from: its components, and the choice that was made."""

    components: Mapping[str, Component]
    chosen: Chosen


class CheckpointSources:
    """Finds, chooses and, where need be, downloads what a model is loaded from. Any thread may call any method."""

    def __init__(
        self,
        folders: Checkpoints,
        comfy_dir: Path | None = None,
        models_dir: Path | None = None,
        configs_dir: Path | None = None,
        answers: Answers | None = None,
    ) -> None:
        self.folders = folders
        self.configs = ModelConfigs(configs_dir)
        self.catalog = Catalog(self.configs, comfy_dir, models_dir, answers)
        self._lock = threading.Lock()
        self._fingerprints: dict[tuple[str, int, int], str] = {}

    # ------------------------------------------------------------------------------------------ choice

    def options(self, model: WanModel, listing: Listing | None = None) -> Mapping[str, tuple[Option, ...]]:
        """For each component with weights what it can be loaded from, best first."""
        files = (listing or self.catalog.scan()).files
        states = {name: self.folder_state(model, name) for name in WEIGHTS if name in model.components}
        sizes = {
            name: self.folders.component(model, name).size for name, state in states.items() if state == "complete"
        }
        return bases.options(model, files, states, sizes)

    def choose(self, model: WanModel, base: Base) -> Chosen:
        """What the model is loaded from. Raises BaseNotFound, or what is wrong with a file that was asked for."""
        listing = self.catalog.scan()
        return bases.choose(model, self.options(model, listing), base, listing.files)

    def folder_state(self, model: WanModel, name: str) -> FolderState:
        """How much of a component's folder is on this machine."""
        try:
            self.folders.component(model, name)
        except CheckpointNotFound:
            return "missing"
        except (CheckpointIncomplete, CheckpointInvalid):
            return "incomplete"
        return "complete"

    # ------------------------------------------------------------------------------------------ components

    def fetch(self, model: WanModel, base: Base, on_progress: OnProgress) -> Sourced:
        """Every component of the model, downloaded where neither folder nor file is here.

        Raises BaseNotFound, CheckpointNotFound, CheckpointIncomplete, CheckpointInvalid or DiskFull.
        """
        chosen = self.choose(model, base)
        from_folder = {name for name, option in chosen.options.items() if option.name == FOLDER}
        components = {
            name: self._file_component(model, name, option.file)
            for name, option in chosen.options.items()
            if option.file is not None
        }
        small = {name for name in model.components if name not in WEIGHTS}
        if not components:
            return Sourced(self.folders.fetch(model, on_progress), chosen)
        here = {name for name in small if self.folder_state(model, name) == "complete"}
        local = {name: self._small_component(model, name, components) for name in small - here}
        absent = {name for name, component in local.items() if component is None}
        if absent and "text_encoder" not in from_folder:
            raise _no_small_part(model, sorted(absent))
        folder_parts = from_folder | here | absent
        fetched = self.folders.fetch(model, on_progress, folder_parts) if folder_parts else {}
        found = {**components, **fetched, **{name: part for name, part in local.items() if part is not None}}
        return Sourced({name: found[name] for name in model.components}, chosen)

    def local(self, model: WanModel, base: Base, names: Collection[str]) -> Mapping[str, Component]:
        """These components as they are on this machine. Raises CheckpointNotFound and what `fetch` raises."""
        options = self.choose(model, base).options
        return {
            name: self._file_component(model, name, file)
            if (file := options[name].file) is not None
            else self.folders.component(model, name)
            for name in names
            if name in options
        }

    def _file_component(self, model: WanModel, name: str, file: ModelFile) -> Component:
        if file.header is None:
            raise AssertionError(f"{file.name} was chosen without being read")
        single = SingleFile(file.header, KINDS[name], self.configs.config(model, name))
        return Component(name, file.path.parent, (file.path,), single)

    def _small_component(self, model: WanModel, name: str, files: Mapping[str, Component]) -> Component | None:
        """A config or tokenizer without the hub: the config in force, or the vocabulary in a text encoder's file."""
        folder = self.configs.tokenizer_folder(model) if name == "tokenizer" else self.configs.folder(model, name)
        if folder is not None:
            return Component(name, folder, _small_files(name, folder))
        if name != "tokenizer":
            return None
        header = self._vocabulary(files)
        if header is None:
            return None
        return Component(name, header.path.parent, (), SingleFile(header, "text_encoder", {}))

    def _vocabulary(self, files: Mapping[str, Component]) -> FileHeader | None:
        """A header of a file with UMT5's vocabulary: the chosen text encoder's, else any other text encoder's."""
        chosen = files.get("text_encoder")
        headers = [] if chosen is None or chosen.single is None else [chosen.single.header]
        headers += [
            file.header
            for file in self.catalog.scan().files
            if file.header is not None and file.detected is not None and file.detected.kind == "text_encoder"
        ]
        return next((header for header in headers if brings_vocabulary(header)), None)

    # ------------------------------------------------------------------------------------------ facts

    def transformer_config(self, model: WanModel, component: str = "transformer") -> Mapping[str, Any] | None:
        """The transformer's config: the folder's, else the one in force for single files."""
        found = self.folders.transformer_config(model, component)
        return found if found is not None else self.configs.config(model, component)

    def present(self, model: WanModel) -> bool:
        """Whether the model can be loaded without a download."""
        if self.folders.present(model):
            return True
        chosen = self.choose(model, bases.AUTO)
        return all(option.state == "complete" for option in chosen.options.values())

    def identity(self, model: WanModel) -> list[dict[str, Any]]:
        """Everything the model could be loaded from here, JSON-ready: its folders and its files, each as in a clip.

        Raises CheckpointNotFound or CheckpointIncomplete where there is neither a whole folder nor a file.
        """
        files = [option for found in self.options(model).values() for option in found if option.file is not None]
        if not files or self.folders.present(model):
            listed: list[dict[str, Any]] = list(self.folders.identity(model))
        else:
            here = {name for name in model.components if self.folder_state(model, name) == "complete"}
            listed = list(self.folders.identity(model, here)) if here else []
        return listed + [self._file_identity(option) for option in files]

    def identity_of(self, model: WanModel, sourced: Sourced) -> list[dict[str, Any]]:
        """Which files the components are, JSON-ready: folders by repository as `folders.identity`, files by name.

        Of a file `repo` is its name, `files` its fingerprint, and `component` and `precision` say what it is.
        """
        folder_parts = {
            name
            for name, part in sourced.components.items()
            if part.single is None and self._is_folder(model, name, part)
        }
        listed: list[dict[str, Any]] = list(self.folders.identity(model, folder_parts) if folder_parts else [])
        options = sourced.chosen.options.values()
        return listed + [self._file_identity(option) for option in options if option.file is not None]

    def _file_identity(self, option: Option) -> dict[str, Any]:
        header = None if option.file is None else option.file.header
        return {
            "repo": option.name,
            "revision": None,
            "files": None if header is None else self._fingerprint(header),
            "component": option.component,
            "precision": option.label,
        }

    def _is_folder(self, model: WanModel, name: str, part: Component) -> bool:
        """Whether a part without a single file is the folder's, not a config in force."""
        return (
            self.folder_state(model, name) == "complete" and self.folders.component(model, name).folder == part.folder
        )

    def _fingerprint(self, header: FileHeader) -> str:
        state = header.path.stat()
        key = (str(header.path), state.st_size, state.st_mtime_ns)
        with self._lock:
            known = self._fingerprints.get(key)
        if known is None:
            known = fingerprint(header)
            with self._lock:
                self._fingerprints[key] = known
        return known

    def check_base(self, model: WanModel, base: str | tuple[tuple[str, str], ...]) -> None:
        """Raises BaseNotFound, or what is wrong with a file, for a base that names files which cannot be used."""
        if not isinstance(base, str):
            self.choose(model, base_of(base))

    def base_listing(self, model: WanModel) -> dict[str, Any]:
        """What a model can be loaded from, by names alone: the body of GET /v1/models/{id}/bases."""
        listing = self.catalog.scan()
        available = self.options(model, listing)
        chosen = bases.choose(model, available, bases.AUTO, listing.files)
        return {
            "model": model.id,
            "auto": {"grade": chosen.grade, "reason": chosen.reason, "base": dict(chosen.names)},
            "components": [
                {"component": name, "options": [option_body(option) for option in found]}
                for name, found in available.items()
            ],
            "questions": [question for file in listing.files if (question := _question(file, model)) is not None],
            "unusable": [
                {"name": file.name, **file.problem.body()} for file in listing.files if file.problem is not None
            ],
            "notes": list(listing.notes),
        }

    def answer(self, model: WanModel, component: str, name: str) -> None:
        """Keeps that a file is this component of this model. Raises BaseNotFound where no file there may be that."""
        candidate = Candidate(model.id, component)
        files = [file for file in self.catalog.scan().files if file.is_shaped_like(candidate)]
        for file in files:
            if file.name == name:
                self.catalog.answer(file, candidate)
                return
        raise BaseNotFound(
            f"There is no checkpoint file {name} that could be the {component.replace('_', ' ')} of {model.label}.",
            component=component,
            candidates=[file.name for file in files],
        )


def _small_files(name: str, folder: Path) -> tuple[Path, ...]:
    names = (CONFIG_NAMES.get(name, "config.json"), *(TOKENIZER_FILES if name == "tokenizer" else ()))
    return tuple(folder / file for file in names if (folder / file).is_file())


def _no_small_part(model: WanModel, names: list[str]) -> CheckpointNotFound:
    repos = ", ".join(f"{model.components[name].repo}/{model.components[name].subfolder}" for name in names)
    more = (
        " ComfyUI's umt5_xxl_fp16.safetensors and umt5_xxl_fp8_e4m3fn_scaled.safetensors bring it along, in "
        "text_encoders."
        if "tokenizer" in names
        else ""
    )
    return CheckpointNotFound(
        f"The files here lack {' and '.join(names)}, which no single file of theirs holds. Put {repos} under the "
        f"models folder.{more}",
        missing=names,
    )


def option_body(option: Option) -> dict[str, Any]:
    """An option as the API lists it."""
    return {
        "name": option.name,
        "source": FOLDER if option.file is None else option.file.origin,
        "repo": option.label if option.file is None else None,
        "precision": FOLDER if option.file is None else option.label,
        "size": option.size,
        "grade": option.grade,
        "state": option.state,
    }


def _question(file: ModelFile, model: WanModel) -> dict[str, Any] | None:
    """A file whose name does not tell which model, or which half of a pair, it is; None where this one is not meant."""
    if file.detected is None or not file.detected.is_open:
        return None
    candidates = sorted(file.detected.candidates)
    if all(candidate.model != model.id for candidate in candidates):
        return None
    return {
        "name": file.name,
        "candidates": [{"model": item.model, "component": item.component} for item in candidates],
    }


def base_of(base: str | tuple[tuple[str, str], ...]) -> Base:
    """A generation's `base` as the choice takes it."""
    if isinstance(base, str):
        return "folder" if base == FOLDER else "auto"
    return dict(base)


def report(sourced: Sourced) -> dict[str, Any]:
    """What a clip says of its base, JSON-ready: the grade, why this one, and by component name, type and size."""
    chosen = sourced.chosen
    return {
        "grade": chosen.grade,
        "reason": chosen.reason,
        "components": [
            {
                "component": name,
                "name": option.name,
                "precision": option.label if option.file is not None else FOLDER,
                "size": option.size,
                "grade": option.grade,
            }
            for name, option in chosen.options.items()
        ],
    }
