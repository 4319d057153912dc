"""Probes of what an endpoint shows of tokens, and how it can be told which may come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dcmodel.types import TopLogprob
from lmql_backends.openai.capabilities import UNLIMITED
from lmql_backends.openai.endpoint_api import Reply
from lmql_backends.openai.probing.questions import (
    CLOSE,
    REFUSALS,
    TEXT,
    Questions,
    culprit,
    first_token,
    prompt_tokens,
    smaller,
)
from lmql_backends.openai.replies import told_ids
from lmql_backends.openai.token_index import NAMED_ID
from lmql_backends.openai.transport.answers import Answer

TOPS = (1000, 100, 20, 5, 1)
BIASES = (4096, 1024, 300, 100, 10, 1)
HIDDEN = 2
"""So many of the likeliest may be missing in an answer: tokens of equal bytes hide each other."""


async def probe_shown(ask: Questions) -> tuple[tuple[TopLogprob, ...], int | None]:
    """Log-probabilities, how many, and token ids. Gives the likeliest tokens after `TEXT`, and how many
    tokens that is. Raises one of `REFUSALS` where this route takes no plain request."""
    wishes = {"top_logprobs": TOPS, "logprobs": (True,)} if ask.able.is_chat else {"logprobs": TOPS}
    told = {"return_token_ids": (True,), "return_tokens_as_token_ids": (True,)}
    answer, taken = await ask.ask_with(ask.body(), {**wishes, **told})
    choice = answer.choices[0]
    tops = int(taken.get("top_logprobs" if ask.able.is_chat else "logprobs") or 0)
    ask.able = replace(
        ask.able,
        shows_logprobs=isinstance(choice.get("logprobs"), dict),
        returns_token_ids="return_token_ids" in taken and told_ids(choice) is not None,
        tokens_as_ids="return_tokens_as_token_ids" in taken and NAMED_ID in str(choice.get("logprobs")),
    )
    reply = ask.read(answer, tops)
    row = reply.tops[0] if reply.tops else reply.end_tops
    # Some show fewer than were asked for, and one vocabulary is smaller than another.
    whole = len(row) + HIDDEN >= min(tops, ask.tokenizer.vocab_size)
    ask.able = replace(ask.able, max_top_logprobs=tops if whole else len(row))
    return row, prompt_tokens(answer)


async def probe_inputs(ask: Questions, row: tuple[TopLogprob, ...]) -> None:
    """Prompts as token ids, several in a request, and biases: at once, where all of them are taken."""
    if not ask.able.is_chat and ask.able.temperature:
        ids = ask.tokenizer.encode_prompt(TEXT)
        if await probe_bias(ask, row, pair_of=ids):
            ask.able = replace(ask.able, token_id_prompts=True, list_prompts=True)
            return
        await probe_ids(ask)
    await probe_bias(ask, row)


async def probe_ids(ask: Questions) -> None:
    """Whether a prompt may be token ids, and whether several prompts may share a request."""
    if ask.able.is_chat:
        return
    ids = tuple(ask.tokenizer.encode_prompt(TEXT))
    text = await ask.ask(ask.body())
    answer = await ask.ask({**ask.body(), "prompt": list(ids)})
    if answer is not None and text is not None and _is_read(ask, answer, text, len(ids)):
        ask.able = replace(ask.able, token_id_prompts=True)
    pair = await ask.ask({**ask.body(), "prompt": [TEXT, f"{TEXT} 7"]})
    ask.able = replace(ask.able, list_prompts=pair is not None and len(pair.choices) == 2)


def _is_read(ask: Questions, by_ids: Answer, by_text: Answer, length: int) -> bool:
    """Whether a list of ids was read as ids."""
    count = prompt_tokens(by_ids)
    if count is not None:
        return count == length
    return ask.read(by_ids).text == ask.read(by_text).text


async def probe_bias(
    ask: Questions, row: tuple[TopLogprob, ...], *, pair_of: Sequence[int] | None = None
) -> bool:
    """How many biases are taken and obeyed, and whether log-probabilities are those before them.

    `pair_of`: the prompt is sent as ids, twice in one request. False: that is not taken, or not read so, and
    nothing is known.
    """
    wanted = _unlikely(ask, row)
    whole = ask.tokenizer.vocab_size
    counts = sorted({min(count, whole) for count in BIASES}, reverse=True)
    while counts:
        count = counts.pop(0)
        # What is wanted comes last: who takes only the first entries does not see it.
        others = [item for item in range(whole) if item != wanted][: count - 1]
        changes: dict[str, Any] = {"logit_bias": {**{str(item): -100 for item in others}, str(wanted): 100}}
        if pair_of is not None:
            changes["prompt"] = [list(pair_of), list(pair_of)]
        try:
            answer = await ask.send(ask.body(changes))
        except REFUSALS as error:
            if pair_of is not None and culprit(error, ("logit_bias",)) != "logit_bias":
                return False
            counts = smaller([count, *counts], error)
            continue
        if pair_of is not None and not _is_pair(answer, len(pair_of)):
            return False
        reply = ask.read(answer)
        if first_token(reply, ask.tokenizer.eos_token_ids) == wanted:
            most = UNLIMITED if count >= min(BIASES[0], whole) else count
            raw = _rawness(reply, wanted, row)
            ask.able = replace(ask.able, max_bias_entries=most, raw_logprobs=raw)
            return True
        if pair_of is not None:
            return False
    return pair_of is None


def _is_pair(answer: Answer, length: int) -> bool:
    return len(answer.choices) == 2 and prompt_tokens(answer) == 2 * length


def _rawness(reply: Reply, wanted: int, row: Sequence[TopLogprob]) -> bool | None:
    shown = reply.logprobs[0] if reply.logprobs else reply.end_logprob
    known = {item.token_id: item.logprob for item in row}
    return _judge(shown, known[wanted]) if shown is not None and wanted in known else None


def _judge(shown: float, before: float) -> bool | None:
    """Whether a log-probability under a bias is that before it; None: neither."""
    if abs(shown - before) < CLOSE:
        return True
    return False if shown > -CLOSE else None


def _unlikely(ask: Questions, row: tuple[TopLogprob, ...]) -> int:
    """A token that is not drawn by itself, whose probability is known where any is."""
    shown = [item.token_id for item in row[1:6] if item.token_id not in ask.tokenizer.eos_token_ids]
    if shown:
        return shown[-1]
    return ask.tokenizer.encode("~")[0]


async def probe_allowed(ask: Questions) -> None:
    """Whether ``allowed_token_ids`` is obeyed."""
    wanted = ask.tokenizer.encode("~")[0]
    answer = await ask.ask(ask.body({"allowed_token_ids": [wanted]}))
    is_obeyed = answer is not None and first_token(ask.read(answer), ask.tokenizer.eos_token_ids) == wanted
    ask.able = replace(ask.able, allowed_token_ids=is_obeyed)
