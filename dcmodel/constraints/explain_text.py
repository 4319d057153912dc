"""Where a text leaves a constraint, and what was expected there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dcmodel.constraint import CompiledConstraint, Constraint, Matcher, Walker
from dcmodel.constraints.caret import line_and_column, point_at
from dcmodel.constraints.expected import THE_END, expected_after
from dcmodel.constraints.explain import expected_texts, show
from dcmodel.errors import CapabilityError, DeadEndError
from dcmodel.mask import mask_words, row_to_ids
from dctokenizers import Tokenizer

Status = Literal["match", "beginning", "refused"]


@dataclass(frozen=True, slots=True)
class TextExplanation:
    """How far a text agrees with a constraint."""

    text: str
    status: Status
    """A complete match; the beginning of one; or a text that no match begins with."""
    position: int
    """Characters before the place where it leaves the constraint; all of them where it does not."""
    byte_position: int
    line: int
    column: int
    """Of the place, counted from 1."""
    expected: tuple[str, ...]
    """What may come at that place, most telling first."""
    allowed_count: int
    """Tokens of the vocabulary that may come at that place."""

    @property
    def pointer(self) -> str:
        """The line of the place, and a caret under it."""
        return point_at(self.text, self.position)

    @property
    def reason(self) -> str:
        """One sentence."""
        expected = " or ".join(self.expected) or "nothing"
        if self.status == "match":
            return "the text matches."
        if self.status == "beginning":
            return f"the text ends too soon: expected {expected}."
        at = f"at line {self.line} column {self.column}"
        rest = show(self.text[self.position :].encode("utf-8", errors="replace"))
        return f"the text leaves the constraint {at}, with {rest}: expected {expected}."


def explain_text(constraint: Constraint, text: str, tokenizer: Tokenizer) -> TextExplanation:
    """Walk `text` under `constraint`.

    Works byte by byte where the constraint is about text, and token by token where it is not. Raises
    what `Constraint.compile` raises, and `TokenizerError` for text without a UTF-8 form.
    """
    compiled = constraint.compile(tokenizer)
    token_ids = tokenizer.encode(text)
    data = text.encode()
    matcher = compiled.matcher()
    taken = matcher.advance(token_ids)
    if taken == len(token_ids):
        status: Status = "match" if matcher.is_accepting else "beginning"
        return _explanation(compiled, matcher, tokenizer, text, status, len(data))
    reached = len(tokenizer.decode_bytes(token_ids[:taken], skip_special=False))
    walker = _walker(compiled)
    if walker is not None:
        reached = max(reached, walker.walk(data))
        matcher = compiled.matcher()
        matcher.advance(tokenizer.encode_bytes(data[:reached]))
    return _explanation(compiled, matcher, tokenizer, text, "refused", reached)


def _explanation(
    compiled: CompiledConstraint,
    matcher: Matcher,
    tokenizer: Tokenizer,
    text: str,
    status: Status,
    reached: int,
) -> TextExplanation:
    data = text.encode()
    position = len(data[:reached].decode("utf-8", errors="ignore"))
    line, column = line_and_column(text, position)
    allowed = _allowed(matcher, tokenizer)
    expected = expected_texts(tokenizer, allowed)
    walker = _walker(compiled)
    if walker is not None and expected != (THE_END,) and walker.walk(data[:reached]) == reached:
        expected = expected_after(walker) or expected
    return TextExplanation(text, status, position, reached, line, column, expected, len(allowed))


def _walker(compiled: CompiledConstraint) -> Walker | None:
    try:
        return compiled.walker()
    except CapabilityError:
        return None


def _allowed(matcher: Matcher, tokenizer: Tokenizer) -> list[int]:
    row = np.zeros(mask_words(tokenizer.vocab_size), dtype=np.int32)
    try:
        matcher.fill_mask(row)
    except DeadEndError:
        return []
    ids: list[int] = row_to_ids(row, tokenizer.vocab_size).tolist()
    return ids
