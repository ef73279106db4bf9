"""What the page's document carries beside Gradio's own: files named at once, style sheet, script and skeleton."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wan_ui.ui.preloads import FRONTEND, opening_files
from wan_ui.ui.static_files import page_script, static_text
from wan_ui.ui.style_sheet import above_gradio
from wan_ui.ui.templating import render_template
from wan_ui.web.page_files import PageFile
from wan_ui.web.page_language import Additions

STYLE_SHEETS = ("tokens", "style", "form", "machine", "stage", "share", "board")
SCRIPT = f"window.wanUiPage = {page_script()};"
"""The page's script: it is loaded before Gradio, which calls the function once its components are there."""


@dataclass(frozen=True)
class PageDocument:
    """The document's additions, and the files that they name."""

    additions: Additions
    files: Sequence[PageFile]


def page_document(types: Iterable[str]) -> PageDocument:
    """For a page with components of these types."""
    opening = [PageFile(f"assets/{name}", (FRONTEND / "assets" / name).read_bytes()) for name in opening_files(types)]
    fonts = {
        weight: PageFile.named_by_content("fonts", f"plex-{weight}", "woff2", _font(name))
        for weight, name in ((400, "Regular"), (600, "Bold"))
    }
    css = "\n".join(static_text(f"{name}.css") for name in STYLE_SHEETS)
    for weight, font in fonts.items():
        css = css.replace(f"FONT-{weight}", f"../{font.path}")
    style = PageFile.named_by_content("styles", "page", "css", above_gradio(css).encode())
    script = PageFile.named_by_content("scripts", "page", "js", SCRIPT.encode())
    head = render_template(
        "document_head",
        fonts=[font.path for font in fonts.values()],
        style=style.path,
        script=script.path,
        scripts=[file.path for file in opening if file.suffix == "js"],
        styles=[file.path for file in opening if file.suffix == "css"],
    )
    additions = Additions(str(head), str(render_template("skeleton", style=style.path)))
    return PageDocument(additions, (style, script, *fonts.values(), *opening))


def _font(name: str) -> bytes:
    return (FRONTEND / "static" / "fonts" / "IBMPlexSans" / f"IBMPlexSans-{name}.woff2").read_bytes()
