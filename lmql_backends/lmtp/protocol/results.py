"""Results on the wire: ends of streams, scores, models. Their tokens: `columns.py`."""

from __future__ import annotations

from collections.abc import Sequence

from dcmodel.adapters import AdapterInfo
from dcmodel.errors import GenerationError
from dcmodel.types import (
    Completion,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    ScoredContinuation,
    ScoreRequest,
    ScoreResult,
    TokenLogprobs,
    TokenStep,
)
from dctokenizers import Tokenizer
from lmql_backends.lmtp.protocol import numbers
from lmql_backends.lmtp.protocol.columns import top_of, tops_of, whole
from lmql_backends.lmtp.protocol.messages import Adapter, Described, Done, Scored, Scores

# -- ends --------------------------------------------------------------------------------------------


def done_of(id_: int, completion: Completion, *, shown: int, resumed: bool = False) -> Done:
    """The end of a stream.

    `shown`: how many characters of the text went out with its tokens, before and after a resumption.
    `resumed`: whether the client may lack the texts of the tokens that it had already.
    """
    return Done(
        id=id_,
        tokens=len(completion.token_ids),
        finish_reason=completion.finish_reason.value,
        stop_reason=completion.stop_reason,
        usage=completion.usage,
        certificate=completion.certificate,
        text="" if resumed else completion.text[shown:],
        whole_text=completion.text if resumed else None,
        forced=[place for place, flag in enumerate(completion.forced) if flag] if resumed else [],
    )


def completion_of(
    request: GenerateRequest, steps: Sequence[TokenStep], done: Done, *, resumed_text: str = ""
) -> Completion:
    """The whole result on the client. `steps`: all behind ``request.resumed``, whose text is `resumed_text`
    where the server never came to say it.

    Raises `GenerationError` where tokens are missing, and what parsing the text raises.
    """
    output = (*request.resumed, *(step.token_id for step in steps))
    if len(output) != done.tokens:
        raise GenerationError(f"the stream has {len(output)} tokens, and its end speaks of {done.tokens}.")
    text = done.whole_text
    if text is None:
        text = "".join([resumed_text, *(step.text for step in steps), done.text])
    before = set(done.forced)
    forced = [place in before for place in range(len(request.resumed))]
    parsed = None
    if request.constraint is not None and done.certificate.valid:
        parsed = request.constraint.parse(text)
    return Completion(
        text=text,
        token_ids=output,
        finish_reason=finish_reason_of(done.finish_reason),
        stop_reason=done.stop_reason,
        logprobs=_all_logprobs(request, steps),
        forced=(*forced, *(step.forced for step in steps)),
        usage=done.usage,
        certificate=done.certificate,
        healed=request.healed,
        parsed=parsed,
    )


def finish_reason_of(text: str) -> FinishReason:
    """Raises `GenerationError` for one that this version does not know."""
    try:
        return FinishReason(text)
    except ValueError:
        raise GenerationError(
            f"the server says that the text ended for the reason {text!r:.40}, which is not known.",
            remedy="Use the same version on both sides.",
        ) from None


def _all_logprobs(request: GenerateRequest, steps: Sequence[TokenStep]) -> tuple[TokenLogprobs, ...] | None:
    if not request.logprobs and not request.top_logprobs:
        return None
    found = [step.logprobs for step in steps if step.logprobs is not None]
    if len(found) < len(steps):
        return None
    nan = float("nan")
    unknown = TokenLogprobs(raw_logprob=nan, masked_logprob=nan, log_mass=nan)
    return (*[unknown] * len(request.resumed), *found)


# -- scores and models -------------------------------------------------------------------------------


def scored_of(id_: int, result: ScoreResult) -> Scored:
    return Scored(
        id=id_,
        usage=result.usage,
        continuations=list(map(_scores, result.continuations)),
        prompt=None if result.prompt is None else _scores(result.prompt),
    )


def score_result_of(request: ScoreRequest, scored: Scored) -> ScoreResult:
    """Raises `GenerationError` where the answer does not fit the question."""
    if len(scored.continuations) != len(request.continuations):
        raise GenerationError(
            f"{len(request.continuations)} continuations were sent, and {len(scored.continuations)} scored."
        )
    pairs = zip(request.continuations, scored.continuations, strict=True)
    return ScoreResult(
        continuations=tuple(_scored_continuation(ids, scores) for ids, scores in pairs),
        usage=scored.usage,
        prompt=None if scored.prompt is None else _scored_continuation(request.prompt_ids[1:], scored.prompt),
    )


def described_of(
    id_: int,
    info: ModelInfo,
    tokenizer: Tokenizer,
    *,
    can_heal: bool,
    adapters: Sequence[AdapterInfo] = (),
) -> Described:
    return Described(
        id=id_,
        name=info.name,
        backend=info.backend,
        vocab_size=info.vocab_size,
        max_positions=info.max_positions,
        fingerprint=tokenizer.fingerprint,
        eos_token_ids=list(tokenizer.eos_token_ids),
        device=info.device,
        dtype=info.dtype,
        details=dict(info.details),
        chat_template=info.chat_template,
        can_heal=can_heal,
        adapters=list(map(adapter_of, adapters)),
    )


def adapter_of(info: AdapterInfo) -> Adapter:
    return Adapter(name=info.name, source=info.source, rank=info.rank, kind=info.kind)


def adapter_info_of(adapter: Adapter) -> AdapterInfo:
    return AdapterInfo(name=adapter.name, source=adapter.source, rank=adapter.rank, kind=adapter.kind)


def model_info_of(described: Described) -> ModelInfo:
    return ModelInfo(
        name=described.name,
        backend=described.backend,
        vocab_size=described.vocab_size,
        max_positions=described.max_positions,
        device=described.device,
        dtype=described.dtype,
        details=described.details,
        chat_template=described.chat_template,
    )


def _scores(item: ScoredContinuation) -> Scores:
    return Scores(
        logprobs=numbers.all_to_wire(list(item.logprobs)),
        ranks=list(item.ranks),
        tops=[top_of(top) for top in item.top_logprobs],
    )


def _scored_continuation(token_ids: tuple[int, ...], scores: Scores) -> ScoredContinuation:
    count = len(token_ids)
    return ScoredContinuation(
        token_ids=token_ids,
        logprobs=tuple(numbers.all_from_wire(whole(scores.logprobs, count))),
        ranks=tuple(whole(scores.ranks, count)),
        top_logprobs=tuple(tops_of(scores.tops, count)) if scores.tops else (),
    )
