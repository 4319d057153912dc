"""Probes of what an endpoint does with whole texts: scores, seeds, streams, answers that were begun."""

from __future__ import annotations

from dataclasses import replace

from dcmodel.errors import SetupError
from lmql_backends.openai.endpoint_api import Conversation
from lmql_backends.openai.probing.fields import TOKENS, WARM
from lmql_backends.openai.probing.questions import CLOSE, TEXT, Questions, prompt_tokens
from lmql_backends.openai.replies import text_of_choice
from lmql_backends.openai.together import together
from lmql_backends.openai.transport.continuation import ChatStyle

TELLING = '  naïve façade; 東京 Привет 🐢 {"x": [1234567, null]}\n\tdef f(x): return x'
"""Two tokenizers seldom make the same number of tokens of this."""
BEGUN = "One, two, three, four,"
WRITTEN = 3
"""Tokens of an answer, of which all but the last are its begun part."""


async def probe_streams(ask: Questions, count: int | None) -> None:
    """Whether a stream tells its usage, and whether the tokenizer is the endpoint's.

    `count`: how many tokens the endpoint makes of `TEXT`. Raises `SetupError` where `TELLING` makes another
    number of them there than here.
    """
    body = ask.body(prompt=ask.prompt_of(TEXT + TELLING))
    usage = await ask.usage_of_stream({**body, "stream_options": {"include_usage": True}})
    ask.able = replace(ask.able, usage_in_streams=usage is not None)
    if count is None:
        return
    told = (usage or {}).get("prompt_tokens")
    if not isinstance(told, int):
        told = prompt_tokens(await ask.ask(body))
    if told is None:
        return
    end = " ..." if ask.able.is_chat else ""
    encode = ask.tokenizer.encode
    own = len(encode(TEXT + TELLING + end)) - len(encode(TEXT + end))
    if told - count != own:
        raise SetupError(
            f"the tokenizer {ask.tokenizer.name!r} makes {own} tokens of a text of which the endpoint makes "
            f"{told - count}: it is another model's.",
            remedy="Name the right one: tokenizer=.",
        )


async def probe_scores(ask: Questions) -> None:
    """Whether the log-probabilities of a given text are shown."""
    if ask.able.is_chat:
        return
    tops = min(1, ask.able.max_top_logprobs)
    echo, prompt = await together(
        [
            ask.ask(ask.body({"echo": True, "max_tokens": 0, "logprobs": tops})),
            ask.ask(ask.body({"prompt_logprobs": tops})),
        ]
    )
    ask.able = replace(
        ask.able,
        echo_scoring=echo is not None and _shows_echo(echo.choices[0].get("logprobs")),
        prompt_logprobs=prompt is not None
        and _shows_prompt(prompt.choices[0].get("prompt_logprobs"), prompt_tokens(prompt)),
    )


async def probe_seed(ask: Questions) -> None:
    """Whether the same seed gives the same text, and another one another."""
    if not ask.able.temperature:
        return
    warm = {"temperature": WARM, ask.limit_field: TOKENS}
    answers = await together([ask.ask(ask.body({**warm, "seed": seed})) for seed in (1, 1, 2)])
    texts = [None if item is None else text_of_choice(item.choices[0]) for item in answers]
    # A text that is always the same shows nothing.
    ask.able = replace(ask.able, seed=None not in texts and texts[0] == texts[1] != texts[2])


async def probe_continuation(ask: Questions) -> None:
    """Whether, and how, an answer that was begun is continued: the prompt is then longer by just its tokens,
    without an end of the turn and the beginning of another."""
    if not ask.able.is_chat:
        ask.able = replace(ask.able, continuation=True)
        return
    able = ask.able
    messages: tuple[dict[str, str], ...] = ({"role": "user", "content": TEXT},)
    alone = prompt_tokens(await ask.ask(ask.body(prompt=Conversation(messages))))
    if alone is None:
        return
    own = len(ask.tokenizer.encode(BEGUN))
    for style in ChatStyle:
        ask.able = replace(able, continuation=True, continuation_style=style)
        begun = prompt_tokens(await ask.ask(ask.body(prompt=Conversation(messages, BEGUN))))
        if begun is not None and abs(begun - alone - own) <= 1:
            is_exact = await _reads_as_written(ask, messages)
            ask.able = replace(ask.able, exact_continuation=is_exact)
            return
    ask.able = able


async def _reads_as_written(ask: Questions, messages: tuple[dict[str, str], ...]) -> bool:
    """Whether a part of an answer is followed by what followed it in the answer, as likely as there. Where no
    log-probabilities are shown, nobody knows."""
    if not ask.able.shows_logprobs:
        return False
    whole = await ask.ask(ask.body({ask.limit_field: WRITTEN}, prompt=Conversation(messages)))
    if whole is None:
        return False
    first = ask.read(whole)
    if len(first.token_ids) < WRITTEN or not first.are_ids_exact or first.logprobs is None:
        return False
    part = ask.tokenizer.decode(first.token_ids[:-1])
    if ask.tokenizer.encode(part) != list(first.token_ids[:-1]):
        return False
    rest = await ask.ask(ask.body(prompt=Conversation(messages, part)))
    if rest is None:
        return False
    second = ask.read(rest)
    is_same = second.are_ids_exact and second.token_ids[:1] == first.token_ids[-1:]
    return is_same and second.logprobs is not None and abs(second.logprobs[0] - first.logprobs[-1]) <= CLOSE


def _shows_echo(logprobs: object) -> bool:
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    return isinstance(values, list) and len(values) > 1 and all(value is not None for value in values[1:])


def _shows_prompt(rows: object, count: int | None) -> bool:
    return (
        isinstance(rows, list) and len(rows) > 1 and (count is None or len(rows) == count) and bool(rows[1])
    )
