"""A little of everything on the embedded model: a real vocabulary, and floats that differ with the batch."""

from __future__ import annotations

import re

import pytest

from dcmodel import LLM
from dcmodel.constraints import Regex
from dcmodel.decoding import beam_search, diverse_beam_search, greedy, sample_by_rejection, sample_exactly
from dcmodel.types import GenerateRequest, ScoreRequest

pytest.importorskip("torch")
pytest.importorskip("transformers")

PROMPT = "Text: Mira is 34 and lives in Velden.\nFields: name, city\nJSON:"
PATTERN = r' \{"name": "[A-Z][a-z]+", "city": "[A-Z][a-z]+"\}'


async def test_beams_and_exact_draws_on_the_embedded_model():
    async with LLM() as llm:
        await llm.agenerate("yes", max_tokens=1)
        prompt_ids = tuple(llm.tokenizer.encode_prompt(PROMPT))
        request = GenerateRequest(prompt_ids=prompt_ids, constraint=Regex(PATTERN), max_tokens=40)
        session = await llm.model.session(request)
        best = await beam_search(session, 4, keep=4)
        found = [best, *best.alternatives, *(await diverse_beam_search(session, 4, 2, 2.0)).alternatives]
        found += [await greedy(session), await sample_by_rejection(session, seed=1)]
        drawn = await sample_exactly(session, 30, seed=1)
        found += [drawn, *drawn.alternatives]
        ids = tuple(item.token_ids for item in found)
        scored = await llm.model.score(ScoreRequest(prompt_ids=prompt_ids, continuations=ids))
        for item, expected in zip(found, scored.continuations, strict=True):
            assert re.fullmatch(PATTERN, item.text)
            assert item.raw_logprob == pytest.approx(expected.logprob, abs=1e-3)
        assert best.score == pytest.approx(best.raw_logprob)
        assert best.score >= max(item.raw_logprob for item in found) - 1e-3
        assert drawn.log_z <= 0.0
