"""Probes of fields that OpenAI has not: does the text change as it must?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmql_backends.openai.capabilities import SamplingField
from lmql_backends.openai.probing.questions import Questions
from lmql_backends.openai.replies import text_of_choice
from lmql_backends.openai.together import together

TOKENS = 12
WARM = 1.8
"""A text of `TOKENS` tokens is hardly ever the likeliest one at this temperature."""
GREEDY_AT_LAST: Mapping[SamplingField, float] = {SamplingField.TOP_K: 1, SamplingField.MIN_P: 1.0}
"""Values that leave only the likeliest token, however warm."""
PENALTY = 2.0
"""As much as all servers take."""
PENALIZED = 32
"""So many tokens hardly ever come without one that came before."""
ENDS = 3


async def probe_field(ask: Questions, field: SamplingField) -> None:
    """Whether this field is obeyed."""
    if field is SamplingField.IGNORE_EOS:
        is_obeyed = await _ignores_eos(ask)
    elif field is SamplingField.REPETITION_PENALTY:
        # The same twice, and then another: it is not chance.
        long = {ask.limit_field: PENALIZED}
        first, second, penal = await _texts(ask, long, long, {**long, field.value: PENALTY})
        is_obeyed = first is not None and first == second and penal not in (None, first)
    elif not ask.able.temperature:
        return
    else:
        warm = {"temperature": WARM}
        greedy, free, cut = await _texts(ask, {}, warm, {**warm, field.value: GREEDY_AT_LAST[field]})
        is_obeyed = greedy is not None and cut == greedy and free not in (None, greedy)
    if is_obeyed:
        ask.able = replace(ask.able, sampling_fields=ask.able.sampling_fields | {field})


async def _texts(ask: Questions, *changes: Mapping[str, Any]) -> list[str | None]:
    """Of several bodies; None for one that is refused."""
    answers = await together([ask.ask(ask.body({ask.limit_field: TOKENS, **item})) for item in changes])
    return [None if item is None else text_of_choice(item.choices[0]) for item in answers]


async def _ignores_eos(ask: Questions) -> bool:
    """Whether a text goes on behind ends that a bias makes it draw."""
    eos = next(iter(ask.tokenizer.eos_token_ids), None)
    if eos is None or not ask.able.max_bias_entries:
        return False
    changes = {"logit_bias": {str(eos): 100}, "ignore_eos": True, ask.limit_field: ENDS}
    answer = await ask.ask(ask.body(changes))
    if answer is None or answer.choices[0].get("finish_reason") != "length":
        return False
    count = (answer.usage or {}).get("completion_tokens")
    return count is None or count == ENDS
