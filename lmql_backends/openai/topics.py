"""Which request needs to know what of an endpoint."""

from __future__ import annotations

from collections.abc import Iterator

from dcmodel.types import GenerateRequest
from lmql_backends.openai.capabilities import TOPIC_OF, EndpointCapabilities, Topic
from lmql_backends.openai.planner.grammars import kinds_of


def has_rule(request: GenerateRequest) -> bool:
    """Whether not every token may come at each place."""
    return request.constraint is not None or bool(request.healed) or request.canonical


def topics_of(request: GenerateRequest) -> frozenset[Topic]:
    """What decides how its text is asked for, grammars aside."""
    sampling = request.sampling
    is_drawn = sampling.temperature > 0.0
    needed = {
        Topic.SEED: is_drawn and sampling.seed is not None,
        Topic.TOP_K: is_drawn and sampling.top_k != 0,
        Topic.MIN_P: is_drawn and sampling.min_p != 0.0,
        Topic.REPETITION_PENALTY: sampling.repetition_penalty != 1.0,
        Topic.IGNORE_EOS: request.ignore_eos,
        Topic.ALLOWED: has_rule(request),
        # A text that would be another one from its beginning has to go on where it broke off.
        Topic.CONTINUATION: has_rule(request) or bool(request.resumed) or is_drawn,
    }
    return frozenset(topic for topic, is_needed in needed.items() if is_needed)


def grammar_topics(request: GenerateRequest, able: EndpointCapabilities) -> Iterator[Topic]:
    """The grammars to ask about, one after the other, as long as none is honoured."""
    for kind in kinds_of(request):
        if able.honours(kind):
            return
        if TOPIC_OF[kind] in able.unasked:
            yield TOPIC_OF[kind]
