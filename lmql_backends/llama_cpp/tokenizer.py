"""The vocabulary of a GGUF file: bytes, special ids and encoding as llama.cpp itself has them.

`dctokenizers.from_gguf` reads the same files without llama.cpp, the kinds that it knows, in seconds.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from dcmodel.errors import ModelLoadError
from dctokenizers import Tokenizer, TokenizerError, Vocabulary
from dctokenizers.probe import check
from lmql_backends.llama_cpp.codec import UTF8_BYTES, LlamaCodec
from lmql_backends.llama_cpp.model import LlamaModel, open_model

UNKNOWN, UNUSED, CONTROL, USER_DEFINED = 1 << 0, 1 << 1, 1 << 3, 1 << 4
NO_VOCABULARY = 0
# Kinds whose words begin with a blank, which the first word of a prompt may get, too.
SENTENCEPIECE, UNIGRAM = 1, 4
LONGEST_PIECE = 256
# Of gpt-oss: control tokens all the same.
SHOWN = frozenset((b"<|channel|>", b"<|message|>", b"<|start|>", b"<|constrain|>", b"<|end|>"))
SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
# It puts a blank before a text as well.
MERGES_SPACES = "tokenizer.ggml.remove_extra_whitespaces"
BOOLEAN = 2


def load_tokenizer(path: Path, *, name: str) -> Tokenizer:
    """The tokenizer of a GGUF file. It holds the vocabulary by itself: the weights may go before it.

    Raises `ModelNotFoundError`, or `ModelLoadError` where the file is none or has no vocabulary.
    """
    start, model = _open(path)
    c, vocab = model.lib.c, model.vocab
    if c.llama_vocab_type(vocab) == NO_VOCABULARY:
        raise ModelLoadError(
            f"{path} has no vocabulary.", remedy="Convert the model again, with its tokenizer's files."
        )
    size = model.vocab_size
    attributes = [c.llama_vocab_get_attr(vocab, token_id) for token_id in range(size)]
    pieces = [_piece(c, vocab, token_id) for token_id in range(size)]
    for token_id, kinds in enumerate(attributes):
        # Control tokens with such a name count as unused, too.
        if kinds & UNUSED and not (kinds & CONTROL and b"unused" in pieces[token_id]):
            pieces[token_id] = b""
    special = [
        token_id
        for token_id, kinds in enumerate(attributes)
        if pieces[token_id] and (kinds & (UNKNOWN | CONTROL) or _is_shown(pieces[token_id], kinds))
    ]
    if c.llama_vocab_type(vocab) == SENTENCEPIECE:
        _check_bytes(path, pieces)
    bos = c.llama_vocab_bos(vocab)
    # A file that names none has its kind's usual one, which may be beyond its own.
    bos_token_id = bos if 0 <= bos < size else None
    adds_bos = bool(c.llama_vocab_get_add_bos(vocab)) and bos_token_id is not None
    tokenizer = Tokenizer(
        name=name,
        vocabulary=Vocabulary(pieces, special),
        codec=LlamaCodec(model, start, pieces, unknown_token_id=_unknown(model, attributes)),
        bos_token_id=bos_token_id,
        eos_token_ids=_ends(c, vocab, pieces),
        prompt_token_ids=[bos] if adds_bos else [],
    )
    try:
        return check(tokenizer)
    except TokenizerError as error:
        raise ModelLoadError(f"the vocabulary of {path} cannot be used: {error}") from error


def chat_template(model: LlamaModel) -> str:
    """The Jinja source of the file's chat template; empty where it has none."""
    return model.metadata.get("tokenizer.chat_template", "")


def _open(path: Path) -> tuple[LlamaModel, LlamaModel]:
    """The vocabulary as it begins a prompt, and one that puts no blank before a text (perhaps the same)."""
    start = open_model(path, vocab_only=True)
    kind = start.lib.c.llama_vocab_type(start.vocab)
    usual = {SPACE_PREFIX: kind == SENTENCEPIECE, **({MERGES_SPACES: False} if kind == UNIGRAM else {})}
    if not any(start.metadata.get(key, str(value).lower()) == "true" for key, value in usual.items()):
        return start, start
    overrides = (start.lib.c.llama_model_kv_override * (len(usual) + 1))()
    for override, key in zip(overrides, usual, strict=False):  # the last, empty one ends the list
        override.tag, override.key = BOOLEAN, key.encode()

    def without_prefix(params: Any) -> None:
        params.kv_overrides = overrides

    return start, open_model(path, vocab_only=True, configure=without_prefix)


def _unknown(model: LlamaModel, attributes: list[int]) -> int | None:
    """What stands for characters without a token: as the file says, or the first of that kind."""
    said = model.metadata.get("tokenizer.ggml.unknown_token_id")
    kinds = (token_id for token_id, attribute in enumerate(attributes) if attribute & UNKNOWN)
    return int(said) if said is not None else next(kinds, None)


def _piece(c: Any, vocab: Any, token_id: int) -> bytes:
    """The bytes of one token, however long."""
    buffer = ctypes.create_string_buffer(LONGEST_PIECE)
    length = c.llama_token_to_piece(vocab, token_id, buffer, len(buffer), 0, True)
    if length < 0:
        buffer = ctypes.create_string_buffer(-length)
        length = c.llama_token_to_piece(vocab, token_id, buffer, len(buffer), 0, True)
    return buffer.raw[: max(0, length)]


def _is_shown(piece: bytes, kinds: int) -> bool:
    """Whether llama.cpp calls a control token one of the user's, so that its programs print it."""
    return bool(kinds & USER_DEFINED) and piece in SHOWN


def _check_bytes(path: Path, pieces: list[bytes]) -> None:
    """Raise `ModelLoadError` where llama.cpp would end the process at the first unknown character."""
    missing = sorted(UTF8_BYTES - {piece[0] for piece in pieces if len(piece) == 1})
    if missing:
        raise ModelLoadError(
            f"the vocabulary of {path} has no token for the byte 0x{missing[0]:02X}, which llama.cpp needs.",
            remedy="Convert the model again, with its tokenizer's files.",
        )


def _ends(c: Any, vocab: Any, pieces: list[bytes]) -> list[int]:
    """What ends a text, the file's own end first."""
    found = [
        token_id for token_id, piece in enumerate(pieces) if piece and c.llama_vocab_is_eog(vocab, token_id)
    ]
    eos = c.llama_vocab_eos(vocab)
    return [token_id for token_id in (eos, *found) if 0 <= token_id < len(pieces)]
