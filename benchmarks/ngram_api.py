"""An endpoint without HTTP over `NgramModel`: 300 biases, before the softmax; raw log-probabilities."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np

from benchmarks.ngram_model import NgramModel, Row
from dcmodel.constraint import Matcher
from dcmodel.constraints import Choice, JsonSchema, Regex
from dcmodel.errors import CapabilityError, InvalidRequestError
from dcmodel.mask import allocate_rows, row_to_ids
from dcmodel.types import Cost, TopLogprob
from dctokenizers import Tokenizer
from lmql_backends.openai.capabilities import (
    EndpointCapabilities,
    GrammarKind,
    GrammarSupport,
    Support,
)
from lmql_backends.openai.endpoint_api import Ask, Reply, SentPrompt

COMPLETIONS = EndpointCapabilities(
    token_id_prompts=True,
    list_prompts=True,
    continuation=True,
    max_bias_entries=300,
    raw_logprobs=True,
    max_top_logprobs=20,
    shows_logprobs=True,
    returns_token_ids=True,
)
_HONOURED = {kind: GrammarSupport(Support.HONOURED) for kind in ("json_schema", "regex", "choice")}
GRAMMARS = replace(
    COMPLETIONS,
    grammars=MappingProxyType({GrammarKind(kind): known for kind, known in _HONOURED.items()}),
)
LISTS = replace(COMPLETIONS, allowed_token_ids=True)


@dataclass(kw_only=True)
class NgramApi:
    """An `Asker`. Asks with equal parameters share an HTTP request where they are made together."""

    model: NgramModel
    tokenizer: Tokenizer
    capabilities: EndpointCapabilities = COMPLETIONS
    seed: int = 0
    lag: int = 3
    """Tokens that are drawn, and billed, after a stream was left."""
    http_requests: int = 0
    _groups: dict[object, asyncio.Future[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._ends = frozenset(self.tokenizer.eos_token_ids)

    def place(self, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...] = ()) -> SentPrompt | None:
        return SentPrompt((*prompt_ids, *output_ids), is_exact=True)

    def lied(self, kind: GrammarKind) -> None:
        self.capabilities = self.capabilities.without(kind)

    async def ask(self, ask: Ask) -> Reply:
        self._check(ask)
        await self._share(ask)
        return self._reply(ask)

    async def ask_several(self, ask: Ask, count: int) -> list[Reply]:
        self._check(ask)
        self.http_requests += 1
        await asyncio.sleep(0)
        first, *others = [self._reply(ask) for _ in range(count)]
        cost = sum((reply.cost for reply in others), first.cost)
        cost = replace(cost, requests=1, prompt_tokens=len(ask.prompt))
        return [replace(first, cost=cost), *(replace(reply, cost=Cost()) for reply in others)]

    def _reply(self, ask: Ask) -> Reply:
        pieces = list(self.pieces(ask))
        ids = tuple(item for piece in pieces for item in piece.token_ids)
        return replace(
            pieces[-1],
            token_ids=ids,
            logprobs=tuple(item for piece in pieces for item in piece.logprobs or ()),
            tops=tuple(item for piece in pieces for item in piece.tops or ()),
            cost=self.cost(ask, len(ids) + pieces[-1].is_ended),
        )

    def ask_stream(self, ask: Ask) -> NgramStream:
        self._check(ask)
        return NgramStream(self, ask)

    def cost(self, ask: Ask, completion_tokens: int) -> Cost:
        return Cost(requests=1, prompt_tokens=len(ask.prompt), completion_tokens=completion_tokens)

    def pieces(self, ask: Ask) -> Iterator[Reply]:
        """One for each token."""
        assert isinstance(ask.prompt, tuple)
        context = list(ask.prompt)
        matcher = self._matcher(ask)
        for count in range(1, ask.max_tokens + 1):
            row = self.model.row(context)
            token_id = self._draw(row, ask, context, matcher)
            logprob = math.log(self._probability(row, token_id))
            tops = self._tops(row, ask.top_logprobs)
            if token_id in self._ends:
                yield _ended(end_id=token_id, end_logprob=logprob, end_tops=tops)
                return
            context.append(token_id)
            is_done = matcher is not None and matcher.advance([token_id]) == 1 and matcher.is_finished
            reason = "stop" if is_done else "length" if count == ask.max_tokens else None
            yield Reply(
                token_ids=(token_id,),
                are_ids_exact=True,
                text="",
                logprobs=(logprob,),
                tops=(tops,),
                are_logprobs_raw=True,
                finish_reason=reason,
                is_ended=is_done,
            )
            if is_done:
                return

    # -- inside ------------------------------------------------------------------------------------

    def _check(self, ask: Ask) -> None:
        if len(ask.bias) > self.capabilities.max_bias_entries or ask.top_logprobs > 20:
            raise InvalidRequestError("400: too many entries.")
        if any(abs(value) != 100.0 for value in ask.bias.values()) or ask.temperature not in (0.0, 1.0):
            raise CapabilityError("this model knows biases of 100 and -100, and temperatures 0 and 1.")

    async def _share(self, ask: Ask) -> None:
        key = repr(replace(ask, prompt=()))
        if key in self._groups:
            await self._groups[key]
            return
        self.http_requests += 1
        self._groups[key] = group = asyncio.get_running_loop().create_future()
        # Those who were woken by one answer ask within a few turns.
        for _ in range(3):
            await asyncio.sleep(0)
        del self._groups[key]
        group.set_result(None)

    def _probability(self, row: Row, token_id: int) -> float:
        if token_id in row.known:
            return float(row.probabilities[np.flatnonzero(row.ids == token_id)[0]])
        return float(row.scale * self.model.base[token_id])

    def _tops(self, row: Row, count: int) -> tuple[TopLogprob, ...]:
        pairs = list(zip(row.ids[:count].tolist(), row.probabilities[:count].tolist(), strict=True))
        others = self.model.base_order[: count + len(row.known)].tolist()
        fresh = [item for item in others if item not in row.known][:count]
        pairs += [(item, row.scale * float(self.model.base[item])) for item in fresh]
        pairs.sort(key=lambda pair: (-pair[1], pair[0]))
        return tuple(TopLogprob(item, math.log(value)) for item, value in pairs[:count])

    def _draw(self, row: Row, ask: Ask, context: list[int], matcher: Matcher | None) -> int:
        allowed = ask.allowed
        if matcher is not None:
            mask = allocate_rows(1, self.model.vocab_size)[0]
            matcher.fill_mask(mask)
            allowed = tuple(row_to_ids(mask, self.model.vocab_size).tolist())
        lifted = [item for item, value in ask.bias.items() if value > 0.0]
        if lifted:
            allowed = tuple(lifted)
        if allowed is not None:
            ids = np.array(allowed)
            weights = self.model.dense(context)[ids]
            return int(ids[_index(weights, ask.temperature, self._rng)])
        return self._draw_without(row, set(ask.bias), ask.temperature)

    def _draw_without(self, row: Row, banned: set[int], temperature: float) -> int:
        weights = row.probabilities
        if not banned.isdisjoint(row.known):
            weights = np.where(np.isin(row.ids, list(banned)), 0.0, weights)
        known = float(weights.sum())
        if temperature == 0.0:
            best = int(weights.argmax()) if len(weights) else -1
            rest = next(
                item for item in self.model.base_order if item not in banned and item not in row.known
            )
            is_known = best >= 0 and weights[best] >= row.scale * self.model.base[rest] and weights[best] > 0
            return int(row.ids[best]) if is_known else int(rest)
        while True:
            # Of the base, everything is drawn, and what is known or banned is thrown away.
            drawn = self._rng.random() * (known + row.scale)
            if drawn < known:
                place = int(np.searchsorted(np.cumsum(weights), drawn, side="right"))
                return int(row.ids[min(place, len(weights) - 1)])
            sums = self.model.base_sums
            token_id = int(np.searchsorted(sums, self._rng.random() * sums[-1], side="right"))
            if token_id not in row.known and token_id not in banned:
                return token_id

    def _matcher(self, ask: Ask) -> Matcher | None:
        if ask.grammar is None:
            return None
        source = ask.grammar.source
        match ask.grammar.kind:
            case GrammarKind.JSON_SCHEMA:
                rule: JsonSchema | Regex | Choice = JsonSchema(source, whitespace="bounded")
            case GrammarKind.REGEX:
                rule = Regex(source)
            case _:
                rule = Choice(source)
        return rule.compile(self.tokenizer).matcher()


class NgramStream:
    """A `ReplyStream`."""

    def __init__(self, api: NgramApi, ask: Ask) -> None:
        self._api = api
        self._ask = ask
        self._pieces = api.pieces(ask)
        self._count = 0
        self._is_over = False

    async def __aenter__(self) -> Self:
        self._api.http_requests += 1
        await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_over:
            self._count += sum(1 for _ in zip(range(self._api.lag), self._pieces, strict=False))

    def __aiter__(self) -> AsyncIterator[Reply]:
        return self

    async def __anext__(self) -> Reply:
        for piece in self._pieces:
            self._count += 1
            self._is_over = piece.finish_reason is not None
            return piece
        raise StopAsyncIteration

    @property
    def cost(self) -> Cost:
        return replace(self._api.cost(self._ask, self._count), is_estimated=not self._is_over)


def _ended(end_id: int, end_logprob: float, end_tops: tuple[TopLogprob, ...]) -> Reply:
    return Reply(
        token_ids=(),
        are_ids_exact=True,
        text="",
        logprobs=(),
        tops=(),
        are_logprobs_raw=True,
        finish_reason="stop",
        is_ended=True,
        end_id=end_id,
        end_logprob=end_logprob,
        end_tops=end_tops,
    )


def _index(weights: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    if temperature == 0.0:
        return int(weights.argmax())
    sums = np.cumsum(weights)
    return min(int(np.searchsorted(sums, rng.random() * sums[-1], side="right")), len(weights) - 1)
