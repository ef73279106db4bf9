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
    for name in ("Index-", "Blocks-"):
        names += [found for script in _scripts(names) for found in _imported(script, name)]
    tables = [name for name in _scripts(names) if name.startswith("core-")]
    for kind in types:
        names += [found for table in tables for found in _imported(table, "", after=f"{kind}:{{")]
    return list(dict.fromkeys(names))


def _scripts(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith(".js")]


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
