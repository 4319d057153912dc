"""Text out of a growing sequence of tokens."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from dctokenizers.vocabulary import Vocabulary


class StreamDecoder:
    """Decodes tokens as they come, never half a character. One sequence, one thread at a time.

    The pieces joined, with `finish()` at the end, are `Tokenizer.decode` of all tokens.
    """

    def __init__(self, vocabulary: Vocabulary, *, skip_special: bool = True) -> None:
        self._vocabulary = vocabulary
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_ids: Sequence[int]) -> str:
        """The characters that became complete; bytes that can never become one are U+FFFD."""
        return self._decoder.decode(self._vocabulary.join(token_ids, skip_special=self._skip_special))

    def finish(self) -> str:
        """What is left: U+FFFD for a character that was never completed, else nothing."""
        return self._decoder.decode(b"", final=True)
