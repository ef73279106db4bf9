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
# Gradio's SemiBold file lacks most letters, which would be drawn in another font.
FONTS = {400: "Regular", 600: "Bold"}
SCRIPT = f"{static_text('opening_frames.js')}window.wanUiPage = {page_script()};"
"""The page's script: it is loaded before Gradio, which calls the function once its components are there."""


@dataclass(frozen=True)
class PageDocument:
    """The document's additions, and the files that they name."""

    additions: Additions
    files: Sequence[PageFile]


def page_document(types: Iterable[str]) -> PageDocument:
    """For a page with components of these types."""
    names = opening_files(types)
    scripts = [PageFile(f"assets/{name}", _asset(name)) for name in names if name.endswith(".js")]
    # Gradio loads these one by one, each as its component's script is there; together they are one request. The first
    # one stands in Gradio's own document.
    first, *styles = [name for name in names if name.endswith(".css")]
    gradio_style = PageFile.named_by_content("assets", "opening", "css", b"\n".join(map(_asset, styles)))
    fonts = {weight: PageFile.named_by_content("fonts", f"plex-{weight}", "woff2", _font(weight)) for weight in FONTS}
    css = style_sheet()
    for weight, font in fonts.items():
        css = css.replace(f"FONT-{weight}", f"../{font.path}")
    style = PageFile.named_by_content("styles", "page", "css", above_gradio(css).encode())
    script = PageFile.named_by_content("scripts", "page", "js", SCRIPT.encode())
    head = render_template(
        "document_head",
        fonts=[font.path for font in fonts.values()],
        styles=[gradio_style.path, style.path],
        contained=[f"assets/{name}" for name in styles],
        script=script.path,
        scripts=[file.path for file in scripts],
    )
    body = render_template("skeleton", styles=[gradio_style.path, style.path])
    files = (PageFile(f"assets/{first}", _asset(first)), gradio_style, style, script, *fonts.values(), *scripts)
    return PageDocument(Additions(str(head), str(body)), files)


def style_sheet() -> str:
    """The page's style sheet as it is written."""
    return "\n".join(static_text(f"{name}.css") for name in STYLE_SHEETS)


def _asset(name: str) -> bytes:
    return (FRONTEND / "assets" / name).read_bytes()


def _font(weight: int) -> bytes:
    return (FRONTEND / "static" / "fonts" / "IBMPlexSans" / f"IBMPlexSans-{FONTS[weight]}.woff2").read_bytes()
