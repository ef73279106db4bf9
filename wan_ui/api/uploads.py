"""What visitors have sent: uploaded LoRAs, first frames and imported training jobs, listed and deleted."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import Response

from wan_ui.api.dependencies import CurrentAccess, Service
from wan_ui.api.openapi import errors
from wan_ui.api.schemas import StoredFileList

FileId = Annotated[str, Path(description="`id` of an entry of GET /uploads.", max_length=200)]
JobId = Annotated[str, Path(description="From the response to POST /jobs/import.", max_length=200)]

router = APIRouter()


@router.get(
    "/uploads",
    summary="The LoRAs, first frames and training jobs that you have sent",
    response_model=StoredFileList,
    responses=errors(503),
)
def uploads(service: Service, access: CurrentAccess) -> dict[str, Any]:
    """For the operator, everything that was sent."""
    return {"files": [vars(file) for file in service.stored_files.listing(access)]}


@router.delete(
    "/uploads/loras/{file_id}",
    summary="Delete an uploaded LoRA",
    status_code=204,
    response_class=Response,
    responses=errors(404, 409, 422, 503),
)
def delete_lora(service: Service, access: CurrentAccess, file_id: FileId) -> Response:
    """Not while a waiting or running request uses it. Equal files of others stay."""
    service.stored_files.delete("lora", file_id, access)
    return Response(status_code=204)


@router.delete(
    "/uploads/images/{file_id}",
    summary="Delete a first frame",
    status_code=204,
    response_class=Response,
    responses=errors(404, 409, 422, 503),
)
def delete_image(service: Service, access: CurrentAccess, file_id: FileId) -> Response:
    """Not while a waiting or running request uses it. An equal image of others stays."""
    service.stored_files.delete("image", file_id, access)
    return Response(status_code=204)


@router.delete(
    "/jobs/{job_id}",
    summary="Delete an imported training job, with the LoRAs and samples that came with it",
    status_code=204,
    response_class=Response,
    responses=errors(404, 409, 422, 503),
)
def delete_job(service: Service, access: CurrentAccess, job_id: JobId) -> Response:
    """A folder under the LoRA folder that was imported stays where it is."""
    service.stored_files.delete("job", job_id, access)
    return Response(status_code=204)
