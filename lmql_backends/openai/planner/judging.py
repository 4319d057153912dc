"""A choice by the endpoint's own judgement, where the user asks for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from dcmodel.constraints import Choice
from dcmodel.errors import GenerationError
from dcmodel.model import Judgement
from dcmodel.scheduling.randomness import SEED_MASK
from dctokenizers import TokenizerError
from lmql_backends.openai.endpoint_api import NO_BIAS, Reply
from lmql_backends.openai.planner.draft import Draft
from lmql_backends.openai.planner.proposals import Proposal
from lmql_backends.openai.planner.reading import Reading

Judge = Callable[[Sequence[int], Sequence[str]], Awaitable[Judgement | None]]
"""See `DcModel.judge`."""


async def draw_judged(draft: Draft, judge: Judge) -> None:
    """Draw the whole text from the endpoint's probabilities of the options, in one request.

    Leaves the draft as it is, with a remark, where the endpoint has no decisions or its answer is none; and
    without one where something is asked for that a judgement cannot give.
    """
    rule = draft.request.constraint
    if not isinstance(rule, Choice) or not _is_for(draft):
        return
    healed = draft.request.healed
    prompt = [*draft.token_ids[: draft.prompt_length], *draft.tokenizer.encode(healed)]
    try:
        judgement = await judge(prompt, rule.options)
    except GenerationError as error:
        draft.account.remark(error.message.rstrip("."))
        return
    if judgement is None:
        draft.account.remark("the endpoint has no decisions for this")
        return
    draft.account.charge(judgement.cost)
    option = rule.options[_pick(draft, judgement.probabilities)]
    try:
        ids = tuple(draft.tokenizer.encode(healed + option))
    except TokenizerError:
        draft.account.remark("the option that was decided for cannot be written in tokens")
        return
    draft.want_logprobs = False  # nothing is known of the tokens
    reply = Reply(token_ids=ids, are_ids_exact=False, text=option, finish_reason="stop", is_ended=True)
    Reading(draft, Proposal(NO_BIAS)).read(reply)
    draft.account.semantics = judgement.certificate.semantics
    draft.account.inexact(judgement.certificate.detail)
    draft.settle()


def _is_for(draft: Draft) -> bool:
    """Whether a distribution over whole options is all that is asked for."""
    request, sampling = draft.request, draft.sampling_now
    has_begun = request.resumed or request.canonical or draft.output_length
    is_cut = sampling.temperature and (sampling.top_p < 1.0 or sampling.top_k or sampling.min_p)
    return (
        not has_begun
        and not is_cut
        and not sampling.logit_bias
        and not sampling.has_penalties
        and not request.top_logprobs
        and request.adapter is None
        and sampling.temperature in (0.0, 1.0)
    )


def _pick(draft: Draft, probabilities: Sequence[float]) -> int:
    """Temperature 0: the likeliest, the first of equals; 1: one of them by its probability."""
    if not draft.sampling_now.temperature:
        return int(np.argmax(probabilities))
    drawn = np.random.default_rng([draft.seed & SEED_MASK, len(draft.token_ids), 0]).random()
    sums = np.cumsum(probabilities)
    return min(int(np.searchsorted(sums, drawn * sums[-1], side="right")), len(probabilities) - 1)
