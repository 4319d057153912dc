"""From the tokens of one stream to its text: whole characters, never part of a stop string."""

from __future__ import annotations

import codecs

from dctokenizers import Tokenizer


class TextAssembler:
    """Bytes go in token by token; what may be shown comes out as text."""

    def __init__(self, tokenizer: Tokenizer, *, skip: int = 0) -> None:
        """`skip`: how many bytes at the beginning are not shown."""
        self._token_bytes = tokenizer.token_bytes
        self._vocab_size = tokenizer.vocab_size
        self._special = tokenizer.special_token_ids
        self._skip = skip
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = bytearray()
        self._released = 0

    def push(self, token_id: int, releasable: int | None) -> str:
        """The text that this token adds, given that only the first `releasable` bytes may be shown
        (None: all). Special tokens add nothing."""
        # A model's rows may go past its vocabulary.
        is_text = token_id < self._vocab_size and token_id not in self._special
        if releasable is None and not self._skip and not self._held:
            if not is_text:
                return ""
            data = self._token_bytes(token_id)
            self._released += len(data)
            return self._decoder.decode(data)
        if is_text:
            self._held += self._token_bytes(token_id)
        return self._release(releasable, final=False)

    def finish(self, releasable: int | None) -> str:
        """What was held back; an unfinished character becomes U+FFFD."""
        return self._release(releasable, final=True)

    def _release(self, releasable: int | None, *, final: bool) -> str:
        count = len(self._held) if releasable is None else min(len(self._held), releasable - self._released)
        data = bytes(self._held[: max(count, 0)])
        del self._held[: len(data)]
        self._released += len(data)
        if self._skip:
            data, self._skip = data[self._skip :], max(self._skip - len(data), 0)
        return self._decoder.decode(data, final)
