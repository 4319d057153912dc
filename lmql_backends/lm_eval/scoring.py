"""Pairs of context and continuation, as token ids, to requests that share what they can."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from dcmodel.errors import ContextLengthError, InvalidRequestError
from dcmodel.model import DcModel
from dcmodel.types import ScoreRequest
from lmql_backends.lm_eval.flight import run_in_flight

logger = logging.getLogger(__name__)

TokenPair = tuple[Sequence[int], Sequence[int]]
"""Context and continuation."""
Answer = tuple[float, bool]
"""Sum of the continuation's log-probabilities in nats, and whether greedy decoding would give it."""


def fitted(context: Sequence[int], continuation: Sequence[int], max_length: int) -> TokenPair:
    """The pair, the context cut from the left where both exceed the model.

    The last token is never read, so that ``max_length + 1`` tokens fit. Raises `InvalidRequestError` for an
    empty continuation, `ContextLengthError` for one longer than `max_length`.
    """
    if not continuation:
        raise InvalidRequestError(
            "a continuation has no tokens of its own: it is empty, or a token of the context covers it.",
            remedy="Look at the task's doc_to_choice and target_delimiter.",
        )
    if len(continuation) > max_length:
        raise ContextLengthError(
            f"a continuation of {len(continuation)} tokens does not fit the context of {max_length}.",
            remedy="Use a model with a longer context.",
        )
    room = max_length + 1 - len(continuation)
    if len(context) > room:
        logger.warning(
            "Context (%d tokens) and continuation (%d) exceed the model's %d: "
            "the first %d tokens of the context are left out.",
            len(context),
            len(continuation),
            max_length,
            len(context) - room,
        )
        context = context[-room:]
    return context, continuation


def score_pairs(
    model: DcModel,
    pairs: Iterable[TokenPair],
    *,
    max_length: int,
    max_in_flight: int,
    done: Callable[[int, Answer], None],
) -> list[Answer]:
    """An answer for each pair, in order; `done` is told of each, by its number, as soon as it is known.

    Pairs with the same context are one request; contexts with the same beginning follow each other.
    """
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for number, (context, continuation) in enumerate(pairs):
        context, continuation = fitted(context, continuation, max_length)
        groups.setdefault(tuple(context), []).append((number, tuple(continuation)))
    answers: dict[int, Answer] = {}

    async def score(context: tuple[int, ...]) -> None:
        members = groups[context]
        request = ScoreRequest(prompt_ids=context, continuations=tuple(item for _, item in members))
        result = await model.score(request)
        for (number, _), scored in zip(members, result.continuations, strict=True):
            answers[number] = (scored.logprob, scored.is_greedy)
            done(number, answers[number])

    run_in_flight(score, sorted(groups), max_in_flight)
    return [answers[number] for number in range(len(answers))]
