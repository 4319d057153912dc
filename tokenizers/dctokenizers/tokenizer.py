"""The one class that others use: text, bytes and token ids of one vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dctokenizers.bridge import LLTokenizerCache
from dctokenizers.codec import Codec
from dctokenizers.errors import TokenIdError, TokenizerError
from dctokenizers.stream import StreamDecoder
from dctokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_UNDECODABLE = re.compile("([\udc80-\udcff]+)")


class Tokenizer:
    """Ids to bytes and back. Immutable; every method may be called from any thread.

    Made by `load` and the `from_*` functions.

    name                where it came from, for messages
    vocab_size          ids are ``0 .. vocab_size - 1``, holes included
    bos_token_id        the id that starts a text, if the model has one
    eos_token_ids       every id that ends a text; may be empty
    special_token_ids   ids that stand for no text
    fingerprint         hex; equal where the bytes of every id and the special ids are equal, whatever
                        the family and the eos ids
    is_lossless         whether the bytes of ``encode(text)`` are always those of `text`; False where
                        the family's normaliser rewrites text, or the vocabulary lacks characters
    unknown_token_id    what stands for characters without a token, if the family has such an id
    has_prefix_space    whether the family puts a dummy space before a prompt
    adds_bos            whether `encode_prompt` begins with special tokens
    """

    def __init__(
        self,
        *,
        name: str,
        vocabulary: Vocabulary,
        codec: Codec,
        bos_token_id: int | None = None,
        eos_token_ids: Iterable[int] = (),
        prompt_token_ids: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.vocabulary = vocabulary
        self.bos_token_id = bos_token_id
        self.eos_token_ids = tuple(dict.fromkeys(int(token_id) for token_id in eos_token_ids))
        self._codec = codec
        self._prompt_token_ids = tuple(prompt_token_ids)
        self._ll_tokenizers = LLTokenizerCache(vocabulary, codec, self.encode_bytes)
        for token_id in (*self.eos_token_ids, *self._prompt_token_ids):
            self.token_bytes(token_id)

    def __repr__(self) -> str:
        return f"<Tokenizer {self.name!r}: {self.vocab_size} ids, eos {list(self.eos_token_ids)}>"

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    @property
    def special_token_ids(self) -> frozenset[int]:
        return self.vocabulary.special_token_ids

    @property
    def fingerprint(self) -> str:
        return self.vocabulary.fingerprint

    @property
    def is_lossless(self) -> bool:
        return self._codec.is_lossless

    @property
    def unknown_token_id(self) -> int | None:
        return self._codec.unknown_token_id

    @property
    def has_prefix_space(self) -> bool:
        return self._codec.has_prefix

    @property
    def adds_bos(self) -> bool:
        return bool(self._prompt_token_ids)

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """The special tokens with which `encode_prompt` begins."""
        return self._prompt_token_ids

    @property
    def codec(self) -> Codec:
        """The family's own encoder, for what carries it elsewhere."""
        return self._codec

    def encode(self, text: str, *, parse_special: bool = False, prefix_space: bool = False) -> list[int]:
        """Ids of `text` as it stands: no BOS or EOS, and no dummy space.

        `parse_special` turns the text of special tokens into those tokens, as the family does it
        (some swallow the white space around them); else such text is ordinary text.
        `prefix_space` adds the dummy space of families that have one. Raises `TokenizerError` for
        lone surrogates, and for characters that the vocabulary would silently drop.
        """
        at_start = prefix_space and self._codec.has_prefix
        return self._encode(text, parse_special=parse_special, at_start=at_start)

    def encode_prompt(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Ids of `text` as the model expects them at the start of its input.

        That is: BOS (once, even if a parsed text brings it), the dummy space, and the family's whole
        normalisation.
        """
        token_ids = self._encode(text, parse_special=parse_special, at_start=True)
        start = list(self._prompt_token_ids)
        return token_ids if token_ids[: len(start)] == start else start + token_ids

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids whose bytes are `data`, which need not be UTF-8.

        Raises `TokenizerError` where the vocabulary has no tokens for single bytes.
        """
        text = data.decode("utf-8", errors="surrogateescape")
        token_ids: list[int] = []
        for index, part in enumerate(_UNDECODABLE.split(text)):
            if index % 2:
                token_ids += self.vocabulary.cover(part.encode("utf-8", errors="surrogateescape"))
            elif part:
                token_ids += self.encode(part)
        return token_ids

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of `token_ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(token_ids, skip_special=skip_special).decode("utf-8", errors="replace")

    def decode_bytes(self, token_ids: Sequence[int], *, skip_special: bool = True) -> bytes:
        """Bytes of `token_ids`, joined. Raises `TokenIdError` for an id outside the vocabulary."""
        return self.vocabulary.join(token_ids, skip_special=skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of one token: ``b""`` for a hole, the literal text for a special token."""
        if not 0 <= token_id < self.vocab_size:
            raise TokenIdError(f"Token id {token_id} is outside the vocabulary of {self.vocab_size} ids.")
        return self.vocabulary.tokens[token_id]

    def all_token_bytes(self) -> tuple[bytes, ...]:
        """Bytes of every id, by id."""
        return self.vocabulary.tokens

    def stream_decoder(self, *, skip_special: bool = True) -> StreamDecoder:
        """A decoder for one sequence of tokens that arrive bit by bit."""
        return StreamDecoder(self.vocabulary, skip_special=skip_special)

    def ll_tokenizer(self) -> LLTokenizer:
        """llguidance's form of this vocabulary; built once (seconds for 200,000 ids) and cached.

        Its end-of-sequence ids are `eos_token_ids`. Where there are none, llguidance still wants one:
        it gets the first id that stands for no text (see `bridge.stand_in_eos`).
        """
        return self._ll_tokenizers.get(self.eos_token_ids)

    def with_eos(self, eos_token_ids: Iterable[int]) -> Tokenizer:
        """The same vocabulary with other end-of-sequence ids. Cheap; the caches are shared."""
        twin = Tokenizer(
            name=self.name,
            vocabulary=self.vocabulary,
            codec=self._codec,
            bos_token_id=self.bos_token_id,
            eos_token_ids=eos_token_ids,
            prompt_token_ids=self._prompt_token_ids,
        )
        twin._ll_tokenizers = self._ll_tokenizers
        return twin

    def _encode(self, text: str, *, parse_special: bool, at_start: bool) -> list[int]:
        _check_text(text)
        encode = self._codec.encode_start if at_start else self._codec.encode
        token_ids = encode(text, parse_special=parse_special)
        if parse_special:
            return token_ids
        if not self.special_token_ids.isdisjoint(token_ids):
            token_ids = self._spell_out_special(token_ids)
        if self._codec.drops_unknown:
            self._check_complete(text, token_ids)
        return token_ids

    def _spell_out_special(self, token_ids: list[int]) -> list[int]:
        """Replace special tokens that the family found in plain text by tokens of their letters."""
        plain: list[int] = []
        for token_id in token_ids:
            if token_id not in self.special_token_ids or token_id == self._codec.unknown_token_id:
                plain.append(token_id)
                continue
            text = self.vocabulary.tokens[token_id].decode("utf-8")
            if len(text) < 2:
                raise TokenizerError(f"{text!r} cannot be encoded as plain text: its only token is special.")
            plain += self.encode(text[0]) + self.encode(text[1:])
        return plain

    def _check_complete(self, text: str, token_ids: list[int]) -> None:
        spelled = self.vocabulary.join(token_ids, skip_special=False)
        if not spelled.endswith(text.encode()):
            missing = sorted(set(text) - set(spelled.decode("utf-8", errors="replace")))
            raise TokenizerError(f"The vocabulary of {self.name!r} has no tokens for {missing[:8]}.")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"The text has a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, "
            'which no UTF-8 stands for. Clean it with text.encode("utf-8", "replace").decode().'
        ) from error
