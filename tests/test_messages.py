"""What the program says to people: every error and note that can reach the page is in the catalogue of each language.

Messages are written in English where they arise. Here they are found in the source: the first argument of every error
that is made, and every sentence of the modules that write notes.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from wan_ui import errors, language
from wan_ui.language import DEFAULT

ROOT = Path(language.__file__).parent
OTHERS = [code for code in language.languages() if code != DEFAULT]
VALUE = "7"  # stands for what a message has in a placeholder
ERRORS = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, errors.WanUIError)}

NO_NOTES = {"Field", "debug", "info", "warning", "error", "exception"}
FOR_PROGRAMMERS = ("AssertionError", "AttributeError", "RuntimeError", "TypeError")

ENGLISH_ONLY = {
    # Answers to programs that write their own HTTP requests; the page's scripts send no such requests.
    "api/bodies.py": "of bodies that are not JSON",
    "api/continuation.py": "of the query of a joined video",
    "api/docs.py": "of the API's documentation",
    "api/error_responses.py": "of routes that do not exist",
    "api/gallery.py": "of ids and bodies that the page writes itself",
    "api/long_texts.py": "of MCP",
    "large_json.py": "of long texts over HTTP and MCP",
    "api/mcp_server.py": "of MCP",
    "api/mcp_tools.py": "of MCP",
    "web/gradio_events.py": "of events that the page does not send",
    "web/gradio_files.py": "of files that the page does not ask for",
    "web/gradio_routes.py": "of routes that the page does not ask for",
    "web/upload_progress.py": "of ids that the page makes itself",
    "web/origin.py": "of foreign pages and hosts, to which the page is not served",
    # Printed in the terminal: there is no page yet.
    "cleanup.py": "at the start",
    "compose.py": "at the start",
    "config.py": "at the start",
    "demo/checkpoints.py": "at the start",
    "demo/trained.py": "at the start",
    "identity.py": "at the start",
    "jobs/lock.py": "at the start",
    "media/__main__.py": "of a command",
    "pool/gpus.py": "at the start",
    "pool/ray_cluster.py": "at the start",
    "server.py": "at the start",
    "tunnel.py": "at the start",
    # Caught where they are raised, or raised for callers that are wrong.
    "checkpoints/sentencepiece.py": "its reader gives another error",
    "engine/live_picture.py": "of a fit by hand",
    "engine/token_exchange.py": "for callers that are wrong",
    "media/video.py": "of odd sizes, which no model has",
    "pool/slot_actor.py": "of a slot that was given no options",
    "text.py": "its caller gives another error",
}
"""The modules some of whose errors are in English alone, each with the reason."""

SHOWN_BY_FIELDS = ("field_errors.py", "request.py", "intake.py", "axes.py", "jobs/service.py", "media/clip_frames.py",
                   "web/upload_quota.py")  # fmt: skip
"""Where an error's message names fields for programs: the page shows the sentences of `details["fields"]`."""

COMPOSED = {
    # A part of these is chosen from several texts in the source, so that no alternative stands there as a whole.
    "checkpoints/configs.py: {} is another model's transformer: it {} the layers for an image encoder.",
    "checkpoints/sources.py: The files here lack {}, which no single file of theirs holds. "
    "Put {} under the models folder.{}",
    "engine/budget.py: This model does not fit the GPU, and the computer's memory, where its weights would stay, has "
    "{} free of about {}. Close other programs, choose a smaller model{} or start with --memory {} to try "
    "all the same.",
    "jobs/clip_writer.py: {} ({}). Check the data folder and its disk.",
    "jobs/store.py: The process ended {} while running this. Try a smaller size, fewer frames or a lower memory mode.",
    "lora/report.py: That it is the {}-noise half is guessed from the file name: swapped names cannot be detected.",
    "media/image.py: The first frame has more than {} pixels{}: make it smaller.",
    "trainer/checklist_rows.py: Trainers of before and after 10 July 2026 leave out other layers.",
    "trainer/folder.py: {} {}: it is skipped.",
    "trainer/job.py: The trainer's base model was quantized ({}){}: its samples cannot be matched exactly.",
}
"""Messages with a part that is a sentence of its own, as `module: message`; test_composed_messages has examples."""

NOTES = (
    "api/serializers.py",
    "checkpoints/bases.py",
    "engine/budget.py",
    "engine/denoiser.py",
    "engine/placement.py",
    "intake.py",
    "jobs/continuation.py",
    "jobs/watcher.py",
    "lora/fit.py",
    "lora/report.py",
    "media/image.py",
    "provenance/lora_search.py",
    "provenance/restoring.py",
    "speed_loras.py",
    "trainer/checklist_rows.py",
    "trainer/folder.py",
    "trainer/job.py",
    "trainer/sample_block.py",
)
"""The modules that write sentences about a request, a file or a job, beside errors."""


@dataclass(frozen=True)
class Message:
    """A message of a module of the package; its placeholders are `{}`."""

    module: str
    text: str

    @property
    def example(self) -> str:
        """The message with a value in each placeholder, but for one that is put before its first word."""
        return re.sub(r"^\{\}(?=[A-Z])", "", self.text).replace("{}", VALUE)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


@cache
def modules() -> Sequence[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def texts_of(node: ast.AST) -> list[str]:
    """The texts that an expression may have: of a condition both, of an f-string with `{}` for its values."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.IfExp):
        return texts_of(node.body) + texts_of(node.orelse)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [left + right for left in texts_of(node.left) for right in texts_of(node.right)]
    if not isinstance(node, ast.JoinedStr):
        return []
    made = [""]
    for part in node.values:
        parts = texts_of(part.value if isinstance(part, ast.FormattedValue) else part) or ["{}"]
        made = [before + after for before in made for after in parts]
    return made


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def made_errors(module: str) -> Iterator[Message]:
    """The messages of the errors that a module makes, and of what else it raises with a text, but for single words."""
    raised = {node.exc for node in ast.walk(tree(module)) if isinstance(node, ast.Raise)}
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        if name_of(node) in ERRORS or (node in raised and name_of(node) not in FOR_PROGRAMMERS):
            found = (text for text in texts_of(node.args[0]) if " " in text and not text.startswith("the "))
            yield from (Message(module, text) for text in found)


def sentences(module: str) -> Iterator[Message]:
    """The sentences of a module that are neither documentation nor of an error, a log or the API's schema."""
    for text in texts_outside(tree(module)):
        if re.fullmatch(r"[A-Z{].*\w.* .* .*\.", text, re.DOTALL):
            yield Message(module, text)


def texts_outside(node: ast.AST) -> Iterator[str]:
    """The texts of a syntax tree outside of docstrings, errors, logs and descriptions."""
    for child in ast.iter_child_nodes(node):
        is_docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if is_docstring or (isinstance(child, ast.Call) and name_of(child) in ERRORS | NO_NOTES):
            continue
        found = texts_of(child)
        yield from found
        if not found:
            yield from texts_outside(child)


@cache
def made_errors_of_the_page() -> Sequence[Message]:
    shown = [module for module in modules() if module not in (*ENGLISH_ONLY, *SHOWN_BY_FIELDS)]
    return [message for module in shown for message in made_errors(module)]


@cache
def notes_of_the_page() -> Sequence[Message]:
    return [message for module in NOTES for message in sentences(module)]


def missing(code: str, messages: Sequence[Message]) -> list[str]:
    """The messages that a language does not have, as `module: message`."""
    return sorted(
        {f"{message.module}: {message.text}" for message in messages if not is_known(code, message)} - COMPOSED
    )


def is_known(code: str, message: Message) -> bool:
    is_only_values = re.sub(r"[{}\W]", "", message.text) == ""  # another error's message, with its name
    return is_only_values or language.translate(code, message.example) != message.example


@pytest.mark.parametrize("code", OTHERS)
def test_every_error_that_can_reach_the_page_is_in_the_catalogue(code: str):
    assert len(made_errors_of_the_page()) > 300
    assert missing(code, made_errors_of_the_page()) == []


@pytest.mark.parametrize("code", OTHERS)
def test_every_note_that_can_reach_the_page_is_in_the_catalogue(code: str):
    assert len(notes_of_the_page()) > 100
    assert missing(code, notes_of_the_page()) == []


@pytest.mark.parametrize("module", ENGLISH_ONLY)
def test_what_is_in_english_alone_is_not_in_the_catalogue(module: str):
    """Otherwise the module's name can be taken from the list."""
    assert [message for message in made_errors(module) if not is_known("zh", message)] != []


def test_what_is_composed_is_not_in_the_catalogue_as_it_stands():
    """Otherwise it can be taken from the list."""
    made = [*made_errors_of_the_page(), *notes_of_the_page()]
    assert {f"{message.module}: {message.text}" for message in made if not is_known("zh", message)} == COMPOSED


@pytest.mark.parametrize("field_message", ["must be at least 3", "is missing", "must be 'reference' or 'preview'"])
def test_sentences_about_fields_are_in_the_catalogue(field_message: str):
    assert language.translate("zh", field_message) != field_message


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("a.gguf is another model's transformer: it lacks the layers for an image encoder.", "缺少图像编码器的层"),
        ("a.pt is a PyTorch pickle (.pt, .pth, .ckpt, .bin). Pickles can run code and are not opened. Use the same "
         "weights as a .safetensors file.", "请使用相同权重的"),
        ("The folder for videos cannot be created (Read-only file system). Check the data folder and its disk.",
         "无法创建视频文件夹"),
        ("The process ended 3 times while running this. Try a smaller size, fewer frames or a lower memory mode.",
         "进程退出了 3 次"),
        ("The first frame has more than 9 pixels (5 × 4): make it smaller.", "首帧超过 9 像素"),
        ("the GPU 1: The video was cancelled.", "视频已取消。"),
        ("a.png is encrypted: it is skipped.", "已加密"),
        ("That it is the high-noise half is guessed from the file name: swapped names cannot be detected.", "高噪"),
        ("The sample's base model was quantized: it cannot be matched exactly. Trainers of before and after 10 July "
         "2026 leave out other layers.", "跳过的层不同"),
        ("The trainer's base model was quantized (qfloat8) with an accuracy recovery adapter: its samples cannot be "
         "matched exactly.", "并带精度恢复适配器"),
        ("2 of 4 cells failed; scale 1: The GPU ran out of memory. Try a smaller width, height or frame count, close "
         "other programs that use the GPU, or start with --memory stream where it is not on yet. The others are kept, "
         "and a retry renders only what failed.", "显存不足。"),
        ("The job cannot be read: this is a RAR archive. Give the job's config.yaml, or its folder as a ZIP.",
         "这是RAR 压缩包。"),
        ("Prompt 2: 100 × 60 became 96 × 32: Wan 2.2 TI2V 5B takes sides that are multiples of 32.",
         "100 × 60 已改为 96 × 32"),
    ],
)  # fmt: skip
def test_composed_messages_are_told_by_their_parts(english: str, chinese: str):
    known = language.translate("zh", english)
    assert chinese in known
    assert not re.search(r"[a-z]{2,} [a-z]{2,} [a-z]{2,} [a-z]{2,}", known)


# Keys that nothing uses


@dataclass(frozen=True)
class Sources:
    """What the sources have: the keys that are named, patterns of keys that are put together, and all their texts."""

    keys: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]
    texts: str


@cache
def sources() -> Sources:
    texts = [
        text
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Constant | ast.JoinedStr)
        for text in texts_of(node)
    ]
    starts = {
        node.left.value
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.BinOp) and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)
    }
    keys, made = set(texts), {text for text in texts if "{}" in text} | {f"{start}{{}}" for start in starts}
    for path in (*ROOT.rglob("*.js"), *ROOT.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        keys |= set(re.findall(r"""['"\[]([\w.]+)['"\]]""", text))
        made |= {re.sub(r"\$\{[^}]*\}", "{}", key) for key in re.findall(r"`([\w.]*\$\{[\w.${}\[\]]*)`", text)}
        made |= {f"{start}{{}}" for start in re.findall(r"""['"]([\w.]+\.)['"] *[~+]""", text)}
    patterns = [key for key in made if re.fullmatch(r"\w[\w.{}]*", key) and "." in key]
    return Sources(
        frozenset(keys),
        tuple(re.compile(r"[\w.]+".join(map(re.escape, key.split("{}")))) for key in patterns),
        "\n".join(texts).lower(),
    )


def is_used(key: str) -> bool:
    names = (key, key.removeprefix("script."))  # the page's scripts leave the section's name out
    return any(name in sources().keys or any(made.fullmatch(name) for made in sources().patterns) for name in names)


def is_said(text: language.Text) -> bool:
    """Whether the parts of a message, between values and punctuation, are in the sources."""
    forms = [text] if isinstance(text, str) else text.values()
    parts = [part.strip().lower() for form in forms for part in re.split(r"\{\w+\}|[.,:;()×]", form)]
    return all(part in sources().texts for part in parts)


PUT_TOGETHER = {
    "That it is the high-noise half is guessed from the file name: swapped names cannot be detected.",
    "That it is the low-noise half is guessed from the file name: swapped names cannot be detected.",
    "{speedup} cannot be combined with the recipe {recipe}, which matches training samples exactly: set it to none, or "
    "the recipe to reference",
    "{file} is another model's transformer: it has the layers for an image encoder.",
    "{file} is another model's transformer: it lacks the layers for an image encoder.",
    "{field} sets what the columns' {other} sets",
    "{field} sets what the rows' {other} sets",
    "{field} sets what the pages' {other} sets",
    "This model does not fit the GPU, and the computer's memory, where its weights would stay, has {free} free of "
    "about {needed}. Close other programs, choose a smaller model or start with --memory {mode} to try all the same.",
    "The computer's memory holds one of the two transformers at a time: each change between them reads it again from "
    "the page cache or the disk.",
    "The process ended once while running this. Try a smaller size, fewer frames or a lower memory mode.",
}
"""Messages whose words are put together in the source, so that they do not stand there."""


def test_every_key_of_the_catalogue_is_used():
    keys = [key for key in language.catalogue(DEFAULT) if not key.startswith(("messages.", "language."))]
    assert [key for key in keys if not is_used(key)] == []


def test_every_message_of_the_catalogue_is_said_somewhere():
    messages = [text for key, text in language.catalogue(DEFAULT).items() if key.startswith("messages.")]
    not_said = {str(text) for text in messages if not is_said(text)}
    assert not_said == PUT_TOGETHER, "remove what nothing says any more"
