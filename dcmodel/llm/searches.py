"""The searches of `DecodingOptions` over a session."""

from __future__ import annotations

from dcmodel.decoding.beams import beam_search, diverse_beam_search
from dcmodel.llm.strategy import Strategy
from dcmodel.session import Session
from dcmodel.types import Completion, SamplingParams


async def search(session: Session, strategy: Strategy, sampling: SamplingParams) -> Completion:
    """The best (or first) text, with the others as its `alternatives`."""
    if strategy.beams is None:
        from dcmodel.decoding.exact import sample_exactly

        return await sample_exactly(
            session, strategy.num_particles, temperature=sampling.temperature, seed=sampling.seed
        )
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
