"""From a server's answer to what a sequence makes of it, as the scheduler's step does with its own rows."""

from __future__ import annotations

from dcmodel.errors import DcModelError, DeadEndError, GenerationError
from dcmodel.scheduling.commits import MAX_DRAWS, commit, fail, given_record, too_many_draws
from dcmodel.scheduling.sequence import LogprobRecord, Sequence, TopRow
from dcmodel.types import TokenLogprobs, TopLogprob
from lmql_backends.lmtp.protocol.columns import logprobs_of
from lmql_backends.lmtp.protocol.distributions import from_wire
from lmql_backends.lmtp.protocol.messages import Columns, Looked, Stepped


def draws(sequence: Sequence) -> bool:
    """Whether its next step is about the token behind the last one, to be drawn or looked at."""
    return sequence.end == len(sequence.token_ids)


def take(sequence: Sequence, answer: Stepped | Looked | DcModelError) -> bool:
    """Whether it goes on as it should; False: another token is to be drawn at the same place."""
    match answer:
        case DeadEndError() if draws(sequence) and sequence.corner():
            return False
        case DeadEndError():
            fail(sequence, answer)
        case DcModelError():
            sequence.error = answer
        case Looked():
            take_given(sequence, answer.columns, len(answer.columns.token_ids))
            if sequence.look is not None:
                sequence.look.found = from_wire(answer.distribution)
        case Stepped() if draws(sequence):
            return _take_drawn(sequence, answer.columns)
        case Stepped():
            take_given(sequence, answer.columns, len(answer.columns.token_ids))
    return True


def refused(sequence: Sequence, attempt: int) -> None:
    """So many draws of one place came to nothing: after `MAX_DRAWS` the sequence fails."""
    if attempt > MAX_DRAWS and sequence.error is None:
        sequence.error = too_many_draws()


def take_given(sequence: Sequence, columns: Columns, count: int) -> None:
    """The log-probabilities of tokens that had none. Raises `GenerationError` for nonsense."""
    logprobs = logprobs_of(columns) or ()
    start = sequence.ready
    for place in range(min(count, len(logprobs))):
        token_id = sequence.token_ids[start + place]
        if columns.token_ids[place] != token_id:
            raise GenerationError(
                f"the server has token {columns.token_ids[place]} where the client put {token_id}."
            )
        top = _row(logprobs[place].top_raw, sequence.top_logprobs)
        sequence.score(given_record(token_id, logprobs[place].raw_logprob, top), 0)


def _take_drawn(sequence: Sequence, columns: Columns) -> bool:
    logprobs = logprobs_of(columns)
    if not columns.token_ids or logprobs is None:
        raise GenerationError("the server drew no token.")
    last = len(columns.token_ids) - 1
    take_given(sequence, columns, last)
    record = _record(logprobs[last], sequence.top_logprobs) if sequence.want_logprobs else None
    is_taken, error = commit(sequence, columns.token_ids[last], record)
    if error is not None:
        fail(sequence, error)
    return is_taken


def _record(item: TokenLogprobs, count: int) -> LogprobRecord:
    return (
        item.raw_logprob,
        item.masked_logprob,
        item.log_mass,
        _row(item.top_raw, count),
        _row(item.top_masked, count),
    )


def _row(top: tuple[TopLogprob, ...], count: int) -> TopRow | None:
    if not count:
        return None
    return [item.token_id for item in top], [item.logprob for item in top]
