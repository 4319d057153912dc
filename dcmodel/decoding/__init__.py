"""Ways to decode, as functions over a `Session` in the caller's own event loop.

    session = await model.session(GenerateRequest(prompt_ids=..., constraint=...))
    completion = await beam_search(session, beams=4)

sampling    `greedy`, `sample`, `best_of`
beams       `beam_search`, `diverse_beam_search`, `contrastive`
exact       `sample_exactly`, `sample_by_rejection`: draws given the constraint
search, hypotheses, runs   what they are made of

All leave the session that they are given as it is, return a `Completion` whose `alternatives` are the other
results, and end a text where the session ends it.
"""

from dcmodel.decoding.beams import beam_search, contrastive, diverse_beam_search
from dcmodel.decoding.exact import sample_by_rejection, sample_exactly
from dcmodel.decoding.sampling import best_of, greedy, sample

__all__ = [
    "beam_search",
    "best_of",
    "contrastive",
    "diverse_beam_search",
    "greedy",
    "sample",
    "sample_by_rejection",
    "sample_exactly",
]
