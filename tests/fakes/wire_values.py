"""Hypothesis strategies for everything that LMTP carries."""

from __future__ import annotations

import math
import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from hypothesis import strategies as st

from dcmodel.constraints import Choice, JsonSchema, Length, Regex, Stop
from dcmodel.types import (
    Certificate,
    Completion,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    NextTokens,
    SamplingParams,
    ScoredContinuation,
    ScoreRequest,
    ScoreResult,
    TokenLogprobs,
    TokenStep,
    TopLogprob,
    Usage,
)
from lmql_backends.lmtp.protocol import messages

texts = st.text(max_size=12)
token_ids = st.integers(0, (1 << 31) - 1)
counts = st.integers(0, 1 << 20)
logprobs = st.one_of(
    st.floats(-1e3, 0.0, width=32), st.floats(-1e300, 0.0), st.sampled_from([-math.inf, math.nan, 0.0])
).map(lambda value: value + 0.0)  # the sign of 0 is no part of a log-probability
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 62), 1 << 62), st.floats(-1e9, 1e9), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
samplings = st.builds(
    SamplingParams,
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 1 << 40),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(1e-6, 10),
    presence_penalty=st.floats(-10, 10),
    frequency_penalty=st.floats(-10, 10),
    logit_bias=st.dictionaries(token_ids, st.floats(-100, 100), max_size=4),
    seed=st.none() | st.integers(-(1 << 80), 1 << 80),
)
constraints = st.sampled_from(
    [
        None,
        Regex("[a-z]+é"),
        Choice(["yes", "no"]),
        JsonSchema({"type": "object", "properties": {"a": {"type": "integer", "maximum": 10**30}}}),
        Regex("a+") & ~Stop("b"),
        Length(1, 3, "words"),
    ]
)
usages = st.builds(
    Usage, prompt_tokens=counts, cached_tokens=counts, completion_tokens=counts, forced_tokens=counts
)
certificates = st.builds(
    Certificate,
    valid=st.sampled_from([None, False]),
    exact=st.booleans(),
    semantics=st.sampled_from(["local", "global"]),
    detail=texts,
)
adapters = st.sampled_from([None, "a", "b/c.d"])
generate_requests = st.builds(
    GenerateRequest,
    prompt_ids=st.lists(token_ids, min_size=1, max_size=6).map(tuple),
    sampling=samplings,
    constraint=constraints,
    stop=st.lists(st.text(min_size=1, max_size=4), max_size=2).map(tuple),
    include_stop=st.booleans(),
    max_tokens=st.integers(1, (1 << 31) - 1),
    logprobs=st.booleans(),
    top_logprobs=st.integers(0, 1000),
    healed=texts,
    canonical=st.booleans(),
    adapter=adapters,
    resumed=st.lists(token_ids, max_size=3).map(tuple),
)
tops = st.lists(st.builds(TopLogprob, token_ids, logprobs), max_size=3).map(tuple)
token_logprobs = st.builds(
    TokenLogprobs,
    raw_logprob=logprobs,
    masked_logprob=logprobs,
    log_mass=logprobs,
    top_raw=tops,
    top_masked=tops,
)
plain_logprobs = logprobs.map(lambda raw: TokenLogprobs(raw_logprob=raw, masked_logprob=raw, log_mass=0.0))


def runs_of(known: st.SearchStrategy[TokenLogprobs | None]) -> st.SearchStrategy[list[TokenStep]]:
    return st.lists(
        st.builds(TokenStep, token_id=token_ids, text=texts, forced=st.booleans(), logprobs=known), max_size=5
    )


token_runs = st.one_of(runs_of(token_logprobs), runs_of(plain_logprobs), runs_of(st.none()))
infos = st.builds(
    ModelInfo,
    name=texts,
    backend=texts,
    vocab_size=counts,
    max_positions=counts,
    device=texts,
    dtype=texts,
    details=st.dictionaries(texts, texts, max_size=3),
    chat_template=texts,
)


def scored(ids: tuple[int, ...], tops_asked: bool) -> st.SearchStrategy[ScoredContinuation]:
    count = len(ids)
    return st.builds(
        ScoredContinuation,
        token_ids=st.just(ids),
        logprobs=st.lists(logprobs, min_size=count, max_size=count).map(tuple),
        ranks=st.lists(counts, min_size=count, max_size=count).map(tuple),
        top_logprobs=st.lists(tops, min_size=count, max_size=count).map(tuple) if tops_asked else st.just(()),
    )


@st.composite
def scores(draw: st.DrawFn) -> tuple[ScoreRequest, ScoreResult]:
    """A question and an answer that fits."""
    ids = st.lists(token_ids, min_size=2, max_size=4).map(tuple)
    request = ScoreRequest(
        prompt_ids=draw(ids),
        continuations=tuple(draw(st.lists(ids, min_size=1, max_size=3))),
        top_logprobs=draw(st.integers(0, 2)),
        prompt_logprobs=draw(st.none() | st.integers(0, 2)),
        adapter=draw(adapters),
    )
    items = tuple(draw(scored(item, request.top_logprobs > 0)) for item in request.continuations)
    asked = request.prompt_logprobs is not None
    prompt = draw(scored(request.prompt_ids[1:], bool(request.prompt_logprobs))) if asked else None
    return request, ScoreResult(continuations=items, usage=draw(usages), prompt=prompt)


@st.composite
def endings(draw: st.DrawFn) -> tuple[GenerateRequest, list[TokenStep], Completion, str]:
    """A request, the steps of its stream, its completion, and what the end adds to the text."""
    request = draw(generate_requests)
    wants = request.logprobs or request.top_logprobs > 0
    steps = draw(runs_of(plain_logprobs if wants else st.none()))
    rest = draw(texts)
    nan = TokenLogprobs(raw_logprob=math.nan, masked_logprob=math.nan, log_mass=math.nan)
    known = [nan] * len(request.resumed) + [step.logprobs for step in steps]
    before = draw(
        st.lists(st.booleans(), min_size=len(request.resumed), max_size=len(request.resumed)).map(tuple)
    )
    text = (draw(texts) if request.resumed else "") + "".join(step.text for step in steps) + rest
    completion = Completion(
        text=text,
        token_ids=(*request.resumed, *(step.token_id for step in steps)),
        finish_reason=draw(st.sampled_from(FinishReason)),
        stop_reason=draw(texts),
        logprobs=tuple(known) if wants else None,
        forced=(*before, *(step.forced for step in steps)),
        usage=draw(usages),
        certificate=draw(certificates),
        healed=request.healed,
    )
    return request, steps, completion, rest


@st.composite
def distributions(draw: st.DrawFn) -> NextTokens:
    """Of any bits: nothing is derived that is not so."""
    count = draw(st.integers(1, 40))
    floats = st.lists(st.floats(-50, 0, width=32) | st.just(-math.inf), min_size=count, max_size=count).map(
        lambda values: np.array(values, dtype=np.float32)
    )
    is_whole = draw(st.booleans())
    ids = np.arange(count) if is_whole else np.array(draw(st.permutations(range(7, 7 + count))))
    return NextTokens(
        token_ids=ids.astype(np.int64),
        raw_logprobs=draw(floats),
        masked_logprobs=draw(floats),
        log_mass=draw(st.floats(-50, 0) | st.just(-math.inf)),
    )


def messages_of(union: Any) -> st.SearchStrategy[msgspec.Struct]:
    """Any message of a direction, with any values that its fields may have."""
    return st.one_of([struct(kind) for kind in get_args(union)])


def struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    hints = get_type_hints(kind, include_extras=True, localns=vars(messages))
    return st.builds(kind, **{name: value_of(hints[name]) for name in kind.__struct_fields__})


def value_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    plain = {int: counts, float: st.floats(-1e9, 1e9), str: texts, bytes: st.binary(max_size=8)}
    plain |= {
        bool: st.booleans(),
        Any: json_values,
        types.NoneType: st.none(),
        SamplingParams: samplings_sent,
    }
    plain |= {Usage: usages, Certificate: certificates}
    if kind in plain:
        return plain[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return counts
    if origin is list:
        return st.lists(value_of(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(value_of(arguments[0]), value_of(arguments[1]), max_size=3)
    if origin in (Union, types.UnionType):
        return st.one_of(list(map(value_of, arguments)))
    assert issubclass(kind, msgspec.Struct), kind
    return struct(kind)


samplings_sent = st.builds(
    SamplingParams, temperature=st.floats(0, 2), seed=st.none() | st.integers(0, (1 << 64) - 1)
)
