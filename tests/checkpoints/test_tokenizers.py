"""Token ids from a SentencePiece vocabulary, equal to those of tokenizer.json."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.golden_cases import GOLDEN
from wan_ui.checkpoints.headers import brings_vocabulary, read_header
from wan_ui.checkpoints.sentencepiece import NORMAL, parse_model
from wan_ui.checkpoints.tokenizers import tokenizer_of_file, tokenizer_of_folder
from wan_ui.errors import CheckpointIncomplete, CheckpointInvalid

SINGLE = GOLDEN / "single_files"
SPIECE = SINGLE / "tokenizer_spiece/spiece.model"
TEXT_ENCODERS = SINGLE / "models/text_encoders"

PROMPTS = (
    "a red circle moving left",
    "",
    "A Red Circle, moving LEFT!",
    "日本語 红色",
    "don't — “quotes” … 100%",
    "x" * 3000,
    "two\nlines\tand  spaces",
    "emoji 🙂 ok",
    "  spaces around  ",
    "Ünïcödé ﬁ ½ \uff21",
    "a,b;c:d (e) [f] {g}",
    "low quality, blurry, jpeg artifacts",
)


def trainers_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        SINGLE / "configs/ai-toolkit/umt5_xxl_encoder/tokenizer"
    )
    return tokenizer


def encoded(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[list[int], list[int]]:
    """As the engine asks for it."""
    tokens = tokenizer(
        [prompt_clean(prompt)],
        padding="max_length",
        max_length=512,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
    )
    return tokens.input_ids[0], tokens.attention_mask[0]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_ids_are_those_of_tokenizer_json(prompt: str) -> None:
    wanted = encoded(trainers_tokenizer(), prompt)
    assert encoded(tokenizer_of_folder(SPIECE.parent, "tokenizer"), prompt) == wanted
    for name in ("umt5_xxl_fp16.safetensors", "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "umt5-xxl-encoder-Q8_0.gguf"):
        header = read_header(TEXT_ENCODERS / name, name)
        assert brings_vocabulary(header)
        assert encoded(tokenizer_of_file(header), prompt) == wanted, name


def test_wans_own_text_encoder_brings_no_vocabulary() -> None:
    assert not brings_vocabulary(read_header(TEXT_ENCODERS / "umt5-xxl-enc-bf16.safetensors", "umt5"))


def test_a_folder_with_tokenizer_json_is_read_as_before() -> None:
    folder = SINGLE / "configs/ai-toolkit/umt5_xxl_encoder/tokenizer"
    assert encoded(tokenizer_of_folder(folder, "tokenizer"), PROMPTS[0]) == encoded(trainers_tokenizer(), PROMPTS[0])


def test_a_folder_without_vocabulary_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointIncomplete):
        tokenizer_of_folder(tmp_path, "tokenizer")


def test_pieces_are_read_in_order() -> None:
    model = parse_model(SPIECE.read_bytes(), "spiece.model")
    assert [piece.text for piece in model.pieces[:3]] == ["<pad>", "</s>", "<unk>"]
    assert model.unknown_id == 2 and model.pieces[3].kind == NORMAL
    assert model.add_dummy_prefix and model.remove_extra_whitespaces


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x7f", b"<html>", b"\x12\x02\x18\x02", SPIECE.read_bytes()[:-3]],
)
def test_what_is_no_vocabulary_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointInvalid):
        parse_model(content, "spiece.model")


def test_mutated_vocabularies_are_refused_or_read() -> None:
    content, random_source = SPIECE.read_bytes(), random.Random(14)
    for _ in range(2000):
        changed = bytearray(content)
        for _ in range(random_source.randint(1, 8)):
            changed[random_source.randrange(len(changed))] = random_source.randrange(256)
        with contextlib.suppress(CheckpointInvalid):
            parse_model(bytes(changed), "spiece.model")
