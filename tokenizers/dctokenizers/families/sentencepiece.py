"""SentencePiece .model files, read with the library of that name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dctokenizers.codec import Codec, PortableCodec
from dctokenizers.errors import TokenizerError, require
from dctokenizers.families.protobuf import fields
from dctokenizers.probe import check
from dctokenizers.tokenizer import Tokenizer
from dctokenizers.vocabulary import Vocabulary

FORM = "sentencepiece"
_SPACE = "\u2581"
_NORMALIZER_SPEC = 3
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_EXTRA_SPACES = 2, 3, 4
# A message that is written after another is merged into it: this sets add_dummy_prefix to false.
_NO_DUMMY_PREFIX = bytes([_NORMALIZER_SPEC << 3 | 2, 2, _DUMMY_PREFIX << 3, 0])


def from_sentencepiece(path: str | Path, *, name: str | None = None) -> Tokenizer:
    """A tokenizer from a SentencePiece .model. BOS is added to prompts where the model has one."""
    library = require("sentencepiece", extra="sentencepiece", purpose=f"Reading {path}")
    try:
        proto = Path(path).read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}.") from error
    codec = SentencePieceCodec(library.SentencePieceProcessor, proto, source=str(path))
    bos, eos = codec.processor.bos_id(), codec.processor.eos_id()
    return check(
        Tokenizer(
            name=name or str(path),
            vocabulary=codec.vocabulary,
            codec=codec,
            bos_token_id=bos if bos >= 0 else None,
            eos_token_ids=[eos] if eos >= 0 else [],
            prompt_token_ids=[bos] if bos >= 0 else [],
        )
    )


def unpacked(packed: PortableCodec) -> SentencePieceCodec:
    """The codec that `portable` made this of."""
    library = require("sentencepiece", extra="sentencepiece", purpose="This model's tokenizer")
    return SentencePieceCodec(library.SentencePieceProcessor, packed.data, source="what came from elsewhere")


class SentencePieceCodec(Codec):
    """Encodes with two processors: one as the model is, one without the dummy prefix."""

    def __init__(self, processor_class: Any, proto: bytes, *, source: str) -> None:
        try:
            self._proto = proto
            settings = _normalizer_settings(proto)
            self.processor = processor_class(model_proto=proto)
            self._plain = processor_class(model_proto=proto + _NO_DUMMY_PREFIX)
        except (ValueError, RuntimeError, OSError) as error:
            raise TokenizerError(f"{source} is not a SentencePiece model: {error}.") from error
        size = self.processor.vocab_size()
        pieces = [self.processor.id_to_piece(i) for i in range(size)]
        special = [i for i in range(size) if self.processor.is_control(i) or self.processor.is_unknown(i)]
        is_byte = self.processor.is_byte
        self._bytes = {int(piece[3:5], 16): i for i, piece in enumerate(pieces) if is_byte(i)}
        self.vocabulary = Vocabulary(
            (self._spell(i, piece, i in special) for i, piece in enumerate(pieces)), special
        )
        self.unknown_token_id = self.processor.unk_id()
        self._has_prefix = bool(settings.get(_DUMMY_PREFIX, 1))
        rewrites = bool(settings.get(_CHARSMAP)) or bool(settings.get(_REMOVE_EXTRA_SPACES, 1))
        self.is_lossless = not rewrites and len(self._bytes) == 256
        by_length = sorted((pieces[i] for i in special), key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, by_length)) + ")")
        self._special_ids = {pieces[i]: i for i in special}

    @property
    def has_prefix(self) -> bool:
        return self._has_prefix

    def portable(self) -> PortableCodec:
        return PortableCodec(FORM, self._proto)

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        return self._encode(text, parse_special=parse_special, first=self._plain)

    def encode_start(self, text: str, *, parse_special: bool) -> list[int]:
        return self._encode(text, parse_special=parse_special, first=self.processor)

    def _encode(self, text: str, *, parse_special: bool, first: Any) -> list[int]:
        if not parse_special:
            return self._encode_text(text, first)
        token_ids: list[int] = []
        for index, part in enumerate(self._special.split(text)):
            if index % 2:
                token_ids.append(self._special_ids[part])
            elif part:
                token_ids += self._encode_text(part, self._plain if index else first)
        return token_ids

    def _encode_text(self, text: str, first: Any) -> list[int]:
        """Ids of ordinary text; the mark for the space, which pieces cannot spell, goes byte by byte."""
        if not self.is_lossless or _SPACE not in text:
            token_ids: list[int] = first.encode(text)
            return token_ids
        token_ids = []
        for index, part in enumerate(text.split(_SPACE)):
            if index:
                token_ids += [self._bytes[byte] for byte in _SPACE.encode()]
            if part:
                token_ids += (self._plain if index else first).encode(part)
        return token_ids

    def _spell(self, token_id: int, piece: str, special: bool) -> bytes:
        if special:
            return piece.encode()
        if self.processor.is_byte(token_id):
            return bytes([int(piece[3:5], 16)])
        return b"" if self.processor.is_unused(token_id) else piece.replace(_SPACE, " ").encode()


def _normalizer_settings(proto: bytes) -> dict[int, int | bytes]:
    settings: dict[int, int | bytes] = {}
    for number, value in fields(proto):
        if number == _NORMALIZER_SPEC and isinstance(value, bytes):
            settings.update(fields(value))
    return settings
