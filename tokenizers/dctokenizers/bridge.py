"""llguidance's form of a vocabulary."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dctokenizers.codec import Codec
from dctokenizers.errors import TokenizerError
from dctokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLTokenizer

WORDS = "[a-zA-Z0-9_]+"


class LLTokenizerCache:
    """Builds an `LLTokenizer` per set of end-of-sequence ids, once; called from any thread.

    Where the family has no exact native form, llguidance calls back into our `encode_bytes` for forced
    text (its own reading of a tokenizer.json would turn the text of a special token into that token).
    """

    def __init__(
        self, vocabulary: Vocabulary, codec: Codec, encode_bytes: Callable[[bytes], list[int]]
    ) -> None:
        self._vocabulary = vocabulary
        self._codec = codec
        self._encode_bytes = encode_bytes
        self._lock = threading.Lock()
        self._built: dict[tuple[int, ...], LLTokenizer] = {}

    def get(self, eos_token_ids: tuple[int, ...]) -> LLTokenizer:
        with self._lock:
            built = self._built.get(eos_token_ids)
            if built is None:
                built = self._built[eos_token_ids] = self._build(eos_token_ids)
            return built

    def _build(self, eos_token_ids: tuple[int, ...]) -> LLTokenizer:
        eos = list(eos_token_ids) or [stand_in_eos(self._vocabulary)]
        native: LLTokenizer | None = self._codec.native_ll_tokenizer(eos)
        if native is not None and agrees(native, self._vocabulary):
            return native
        from llguidance import LLTokenizer, TokenizerWrapper

        source = TokenizerWrapper(_TokenSource(self._vocabulary, self._codec, eos, self._encode_bytes))
        return LLTokenizer(source, eos_token=eos, slices=mask_slices())


def mask_slices() -> list[str]:
    """Classes of tokens for which llguidance computes masks as a whole.

    Its own are made for the texts of JSON strings. Names and keywords (SQL, code) are fastest with
    words apart; masks of JSON stay as they are.
    """
    from llguidance import LLTokenizer

    return [WORDS, *LLTokenizer.general_slices()]


def stand_in_eos(vocabulary: Vocabulary) -> int:
    """The id that plays end-of-sequence where a vocabulary has none.

    The lowest special id, else the first hole, else the last id. The mask allows it where a match is
    complete, so whoever reads the mask clears it there.
    """
    if vocabulary.special_token_ids:
        return min(vocabulary.special_token_ids)
    return vocabulary.tokens.index(b"") if b"" in vocabulary.tokens else len(vocabulary) - 1


def agrees(ll_tokenizer: Any, vocabulary: Vocabulary) -> bool:
    """Whether an `LLTokenizer` has exactly these ids, bytes and special ids.

    llguidance takes tokens that begin with the byte 0xFF, which no UTF-8 text has, for special ones;
    they are left out here.
    """
    if ll_tokenizer.vocab_size != len(vocabulary):
        return False
    special, tokens = vocabulary.special_token_ids, vocabulary.tokens
    plain = [i for i, token in enumerate(tokens) if token and i not in special and token[0] != 0xFF]
    if any(map(ll_tokenizer.is_special_token, plain)):
        return False
    if not all(map(ll_tokenizer.is_special_token, special)):
        return False
    return bool(ll_tokenizer.decode_bytes(plain) == vocabulary.join(plain, skip_special=False))


class _TokenSource:
    """What `llguidance.TokenizerWrapper` asks for. It must not raise: that would be a panic in Rust."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        codec: Codec,
        eos_token_ids: Sequence[int],
        encode_bytes: Callable[[bytes], list[int]],
    ) -> None:
        self.eos_token_id = eos_token_ids[0]
        self.bos_token_id = None
        self.tokens = list(vocabulary.tokens)
        self.special_token_ids = sorted(vocabulary.special_token_ids)
        self._vocabulary = vocabulary
        self._is_lossless = codec.is_lossless
        self._encode_bytes = encode_bytes

    def __call__(self, data: bytes) -> list[int]:
        """Ids that spell `data`, or as much of it as the vocabulary can spell."""
        try:
            token_ids = self._encode_bytes(data)
        except TokenizerError:
            return self._vocabulary.cover_prefix(data)
        if self._is_lossless or self._vocabulary.join(token_ids, skip_special=False) == data:
            return token_ids
        return self._vocabulary.cover_prefix(data)
