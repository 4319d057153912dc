"""Choosing between given texts with as few questions as possible."""

from __future__ import annotations

from collections.abc import Mapping

from dcmodel.constraint import Constraint, MaskRow
from dcmodel.constraints import Choice
from dcmodel.mask import allocate_rows, row_from_ids, row_to_ids
from lmql_backends.openai.planner.draft import Draft
from lmql_backends.openai.planner.proposals import Means, Proposal

MAX_BRANCHES = 2_000
MAX_CHARACTERS = 20_000
MAX_TOKEN_BYTES = 128


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


def option_mask(
    rule: Constraint | None, means: Means, added: Mapping[int, float], draft: Draft
) -> Proposal | None:
    """Only tokens that occur in an option, and the end; None where that cannot be said, or is no choice.

    Whatever the constraint allows at any place is among them.
    """
    if not isinstance(rule, Choice) or sum(map(len, rule.options)) > MAX_CHARACTERS:
        return None
    parts = {
        data[begin:end]
        for data in (option.encode() for option in rule.options)
        for begin in range(len(data))
        for end in range(begin + 1, min(len(data), begin + MAX_TOKEN_BYTES) + 1)
    }
    ids = [token_id for token_id, data in enumerate(draft.tokenizer.all_token_bytes()) if data in parts]
    row: MaskRow = allocate_rows(1, draft.vocab_size)[0]
    row_from_ids({*ids, *draft.eos_token_ids}, row.shape[0] * 32, row)
    return means.exactly(row, added)
