"""A video's settings into the form: the place to drop it, and what differs now; it reads no file and knows no job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from wan_ui.errors import InvalidRequest, WanUIError
from wan_ui.request import find_model, parse
from wan_ui.ui.events import Update
from wan_ui.ui.load_request import RequestLoader
from wan_ui.ui.uploaded_files import decoded

_HERE = Path(__file__).parent


class RestoreBox:
    """The component. The browser sends the video to POST /v1/restore itself, and then the request that came back here.

    Its event carries `pressed`: what to `do` ("open" the request, or take its "frame" alone), the `request` as
    JSON text, and a `ticket`, which comes back in `value` with the `problem`, so that the browser says only what has
    happened.
    """

    def __init__(self) -> None:
        """Lays the box out in the surrounding column."""
        self.box = gr.HTML(
            None,
            html_template=(_HERE / "restore.html").read_text(encoding="utf-8"),
            js_on_load=(_HERE / "restore.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="restore",
        )

    def connect(self, drawer: RequestLoader) -> None:
        """Wires the event."""
        self.drawer, self.forms = drawer, drawer.forms
        drafts = [tab.draft for tab in self.forms.rows.values()]  # which hold what the controls do, in fewer inputs
        self.box.click(
            self.on_request,
            [self.forms.uploads, *drafts],
            [self.box, *drawer.loaded],
            api_visibility="private",
            show_progress="hidden",
            preprocess=False,
            concurrency_limit=4,
        )

    def on_request(self, event: gr.EventData, uploads: Any, *drafts: Any) -> Update:
        told: Mapping[str, Any] = event.pressed
        try:
            request = decoded(str(told.get("request") or ""))
            if told.get("do") == "frame":
                found = self._with_frame(request, drafts)
            else:
                found = self.drawer.open_request(request, 0, uploads)
        except WanUIError as error:
            return {self.box: gr.HTML(value={"ticket": told.get("ticket"), "problem": error.message})}
        return {**found, self.box: gr.HTML(value={"ticket": told.get("ticket"), "problem": ""})}

    def _with_frame(self, request: Any, drafts: Sequence[Any]) -> Update:
        """A request's first frame in its model's form, whose other values stay as they are."""
        asked = parse(request)
        tab = self.forms.rows[find_model(asked.model).id]
        if "ctrl_img" not in tab.components:
            raise InvalidRequest(f"{tab.row.label} takes no first frame.")
        draft = dict(zip(self.forms.rows, drafts, strict=True))[tab.row.id]
        held = self.forms.left(tab, draft) or self.forms.starting_values(tab)[0]
        return self.forms.put_first_frame(tab, held, asked.prompts[0].ctrl_img or "")
