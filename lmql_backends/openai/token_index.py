"""From what endpoints show of tokens (texts, bytes, names of ids) to token ids. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dctokenizers import Tokenizer, TokenizerError

NAMED_ID = "token_id:"
NAMED_BYTES = "bytes:"
TORN_CHARACTER = "\ufffd"
_ESCAPED = re.compile(r"\\x([0-9a-fA-F]{2})")


class TokenIndex:
    """Ids by bytes, for one vocabulary. Built when first asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._by_bytes: dict[bytes, int] | None = None

    def of_bytes(self, data: bytes) -> int | None:
        """The one token with these bytes; None where there is none, or several."""
        if self._by_bytes is None:
            self._by_bytes = _index(self._tokenizer)
        token_id = self._by_bytes.get(data)
        return None if token_id is None or token_id < 0 else token_id

    def of_text(self, text: str) -> int | None:
        """The token that an endpoint shows as `text`: also ``token_id:12``, and ``bytes:\\xe2\\x82``."""
        if text.startswith(NAMED_ID) and text[len(NAMED_ID) :].isdecimal():
            token_id = int(text[len(NAMED_ID) :])
            return token_id if token_id < self._tokenizer.vocab_size else None
        if text.startswith(NAMED_BYTES) and _ESCAPED.fullmatch(text, len(NAMED_BYTES), len(NAMED_BYTES) + 4):
            return self.of_bytes(bytes.fromhex("".join(_ESCAPED.findall(text))))
        if TORN_CHARACTER in text:
            return None
        return self.of_bytes(text.encode())

    def of_texts(self, texts: Iterable[str]) -> list[int] | None:
        """All of them, or None where one is not known."""
        found = [self.of_text(text) for text in texts]
        return None if None in found else [item for item in found if item is not None]

    def encoded(self, text: str) -> Sequence[int]:
        """The tokenizer's own way to write `text`; nothing where it has none."""
        try:
            return self._tokenizer.encode(text)
        except TokenizerError:
            return ()


def _index(tokenizer: Tokenizer) -> dict[bytes, int]:
    """-1 stands for bytes that several tokens have. A special token gives way to an ordinary one."""
    found: dict[bytes, int] = {}
    special = tokenizer.special_token_ids
    for token_id, data in enumerate(tokenizer.all_token_bytes()):
        if data and token_id not in special:
            found[data] = -1 if data in found else token_id
    for token_id in special:
        found.setdefault(tokenizer.token_bytes(token_id), token_id)
    found.pop(b"", None)
    return found
