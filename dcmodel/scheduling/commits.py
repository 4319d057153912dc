"""What happens to one sequence when a token was drawn for it, whoever computed the row."""

from __future__ import annotations

import numpy as np

from dcmodel.constraint import MaskRow
from dcmodel.errors import ConstraintRuntimeError, DcModelError, DeadEndError
from dcmodel.mask import row_from_ids
from dcmodel.scheduling.sequence import LogprobRecord, Sequence, TopRow

MAX_DRAWS = 64
"""How often another token is drawn at one place because of dead ends."""


def restrict(sequence: Sequence, row: MaskRow) -> None:
    """Take out of its mask what the caller's own mask of a step refuses, and what leads nowhere."""
    if sequence.mask is not None:
        words = sequence.mask.bits
        if sequence.matcher is None:
            row[:] = 0
            row[: len(words)] = words
        else:
            row[: len(words)] &= words
            row[len(words) :] = 0
    if sequence.banned:
        for token_id in sequence.banned.get(len(sequence.token_ids), ()):
            row[token_id // 32] &= ~np.uint32(1 << token_id % 32).view(np.int32)


def leave_ways_out(sequence: Sequence, row: MaskRow) -> None:
    """Nothing but the tokens that the matcher surely accepts."""
    assert sequence.matcher is not None
    sequence.is_cornered = True
    row_from_ids(sequence.matcher.ways_out(), row.shape[0] * 32, row)


def commit(
    sequence: Sequence, token_id: int, record: LogprobRecord | None
) -> tuple[bool, DcModelError | None]:
    """Append a drawn token: whether the constraint took it (it is banned otherwise), and what went wrong."""
    try:
        return sequence.commit(token_id, record), None
    except DcModelError as error:
        return True, error
    except Exception as error:  # a plug-in's matcher may raise anything
        return True, ConstraintRuntimeError(f"the constraint failed: {error!r}.")


def fail(sequence: Sequence, error: DcModelError) -> None:
    """Give the sequence its error; out of a dead end, it takes back a token instead where it can."""
    if isinstance(error, DeadEndError):
        try:
            sequence.backtrack(error)
        except DcModelError as failure:
            error = failure
        else:
            return
    sequence.error = error


def no_choice() -> DeadEndError:
    """The error of a mask that allows nothing."""
    return DeadEndError("the constraint allows no token that the model can give here.")


def too_many_draws() -> DeadEndError:
    """The error of a place where all draws were refused."""
    return DeadEndError(
        f"the constraint saw a dead end behind each of {MAX_DRAWS} tokens.",
        remedy="Say it with one regex or grammar where that is possible.",
    )


def given_record(token_id: int, logprob: float, top: TopRow | None) -> LogprobRecord:
    """What is known of a token that was given: it is all that its mask allowed, with probability 1."""
    masked_top = ([token_id], [0.0]) if top is not None else None
    return logprob, 0.0, logprob, top, masked_top
