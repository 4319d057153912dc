"""The searches of `DecodingOptions` over a session."""

from __future__ import annotations

from dcmodel.decoding.beams import beam_search, diverse_beam_search
from dcmodel.errors import DeadEndError
from dcmodel.llm.strategy import Strategy
from dcmodel.session import Session
from dcmodel.types import Completion, SamplingParams

EXACT_TRIES = 100
"""How many texts are rejected for one exact draw before particles are used instead."""


async def search(session: Session, strategy: Strategy, sampling: SamplingParams) -> Completion:
    """The best (or first) text, with the others as its `alternatives`."""
    if strategy.beams is None:
        return await _exact(session, strategy, sampling)
    if strategy.beam_groups == 1:
        return await beam_search(
            session, strategy.beams, keep=strategy.n, length_penalty=strategy.length_penalty
        )
    return await diverse_beam_search(
        session,
        strategy.beams,
        strategy.beam_groups,
        strategy.group_diversity,
        keep=strategy.n,
        length_penalty=strategy.length_penalty,
    )


async def _exact(session: Session, strategy: Strategy, sampling: SamplingParams) -> Completion:
    from dcmodel.decoding.exact import sample_by_rejection, sample_exactly

    temperature, seed = sampling.temperature, sampling.seed
    if strategy.particles is None:
        try:
            return await sample_by_rejection(
                session, strategy.n, temperature=temperature, seed=seed, tries=EXACT_TRIES
            )
        except DeadEndError as error:
            if strategy.n > 1:
                error.remedy = "Give particles= instead of n."
                raise
    return await sample_exactly(session, strategy.num_particles, temperature=temperature, seed=seed)
