"""`Planner`: runs constrained requests at an endpoint; each has a stream like that of a local model."""

from __future__ import annotations

import secrets

from dcmodel.constraint import Matcher
from dcmodel.constraints import JsonSchema, watch_stops
from dcmodel.errors import CapabilityError, DcModelError
from dcmodel.local.stream import LocalStream
from dcmodel.scheduling.sequence import Sequence, SequenceBounds
from dcmodel.types import Completion, GenerateRequest
from dctokenizers import Tokenizer
from lmql_backends.openai.endpoint_api import Asker
from lmql_backends.openai.planner.asking import Questions
from lmql_backends.openai.planner.choosing import OptionTokens
from lmql_backends.openai.planner.draft import Draft
from lmql_backends.openai.planner.experience import Experience
from lmql_backends.openai.planner.grammars import canonical_text, loosened
from lmql_backends.openai.planner.judging import Judge, draw_judged
from lmql_backends.openai.planner.settings import PlannerSettings
from lmql_backends.openai.planner.shortest import ShortestTokens
from lmql_backends.openai.planner.text_run import Knowledge, TextRun
from lmql_backends.openai.runner import AskRunner


class Planner:
    """Turns requests into drafts, and completes them.

    A request's way in a model: `prepared` gives the request whose constraint is to be compiled, `draft`
    (in any thread) the sequence to run, `complete` runs it, and `PlannedStream` reads it.
    """

    def __init__(
        self,
        asker: Asker,
        tokenizer: Tokenizer,
        settings: PlannerSettings | None = None,
        *,
        max_positions: int = 1 << 31,
        judge: Judge | None = None,
    ) -> None:
        """`judge`: for choices; None: they are drawn like other texts."""
        self.asker = asker
        self.settings = settings or PlannerSettings()
        self.runner = AskRunner(self.complete)
        """Runs drafts, for whoever has no runner of his own."""
        self._tokenizer = tokenizer
        self._max_positions = max_positions
        self._judge = judge
        self._options = OptionTokens()
        self._shortest = ShortestTokens(tokenizer)
        self._experience = Experience()

    def prepared(self, request: GenerateRequest) -> GenerateRequest:
        """The request as it will be run: JSON of the default layout in any white space.

        Raises `CapabilityError` for sampling parameters that no endpoint has.
        """
        sampling = request.sampling
        truncates = sampling.temperature and (sampling.top_k or sampling.min_p)
        if sampling.repetition_penalty != 1.0 or truncates:
            raise CapabilityError(
                "an endpoint has no top_k, min_p and repetition_penalty.",
                remedy="Use top_p, presence_penalty and frequency_penalty.",
            )
        return loosened(request) if self.settings.loosens_json else request

    def draft(self, request: GenerateRequest, matcher: Matcher | None) -> Draft:
        """The sequence of a prepared request. Raises what `Sequence` raises about resumed tokens."""
        return Draft(request, matcher, self._tokenizer, **self._bounds(request))

    async def complete(self, sequence: Sequence) -> None:
        """Run a draft to its end. Raises `MaskNotRepresentableError` where the endpoint has no way to draw a
        token, and what the asker raises."""
        assert isinstance(sequence, Draft)
        streams = self.settings.streams
        if streams is None:
            streams = not self.asker.capabilities.list_prompts
        try:
            questions = Questions(self.asker, sequence, streams=streams)
            experience = self._experience if sequence.sampling.seed is None else Experience()
            knowledge = Knowledge(self._options, self._shortest, experience)
            if self._judge is not None:
                await draw_judged(sequence, self._judge)
            if not sequence.is_complete:
                await TextRun(questions, self.settings, knowledge).go()
        finally:
            sequence.settle()

    def generate(self, request: GenerateRequest, matcher: Matcher | None) -> PlannedStream:
        """A running stream of a prepared request; call it inside an event loop."""
        stream = PlannedStream(request, self._tokenizer, self.runner, self.settings)
        try:
            stream.start(self.draft(request, matcher))
        except DcModelError as error:
            stream.fail(error)
        return stream

    def _bounds(self, request: GenerateRequest) -> SequenceBounds:
        limit = len(request.prompt_ids) + request.max_tokens
        seed = request.sampling.seed
        stop = None
        if request.stop:
            skip = len(request.healed.encode())
            stop = watch_stops(request.stop, self._tokenizer, include=request.include_stop, skip=skip)
        return SequenceBounds(
            seed=secrets.randbits(64) if seed is None else seed,
            limit=min(limit, self._max_positions),
            limit_reason="max_tokens" if limit <= self._max_positions else "context",
            eos_token_ids=frozenset() if request.ignore_eos else frozenset(self._tokenizer.eos_token_ids),
            stop=stop,
            top_logprobs=request.top_logprobs,
        )


class PlannedStream(LocalStream):
    """The stream of one request. Its completion says what it cost, and how exact it is."""

    def __init__(
        self,
        request: GenerateRequest,
        tokenizer: Tokenizer,
        runner: AskRunner,
        settings: PlannerSettings,
    ) -> None:
        super().__init__(request, tokenizer, runner)
        self._is_canonical = settings.canonical_json and isinstance(request.constraint, JsonSchema)

    def _complete(self) -> Completion:
        result = super()._complete()
        if isinstance(self._sequence, Draft):
            result = self._sequence.account.finish(result)
        return canonical_text(result) if self._is_canonical else result
