"""Text to token ids with llama.cpp's own tokenizer."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path

from dctokenizers import MissingPackageError, TokenizerError, from_gguf
from dctokenizers.codec import Codec, PortableCodec
from lmql_backends.llama_cpp.model import LlamaModel

SPACE_MARK = "\u2581"
BYTE_LEVEL, WORDPIECE, UNIGRAM, PLAMO = 2, 3, 4, 6
# Kinds that rewrite a text before they cut it.
LOSSY = (WORDPIECE, UNIGRAM)
# Those that may be part of UTF-8.
UTF8_BYTES = frozenset([*range(0xC0), *range(0xC2, 0xF5)])
BYTE = 1 << 5


class LlamaCodec(Codec):
    """Encodes with the vocabularies of two models, which belong to it."""

    def __init__(
        self, model: LlamaModel, start: LlamaModel, pieces: Sequence[bytes], *, unknown_token_id: int | None
    ) -> None:
        """`model` puts nothing before a text; `start` what stands before a prompt. `pieces`: bytes by id."""
        self._model = model
        self._start = start
        c, vocab = model.lib.c, model.vocab
        self._bytes = {
            piece[0]: token_id
            for token_id, piece in enumerate(pieces)
            if len(piece) == 1 and c.llama_vocab_get_attr(vocab, token_id) & BYTE
        }
        kind = c.llama_vocab_type(vocab)
        spells_all = {piece[0] for piece in pieces if len(piece) == 1} >= UTF8_BYTES
        self.is_lossless = spells_all and kind not in LOSSY
        self.drops_unknown = not spells_all and kind == BYTE_LEVEL
        self.unknown_token_id = None if kind in (BYTE_LEVEL, PLAMO) else unknown_token_id
        # What SentencePiece writes for a blank is a letter of its own in a text, except where the text of
        # special tokens is read, which may hold it.
        self._marks = re.compile(f"({SPACE_MARK}+)") if len(self._bytes) == 256 else None
        self._packing = threading.Lock()
        self._is_packed = False
        self._portable: PortableCodec | None = None

    @property
    def has_prefix(self) -> bool:
        return self._start is not self._model

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        return self._encode(self._model, text, parse_special)

    def encode_start(self, text: str, *, parse_special: bool) -> list[int]:
        return self._encode(self._start, text, parse_special)

    def portable(self) -> PortableCodec | None:
        """As `from_gguf` reads the file, which encodes alike; whoever unpacks it checks that it does.

        Reading takes seconds; it is done once.
        """
        with self._packing:
            if not self._is_packed:
                self._portable = _without_llama_cpp(self._start.path)
                self._is_packed = True
        return self._portable

    def _encode(self, first: LlamaModel, text: str, parse_special: bool) -> list[int]:
        """`first` encodes what stands before the first mark."""
        if self._marks is None or parse_special or SPACE_MARK not in text:
            return _tokenize(first, text, parse_special)
        token_ids: list[int] = []
        for part in self._marks.split(text):
            if part.startswith(SPACE_MARK):
                token_ids += [self._bytes[byte] for byte in part.encode()]
            else:
                token_ids += _tokenize(first, part, parse_special)
            first = self._model
        return token_ids


def _without_llama_cpp(path: Path) -> PortableCodec | None:
    try:
        return from_gguf(path).codec.portable()
    except (TokenizerError, MissingPackageError):
        return None


def _tokenize(model: LlamaModel, text: str, parse_special: bool) -> list[int]:
    if not text:
        return []
    c, data = model.lib.c, text.encode()
    room = len(data) + 8
    while True:
        token_ids = (c.llama_token * room)()
        count = c.llama_tokenize(model.vocab, data, len(data), token_ids, room, False, parse_special)
        if count >= 0:
            return list(token_ids[:count])
        if -count <= room:
            raise TokenizerError(f"llama.cpp cannot encode a text of {len(data)} bytes.")
        room = -count
