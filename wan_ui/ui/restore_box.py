"""The box that loads the settings of a dropped MP4 into the form and lists what differs now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from wan_ui.errors import InvalidRequest, WanUIError
from wan_ui.request import find_model, parse
from wan_ui.ui.events import Update
from wan_ui.ui.load_request import RequestLoader
from wan_ui.ui.static_files import static_text
from wan_ui.ui.uploaded_files import decoded


class RestoreBox:
    """The component. Its script sends the video to POST /v1/restore, and the request of the answer to this class.

    Its event carries `pressed`: what to `do` ("open" the request, or take its "frame" alone), the `request` as JSON
    text, and a `ticket`. The ticket comes back in `value` with the `problem`, so that the script reports the outcome
    of the right event.
    """

    def __init__(self) -> None:
        """Lays the box out in the surrounding column."""
        self.box = gr.HTML(
            None,
            html_template=static_text("restore.html"),
            js_on_load=static_text("restore.js"),
            apply_default_css=False,
            elem_id="restore",
        )

    def connect(self, loader: RequestLoader) -> None:
        """Wires the event."""
        self.loader, self.model_tabs = loader, loader.model_tabs
        drafts = [tab.draft for tab in self.model_tabs.by_model.values()]  # the same values in fewer inputs
        self.box.click(
            self.on_request,
            [self.model_tabs.uploads, *drafts],
            [self.box, *loader.loaded],
            api_visibility="private",
            show_progress="hidden",
            preprocess=False,
            concurrency_limit=4,
        )

    def on_request(self, event: gr.EventData, uploads: Any, *drafts: Any) -> Update:
        """The request of a dropped video into its form."""
        pressed: Mapping[str, Any] = event.pressed
        try:
            request = decoded(str(pressed.get("request") or ""))
            if pressed.get("do") == "frame":
                updates = self._with_frame(request, drafts)
            else:
                updates = self.loader.open_request(request, 0, uploads)
        except WanUIError as error:
            return {self.box: gr.HTML(value={"ticket": pressed.get("ticket"), "problem": error.message})}
        return {**updates, self.box: gr.HTML(value={"ticket": pressed.get("ticket"), "problem": ""})}

    def _with_frame(self, request: Any, drafts: Sequence[Any]) -> Update:
        """A request's first frame in its model's form, whose other values stay as they are."""
        asked = parse(request)
        tab = self.model_tabs.by_model[find_model(asked.model).id]
        if "ctrl_img" not in tab.components:
            raise InvalidRequest(f"{tab.model.label} takes no first frame.")
        draft = dict(zip(self.model_tabs.by_model, drafts, strict=True))[tab.model.id]
        values = self.model_tabs.draft_values(tab, draft) or self.model_tabs.starting_values(tab)[0]
        return self.model_tabs.put_first_frame(tab, values, asked.prompts[0].ctrl_img or "")
