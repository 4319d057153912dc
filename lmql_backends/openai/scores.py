"""Log-probabilities of given tokens: by `prompt_logprobs`, by `echo`, or from the likeliest next tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcmodel.errors import CapabilityError
from dcmodel.types import Cost, ScoredContinuation, ScoreRequest, ScoreResult, TopLogprob, Usage
from lmql_backends.openai.asking import HttpAsker
from lmql_backends.openai.bodies import body_of
from lmql_backends.openai.endpoint_api import Ask
from lmql_backends.openai.looking import CHAT_REMEDY, shown_tops
from lmql_backends.openai.replies import Entry
from lmql_backends.openai.together import together

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of one given token."""

    logprob: float
    rank: int
    """0 = likeliest. Where the endpoint shows only the likeliest, and it is none of them: their number."""
    tops: tuple[TopLogprob, ...] = ()


async def score(asker: HttpAsker, request: ScoreRequest) -> tuple[ScoreResult, Cost]:
    """Raises `CapabilityError` with the reason where the endpoint does not show what is needed."""
    able = asker.capabilities
    tops = max(request.top_logprobs, request.prompt_logprobs or 0)
    if not able.is_chat and (able.prompt_logprobs or able.echo_scoring) and tops <= able.max_top_logprobs:
        return await _by_texts(asker, request, tops)
    if request.prompt_logprobs is None and able.max_top_logprobs and able.raw_logprobs is not False:
        return await _by_looks(asker, request)
    remedy = CHAT_REMEDY if able.is_chat else "Use an endpoint that shows them."
    raise CapabilityError(_why_not(asker, request, tops), remedy=remedy)


# -- whole texts -----------------------------------------------------------------------------------


async def _by_texts(asker: HttpAsker, request: ScoreRequest, tops: int) -> tuple[ScoreResult, Cost]:
    """Each text is sent once; equal requests share an HTTP request where the endpoint takes lists."""
    distinct = list(dict.fromkeys(request.continuations)) or [()]
    found = await together([_text(asker, request.prompt_ids + item, tops) for item in distinct])
    length = len(request.prompt_ids)
    scored = {
        item: _scored(item, places[length - 1 :], request.top_logprobs)
        for item, (places, _) in zip(distinct, found, strict=True)
    }
    prompt = None
    if request.prompt_logprobs is not None:
        places = found[0][0][: length - 1]
        prompt = _scored(request.prompt_ids[1:], places, request.prompt_logprobs)
    cost = sum((item for _, item in found), Cost())
    return _result(request, scored, prompt, cost), cost


async def _text(asker: HttpAsker, ids: Ids, tops: int) -> tuple[list[Place], Cost]:
    """The places of a text's tokens from the second one on."""
    sent = asker.place(ids)
    if sent is None or not sent.is_exact:
        raise CapabilityError(
            "these tokens cannot be scored: the endpoint takes text, and makes other tokens of it.",
            remedy="Score texts as a tokenizer writes them, or use an endpoint that takes token ids.",
        )
    able = asker.capabilities
    # Who is the likeliest is asked for in any case: it tells whether a token is greedy.
    wanted = max(tops, min(1, able.max_top_logprobs))
    ask = Ask(prompt=sent.prompt, max_tokens=1, temperature=1.0 if able.temperature else 0.0)
    body = body_of(asker.model, ask, able)
    if able.prompt_logprobs:
        body["prompt_logprobs"] = wanted
        if able.echo_scoring:  # without a token that nobody wants
            body |= {"echo": True, "max_tokens": 0}
    else:
        body |= {"echo": True, "logprobs": wanted, "max_tokens": 0}
    answer = await asker.send(body)
    choice = answer.choices[0]
    places = _of_prompt(choice, ids) if able.prompt_logprobs else _of_echo(asker, ask, choice, ids)
    return places, asker.cost(answer, len(ids), int(not able.echo_scoring))


def _of_prompt(choice: Mapping[str, Any], ids: Ids) -> list[Place]:
    """vLLM's form: by token id, with ranks from 1."""
    rows = choice.get("prompt_logprobs")
    if not isinstance(rows, list) or len(rows) != len(ids):
        raise _other_tokens(len(ids), len(rows) if isinstance(rows, list) else 0)
    places = []
    for token_id, row in zip(ids[1:], rows[1:], strict=True):
        own = (row or {}).get(str(token_id))
        if own is None:
            raise _other_tokens(len(ids), len(rows))
        others = sorted(row.items(), key=lambda item: item[1].get("rank", 0))
        tops = tuple(TopLogprob(int(other), float(known["logprob"])) for other, known in others)
        places.append(Place(float(own["logprob"]), int(own["rank"]) - 1, tops))
    return places


def _of_echo(asker: HttpAsker, ask: Ask, choice: Mapping[str, Any], ids: Ids) -> list[Place]:
    """OpenAI's form: the prompt's tokens by their texts."""
    entries = asker.reader(ask).entries(choice.get("logprobs"), with_all_tops=True)
    named = [item.token_id for item in entries]
    bos = len(named) - len(ids)  # the endpoint may put tokens of its own before the text
    if bos < 0 or named[bos + 1 :] != list(ids[1:]):
        raise _other_tokens(len(ids), len(named))
    return [_echoed(item) for item in entries[bos + 1 :]]


def _echoed(entry: Entry) -> Place:
    better = [item for item in entry.tops if item.logprob > entry.logprob]
    return Place(entry.logprob, len(better), entry.tops)


# -- token by token --------------------------------------------------------------------------------


async def _by_looks(asker: HttpAsker, request: ScoreRequest) -> tuple[ScoreResult, Cost]:
    """One question for each distinct beginning of a continuation: the token is among the likeliest, or
    nothing is known of it."""
    beginnings = {item[:count] for item in request.continuations for count in range(len(item))}
    distinct = sorted(beginnings, key=lambda item: (len(item), item))
    found = await together([shown_tops(asker, request.prompt_ids, item) for item in distinct])
    rows = {item: tops for item, (tops, _) in zip(distinct, found, strict=True)}
    scored = {
        item: _scored(
            item,
            [_seen(asker, rows[item[:count]], item, count) for count in range(len(item))],
            request.top_logprobs,
        )
        for item in dict.fromkeys(request.continuations)
    }
    cost = sum((item for _, item in found), Cost())
    return _result(request, scored, None, cost), cost


def _seen(asker: HttpAsker, tops: Sequence[TopLogprob], item: Ids, count: int) -> Place:
    for rank, top in enumerate(tops):
        if top.token_id == item[count]:
            return Place(top.logprob, rank, tuple(tops))
    raise CapabilityError(
        f"token {item[count]} at place {count} of a continuation is not among the {len(tops)} likeliest, and "
        "the endpoint shows no others.",
        remedy=CHAT_REMEDY if asker.capabilities.is_chat else "Use an endpoint with echo or prompt_logprobs.",
    )


# -- results ---------------------------------------------------------------------------------------


def _scored(ids: Ids, places: Sequence[Place], tops: int) -> ScoredContinuation:
    return ScoredContinuation(
        token_ids=ids,
        logprobs=tuple(item.logprob for item in places),
        ranks=tuple(item.rank for item in places),
        top_logprobs=tuple(item.tops[:tops] for item in places) if tops else (),
    )


def _result(
    request: ScoreRequest,
    scored: Mapping[Ids, ScoredContinuation],
    prompt: ScoredContinuation | None,
    cost: Cost,
) -> ScoreResult:
    return ScoreResult(
        continuations=tuple(scored[item] for item in request.continuations),
        usage=Usage(
            prompt_tokens=len(request.prompt_ids),
            cached_tokens=min(cost.cached_tokens, len(request.prompt_ids)),
            completion_tokens=sum(map(len, request.continuations)),
            forced_tokens=0,
        ),
        prompt=prompt,
    )


def _other_tokens(wanted: int, shown: int) -> CapabilityError:
    return CapabilityError(
        f"the endpoint scored other tokens ({shown}) than those that were asked for ({wanted}).",
        remedy="Check that tokenizer= is the endpoint's own.",
    )


def _why_not(asker: HttpAsker, request: ScoreRequest, tops: int) -> str:
    able = asker.capabilities
    if able.is_chat and request.prompt_logprobs is not None:
        return "a chat route shows no log-probabilities of a prompt."
    if not able.is_chat and (able.prompt_logprobs or able.echo_scoring):
        return f"{tops} top log-probabilities were asked for, and the endpoint shows {able.max_top_logprobs}."
    if request.prompt_logprobs is not None:
        return "the endpoint shows no log-probabilities of a prompt (neither echo nor prompt_logprobs)."
    if not able.max_top_logprobs:
        return "the endpoint shows no log-probabilities."
    return "the endpoint shows log-probabilities after the bias only, which are not the model's own."
