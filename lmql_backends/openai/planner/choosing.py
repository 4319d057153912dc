"""Choosing between given texts with as few questions as possible."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from dcmodel.constraint import MaskRow
from dcmodel.constraints import Choice
from dcmodel.mask import allocate_rows, row_from_ids, row_to_ids
from lmql_backends.openai.planner.draft import Draft

MAX_BRANCHES = 2_000
MAX_CHARACTERS = 20_000
MAX_TOKEN_BYTES = 128
KEPT = 64


def decides_at_once(draft: Draft, row: MaskRow) -> bool:
    """Whether the next token, whichever it is, leaves no choice up to the end of the text."""
    matcher = draft.matcher
    ids = row_to_ids(row, draft.vocab_size).tolist()
    if matcher is None or len(ids) > MAX_BRANCHES or not matcher.is_exact:
        return False
    for token_id in ids:
        branch = matcher.fork()
        if branch.advance([token_id]) != 1:
            return False
        while not branch.is_finished:
            forced = branch.forced()
            if not forced or branch.advance(forced) != len(forced):
                return False
    return True


class OptionTokens:
    """The tokens that occur in the options of a choice, for some choices."""

    def __init__(self) -> None:
        self._rows: OrderedDict[Hashable, MaskRow] = OrderedDict()

    def row(self, rule: Choice, draft: Draft) -> MaskRow | None:
        """A mask that holds whatever the constraint allows at any place; None where the options are too long.

        Always of the same vocabulary.
        """
        if sum(map(len, rule.options)) > MAX_CHARACTERS:
            return None
        row = self._rows.get(rule.key)
        if row is None:
            row = self._rows[rule.key] = _row(rule, draft)
            while len(self._rows) > KEPT:
                self._rows.popitem(last=False)
        return row


def _row(rule: Choice, draft: Draft) -> MaskRow:
    parts = {
        data[begin:end]
        for data in (option.encode() for option in rule.options)
        for begin in range(len(data))
        for end in range(begin + 1, min(len(data), begin + MAX_TOKEN_BYTES) + 1)
    }
    special = draft.tokenizer.special_token_ids
    texts = enumerate(draft.tokenizer.all_token_bytes())
    ids = [token_id for token_id, data in texts if data in parts and token_id not in special]
    row: MaskRow = allocate_rows(1, draft.vocab_size)[0]
    row_from_ids({*ids, *draft.eos_token_ids}, row.shape[0] * 32, row)
    return row
