"""The page as its tests use it: where its parts are and how they are used, so that a changed selector is one edit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.ui.fake_app import App

SMALL = {"Width": "64", "Height": "64", "Frames": "5", "Steps": "4"}
MORE = ("Negative prompt", "Sampler", "Flow shift", "Boundary", "High-noise steps", "Low-noise guidance")
"""Fields behind "More settings"."""
FRAMES = """count => new Promise((resolve) => {
    const next = (left) => left ? requestAnimationFrame(() => next(left - 1)) : resolve();
    next(count);
})"""
"""Resolves after so many animation frames."""


def field(page: Page, label: str) -> Locator:
    """A visible control by its label."""
    return page.get_by_label(label, exact=True).locator("visible=true")


def fill(page: Page, **values: str) -> None:
    """Types into controls, by their labels."""
    for label, value in values.items():
        if label in MORE:
            open_more(page)
        field(page, label).fill(value)


def open_more(page: Page) -> None:
    """Opens "More settings"."""
    fold = page.locator("#more > button.label-wrap")
    if "open" not in (fold.get_attribute("class") or "").split():
        fold.click()
    expect(page.locator("#field-recipe")).to_be_visible()


def filled(page: Page) -> None:
    """Waits for the notes that come with the drafts, which would overwrite what is typed before."""
    expect(page.locator(".effective").locator("visible=true")).to_have_count(1)


def open_page(page: Page, app: App, model: str | None = None) -> None:
    """Opens the page and chooses a model by its label."""
    page.goto(app.url)
    expect(field(page, "Width")).to_be_visible()
    filled(page)
    if model is not None:
        choose_model(page, model)


def tab(page: Page, label: str) -> Locator:
    """A tab of the page or of a model."""
    return page.get_by_role("tab", name=label, exact=True)


def choose_model(page: Page, label: str) -> None:
    """Chooses a model in the strip, and waits until the server has confirmed it."""
    if tab(page, label).get_attribute("aria-selected") == "true":
        return
    tab(page, label).click()
    expect(tab(page, label)).to_have_attribute("aria-selected", "true")
    page.wait_for_function("() => !window.wanUi.isFilling('#form')")
    expect(field(page, "Width")).to_be_visible()


def open_tab(page: Page, label: str) -> None:
    """Opens Generate, Compare, Training job or Gallery."""
    tab(page, label).click()
    expect(tab(page, label)).to_have_attribute("aria-selected", "true")


@contextmanager
def followed(page: Page) -> Iterator[None]:
    """Presses something in the block, and waits for the answer and for the look at the page that follows it.

    A look that was asked for before the press may be answered after it, and shows then what was before the press.
    """
    page.evaluate(
        """() => {
            performance.clearResourceTimings(); // the browser keeps 250
            window.pressAnswered = Infinity;
            const note = () => { window.pressAnswered = performance.now(); };
            document.addEventListener('wan-ui-answered', note, { once: true });
        }"""
    )
    yield
    page.wait_for_function(
        """() => performance.getEntriesByType('resource').some(
            ({ name, startTime }) => name.endsWith('/run/predict') && startTime > window.pressAnswered)"""
    )


def form(page: Page) -> Locator:
    """The form with its Generate bar."""
    return page.locator("#bench")


def give_file(page: Page, label: str, path: Path) -> None:
    """Chooses a file in a control of the form."""
    form(page).get_by_label(label, exact=True).set_input_files(path)


def answered(page: Page) -> None:
    """Waits until a press of Generate is answered: another one would be passed over."""
    expect(page.locator("button.generate[aria-busy]")).to_have_count(0)


def generate(page: Page) -> None:
    """Presses Generate."""
    answered(page)
    page.get_by_role("button", name="Generate", exact=True).click()


def waits_with(page: Page, text: str) -> Locator:
    """Presses Generate, which waits and says this meanwhile; returns the button."""
    generate(page)
    button = page.locator("#bench button.generate")
    expect(button).to_have_attribute("aria-busy", "true")
    expect(button).to_have_attribute("data-pressed", text)
    return button


def problem(page: Page) -> Locator:
    """What is said above Generate."""
    return page.locator("#form-problem .problem")


def now(page: Page) -> Locator:
    """The status card."""
    return page.locator("#now")


def used(page: Page, name: str) -> Locator:
    """The value of a fact beside the result."""
    return page.locator("#result .used div").filter(has=page.get_by_text(name, exact=True)).locator("dd")


def small(page: Page, prompt: str, seed: int) -> None:
    """Fills in a small video."""
    fill(page, Prompt=prompt, Seed=str(seed), **SMALL)


def recipe(page: Page, name: str) -> Locator:
    """A recipe's radio button."""
    open_more(page)
    return page.get_by_role("radio", name=name, exact=True).locator("visible=true")


# The Compare tab's axes


def axis_values(page: Page, name: str) -> Locator:
    """The chips of an axis, by its name: Columns, Rows or Pages."""
    return page.locator("#axes .axis").filter(has=page.get_by_label(f"{name}: values", exact=True)).locator(".val")


def type_values(page: Page, name: str, text: str) -> None:
    """Types an axis's values in place of those that it has."""
    box, chips = field(page, f"{name}: values"), axis_values(page, name)
    box.fill("")
    for _ in range(chips.count()):
        box.press("Backspace")
    expect(chips).to_have_count(0)
    box.fill(text)
    box.press("Enter")


# The LoRA block


def lora_block(page: Page) -> Locator:
    """The LoRA block."""
    return page.locator("#loras")


def lora(page: Page, name: str | re.Pattern[str], slot: str | None = None) -> Locator:
    """A chosen LoRA's entry in the block, by a part of its name and its slot."""
    entries = page.locator("#loras .lcard" if slot is None else f'#loras .lcard[data-slot="{slot}"]')
    return entries.filter(has=page.locator(".lname", has_text=name))


def choose_lora(page: Page, source: str, add: bool = False) -> None:
    """Chooses a file in the picker."""
    button = "Add LoRA" if add else "Browse"
    lora_block(page).get_by_role("button", name=button).locator("visible=true").first.click()
    page.locator(f'#loras .picker .step[data-source="{source}"]').click()
    # The block is drawn anew, with other buttons, when the answer is there.
    expect(page.locator(f'#loras .lcard[data-source="{source}"]').first).to_be_visible()


def type_lora(page: Page, address: str) -> None:
    """Types a URL or Hugging Face path in the picker."""
    lora_block(page).get_by_role("button", name="Browse").locator("visible=true").first.click()
    page.get_by_label("URL or Hugging Face path").fill(address)
    page.locator("#loras .picker .address button").click()


def upload_lora(page: Page, path: Path) -> None:
    """Uploads a LoRA file."""
    page.locator("#loras input[type=file]").set_input_files(path)
