"""Unconstrained text: one stream of the endpoint's, written into a sequence token by token."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from dcmodel.errors import CapabilityError, GenerationError
from dcmodel.scheduling.sequence import SequenceBounds
from dcmodel.scheduling.session_sequence import SessionSequence
from dcmodel.types import Cost, FinishReason, GenerateRequest, SamplingParams
from lmql_backends.openai.capabilities import EndpointCapabilities, SamplingField
from lmql_backends.openai.endpoint_api import NOTHING, Ask, Asker, Reply
from lmql_backends.openai.records import free_record, raw_logprobs, raw_tops


@dataclass(slots=True)
class Facts:
    """What is known of a text beside its tokens."""

    cost: Cost = NOTHING
    detail: str = ""


class ContinuedSequence(SessionSequence):
    """A request's prompt and output; who reads the stream puts tokens behind it."""

    def __init__(self, request: GenerateRequest, **bounds: Unpack[SequenceBounds]) -> None:
        super().__init__(request.prompt_ids, sampling=request.sampling, matcher=None, **bounds)
        self.request = request
        self.facts = Facts()
        self.num_resumed = len(request.resumed)
        self._take_up(request.resumed)

    def put(self, reply: Reply, ask: Ask) -> None:
        """Append what a reply brings, up to the end of the text. Raises what the sequence raises."""
        values, rows = raw_logprobs(reply), raw_tops(reply)
        for token_id, logprob, tops in zip(reply.token_ids, values, rows, strict=True):
            if self.ending is not None:
                return
            self.extend(token_id, free_record(logprob, tops), forced=False)
        if reply.finish_reason is not None and self.ending is None:
            self._finish(reply)

    def _finish(self, reply: Reply) -> None:
        if reply.is_ended:
            self._end_of_sequence(reply)
        elif reply.finish_reason == "length":
            # The endpoint counts other tokens than ours, or its context is full.
            self.ending = (FinishReason.LENGTH, self.limit_reason)
        elif reply.finish_reason == "stop":
            self.ending = (FinishReason.STOP, f"stop:{reply.stop_reason}")
        else:
            raise GenerationError(
                f"the endpoint ended the text with {reply.finish_reason!r}.",
                remedy="Ask for something else; `content_filter` is the provider's own decision.",
            )

    def _end_of_sequence(self, reply: Reply) -> None:
        end_id = reply.end_id if reply.end_id is not None else min(self.eos_token_ids, default=None)
        if end_id is None or end_id not in self.eos_token_ids:
            self.ending = (FinishReason.STOP, "eos")
            return
        logprob = math.nan if reply.end_logprob is None else reply.end_logprob
        self.extend(end_id, free_record(logprob, reply.end_tops), forced=False)


def free_ask(sequence: ContinuedSequence, asker: Asker) -> Ask:
    """What asks for the rest of a text without a constraint. Raises `CapabilityError`."""
    request = sequence.request
    output = tuple(sequence.token_ids[sequence.prompt_length :])
    sent = asker.place(request.prompt_ids, output)
    if sent is None:
        raise CapabilityError(
            "this text cannot be continued here: the endpoint takes no token ids, and the text ends inside "
            "a character or in an answer that was begun.",
            remedy="Begin anew, or use an endpoint that takes token ids.",
        )
    if not sent.is_exact:
        sequence.facts.detail = "the endpoint took the prompt as text, perhaps in other tokens"
    elif output and request.sampling.seed is not None and request.sampling.temperature:
        sequence.facts.detail = "resumed: the endpoint drew other random numbers than for the whole text"
    return Ask(
        prompt=sent.prompt,
        max_tokens=sequence.limit - len(sequence.token_ids),
        top_logprobs=request.top_logprobs,
        bias=_bias_of(request),
        ignore_eos=request.ignore_eos,
        **sampling_fields(request.sampling),
    )


def _bias_of(request: GenerateRequest) -> Mapping[int, float]:
    """The caller's, with the penalties of tokens that are part of the prompt now."""
    sampling = request.sampling
    if not request.resumed or not (sampling.presence_penalty or sampling.frequency_penalty):
        return sampling.logit_bias
    if sampling.presence_penalty:
        raise CapabilityError(
            "a text with a presence_penalty cannot be resumed: the endpoint counts from its own beginning.",
            remedy="Begin anew, or use frequency_penalty.",
        )
    added = dict(sampling.logit_bias)
    for token_id, count in Counter(request.resumed).items():
        added[token_id] = added.get(token_id, 0.0) - sampling.frequency_penalty * count
    return added


def sampling_fields(sampling: SamplingParams) -> dict[str, Any]:
    """The fields of `Ask` that say how tokens are drawn, the bias excluded."""
    is_drawn = sampling.temperature > 0.0
    return {
        "top_k": sampling.top_k if is_drawn else 0,
        "min_p": sampling.min_p if is_drawn else 0.0,
        "repetition_penalty": sampling.repetition_penalty,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
    }


async def continue_freely(sequence: ContinuedSequence, asker: Asker) -> None:
    """Read one stream until the text has ended; closed as soon as nothing more is needed."""
    if sequence.ending is not None:
        return
    ask = free_ask(sequence, asker)
    pieces = asker.ask_stream(ask)
    try:
        async with pieces:
            async for piece in pieces:
                # Behind the last token there is the endpoint's account; behind a stop string, more text.
                if sequence.ending is not None and piece.token_ids:
                    break
                sequence.put(piece, ask)
                if sequence.ending is not None and sequence.ending[1].startswith("stop:"):
                    break
                if sequence.is_armed and sequence.notify is not None:
                    sequence.notify()
    finally:
        sequence.facts.cost += pieces.cost


def check_sampling(request: GenerateRequest, able: EndpointCapabilities) -> None:
    """Raise `CapabilityError` for what this endpoint does not take: nothing is left out in silence.

    What nobody asked about yet passes; it is checked again when it is known.
    """
    sampling = request.sampling
    is_drawn = sampling.temperature > 0.0
    asked: tuple[tuple[str, object, bool, bool], ...] = (
        # the field, its value, whether it matters, and whether it is taken
        (
            "top_k",
            sampling.top_k,
            is_drawn and sampling.top_k != 0,
            SamplingField.TOP_K in able.sampling_fields,
        ),
        (
            "min_p",
            sampling.min_p,
            is_drawn and sampling.min_p != 0.0,
            SamplingField.MIN_P in able.sampling_fields,
        ),
        (
            "repetition_penalty",
            sampling.repetition_penalty,
            sampling.repetition_penalty != 1.0,
            SamplingField.REPETITION_PENALTY in able.sampling_fields,
        ),
        ("ignore_eos", True, request.ignore_eos, SamplingField.IGNORE_EOS in able.sampling_fields),
        ("seed", sampling.seed, is_drawn and sampling.seed is not None, able.seed),
    )
    for name, value, is_asked, is_taken in asked:
        if is_asked and not is_taken and name not in able.unasked:
            raise CapabilityError(
                f"{name}={value!r} was asked for, and the endpoint does not take {name}.",
                remedy=f"Leave {name} out, or use a server that has it (dcmodel, vLLM, SGLang).",
            )
    limits = (
        ("top_logprobs", request.top_logprobs, able.max_top_logprobs),
        ("logit_bias entries", len(sampling.logit_bias), able.max_bias_entries),
    )
    for name, most_asked, most in limits:
        if most_asked > most:
            raise CapabilityError(
                f"{most_asked} {name} were asked for, and the endpoint takes {most}.",
                remedy="Ask for fewer; `dcmodel backends --probe` shows what the endpoint can do.",
            )
    largest = max(map(abs, sampling.logit_bias.values()), default=0.0)
    if largest > able.bias_range:
        raise CapabilityError(
            f"a logit_bias of {largest:g} was asked for, and the endpoint takes at most {able.bias_range:g}.",
            remedy="Give a smaller one, or a constraint.",
        )
