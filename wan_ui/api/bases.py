"""GET and POST /models/{id}/bases: what a model can be loaded from, and which model a checkpoint file is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from wan_ui.api.bodies import parse_json
from wan_ui.api.dependencies import CurrentAccess, Json, Service, State
from wan_ui.api.openapi import errors, request_body
from wan_ui.api.schemas import Body
from wan_ui.errors import OwnerOnly

router = APIRouter()

Grade = Literal["green", "amber", "red"]
ModelId = Annotated[str, Path(description="A model id, see GET /models.", max_length=200)]


class BaseOption(BaseModel):
    """One way to get a component; `name` is what a request's `base` takes."""

    name: str
    source: Literal["folder", "comfy", "models"]
    repo: str | None = Field(description="The repository in diffusers layout; null for a file.")
    precision: str = Field(description="folder, fp32, bf16, fp16, fp8_scaled, fp8, or GGUF with its type.")
    size: int | None = Field(description="Bytes; null for a folder that is not here.")
    grade: Grade = Field(description="green: the reference's numbers; amber: bf16's last bit may differ; red: others.")
    state: Literal["complete", "incomplete", "missing"]


class ComponentBases(BaseModel):
    """The files and folders that one component of a model can be loaded from."""

    component: str
    options: list[BaseOption] = Field(description="Best first.")


class AutoBase(BaseModel):
    """What is loaded where a request names no base, and why."""

    grade: Grade
    reason: str
    base: dict[str, str] = Field(description="What `auto` takes, by component.")


class BaseCandidate(BaseModel):
    """One of the things that a file may be."""

    model: str
    component: str


class BaseQuestion(BaseModel):
    """A file whose header and name do not tell which of these it is."""

    name: str
    candidates: list[BaseCandidate]


class UnusableFile(BaseModel):
    """A file that is refused, with its error."""

    name: str
    code: str
    message: str
    details: dict[str, Any]


class BaseListing(BaseModel):
    """What a model can be loaded from on this server; names, never paths."""

    model: str
    auto: AutoBase | None
    components: list[ComponentBases]
    questions: list[BaseQuestion]
    unusable: list[UnusableFile]
    notes: list[str]


class IdentifyBody(Body):
    """Which component of the model a file is."""

    name: str = Field(min_length=1, max_length=1024, description="A name of `questions`.")
    component: Literal["transformer", "transformer_2"]


@router.get(
    "/models/{model}/bases",
    summary="What a model can be loaded from",
    response_model=BaseListing,
    responses=errors(400, 422, 503),
)
async def bases(state: State, service: Service, model: ModelId) -> Mapping[str, Any]:
    """Reads headers of checkpoint files, each once; no weights."""
    return await state.inspections.run(partial(service.bases, model))


@router.post(
    "/models/{model}/bases",
    summary="Say which model a checkpoint file is",
    response_model=BaseListing,
    responses=errors(400, 422, 503),
    openapi_extra=request_body(IdentifyBody.model_json_schema()),
)
async def identify_base(
    state: State, service: Service, access: CurrentAccess, model: ModelId, body: Json
) -> Mapping[str, Any]:
    """Keeps the answer by the file's content. The owner alone may answer."""
    wanted = parse_json(IdentifyBody, body)
    if not access.identity.owner:
        raise OwnerOnly("Only the owner of this server may say which model a file is.")
    return await state.inspections.run(partial(service.identify_base, model, wanted.component, wanted.name))
