"""Which files a model is loaded from: a pure choice from what is at hand and what a request asks for, with its reason.

In order: the folder in diffusers' layout; a single file in fp32, bf16, fp16; fp8 with scales; fp8 without; GGUF, more
bits first. The folder, fp32 and bf16 hold the reference's numbers (green); fp16 may differ from them in bf16's last
bit (amber); the rest are other numbers (red).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from wan_ui.checkpoints.catalog import ModelFile
from wan_ui.checkpoints.detection import Candidate, pair_key
from wan_ui.checkpoints.quantization import Precision, gguf_bits
from wan_ui.errors import BaseNotFound
from wan_ui.models import WanModel
from wan_ui.text import one_line

FOLDER: Literal["folder"] = "folder"
AUTO: Literal["auto"] = "auto"
WEIGHTS = ("transformer", "transformer_2", "vae", "text_encoder", "image_encoder")
"""The components that single files hold; the others are small files of the folder, or shipped configs."""

Grade = Literal["green", "amber", "red"]
FolderState = Literal["complete", "incomplete", "missing"]
Base = Literal["auto", "folder"] | Mapping[str, str]
"""A request's `base`: the two words, or names by component, those left out being chosen."""

_GRADES: Mapping[Precision | Literal["folder"], Grade] = MappingProxyType(
    {
        "folder": "green", "fp32": "green", "bf16": "green", "fp16": "amber",
        "fp8_scaled": "red", "fp8": "red", "gguf": "red",
    }
)  # fmt: skip
_ORDER: tuple[Precision | Literal["folder"], ...] = ("folder", "fp32", "bf16", "fp16", "fp8_scaled", "fp8", "gguf")


@dataclass(frozen=True)
class Option:
    """One way to get a component: the folder, or a file. `state` is the folder's; files are complete."""

    component: str
    name: str
    precision: Precision | Literal["folder"]
    label: str
    size: int | None
    grade: Grade
    state: FolderState = "complete"
    file: ModelFile | None = None

    @property
    def rank(self) -> tuple[int, int, int]:
        """Sorts options: what needs a download last, then by precision, then by bits."""
        bits = gguf_bits(self.label) if self.precision == "gguf" else 0
        return (self.state != "complete", _ORDER.index(self.precision), -bits)


@dataclass(frozen=True)
class Chosen:
    """The option taken for each component that holds weights, and in a sentence why."""

    options: Mapping[str, Option]
    reason: str

    @property
    def grade(self) -> Grade:
        """The worst of the options' grades."""
        grades = [option.grade for option in self.options.values()]
        return next((grade for grade in ("red", "amber") if grade in grades), "green")

    @property
    def names(self) -> Mapping[str, str]:
        """The names by component, as a request may ask for them again."""
        return {component: option.name for component, option in self.options.items()}


def options(
    model: WanModel,
    files: Iterable[ModelFile],
    folders: Mapping[str, FolderState],
    sizes: Mapping[str, int] | None = None,
) -> Mapping[str, tuple[Option, ...]]:
    """For each component with weights all options, best first.

    `folders` says of each component how complete its folder is; `sizes` are the bytes of complete ones.
    """
    listed = list(files)
    found: dict[str, tuple[Option, ...]] = {}
    for component in (name for name in WEIGHTS if name in model.components):
        folder = Option(
            component=component,
            name=FOLDER,
            precision="folder",
            label=model.components[component].repo,
            size=(sizes or {}).get(component),
            grade=_GRADES["folder"],
            state=folders.get(component, "missing"),
        )
        usable = (file for file in listed if file.may_be(Candidate(model.id, component)) and not _is_open(file))
        found[component] = tuple(
            sorted([folder, *(_file_option(component, file) for file in usable)], key=lambda o: o.rank)
        )
    return MappingProxyType(found)


def _is_open(file: ModelFile) -> bool:
    return file.detected is not None and file.detected.is_open


def _file_option(component: str, file: ModelFile) -> Option:
    if file.quantization is None:
        raise AssertionError(f"{file.name} was detected without being read")
    precision = file.quantization.precision
    return Option(
        component=component,
        name=file.name,
        precision=precision,
        label=file.quantization.label,
        size=file.size,
        grade=_GRADES[precision],
        file=file,
    )


def choose(
    model: WanModel, available: Mapping[str, tuple[Option, ...]], base: Base, files: Iterable[ModelFile] = ()
) -> Chosen:
    """What a model is loaded from. `files` are all at hand: one whose name says nothing may be asked for by name.

    Raises BaseNotFound, with the candidates, for a name that is not listed or a pair whose other half is unknown.
    """
    if base == FOLDER:
        return Chosen({name: _folder(found) for name, found in available.items()}, "The request asks for the folder.")
    wanted: dict[str, Option] = {}
    if not isinstance(base, str):
        listed = list(files)
        for component, name in base.items():
            wanted[component] = _named(model, component, name, available, listed)
        wanted = _with_partner(model, wanted, available)
    halves = tuple(model.slots.values())
    taken = {
        component: wanted.get(component) or found[0]
        for component, found in available.items()
        if component not in halves or component in wanted
    }
    if not all(component in taken for component in halves):
        taken |= best_transformers(model, available)
    ordered = {component: taken[component] for component in available}
    return Chosen(MappingProxyType(ordered), _reason(ordered, wanted, available))


def best_transformers(model: WanModel, available: Mapping[str, tuple[Option, ...]]) -> dict[str, Option]:
    """The best transformer, or the best pair whose halves belong together by their names.

    For want of one on this machine, the only file of each half where both are of one type: the user has said what they
    are. Else the folders, which are downloaded.
    """
    halves = tuple(model.slots.values())
    if len(halves) == 1:
        return {halves[0]: available[halves[0]][0]}
    high, low = halves
    pairs = [
        {high: option, low: other}
        for option in available[high]
        for other in available[low]
        if belong_together(option, other)
    ]
    here = next((pair for pair in pairs if all(option.state == "complete" for option in pair.values())), None)
    if here is not None:
        return here
    only = {half: [option for option in available[half] if option.file is not None] for half in halves}
    if all(len(files) == 1 for files in only.values()) and only[high][0].label == only[low][0].label:
        return {half: files[0] for half, files in only.items()}
    return pairs[0] if pairs else {half: available[half][0] for half in halves}


def belong_together(one: Option, other: Option) -> bool:
    """Whether two options are the halves of one pair: both folders, or files of one name but for high and low."""
    if one.name == FOLDER or other.name == FOLDER:
        return one.name == other.name
    return pair_key(one.name) == pair_key(other.name) and one.label == other.label


def _folder(found: tuple[Option, ...]) -> Option:
    return next(option for option in found if option.name == FOLDER)


def _named(
    model: WanModel,
    component: str,
    name: str,
    available: Mapping[str, tuple[Option, ...]],
    files: list[ModelFile],
) -> Option:
    """The option of that name. Raises BaseNotFound."""
    if component not in available:
        raise BaseNotFound(
            f"{model.label} has no {component.replace('_', ' ')}: leave it out of `base`.",
            component=component,
            candidates=sorted(available),
        )
    for option in available[component]:
        if option.name == name:
            return option
    for file in files:
        if file.name == name and file.is_shaped_like(Candidate(model.id, component)):
            return _file_option(component, file)
    candidates = [option.name for option in available[component]]
    broken = next((file for file in files if file.name == name and file.problem is not None), None)
    if broken is not None and broken.problem is not None:
        raise broken.problem
    raise BaseNotFound(
        f"There is no {component.replace('_', ' ')} named {one_line(name)} for {model.label}. "
        f"GET /v1/models/{model.id}/bases lists the names.",
        component=component,
        candidates=candidates,
    )


def _with_partner(
    model: WanModel, wanted: dict[str, Option], available: Mapping[str, tuple[Option, ...]]
) -> dict[str, Option]:
    """Adds the other half of a pair of which one was asked for. Raises BaseNotFound where it is unknown."""
    halves = tuple(model.slots.values())
    given = [half for half in halves if half in wanted]
    if len(halves) == 1 or len(given) != 1:
        return wanted
    half = given[0]
    other = next(name for name in halves if name != half)
    for option in available[other]:
        if belong_together(wanted[half], option):
            return {**wanted, other: option}
    raise BaseNotFound(
        f"{wanted[half].name} is one half of a pair, and the other half beside it was not found. Name both "
        f"`{halves[0]}` (high noise) and `{halves[1]}` (low noise) in `base`.",
        component=other,
        candidates=[option.name for option in available[other]],
    )


def _reason(
    taken: Mapping[str, Option], wanted: Mapping[str, Option], available: Mapping[str, tuple[Option, ...]]
) -> str:
    """Why these were taken, in a sentence."""
    first = taken["transformer"]
    if "transformer" in wanted:
        return "The request asks for it."
    if first.name == FOLDER:
        if first.state == "complete":
            return "The folder in diffusers format is on this machine."
        return "Nothing on this machine fits, so the folder in diffusers format is downloaded."
    others = len(available["transformer"]) - 2  # beside this one and the folder
    among = f", the most exact of {others + 1} files here" if others > 0 else ""
    return f"The folder in diffusers format is not on this machine; {first.name} is {first.label}{among}."
