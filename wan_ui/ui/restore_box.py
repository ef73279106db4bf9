"""The box that loads the settings of a dropped MP4 into the form and lists what differs now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.errors import WanUIError
from wan_ui.request import find_model, parse
from wan_ui.ui.events import LOAD, Update
from wan_ui.ui.load_request import RequestLoader
from wan_ui.ui.static_files import component_options
from wan_ui.ui.texts import translated
from wan_ui.ui.uploaded_files import decoded

if TYPE_CHECKING:
    from wan_ui.ui.form import FormState


class RestoreBox:
    """The component. Its script sends the video to POST /v1/restore, and the request of the answer to this class.

    Its event carries `pressed`: what to `do` ("open" the request, or take its "frame" alone), the `request` as JSON
    text, and a `ticket`. The ticket comes back in `value` with the `problem`, so that the script reports the outcome
    of the right event.
    """

    def __init__(self) -> None:
        """Lays the box out in the surrounding column."""
        self.box = gr.HTML(None, elem_id="restore", **component_options("restore"))

    def connect(self, loader: RequestLoader) -> None:
        """Wires the event."""
        self.loader, self.form = loader, loader.form
        self.box.click(
            self.on_request,
            [self.form.uploads, *self.form.inputs],
            [self.box, *loader.loaded],
            concurrency_limit=4,
            **LOAD,
        )

    def on_request(self, event: gr.EventData, uploads: Any, *raw: Any) -> Update:
        """The request of a dropped video into the form."""
        pressed: Mapping[str, Any] = event.pressed
        try:
            request = decoded(str(pressed.get("request") or ""))
            if pressed.get("do") == "frame":
                updates = self._with_frame(request, self.form.read(raw, uploads))
            else:
                updates = self.loader.open_request(request, 0, uploads)
        except WanUIError as error:
            return {self.box: gr.HTML(value={"ticket": pressed.get("ticket"), "problem": translated(error.message)})}
        return {**updates, self.box: gr.HTML(value={"ticket": pressed.get("ticket"), "problem": ""})}

    def _with_frame(self, request: Any, state: FormState) -> Update:
        """A request's first frame in its model's form, whose other values stay as they are."""
        asked = parse(request)
        return self.form.put_first_frame(find_model(asked.model), state, asked.prompts[0].ctrl_img or "")
