"""The stream of one request to an endpoint: a local one that knows what it cost."""

from __future__ import annotations

from dataclasses import replace

from dcmodel.local.stream import LocalStream
from dcmodel.types import Completion
from lmql_backends.openai.continuing import ContinuedSequence
from lmql_backends.openai.costs import with_cached


class OpenAIStream(LocalStream):
    """Adds costs, and what the certificate should say of the way that the text came."""

    def _complete(self) -> Completion:
        completion = super()._complete()
        sequence = self._sequence
        if not isinstance(sequence, ContinuedSequence):
            return completion
        facts = sequence.facts
        certificate = completion.certificate
        if facts.detail:
            certificate = replace(certificate, detail=facts.detail)
        usage = with_cached(completion.usage, facts.cost)
        return replace(completion, cost=facts.cost, certificate=certificate, usage=usage)
