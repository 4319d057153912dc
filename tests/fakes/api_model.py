"""An endpoint without HTTP over closed-form logits: strictly what an OpenAI-compatible API shows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from dcmodel.constraints import Choice, Grammar, JsonSchema, Regex, from_dict
from dcmodel.errors import InvalidRequestError
from dcmodel.mask import allocate_rows, row_to_bools
from dcmodel.types import Cost, TopLogprob
from lmql_backends.openai.capabilities import (
    UNLIMITED,
    EndpointCapabilities,
    GrammarKind,
    GrammarSupport,
    Support,
)
from lmql_backends.openai.endpoint_api import Ask, Reply, SentPrompt

OPENAI_COMPLETIONS = EndpointCapabilities(
    token_id_prompts=True,
    list_prompts=True,
    continuation=True,
    max_bias_entries=300,
    raw_logprobs=True,
    max_top_logprobs=20,
    shows_logprobs=True,
    seed=True,
)
"""What the completions API of OpenAI was, with 20 likeliest tokens."""
VLLM = replace(OPENAI_COMPLETIONS, allowed_token_ids=True, max_bias_entries=UNLIMITED)
BARE = replace(OPENAI_COMPLETIONS, max_bias_entries=0, max_top_logprobs=0, shows_logprobs=False, seed=False)
"""Text in, text out."""


KEPT = 4_000


def with_grammars(able: EndpointCapabilities, support: Support = Support.HONOURED, *kinds: GrammarKind):
    """The same, which says so of these kinds of grammar (of all, if none are named)."""
    known = {kind: GrammarSupport(support) for kind in kinds or GrammarKind}
    return replace(able, grammars=MappingProxyType(known))


@dataclass(kw_only=True)
class ApiModel:
    """An `Asker`. `model.logits(ids)` are the model's own, in float32 or 64."""

    model: object
    tokenizer: object
    capabilities: EndpointCapabilities = OPENAI_COMPLETIONS
    breaks_grammars: bool = False
    """Grammars are taken, and have no effect."""
    seed: int = 0
    lag: int = 0
    """So many tokens are drawn, and billed, after a stream was left."""
    asks: list[Ask] = field(default_factory=list)
    requests: int = 0
    """HTTP requests: equal asks of one turn of the event loop share one, where lists are taken."""
    drawn: int = 0
    lies: list[GrammarKind] = field(default_factory=list)
    knows_ids: bool = True
    shows_ends: bool = True
    """What is known of the token that ends a text; OpenAI tells nothing."""
    gives_several: bool = True
    """Whether ``n`` is taken."""

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._rows: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._shown: dict[tuple[int, ...], dict[int, tuple[TopLogprob, ...]]] = {}
        self._groups: dict[object, asyncio.Future[None]] = {}

    # -- the contract ------------------------------------------------------------------------------

    def place(self, prompt_ids, output_ids=()) -> SentPrompt | None:
        if output_ids and not self._continues:
            return None
        if self.capabilities.token_id_prompts:
            return SentPrompt((*prompt_ids, *output_ids), is_exact=True)
        try:
            text = self.tokenizer.decode_bytes((*prompt_ids, *output_ids)).decode()
        except UnicodeDecodeError:
            return None
        return SentPrompt(text, is_exact=self.tokenizer.encode(text) == [*prompt_ids, *output_ids])

    def lied(self, kind) -> None:
        self.lies.append(kind)
        self.capabilities = self.capabilities.without(kind)

    async def ask(self, ask: Ask) -> Reply:
        self._check(ask)
        await self._share(ask)
        pieces = list(self._pieces(ask))
        reply = joined(pieces)
        return replace(reply, cost=self._cost(ask, len(reply.token_ids) + reply.is_ended))

    async def ask_several(self, ask: Ask, count: int) -> list[Reply]:
        if not self.gives_several:
            return [await self.ask(ask)]
        self._check(ask)
        self.requests += 1
        await asyncio.sleep(0)
        found = []
        for index in range(count):
            seed = None if ask.seed is None else ask.seed + index
            found.append(joined(list(self._pieces(replace(ask, seed=seed)))))
        tokens = sum(len(reply.token_ids) + reply.is_ended for reply in found)
        return [replace(found[0], cost=self._cost(ask, tokens)), *found[1:]]

    def ask_stream(self, ask: Ask) -> ApiStream:
        self._check(ask)
        return ApiStream(self, ask)

    # -- inside ------------------------------------------------------------------------------------

    @property
    def _continues(self) -> bool:
        return self.capabilities.continuation or not self.capabilities.is_chat

    async def _share(self, ask: Ask) -> None:
        if not self.capabilities.list_prompts:
            self.requests += 1
            await asyncio.sleep(0)
            return
        key = repr(replace(ask, prompt=()))
        if key in self._groups:
            await self._groups[key]
            return
        self.requests += 1
        self._groups[key] = group = asyncio.get_running_loop().create_future()
        # Those who were woken by one answer ask within two turns.
        for _ in range(3):
            await asyncio.sleep(0)
        del self._groups[key]
        group.set_result(None)

    def _cost(self, ask: Ask, completion_tokens: int) -> Cost:
        prompt = self._prompt_ids(ask)
        return Cost(requests=1, prompt_tokens=len(prompt), completion_tokens=completion_tokens)

    def _prompt_ids(self, ask: Ask) -> list[int]:
        return list(ask.prompt) if isinstance(ask.prompt, tuple) else self.tokenizer.encode(ask.prompt)

    def _check(self, ask: Ask) -> None:
        able = self.capabilities
        self.asks.append(ask)
        wrong = (
            (len(ask.bias) > able.max_bias_entries, "too many biases"),
            (any(abs(value) > able.bias_range for value in ask.bias.values()), "a bias out of range"),
            (any(not 0 <= item < self.tokenizer.vocab_size for item in ask.bias), "a bias of no token"),
            (ask.top_logprobs > able.max_top_logprobs, "too many top_logprobs"),
            (ask.allowed is not None and not able.allowed_token_ids, "allowed_token_ids"),
            (ask.seed is not None and not able.seed, "seed"),
            (ask.max_tokens < 1, "max_tokens"),
            (not 0.0 <= ask.temperature <= 2.0, "temperature"),
            (ask.grammar is not None and ask.grammar.kind not in able.grammars, "a grammar"),
        )
        for is_wrong, what in wrong:
            if is_wrong:
                raise InvalidRequestError(f"400: {what}")
        if ask.grammar is not None and able.grammars[ask.grammar.kind].support is Support.REFUSED:
            raise InvalidRequestError("400: a grammar")

    def _pieces(self, ask: Ask):
        """One reply for each token; the last one says why it ended."""
        context = self._prompt_ids(ask)
        matcher = self._matcher(ask)
        rng = self._rng if ask.seed is None else np.random.default_rng([ask.seed & (2**63 - 1), len(context)])
        output: list[int] = []
        raw = bool(self.capabilities.raw_logprobs)
        while True:
            logits, logprobs = self._row(context)
            changed = self._changed(logits, ask, output, matcher)
            shown = logprobs if raw else log_softmax(changed)
            token_id = drawn_token(changed, ask, rng)
            self.drawn += 1
            tops = self._tops(tuple(context), shown, ask.top_logprobs, is_raw=raw)
            logprob = float(shown[token_id])
            about = {"are_ids_exact": self.knows_ids, "are_logprobs_raw": raw or None}
            if token_id in self.tokenizer.eos_token_ids:
                yield self._end(about, logprob, tops)
                return
            output.append(token_id)
            context.append(token_id)
            is_stopped = matcher is not None and matcher.advance([token_id]) and matcher.is_finished
            is_long = len(output) == ask.max_tokens
            sees = self.capabilities.shows_logprobs
            yield Reply(
                token_ids=(token_id,),
                text=self.tokenizer.decode([token_id]),
                logprobs=(logprob,) if sees else None,
                tops=(tops,) if sees else None,
                finish_reason="stop" if is_stopped else "length" if is_long else None,
                is_ended=bool(is_stopped),
                **about,
            )
            if is_stopped or is_long:
                return

    def _row(self, context: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of the model itself: logits and log-probabilities."""
        key = tuple(context)
        if key not in self._rows:
            logits = np.asarray(self.model.logits(context), dtype=np.float64)
            self._rows[key] = logits, log_softmax(logits)
            if len(self._rows) > KEPT:
                self._rows.pop(next(iter(self._rows)))
        return self._rows[key]

    def _tops(self, context, shown, count, *, is_raw):
        if not is_raw:
            return top_logprobs(shown, count)
        known = self._shown.setdefault(context, {})
        if count not in known:
            known[count] = top_logprobs(shown, count)
            if len(self._shown) > KEPT:
                self._shown.pop(next(iter(self._shown)))
        return known[count]

    def _end(self, about, logprob, tops) -> Reply:
        sees = self.capabilities.shows_logprobs and self.shows_ends
        return Reply(
            token_ids=(),
            text="",
            logprobs=() if self.capabilities.shows_logprobs else None,
            tops=() if self.capabilities.shows_logprobs else None,
            finish_reason="stop",
            is_ended=True,
            end_logprob=logprob if sees else None,
            end_tops=tops if sees else (),
            **about,
        )

    def _changed(self, logits, ask, output, matcher):
        """What is drawn from, before the temperature."""
        changed = logits.copy()
        for token_id, value in ask.bias.items():
            changed[token_id] += value
        for token_id in set(output):
            changed[token_id] -= ask.presence_penalty + ask.frequency_penalty * output.count(token_id)
        if ask.allowed is not None:
            mask = np.full_like(changed, -np.inf)
            mask[list(ask.allowed)] = 0.0
            changed += mask
        if matcher is not None:
            row = allocate_rows(1, self.tokenizer.vocab_size)[0]
            matcher.fill_mask(row)
            changed[~row_to_bools(row, self.tokenizer.vocab_size)] = -np.inf
        return changed

    def _matcher(self, ask: Ask):
        if ask.grammar is None or self.breaks_grammars:
            return None
        if self.capabilities.grammars[ask.grammar.kind].support is not Support.HONOURED:
            return None
        source = ask.grammar.source
        makers = {
            GrammarKind.JSON_SCHEMA: lambda: JsonSchema(source, whitespace="bounded"),
            GrammarKind.REGEX: lambda: Regex(source),
            GrammarKind.CHOICE: lambda: Choice(source),
            GrammarKind.LARK: lambda: Grammar(source),
            GrammarKind.CONSTRAINT: lambda: from_dict(source),
        }
        return makers[ask.grammar.kind]().compile(self.tokenizer).matcher()


class Leaning:
    """A model that likes some tokens: `bonus` is added to their logits."""

    def __init__(self, model, token_ids, bonus: float = 5.0) -> None:
        self._model = model
        self._added = np.zeros(model.vocab_size)
        self._added[list(token_ids)] = bonus
        self.vocab_size = model.vocab_size

    def logits(self, token_ids):
        return self._model.logits(token_ids) + self._added


class ApiStream:
    """A `ReplyStream`."""

    def __init__(self, api: ApiModel, ask: Ask) -> None:
        self._api = api
        self._ask = ask
        self._pieces = api._pieces(ask)
        self._count = 0
        self._is_over = False
        self.is_closed = False

    async def __aenter__(self):
        self._api.requests += 1
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_):
        self.is_closed = True
        if not self._is_over:
            for _, _piece in zip(range(self._api.lag), self._pieces, strict=False):
                self._count += 1

    def __aiter__(self):
        return self

    async def __anext__(self) -> Reply:
        for piece in self._pieces:
            self._count += 1
            self._is_over = piece.finish_reason is not None
            return piece
        raise StopAsyncIteration

    @property
    def cost(self) -> Cost:
        cost = self._api._cost(self._ask, self._count)
        return replace(cost, is_estimated=not self._is_over)


def joined(pieces: list[Reply]) -> Reply:
    last = pieces[-1]
    has_logprobs = last.logprobs is not None
    return replace(
        last,
        token_ids=tuple(item for piece in pieces for item in piece.token_ids),
        text="".join(piece.text for piece in pieces),
        logprobs=tuple(item for piece in pieces for item in piece.logprobs) if has_logprobs else None,
        tops=tuple(item for piece in pieces for item in piece.tops) if has_logprobs else None,
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    top = logits.max()
    return logits - top - np.log(np.exp(logits - top).sum())


def drawn_token(logits: np.ndarray, ask: Ask, rng: np.random.Generator) -> int:
    if ask.temperature == 0.0:
        return int(logits.argmax())
    weights = np.exp((logits - logits.max()) / ask.temperature)
    if ask.top_p < 1.0:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= ask.top_p * weights.sum()]] = 0.0
    cumulative = np.cumsum(weights)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def top_logprobs(logprobs: np.ndarray, count: int) -> tuple[TopLogprob, ...]:
    if not count:
        return ()
    order = np.argsort(-logprobs, kind="stable")[:count]
    return tuple(TopLogprob(int(item), float(logprobs[item])) for item in order if logprobs[item] > -np.inf)
