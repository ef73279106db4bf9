"""The page's style sheet, which the document links, so that browsers keep it and the first paint has it."""

from __future__ import annotations

from collections.abc import Iterator

WITHIN = ".gradio-container.gradio-container .contain "
"""Raises a selector above those of Gradio's components, as Gradio does with the style sheet that it is given: it sends
that one within each document, and takes it apart twice in the browser."""
GROUPS = ("@media", "@supports", "@container")


def above_gradio(css: str) -> str:
    """The style sheet with each rule for what is inside of Gradio's page as well, where it outranks Gradio's own.

    No selector of it may have a comma in parentheses.
    """
    return "\n".join(_raised(css))


def _raised(css: str) -> Iterator[str]:
    for head, body in _rules(css):
        if head.startswith(GROUPS):
            yield f"{head} {{\n{above_gradio(body)}\n}}"
        elif head.startswith("@") or "body" in head.split(".")[0]:
            yield f"{head} {{{body}}}"
        else:
            yield f"{', '.join(_selectors(head))} {{{body}}}"


def _selectors(head: str) -> Iterator[str]:
    """A rule's selectors, and the same inside of Gradio's page."""
    yield head
    for selector in map(str.strip, head.split(",")):
        yield f".dark {WITHIN}{selector.removeprefix('.dark ')}" if selector.startswith(".dark ") else WITHIN + selector


def _rules(css: str) -> Iterator[tuple[str, str]]:
    """(what stands before the braces, what stands between them) of each rule of a style sheet without comments."""
    depth, start, opened = 0, 0, 0
    for place, letter in enumerate(css):
        if letter == "{":
            depth += 1
            if depth == 1:
                head, opened = css[start:place].strip(), place + 1
        elif letter == "}":
            depth -= 1
            if depth == 0:
                yield head, css[opened:place].strip()
                start = place + 1
