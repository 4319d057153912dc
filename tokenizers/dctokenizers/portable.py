"""A whole tokenizer as bytes and back: for another process, another machine, or a cache.

The bytes are zlib's; inside them are the length of the encoder's own data, that data, and the vocabulary.
The fields are JSON values. Nothing of it is code. Where the encoder itself cannot travel, or its package is
missing on the other side, the vocabulary does: everything works but encoding, which says why.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dctokenizers.codec import Codec, PortableCodec
from dctokenizers.errors import MissingPackageError, TokenizerError
from dctokenizers.tokenizer import Tokenizer
from dctokenizers.vocabulary import Vocabulary

VOCABULARY = "vocabulary"
"""The form in which no encoder travels."""
MAX_BYTES = 1 << 30
"""Of unpacked data."""
SAMPLES = (
    'Hello, world!  It\'s 1234\n\tdef f(x): return {"é": [x]}  # 你好 🐢 <s>\r\n',
    " The cat sat on 12 mats. ",
    "the cat",
)
"""Both sides must encode these alike."""


@dataclass(frozen=True, slots=True)
class PortableTokenizer:
    """What `unpack` makes an equal tokenizer of."""

    form: str
    data: bytes
    fields: Mapping[str, Any]


def pack(tokenizer: Tokenizer) -> PortableTokenizer:
    """Takes a second or so for a large vocabulary, some more where the encoder's file is read again."""
    codec = tokenizer.codec.portable() or PortableCodec(VOCABULARY)
    data = struct.pack("<Q", len(codec.data)) + codec.data + _vocabulary_bytes(tokenizer.vocabulary)
    fields: dict[str, Any] = {
        "name": tokenizer.name,
        "fingerprint": tokenizer.fingerprint,
        "bytes": len(data),
        "bos": tokenizer.bos_token_id,
        "eos": list(tokenizer.eos_token_ids),
        "prompt": list(tokenizer.prompt_token_ids),
        "is_lossless": tokenizer.is_lossless,
        "unknown": tokenizer.unknown_token_id,
        "has_prefix": tokenizer.has_prefix_space,
        "codec": dict(codec.fields),
        "samples": samples(tokenizer),
    }
    return PortableTokenizer(codec.form, zlib.compress(data, 6), fields)


def unpack(packed: PortableTokenizer) -> Tokenizer:
    """An equal tokenizer: the same ids, bytes, special and end ids, and the same `encode` where it can be.

    Raises `TokenizerError` for data that is broken or contradicts itself.
    """
    fields = packed.fields
    try:
        encoder, vocabulary = _split(_decompressed(packed.data, int(fields["bytes"])))
        codec = PortableCodec(packed.form, encoder, dict(fields["codec"]))
        tokenizer = _made(fields, vocabulary, _codec(codec, vocabulary, fields))
        fingerprint, wanted = str(fields["fingerprint"]), list(fields["samples"])
    except (KeyError, TypeError, ValueError, struct.error, zlib.error) as error:
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(f"The data of a tokenizer cannot be read: {error!r}.") from error
    if tokenizer.fingerprint != fingerprint:
        raise TokenizerError(
            f"The data of the tokenizer {tokenizer.name!r} is damaged: its vocabulary has the fingerprint "
            f"{tokenizer.fingerprint[:16]}, not {fingerprint[:16]}."
        )
    if not isinstance(tokenizer.codec, VocabularyCodec) and samples(tokenizer) != wanted:
        reason = "it encodes otherwise here than where it came from; the versions of its package may differ"
        return _made(fields, vocabulary, VocabularyCodec(reason, fields))
    return tokenizer


def samples(tokenizer: Tokenizer) -> list[list[int] | None]:
    """Ids of `SAMPLES`, inside and at the start of a text; None for what cannot be encoded."""
    found: list[list[int] | None] = []
    for text in SAMPLES:
        for encode in (tokenizer.encode, tokenizer.encode_prompt):
            try:
                found.append(encode(text))
            except TokenizerError:
                found.append(None)
    return found


class VocabularyCodec(Codec):
    """Stands for an encoder that is elsewhere."""

    def __init__(self, reason: str, fields: Mapping[str, Any]) -> None:
        self.is_lossless = bool(fields["is_lossless"])
        self.unknown_token_id = fields["unknown"]
        self._has_prefix = bool(fields["has_prefix"])
        self._reason = reason

    @property
    def has_prefix(self) -> bool:
        return self._has_prefix

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        raise TokenizerError(
            f"Text cannot be encoded here: {self._reason}. "
            "Send the text itself, or encode it where the model is."
        )


def _made(fields: Mapping[str, Any], vocabulary: Vocabulary, codec: Codec) -> Tokenizer:
    return Tokenizer(
        name=str(fields["name"]),
        vocabulary=vocabulary,
        codec=codec,
        bos_token_id=fields["bos"],
        eos_token_ids=fields["eos"],
        prompt_token_ids=fields["prompt"],
    )


def _codec(packed: PortableCodec, vocabulary: Vocabulary, fields: Mapping[str, Any]) -> Codec:
    """The encoder, or one that says why there is none."""
    from dctokenizers.families import hf_codec, sentencepiece, tiktoken

    try:
        match packed.form:
            case hf_codec.FORM:
                return hf_codec.unpacked(packed)
            case tiktoken.FORM:
                return tiktoken.unpacked(packed, vocabulary)
            case sentencepiece.FORM:
                return sentencepiece.unpacked(packed)
            case "vocabulary":
                return VocabularyCodec("the encoder of this model cannot leave its process", fields)
    except MissingPackageError as error:
        return VocabularyCodec(str(error), fields)
    return VocabularyCodec(f"this version does not know encoders of the form {packed.form!r:.40}", fields)


def _vocabulary_bytes(vocabulary: Vocabulary) -> bytes:
    """Number of ids, number of special ones, length of each, the special ones, all bytes."""
    special = sorted(vocabulary.special_token_ids)
    numbers = [len(vocabulary), len(special), *map(len, vocabulary.tokens), *special]
    return _packed(numbers) + b"".join(vocabulary.tokens)


def _split(data: bytes) -> tuple[bytes, Vocabulary]:
    (length,) = struct.unpack_from("<Q", data)
    start = 8 + length
    count, num_special = _unpacked(data[start : start + 8])
    middle = start + 8 + 4 * count
    end = middle + 4 * num_special
    lengths, special = _unpacked(data[start + 8 : middle]), _unpacked(data[middle:end])
    if len(lengths) != count or len(special) != num_special or end + sum(lengths) != len(data):
        raise TokenizerError("The data of a tokenizer is cut short, or too long.")
    tokens = []
    for size in lengths:
        tokens.append(data[end : end + size])
        end += size
    return data[8:start], Vocabulary(tokens, special)


def _decompressed(data: bytes, size: int) -> bytes:
    """Never more than was announced."""
    if not 0 < size <= MAX_BYTES:
        raise TokenizerError(f"A tokenizer of {size} bytes is too large; at most {MAX_BYTES} are read.")
    stream = zlib.decompressobj()
    found = stream.decompress(data, size)
    if len(found) != size or stream.decompress(stream.unconsumed_tail, 1) or not stream.eof:
        raise TokenizerError("The data of a tokenizer is cut short, or too long.")
    return found


def _packed(numbers: Sequence[int]) -> bytes:
    words = array("I", numbers)
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def _unpacked(data: bytes) -> Sequence[int]:
    words = array("I")
    words.frombytes(data)
    if sys.byteorder == "big":
        words.byteswap()
    return words
