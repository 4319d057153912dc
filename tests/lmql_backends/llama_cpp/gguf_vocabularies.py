"""Small vocabularies as GGUF files without weights."""

from __future__ import annotations

from pathlib import Path

import gguf

from dctokenizers.byte_level import byte_to_char

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def save_vocabulary(path: Path, *, architecture: str = "llama", template: str = "", **fields) -> Path:
    """A file with the given tokenizer.ggml.* values."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        writer.add_key_value(f"tokenizer.ggml.{key}", value, *_type(value))
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def _type(value) -> tuple[gguf.GGUFValueType, ...]:
    if isinstance(value, list):
        return gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.get_type(value[0])
    if isinstance(value, int) and not isinstance(value, bool):
        return (gguf.GGUFValueType.UINT32,)
    return (gguf.GGUFValueType.get_type(value),)


def byte_level_fields(**more) -> dict:
    """Byte-level BPE: ids 0 to 255 are the bytes, 256 to 259 words, then some of each type."""
    pieces = [*byte_to_char(), "he", "ll", "hell", "hello", "<|end|>", "<|x|>", "user", "[PAD]"]
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": pieces,
        "token_type": [NORMAL] * 260 + [CONTROL, CONTROL, USER_DEFINED, UNUSED],
        "merges": ["h e", "l l", "he ll", "hell o"],
        "eos_token_id": 261,
        "bos_token_id": 261,
        **more,
    }


def sentencepiece_fields(*pieces: str, **more) -> dict:
    """SentencePiece: <unk>, <s>, </s>, 256 bytes, then letters, words, and `pieces`."""
    letters = ["\u2581", *"abcdehlo", "he", "ll", "hell", "hello", "\u2581hello", "\u2581a", *pieces]
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *letters]
    return {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * 259 + [-float(number) for number in range(len(letters), 0, -1)],
        "token_type": [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(letters)],
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }
