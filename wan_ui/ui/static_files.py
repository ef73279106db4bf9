"""The page's scripts, style sheets and component templates, read from the folder `static`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from wan_ui.ui.texts import with_texts

HELPERS = ("texts", "arithmetic", "snippets", "elements")
"""Scripts whose functions all others use."""
PAGE = (
    "gradio_dom",
    "frame",
    "roving",
    "held_press",
    "page",
    "pressed",
    "stream",
    "machine",
    "stage",
    "progress_title",
    "autoplay",
    "comparison_link",
    "share",
    "judging",
    "first_frame",
    "form_tools",
    "field_errors",
    "code",
)
"""Scripts of the page itself, in the order in which they run."""
COMPONENTS = (
    "model_strip",
    "lora_block",
    "size_chips",
    "compare_axes",
    "base_choice",
    "look",
    "player",
    "result_acts",
    "pick_card_action",
    "pick_job",
    "restore",
    "pick_check",
    "pick_sample",
    "wall",
    "gallery",
)
"""Scripts of components, each the body of a function: they are sent once, with the page's own script."""

_FOLDER = Path(__file__).parent / "static"
# Comments are for whoever reads the files; they were a tenth of the page's document.
_COMMENTS = {
    "js": re.compile(r"^[ \t]*(?://.*|/\*\*(?s:.*?)\*/)\n", re.MULTILINE),
    "css": re.compile(r"/\*.*?\*/\s*", re.DOTALL),
}
_PARAMETERS = "element, props, trigger, watch, upload"
_RUN = """
const run = () => window.wanUiScripts.NAME(PARAMETERS);
if (window.wanUiScripts) run();
else document.addEventListener('wan-ui-scripts', run, {once: true});
"""


def static_text(name: str) -> str:
    """The text of one file of the folder `static`; of scripts and style sheets without comments that fill lines."""
    text = (_FOLDER / name).read_text(encoding="utf-8")
    comment = _COMMENTS.get(name.rpartition(".")[2])
    return text if comment is None else comment.sub("", text)


def component_html(name: str) -> str:
    """The `html_template` of a component, in the current language: a `[[key]]` in it is a text of the catalogue."""
    return with_texts(static_text(f"{name}.html"))


def component_script(name: str) -> str:
    """The `js_on_load` of a component: runs its script of `COMPONENTS`, or waits until the page's script defines it."""
    return _RUN.replace("NAME", name).replace("PARAMETERS", _PARAMETERS)


def component_options(name: str) -> dict[str, Any]:
    """The arguments of gr.HTML for a component with a template and a script of its own."""
    return {"html_template": component_html(name), "js_on_load": component_script(name), "apply_default_css": False}


def page_script() -> str:
    """All scripts as the function that Gradio calls when the page has loaded: helpers, page, components."""
    functions = ",\n".join(f"{name}: ({_PARAMETERS}) => {{\n{static_text(f'{name}.js')}\n}}" for name in COMPONENTS)
    components = f"window.wanUiScripts = {{\n{functions}\n}};"
    own = "\n".join(static_text(f"{name}.js") for name in (*HELPERS, *PAGE))
    ready = "document.dispatchEvent(new Event('wan-ui-scripts'));"
    return f"() => {{\nif (window.wanUi) return;\n{own}\n{components}\n{ready}\n}}"
