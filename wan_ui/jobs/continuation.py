"""Continues a clip: the request of the next part, which starts from the clip's last frame with all settings carried."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from wan_ui.errors import ControlImageNotSupported
from wan_ui.media.image import UPLOAD
from wan_ui.models import WanModel
from wan_ui.request import Generation, random_seed

DECODED_NOTE = "This clip was made before last frames were kept: its last frame was decoded from the compressed video."
NOT_CARRIED = ("ctrl_img_last", "training_sample", "ctrl_img_1")


@dataclass(frozen=True)
class Continuation:
    """The next part's request in wire form, and sentences on what is not as it was.

    `is_lossless`: it starts from the rendered frame and not from one that was compressed.
    """

    request: Mapping[str, Any]
    notes: tuple[str, ...]
    is_lossless: bool


def check_continuable(model: WanModel) -> None:
    """Raises ControlImageNotSupported for a model that takes no first frame."""
    if model.control_image == "none":
        raise ControlImageNotSupported(
            f"{model.label} takes no first frame, so it cannot continue a clip: use an image-to-video model."
        )


def continued(request: Mapping[str, Any], generation: Generation, image: str, is_lossless: bool) -> Continuation:
    """The request that goes on from the stored image `image` (a SHA-256), with a new seed and the clip's own size.

    `request` is that of the one clip. A last frame is not carried: the next part would end as this one does.
    """
    item = {name: value for name, value in request["prompts"][0].items() if name not in NOT_CARRIED}
    item |= {"width": generation.width, "height": generation.height, "num_frames": generation.num_frames}
    item |= {"seed": random_seed(), "ctrl_img": UPLOAD + image}
    carried = {name: value for name, value in request.items() if name not in ("compare", "apply_exif")}
    notes: tuple[str, ...] = () if is_lossless else (DECODED_NOTE,)
    if generation.image_last is not None:
        notes += ("The last frame that this clip was given is not carried over.",)
    return Continuation({**carried, "prompts": [item]}, notes, is_lossless)


@lru_cache(maxsize=1024)
def hash_of_last_frame(path: Path) -> str:
    """The SHA-256 of a kept last frame, read once: the files of clips never change. Raises OSError."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
