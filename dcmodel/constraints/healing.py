"""Token healing: the last tokens of a prompt are taken back, and their text must come again.

A prompt that ends in `http:` was cut where its tokenizer would never cut the text, so the model hardly
ever goes on with `//`: it learned the token `://`. Taken back, the text `:` is what the output must begin
with, in whatever tokens. After the idea of guidance (Lundberg 2023); the rule here is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from dcmodel.constraint import CompiledConstraint, Explanation, MaskRow, Matcher
from dcmodel.constraints.algebra.delegating import DelegatingMatcher
from dcmodel.constraints.canonical import CanonicalPairs
from dcmodel.constraints.explain import explain_from_mask, join_bytes
from dcmodel.constraints.plain import PlainMatcher
from dcmodel.constraints.respelling import HealedText
from dcmodel.constraints.sorted_vocabulary import sorted_vocabulary
from dcmodel.mask import clear_tail, mask_words, row_to_ids
from dctokenizers import Tokenizer

MAX_TOKENS_BACK = 4


def heal(tokenizer: Tokenizer, prompt_ids: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """The prompt without its last tokens, and the text of those; as given where nothing is to be healed.

    As few tokens as needed are taken back so that all that could have joined the prompt's end may: the
    longest run (of at most `MAX_TOKENS_BACK`) whose text is the beginning of a longer token. At least
    one token stays, and no character is divided.
    """
    vocabulary = sorted_vocabulary(tokenizer)
    text = b""
    best, healed = 0, ""
    for count in range(1, min(MAX_TOKENS_BACK, len(prompt_ids) - 1) + 1):
        token_id = prompt_ids[-count]
        token = tokenizer.token_bytes(token_id)
        if not token or token_id in tokenizer.special_token_ids or token_id in tokenizer.eos_token_ids:
            break
        text = token + text
        low, high = vocabulary.beginning_with(text)
        if low < high and vocabulary.tokens[high - 1] != text and _is_text(text):
            best, healed = count, text.decode("utf-8")
    return prompt_ids[: len(prompt_ids) - best], healed


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class AnyTokens(CompiledConstraint):
    """No rule at all: every token is allowed, special ones too."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def row(self) -> MaskRow:
        row = np.full(mask_words(self.tokenizer.vocab_size), -1, dtype=np.int32)
        clear_tail(row, self.tokenizer.vocab_size)
        return row

    def matcher(self) -> AnyTokensMatcher:
        return AnyTokensMatcher(self)


class AnyTokensMatcher(PlainMatcher):
    """One sequence without a rule."""

    __slots__ = ("_compiled",)

    def __init__(self, compiled: AnyTokens) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled

    def _allows(self, token_id: int) -> bool:
        return True

    def _fill(self, row: MaskRow) -> None:
        row[:] = self._compiled.row

    @property
    def is_accepting(self) -> bool:
        return True

    @property
    def is_finished(self) -> bool:
        return self._ends > 0

    @property
    def is_spent(self) -> bool:
        return not self._ends

    def fork(self) -> AnyTokensMatcher:
        twin = AnyTokensMatcher(self._compiled)
        twin._token_ids, twin._ends = self._token_ids.copy(), self._ends
        return twin


class HealingCompiled(CompiledConstraint):
    """`prefix`, and then a text of `inner`, with a token across the border or without."""

    def __init__(
        self, prefix: bytes, tokenizer: Tokenizer, inner: CompiledConstraint, pairs: CanonicalPairs
    ) -> None:
        """`pairs`: the tokenizer's; it says which shorter tokens can be part of a usual spelling."""
        self.text = HealedText(prefix, tokenizer, None if isinstance(inner, AnyTokens) else inner, pairs)
        self.prefix = prefix
        self.tokenizer = tokenizer
        self.inner = inner

    def matcher(self) -> HealingMatcher:
        return HealingMatcher(self, self.inner.matcher())


class HealingMatcher(DelegatingMatcher):
    """One sequence after a healed prompt. The inner matcher sees what follows the healed text, only."""

    __slots__ = ("_compiled", "_done", "_moved", "_token_ids")

    def __init__(self, compiled: HealingCompiled, inner: Matcher) -> None:
        super().__init__(inner)
        self._compiled = compiled
        self._token_ids: list[int] = []
        # After each token: the bytes of the prefix so far, and the tokens that the inner matcher was given.
        self._done = [0]
        self._moved = [0]

    @property
    def _rest(self) -> bytes:
        return self._compiled.prefix[self._done[-1] :]

    def fill_mask(self, row: MaskRow) -> None:
        if not self._rest:
            self._inner.fill_mask(row)
            return
        made = self._compiled.text.row(self._done[-1])
        row[: made.shape[0]], row[made.shape[0] :] = made, 0

    def advance(self, token_ids: Sequence[int]) -> int:
        for taken, token_id in enumerate(token_ids):
            if not self._push(token_id):
                return taken
        return len(token_ids)

    def _push(self, token_id: int) -> bool:
        rest, covered = self._rest, 0
        given = [token_id]
        if rest:
            text = self._compiled.text.token(token_id)
            if text is None or not (text.startswith(rest) or rest.startswith(text)):
                return False
            covered = min(len(rest), len(text))
            given = self._compiled.text.spelled(text[covered:])
            if not given and len(text) > covered:
                return False
        taken = self._inner.advance(given)
        if taken < len(given):
            self._inner.rollback(taken)
            return False
        self._token_ids.append(token_id)
        self._done.append(self._done[-1] + covered)
        self._moved.append(len(given))
        return True

    def forced(self) -> list[int]:
        """Nothing inside the healed text, whose tokens are the model's to choose."""
        return [] if self._rest else self._inner.forced()

    @property
    def is_accepting(self) -> bool:
        return not self._rest and self._inner.is_accepting

    @property
    def is_finished(self) -> bool:
        return not self._rest and self._inner.is_finished

    @property
    def is_spent(self) -> bool:
        return not self._rest and self._inner.is_spent

    @property
    def is_exact(self) -> bool:
        return self._inner.is_exact and (not self._rest or self._compiled.text.is_exact(self._done[-1]))

    def ways_out(self) -> list[int]:
        if not self._rest:
            return self._inner.ways_out()
        way = self._compiled.text.way_out(self._done[-1])
        if way is not None:
            return [way]
        row = self._compiled.text.row(self._done[-1])
        allowed = row_to_ids(row, self._compiled.tokenizer.vocab_size).tolist()
        return [token_id for token_id in allowed if self.fork().advance([token_id])]

    @property
    def releasable(self) -> int | None:
        end = self._inner.releasable
        return None if end is None else len(self._compiled.prefix) + end

    def rollback(self, count: int) -> None:
        if not 0 <= count <= len(self._token_ids):
            raise ValueError(f"cannot take back {count} of {len(self._token_ids)} tokens")
        if count:
            self._inner.rollback(sum(self._moved[-count:]))
            del self._token_ids[-count:]
            del self._done[-count:]
            del self._moved[-count:]

    def fork(self) -> HealingMatcher:
        twin = HealingMatcher(self._compiled, self._inner.fork())
        twin._token_ids, twin._done, twin._moved = (
            self._token_ids.copy(),
            self._done.copy(),
            self._moved.copy(),
        )
        return twin

    def explain(self, token_id: int) -> Explanation:
        if not self._rest:
            return self._inner.explain(token_id)
        tokenizer = self._compiled.tokenizer
        return explain_from_mask(self, tokenizer, token_id, join_bytes(tokenizer, self._token_ids))
