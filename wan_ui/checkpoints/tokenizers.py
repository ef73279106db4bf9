"""Builds the text encoder's tokenizer from a SentencePiece vocabulary, with the ids that the trainer's has.

A ComfyUI text encoder carries `spiece.model` as a tensor, a GGUF one its vocabulary as metadata, and some repositories
have `spiece.model` alone. From each a `tokenizers` Unigram model is made, in the way transformers converts T5's: the
compiled character map, words marked with `▁`, `</s>` at the end.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from wan_ui.checkpoints import gguf_files
from wan_ui.checkpoints.gguf_files import GgufError
from wan_ui.checkpoints.headers import GGUF_TOKENS, SPIECE_TENSOR, FileHeader, read_small
from wan_ui.checkpoints.sentencepiece import CONTROL, LARGEST_MODEL, UNKNOWN, Piece, SentencePieceModel, parse_model
from wan_ui.errors import CheckpointIncomplete, CheckpointInvalid

PAD, END, UNKNOWN_TEXT = "<pad>", "</s>", "<unk>"
MODEL_MAX_LENGTH = 512


def tokenizer_of_folder(folder: Path, shown: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder in transformers' layout, one with `spiece.model` alone included.

    Raises CheckpointIncomplete for a folder without a vocabulary, CheckpointInvalid for one that cannot be read.
    """
    if (folder / "tokenizer.json").is_file():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        return tokenizer
    spiece = folder / "spiece.model"
    try:
        with spiece.open("rb") as file:
            raw = file.read(LARGEST_MODEL + 1)
    except OSError as error:
        raise CheckpointIncomplete(
            f"{shown} has neither tokenizer.json nor spiece.model. Copy or download it again.", file=shown
        ) from error
    return build_tokenizer(parse_model(raw, f"{shown}/spiece.model"))


def tokenizer_of_file(header: FileHeader) -> PreTrainedTokenizerBase:
    """The tokenizer that a text encoder's file brings. Raises CheckpointInvalid where its vocabulary is damaged."""
    if header.kind == "gguf":
        return build_tokenizer(_gguf_model(header))
    entry = header.tensors[SPIECE_TENSOR]
    if entry.dtype not in ("U8", "I8") or entry.end - entry.start > LARGEST_MODEL:
        raise _no_vocabulary(header)
    return build_tokenizer(parse_model(read_small(header, SPIECE_TENSOR), f"{header.name}, its tokenizer"))


def _no_vocabulary(header: FileHeader) -> CheckpointInvalid:
    return CheckpointInvalid(f"{header.name} has no sound vocabulary. Download it again.", file=header.name)


def _gguf_model(header: FileHeader) -> SentencePieceModel:
    """The vocabulary of a GGUF text encoder, as llama.cpp writes T5's."""
    keys = (GGUF_TOKENS, "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
    try:
        with header.path.open("rb") as file:
            texts = gguf_files.read_strings(file, header.arrays[keys[0]])
            scores = gguf_files.read_numbers(file, header.arrays[keys[1]])
            kinds = gguf_files.read_numbers(file, header.arrays[keys[2]])
            character_map = b""
            if "tokenizer.ggml.precompiled_charsmap" in header.arrays:
                numbers = gguf_files.read_numbers(file, header.arrays["tokenizer.ggml.precompiled_charsmap"])
                character_map = bytes(int(number) & 0xFF for number in numbers)
        pieces = tuple(
            Piece(text, float(score), int(kind)) for text, score, kind in zip(texts, scores, kinds, strict=True)
        )
    except (GgufError, KeyError, ValueError) as error:
        raise _no_vocabulary(header) from error
    return SentencePieceModel(pieces, character_map)


def build_tokenizer(model: SentencePieceModel) -> PreTrainedTokenizerBase:
    """A tokenizer of these pieces: `</s>` at the end, padding with `<pad>`, ids equal to the pieces' positions."""
    texts = [piece.text for piece in model.pieces]
    vocabulary = [(piece.text, piece.score) for piece in model.pieces]
    # transformers' converter of T5's has no byte fallback either, whatever the SentencePiece model asks for.
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=model.unknown_id, byte_fallback=False))
    steps: list[normalizers.Normalizer] = []
    if model.character_map:
        steps.append(normalizers.Precompiled(model.character_map))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme="always" if model.add_dummy_prefix else "never"
    )
    end_id = texts.index(END) if END in texts else None
    if end_id is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, end_id)]
        )
    special = [piece.text for piece in model.pieces if piece.kind in (CONTROL, UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    unknown = texts[model.unknown_id]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=unknown,
        model_max_length=MODEL_MAX_LENGTH,
    )
