"""The Gallery tab: finished videos to be found, played, kept, deleted and used again; the browser asks /v1 itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.engine.recipes import RECIPES
from wan_ui.errors import WanUIError
from wan_ui.ui.events import QUIET, Update
from wan_ui.ui.load_request import RequestLoader

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

ID = "gallery"
_HERE = Path(__file__).parent


class GalleryTab:
    """Holds the tab's one component; every method named `on_…` is an event's handler."""

    def __init__(self, service: JobService, access: Callable[[], Access]) -> None:
        """Lays the tab out inside the surrounding gr.Tabs."""
        self.service = service
        self.access = access
        with gr.Tab("Gallery", id=ID) as self.container:
            self.board = gr.HTML(
                None,
                html_template=(_HERE / "gallery.html").read_text(encoding="utf-8"),
                css_template=(_HERE / "gallery.css").read_text(encoding="utf-8"),
                js_on_load=(_HERE / "gallery.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id="gallery",
                recipes={recipe: one.label for recipe, one in RECIPES.items()},
            )

    def connect(self, drawer: RequestLoader) -> None:
        """Wires the events."""
        self.drawer, self.forms, self.compare = drawer, drawer.forms, drawer.compare
        self.container.select(self.on_tab, [], [self.forms.place, self.forms.text], **QUIET)
        into: list[Any] = [*drawer.loaded, *self.compare.view]
        given = [self.forms.uploads, self.compare.seen]
        self.board.click(self.on_press, given, into, concurrency_limit=8, **QUIET)

    def on_tab(self) -> Update:
        return {self.forms.place: ID, self.forms.text: ""}

    def on_press(self, uploads: Any, compared: Any, event: gr.EventData) -> Update:
        """A comparison is opened in its tab, or the settings of an entry in a form."""
        try:
            if event.do == "use":
                entry = self.service.entry(str(event.entry), self.access())
                return self.drawer.reopen(self.service.job(entry.job_id, self.access()), entry.index, uploads)
            job = self.service.job(str(event.job), self.access())
        except WanUIError as error:
            raise gr.Error(error.message, print_exception=False) from error
        return self.compare.shows(job.id, compared)
