"""Probes of what an endpoint shows of tokens, and how it can be told which may come."""

from __future__ import annotations

import re
from dataclasses import replace

from dcmodel.types import TopLogprob
from lmql_backends.openai.capabilities import UNLIMITED
from lmql_backends.openai.endpoint_api import Reply
from lmql_backends.openai.probing.questions import REFUSALS, TEXT, Questions, first_token, prompt_tokens
from lmql_backends.openai.replies import told_ids
from lmql_backends.openai.token_index import NAMED_ID
from lmql_backends.openai.transport.answers import Answer

TOPS = (100, 20, 5, 1)
BIASES = (4096, 1024, 300, 100, 10, 1)
HIDDEN = 2
"""So many of the likeliest may be missing in an answer: tokens of equal bytes hide each other."""
CLOSE = 0.05
"""Nats by which the same log-probability may differ between two requests."""
_NUMBER = re.compile(r"\d{1,6}")


async def probe_shown(ask: Questions) -> tuple[TopLogprob, ...]:
    """Log-probabilities, how many, and token ids; the likeliest tokens after `TEXT`."""
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
    return row


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


async def probe_bias(ask: Questions, row: tuple[TopLogprob, ...]) -> None:
    """How many biases are taken and obeyed, and whether log-probabilities are those before them."""
    wanted = _unlikely(ask, row)
    known = {item.token_id: item.logprob for item in row}
    whole = ask.tokenizer.vocab_size
    counts = sorted({min(count, whole) for count in BIASES}, reverse=True)
    while counts:
        count = counts.pop(0)
        reply, refusal = await _biased(ask, wanted, count)
        if reply is None:
            # A refusal may name the limit.
            named = [int(number) for number in _NUMBER.findall(refusal) if 0 < int(number) < count]
            counts = sorted({*counts, *named}, reverse=True)
            continue
        is_all = count >= min(BIASES[0], whole)
        shown = reply.logprobs[0] if reply.logprobs else reply.end_logprob
        raw: bool | None = None
        if shown is not None and wanted in known:
            raw = _judge(shown, known[wanted])
        ask.able = replace(ask.able, max_bias_entries=UNLIMITED if is_all else count, raw_logprobs=raw)
        return


async def _biased(ask: Questions, wanted: int, count: int) -> tuple[Reply | None, str]:
    """The answer, if the bias is obeyed; and why the request was refused, if it was."""
    others = [item for item in range(ask.tokenizer.vocab_size) if item != wanted][: count - 1]
    # What is wanted comes last: who takes only the first entries does not see it.
    bias = {**{str(item): -100 for item in others}, str(wanted): 100}
    try:
        reply = ask.read(await ask.send(ask.body({"logit_bias": bias})))
    except REFUSALS as error:
        return None, str(error)
    is_obeyed = first_token(reply, ask.tokenizer.eos_token_ids) == wanted
    return (reply if is_obeyed else None), ""


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


async def probe_allowed(ask: Questions, row: tuple[TopLogprob, ...]) -> None:
    """Whether ``allowed_token_ids`` is obeyed."""
    wanted = _unlikely(ask, row)
    answer = await ask.ask(ask.body({"allowed_token_ids": [wanted]}))
    is_obeyed = answer is not None and first_token(ask.read(answer), ask.tokenizer.eos_token_ids) == wanted
    ask.able = replace(ask.able, allowed_token_ids=is_obeyed)
