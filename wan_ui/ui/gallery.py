"""The Gallery tab: search, play, favourite, delete and reuse finished videos. Its script calls /v1 itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.engine.recipes import RECIPES
from wan_ui.errors import WanUIError
from wan_ui.ui import player
from wan_ui.ui.events import LOAD, POLL, Update, error_toast
from wan_ui.ui.load_request import RequestLoader
from wan_ui.ui.static_files import component_options, static_text
from wan_ui.ui.texts import text_of, translated

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.jobs.service import JobService

ID = "gallery"


class GalleryTab:
    """Holds the tab's component; every method named `on_…` is an event's handler."""

    def __init__(self, service: JobService, access: Callable[[], Access]) -> None:
        """Lays the tab out inside the surrounding gr.Tabs."""
        self.service = service
        self.access = access
        with gr.Tab(text_of("tab.gallery"), id=ID) as self.container:
            self.board = gr.HTML(
                None,
                css_template=static_text("gallery.css"),
                elem_id="gallery",
                recipes={recipe_id: translated(recipe.label) for recipe_id, recipe in RECIPES.items()},
                **component_options("gallery"),
            )

    def connect(self, loader: RequestLoader) -> None:
        """Wires the events."""
        self.loader, self.form, self.compare = loader, loader.form, loader.compare
        self.container.select(None, [], [self.form.open_tab], js=f"() => '{ID}'", **POLL)
        inputs = [self.form.uploads, self.compare.seen]
        outputs: list[Any] = [*loader.loaded, *self.compare.view]
        self.board.click(self.on_press, inputs, outputs, concurrency_limit=8, **LOAD)

    def on_press(self, uploads: Any, compared: Any, event: gr.EventData) -> Update:
        """A comparison, or two videos side by side, are opened in their tab, or the settings of an entry in a form."""
        try:
            if event.do == "pair":
                for entry_id in (event.first, event.second):
                    self.service.entry(str(entry_id), self.access())
                return self.compare.show(player.pair_id(str(event.first), str(event.second)), compared)
            if event.do == "use":
                entry = self.service.entry(str(event.entry), self.access())
                return self.loader.reopen(self.service.job(entry.job_id, self.access()), entry.index, uploads)
            job = self.service.job(str(event.job), self.access())
        except WanUIError as error:
            raise error_toast(error) from error
        return self.compare.show(job.id, compared)
