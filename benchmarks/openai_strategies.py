"""Ways to constrained text over an API: the planner's, and what others do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from benchmarks.ngram_api import COMPLETIONS, GRAMMARS, LISTS, NgramApi
from benchmarks.ngram_model import NgramModel
from dcmodel.constraint import MaskRow, Matcher
from dcmodel.constraints import ConstraintCache
from dcmodel.local.matching import MatcherMaker
from dcmodel.mask import allocate_rows, row_to_ids
from dcmodel.types import Cost, GenerateRequest, SamplingParams
from dctokenizers import Tokenizer
from lmql_backends.openai.capabilities import EndpointCapabilities
from lmql_backends.openai.endpoint_api import Ask
from lmql_backends.openai.planner.planning import Planner
from lmql_backends.openai.planner.settings import PlannerSettings

MAX_TOKENS = 400
CHUNK = 64
"""How many tokens LMQL asks for."""
RETRIES = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """One text."""

    token_ids: tuple[int, ...]
    text: str
    is_valid: bool
    cost: Cost
    is_exact: bool = True
    is_cut: bool = False
    """It came to `MAX_TOKENS`."""


Strategy = Callable[[GenerateRequest], Awaitable[Outcome]]


class Bench:
    """One model behind one endpoint."""

    def __init__(
        self,
        model: NgramModel,
        tokenizer: Tokenizer,
        able: EndpointCapabilities = COMPLETIONS,
        *,
        seed: int = 0,
    ) -> None:
        self.api = NgramApi(model=model, tokenizer=tokenizer, capabilities=able, seed=seed)
        self.tokenizer = tokenizer
        self._matchers = MatcherMaker(tokenizer, ConstraintCache())

    def matcher(self, request: GenerateRequest) -> Matcher:
        matcher = self._matchers.matcher(request)
        assert matcher is not None
        return matcher

    def planner(self, settings: PlannerSettings) -> Strategy:
        planner = Planner(self.api, self.tokenizer, settings)

        async def run(request: GenerateRequest) -> Outcome:
            prepared = planner.prepared(request)
            completion = await planner.generate(prepared, self.matcher(prepared)).completion()
            cost = completion.cost
            assert cost is not None
            return Outcome(
                completion.token_ids,
                completion.text,
                bool(completion.certificate.valid),
                cost,
                completion.certificate.exact,
                completion.finish_reason == "length",
            )

        return run

    async def per_token(self, request: GenerateRequest) -> Outcome:
        """One masked token per request."""
        matcher, output, cost = self.matcher(request), list[int](), Cost()
        while len(output) < request.max_tokens and not matcher.is_finished:
            row = _row(matcher, self.tokenizer)
            ids = tuple(row_to_ids(row, self.tokenizer.vocab_size).tolist())
            reply = await self.api.ask(self._ask(request, output, 1, allowed=ids))
            cost = cost + reply.cost
            drawn = reply.token_ids or (reply.end_id,)
            output += [token_id for token_id in drawn if token_id is not None]
            matcher.advance(output[-1:])
        return self._outcome(output, matcher, cost)

    async def bare(self, request: GenerateRequest) -> Outcome:
        """What a client gets that only asks."""
        reply = await self.api.ask(self._ask(request, [], request.max_tokens))
        matcher = self.matcher(request)
        is_taken = matcher.advance(reply.token_ids) == len(reply.token_ids)
        outcome = self._outcome(list(reply.token_ids), matcher, reply.cost)
        return replace(outcome, is_valid=outcome.is_valid and is_taken)

    async def retry(self, request: GenerateRequest) -> Outcome:
        """Whole answers until one is valid, or patience ends."""
        cost, output = Cost(), list[int]()
        matcher = self.matcher(request)
        for _ in range(RETRIES):
            reply = await self.api.ask(self._ask(request, [], request.max_tokens))
            cost = cost + reply.cost
            output = list(reply.token_ids)
            matcher = self.matcher(request)
            if matcher.advance(output) == len(output) and matcher.is_accepting:
                break
            matcher = self.matcher(request)
        return self._outcome(output, matcher, cost)

    async def like_lmql(self, request: GenerateRequest) -> Outcome:
        """LMQL's way: 64 tokens under the present mask, cut to its first 300 ids, used while the mask stays
        the same; forced tokens are free."""
        matcher, output, cost = self.matcher(request), list[int](), Cost()
        ends = set(self.tokenizer.eos_token_ids)
        while len(output) < request.max_tokens and not matcher.is_finished:
            row = _row(matcher, self.tokenizer)
            ids = row_to_ids(row, self.tokenizer.vocab_size).tolist()
            if len(ids) == 1:
                output.append(ids[0])
                matcher.advance(ids)
                continue
            bias = _first_300(ids, self.tokenizer.vocab_size)
            reply = await self.api.ask(self._ask(request, output, CHUNK, bias=bias))
            cost = cost + reply.cost
            drawn = [*reply.token_ids, *([reply.end_id] if reply.end_id is not None else [])]
            for place, token_id in enumerate(drawn):
                if place and (matcher.is_finished or (_row(matcher, self.tokenizer) != row).any()):
                    break
                output.append(token_id)
                if not matcher.advance([token_id]):  # what was cut off would have kept it out
                    return self._outcome(output, self.matcher(request), cost)
            if output[-1] in ends:
                break
        return self._outcome(output, matcher, cost)

    def _ask(
        self,
        request: GenerateRequest,
        output: list[int],
        max_tokens: int,
        *,
        bias: dict[int, float] | None = None,
        allowed: tuple[int, ...] | None = None,
    ) -> Ask:
        return Ask(
            prompt=(*request.prompt_ids, *output),
            max_tokens=max_tokens,
            temperature=request.sampling.temperature,
            bias=bias or {},
            allowed=allowed,
        )

    def _outcome(self, output: list[int], matcher: Matcher, cost: Cost) -> Outcome:
        return Outcome(tuple(output), self.tokenizer.decode(output), matcher.is_accepting, cost)


def strategies(
    model: NgramModel, tokenizer: Tokenizer, names: tuple[str, ...], seed: int
) -> dict[str, tuple[Bench, Strategy]]:
    """By name; each with an endpoint of its own."""
    free, shared = PlannerSettings(), COMPLETIONS
    made: dict[str, tuple[EndpointCapabilities, Callable[[Bench], Strategy]]] = {
        "planner": (shared, lambda bench: bench.planner(free)),
        "planner, streams": (
            replace(shared, list_prompts=False),
            lambda bench: bench.planner(PlannerSettings(largest_window=128)),
        ),
        "planner, TV <= 0.05": (
            shared,
            lambda bench: bench.planner(PlannerSettings(max_variation=0.05)),
        ),
        "planner, 5 shown": (replace(shared, max_top_logprobs=5), lambda bench: bench.planner(free)),
        "planner, none shown": (
            replace(shared, max_top_logprobs=0, shows_logprobs=False),
            lambda bench: bench.planner(free),
        ),
        "planner, own grammar": (GRAMMARS, lambda bench: bench.planner(free)),
        "one masked token a time": (LISTS, lambda bench: bench.per_token),
        "asking alone": (shared, lambda bench: bench.bare),
        "retry": (shared, lambda bench: bench.retry),
        "as LMQL does": (shared, lambda bench: bench.like_lmql),
    }
    found = {}
    for name in names or tuple(made):
        able, make = made[name]
        bench = Bench(model, tokenizer, able, seed=seed)
        found[name] = bench, make(bench)
    return found


def request_of(prompt: tuple[int, ...], constraint: object, temperature: float) -> GenerateRequest:
    return GenerateRequest(
        prompt_ids=prompt,
        constraint=constraint,  # type: ignore[arg-type]
        sampling=SamplingParams(temperature=temperature),
        max_tokens=MAX_TOKENS,
        logprobs=False,
    )


def locally_greedy(
    model: NgramModel, tokenizer: Tokenizer, request: GenerateRequest, matcher: Matcher
) -> list[int]:
    """What local masking gives at temperature 0."""
    output: list[int] = []
    while len(output) < request.max_tokens and not matcher.is_finished:
        forced = matcher.forced()
        if not forced:
            weights = model.dense((*request.prompt_ids, *output))
            ids = row_to_ids(_row(matcher, tokenizer), tokenizer.vocab_size)
            forced = [int(ids[weights[ids].argmax()])]
        for token_id in forced:
            if not matcher.is_finished and len(output) < request.max_tokens:
                output.append(token_id)
                matcher.advance([token_id])
    return output


def _row(matcher: Matcher, tokenizer: Tokenizer) -> MaskRow:
    row: MaskRow = allocate_rows(1, tokenizer.vocab_size)[0]
    matcher.fill_mask(row)
    return row


def _first_300(allowed: list[int], vocab_size: int) -> dict[int, float]:
    if 2 * len(allowed) <= vocab_size:
        return dict.fromkeys(allowed[:300], 100.0)
    banned = sorted(set(range(vocab_size)) - set(allowed))
    return dict.fromkeys(banned[:300], -100.0)
