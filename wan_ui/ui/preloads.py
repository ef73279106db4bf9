"""The files of Gradio's page that a browser needs to open ours, which the document names before any script runs.

Gradio's document names one script, which imports the next ones, which import those of the components: seven answers
one after the other before anything is drawn. The names are read from the files of the installed Gradio.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import gradio

FRONTEND = Path(gradio.__file__).parent / "templates" / "frontend"
_ENTRY = re.compile(r'(?:src|href)="\./assets/([^"]+\.(?:js|css))"')
_DEPENDENCIES = re.compile(r"m\.f=\[([^\]]*)\]")
_IMPORT = r"import\(`\./({name}[^`]*\.js)`\).*?__vite__mapDeps\(\[([\d,]*)\]\)"


def opening_files(types: Iterable[str]) -> list[str]:
    """The files below `assets/`, in the order in which they are needed, for a page with these types of components.

    A name that this version of Gradio spells differently is left out: the browser then finds it as late as before.
    """
    names = _ENTRY.findall((FRONTEND / "index.html").read_text(encoding="utf-8"))
    entry = next((name for name in names if name.endswith(".js")), None)
    if entry is None:
        return names
    names += _imported(entry, "Index-")
    page = next((name for name in names if name.startswith("Index-") and name.endswith(".js")), None)
    names += _imported(page, "Blocks-") if page else []
    table = next((name for name in names if name.startswith("core-") and name.endswith(".js")), None)
    for kind in types if table else ():
        names += _imported(table, "", after=f"{kind}:{{")
    return list(dict.fromkeys(names))


def _imported(script: str, name: str, after: str = "") -> list[str]:
    """The script that an asset imports by a name, and what that one needs; `after` is what precedes the import."""
    text = (FRONTEND / "assets" / script).read_text(encoding="utf-8")
    named = _DEPENDENCIES.search(text)
    start = re.search(rf"[{{,]{re.escape(after)}", text) if after else re.match("", text)
    if named is None or start is None:
        return []
    text = text[start.end() :]
    if after:
        text = text[text.find("component:") :]
    found = re.search(_IMPORT.format(name=name), text, re.DOTALL)
    if found is None:
        return []
    files = re.findall(r'"\./([^"]+)"', named[1])
    return [found[1], *(files[int(index)] for index in found[2].split(",") if index)]
