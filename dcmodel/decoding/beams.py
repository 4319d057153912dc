"""Beam search and its relatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dcmodel.checks import check_integer, check_number
from dcmodel.decoding.hypotheses import Beam, ContrastiveBeam
from dcmodel.decoding.sampling import with_alternatives
from dcmodel.decoding.search import Ended, Group, Scoring, search
from dcmodel.errors import InvalidRequestError
from dcmodel.session import Session
from dcmodel.types import Completion


async def beam_search(session: Session, beams: int, keep: int = 1, length_penalty: float = 0.0) -> Completion:
    """The best text that a search with `beams` live texts finds; the next best ones are its `alternatives`.

    `score` is the sum of the raw log-probabilities of all tokens after the prompt, an end-of-sequence token
    included, divided by their number to the power of `length_penalty`: 0 looks for the likeliest text,
    1 for the likeliest tokens on average (as Hugging Face and vLLM do). Every text satisfies the session's
    constraint, unless `max_tokens` cuts all of them short of that (``certificate.valid`` is False then).
    Texts differ in their tokens; two may read the same.

    The search ends where no live text can come to a higher score than the `keep` best finished ones (see
    `Scoring.bound`). Forced tokens cost no step: then live texts differ in length, and are ranked by their
    scores so far. Raises `DeadEndError` where no text came to an end. The session is unchanged.
    """
    return await diverse_beam_search(session, beams, 1, 0.0, keep=keep, length_penalty=length_penalty)


async def diverse_beam_search(
    session: Session,
    beams: int,
    groups: int,
    diversity: float,
    *,
    keep: int = 1,
    length_penalty: float = 0.0,
) -> Completion:
    """Beam search in `groups` of equal size that keep away from one another.

    (Vijayakumar et al. 2016, "Diverse Beam Search", with Hamming diversity.) The groups choose one after
    the other; a token loses `diversity` nats in rank for each text of an earlier group that has it at the
    same place. Scores are those of `beam_search`, without that. Each group gives the best ``keep / groups``
    of its texts, rounded up, of which the `keep` best ones are returned, the same text only once.
    """
    check_integer("beams", beams, low=1)
    check_integer("groups", groups, low=1, high=beams)
    check_integer("keep", keep, low=1, high=beams)
    check_number("diversity", diversity, low=0.0)
    check_number("length_penalty", length_penalty, low=0.0)
    if beams % groups:
        raise InvalidRequestError(
            f"{beams} beams cannot be divided into {groups} groups.", remedy="Give a multiple."
        )
    scoring = Scoring(length_penalty, session.max_tokens)
    made = [Group(beams // groups, -(-keep // groups), scoring) for _ in range(groups)]
    for group in made:
        group.live = [Beam(session.fork())]
    return _completion(await search(made, diversity), keep)


async def contrastive(expert: Session, amateur: Session, alpha: float = 0.1, beams: int = 1) -> Completion:
    """The text that the expert finds likely and the amateur does not.

    (Li et al. 2022, "Contrastive Decoding".) Each token is worth log p(expert) - log p(amateur); only those
    with at least `alpha` times the probability of the expert's likeliest allowed token take part. `score`
    is the sum. Rules are the expert's: give the amateur the same vocabulary, its own prompt, no constraint
    and at least as many `max_tokens`. With one beam, the best token at each step.

    Scores may rise again, so unlike `beam_search` this one ends where no live text is better *now* than the
    best finished one. Raises `DeadEndError`, and `InvalidRequestError` where the amateur has no room.
    """
    check_integer("beams", beams, low=1)
    check_number("alpha", alpha, low=0.0, high=1.0, open_low=True)
    group = Group(beams, 1, Scoring(0.0, expert.max_tokens, is_bounded=False))
    group.live = [ContrastiveBeam(expert.fork(), amateur.fork(), alpha)]
    return _completion(await search([group]), 1)


def _completion(found: Sequence[Ended], keep: int) -> Completion:
    distinct: dict[tuple[int, ...], Ended] = {}
    for item in found:
        distinct.setdefault(item.hypothesis.session.token_ids, item)
    best = list(distinct.values())[:keep]
    return with_alternatives(
        [replace(item.hypothesis.session.completion(), score=item.score) for item in best]
    )
