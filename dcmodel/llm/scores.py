"""Continuations of prompts against a loaded model: the core of `LLM.score` and `score_prompt`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial

from dcmodel.errors import CapabilityError
from dcmodel.llm.batches import run_all
from dcmodel.llm.endings import Ended, split_endings, with_endings
from dcmodel.llm.prompts import (
    Continuation,
    Continuations,
    Prompt,
    Prompts,
    continuations_per_prompt,
    prompt_ids,
    scoring_request,
    split_prompts,
)
from dcmodel.llm.results import Scored, ScoredToken
from dcmodel.llm.unconditional import UnconditionalScores, unconditional_scores
from dcmodel.model import DcModel
from dcmodel.types import ScoreRequest


async def score_all(
    model: DcModel,
    prompts: Prompt | Prompts,
    continuations: Continuations,
    unconditional: Prompt | None,
    top_logprobs: int,
    progress: bool | None,
) -> list[Scored] | list[list[Scored]]:
    """Score continuations after one prompt, or after each of a batch."""
    items, is_batch = split_prompts(prompts)
    lists = continuations_per_prompt(continuations, len(items), is_batch)
    async with unconditional_scores(model, unconditional) as baseline:
        jobs = [
            partial(_score, model, prompt, own, baseline, top_logprobs)
            for prompt, own in zip(items, lists, strict=True)
        ]
        results = await run_all(jobs, is_batch=is_batch, progress=progress)
    return results


async def score_prompts(
    model: DcModel, prompts: Prompt | Prompts, top_logprobs: int, progress: bool | None
) -> list[ScoredToken] | list[list[ScoredToken]]:
    """The tokens of one prompt, or of each of a batch, with their scores."""
    items, is_batch = split_prompts(prompts)
    jobs = [partial(_score_prompt, model, prompt, top_logprobs) for prompt in items]
    results = await run_all(jobs, is_batch=is_batch, progress=progress)
    return results


async def _score(
    model: DcModel,
    prompt: Prompt,
    continuations: Sequence[Continuation],
    baseline: UnconditionalScores | None,
    top_logprobs: int,
) -> list[Scored]:
    request = scoring_request(model.tokenizer, prompt, continuations, top_logprobs=top_logprobs)
    return await scored(model, request, continuations, baseline)


async def scored(
    model: DcModel,
    request: ScoreRequest,
    continuations: Sequence[Continuation],
    baseline: UnconditionalScores | None,
    eos_token_ids: Sequence[int] = (),
) -> list[Scored]:
    """The request's continuations, with their ends where there are `eos_token_ids`."""
    if baseline is None:
        result = await model.score(with_endings(request, eos_token_ids))
        unconditional: list[float | None] = [None] * len(continuations)
    else:
        result, found = await asyncio.gather(
            model.score(with_endings(request, eos_token_ids)),
            baseline.logprobs(continuations, eos_token_ids),
        )
        unconditional = [*found]
    texts = (item if isinstance(item, str) else model.tokenizer.decode(item) for item in continuations)
    return [
        _as_scored(*parts)
        for parts in zip(texts, split_endings(result, eos_token_ids), unconditional, strict=True)
    ]


def _as_scored(text: str, ended: Ended, unconditional: float | None) -> Scored:
    item, total = ended.continuation, ended.logprob
    pmi = None
    if unconditional is not None:
        pmi = total if total == -math.inf else total - unconditional
    return Scored(
        text=text,
        logprob=item.logprob,
        probability=math.exp(item.logprob),
        token_ids=item.token_ids,
        logprobs=item.logprobs,
        ranks=item.ranks,
        is_greedy=item.is_greedy,
        top_logprobs=item.top_logprobs,
        pmi=pmi,
        end_logprob=ended.end_logprob,
    )


async def _score_prompt(model: DcModel, prompt: Prompt, top_logprobs: int) -> list[ScoredToken]:
    token_ids = prompt_ids(model.tokenizer, prompt)
    result = await model.score(ScoreRequest(prompt_ids=token_ids, prompt_logprobs=top_logprobs))
    if result.prompt is None:
        raise CapabilityError(
            f"the backend {model.info.backend!r} does not score prompts.",
            remedy="Score the text as a continuation.",
        )
    scores = result.prompt
    decoder = model.tokenizer.stream_decoder(skip_special=False)
    texts = [decoder.push([token_id]) for token_id in token_ids]
    texts[-1] += decoder.finish()
    tops = scores.top_logprobs or ((),) * len(scores.logprobs)
    return [
        ScoredToken(token_id=token_ids[0], text=texts[0], logprob=None, rank=None),
        *(
            ScoredToken(token_id=token_id, text=text, logprob=logprob, rank=rank, top_logprobs=top)
            for token_id, text, logprob, rank, top in zip(
                token_ids[1:], texts[1:], scores.logprobs, scores.ranks, tops, strict=True
            )
        ),
    ]
