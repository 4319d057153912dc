"""Questions to LMQL's predictor: tokens ahead of a session's steps, scores, the likeliest tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dcmodel.errors import CapabilityError, DcModelError, GenerationError, RequestCancelledError
from dcmodel.mask import TokenMask
from dcmodel.types import SamplingParams, Usage
from lmql_backends.lmtp.protocol import errors, masks, numbers
from lmql_backends.lmtp.protocol.messages import (
    Columns,
    Distribution,
    Look,
    Looked,
    Open,
    Score,
    Scored,
    Scores,
    ServerMessage,
    Settle,
    Step,
    Stepped,
    Top,
)
from lmql_backends.replicate.asked import SessionState
from lmql_backends.replicate.ops import AskedOps, Item, Op, generate, score, shows_logprobs, token_of, tops_of

SCORES, TOKENS = 0, 1
"""The two commands of a session's question, by number."""
GREEDY = SamplingParams()


class Reading:
    """The tokens of one SCORE command, as they come."""

    def __init__(self, prompt: Sequence[int], scored: Sequence[int]) -> None:
        self._op = score(prompt, scored)
        self.scored = list(scored)
        self.logprobs: list[float] = []

    @property
    def is_whole(self) -> bool:
        return len(self.logprobs) == len(self.scored)

    def op(self) -> Op:
        """Asked anew, all of it comes anew."""
        self.logprobs.clear()
        return self._op

    def take(self, item: Item) -> None:
        token_id, logprob = token_of(item)
        place = len(self.logprobs)
        if place >= len(self.scored) or token_id != self.scored[place]:
            raise GenerationError(f"the predictor scored token {token_id}, which is not the one that is due.")
        self.logprobs.append(logprob)


class AskedTokens(AskedOps):
    """A `Step`, and the tokens behind it that nothing forbids yet: the next steps find them here."""

    def __init__(self, state: SessionState, step: Step, vocab_size: int) -> None:
        super().__init__(step.id)
        request = state.opening.request
        self._prompt = [*_prompt_of(state.opening), *state.output]
        self._sampling = step.sampling or request.sampling
        self._mask = None if step.mask is None else masks.from_wire(step.mask, vocab_size)
        self._tops = request.top_logprobs
        self._limit = 1 if self._mask is not None else max(request.max_tokens - len(state.output), 1)
        self._gap = _gap(state, step.known)
        self._state = state
        self._step: Step | None = step
        """Who waits for a token."""
        self._received: list[Item] = []
        self._given = 0
        """How many of them steps have taken."""
        self._output = state.output
        """What stands behind the prompt when those have been."""
        self._has_ended = False

    def continues(self, step: Step) -> bool:
        """Whether this step is about the token behind those that were given: it waits here from now on."""
        state = self._state
        sampling = step.sampling or state.opening.request.sampling
        is_next = step.mask is None and self._mask is None and step.known == len(state.output)
        is_next = is_next and sampling == self._sampling and state.output == self._output
        if not is_next or (self._has_ended and self._given == len(self._received)):
            return False
        self._step = step
        return True

    def ops(self) -> Mapping[int, Op]:
        found: dict[int, Op] = {}
        if not self._gap.is_whole:
            found[SCORES] = self._gap.op()
        found[TOKENS] = generate(
            [*self._prompt, *(token_of(item)[0] for item in self._received)],
            self._sampling,
            mask=self._mask,
            max_tokens=self._limit - len(self._received),
            top_logprobs=self._tops,
        )
        return found

    def take(self, answer: Item) -> list[ServerMessage]:
        self.heard += 1
        try:
            if answer.part == SCORES:
                self._gap.take(answer)
            else:
                self._take_token(answer)
        except DcModelError as error:
            return self._failed(error)
        self.is_over = self._has_ended and self._gap.is_whole
        return self.next()

    def next(self) -> list[ServerMessage]:
        """The answer to the step that waits, if it is there."""
        if self._step is None or not self._gap.is_whole or self._given == len(self._received):
            return []
        step, self._step = self._step, None
        item = self._received[self._given]
        gap = self._gap if self._given == 0 else None
        self._given += 1
        columns = _columns(gap, item, self._sampling, self._mask, self._tops)
        self._state.output = self._output = [*self._state.output, columns.token_ids[-1]]
        return [Stepped(id=step.id, columns=columns)]

    def _take_token(self, item: Item) -> None:
        token_id, _ = token_of(item)
        if self._mask is not None and token_id not in self._mask:
            raise GenerationError(f"the predictor drew token {token_id}, which the mask forbids.")
        self._received.append(item)
        is_last = item.fields.get("finish_reason") is not None
        self._has_ended = is_last or len(self._received) >= self._limit

    def _failed(self, error: DcModelError) -> list[ServerMessage]:
        """What came before it stays good; nobody waits: whoever asks again gets it again."""
        self.is_over = self._has_ended = True
        step, self._step = self._step, None
        return [] if step is None else [errors.to_wire(step.id, error)]


class AskedLook(AskedOps):
    """A `Look` at the likeliest tokens, or a `Settle`."""

    def __init__(self, state: SessionState, question: Look | Settle) -> None:
        """Raises `CapabilityError` for what no command shows."""
        super().__init__(question.id)
        self._k = 0
        if isinstance(question, Look):
            if question.k is None or question.mask is not None:
                raise CapabilityError(
                    "LMQL's predictor shows the likeliest tokens before a mask, and no whole distribution.",
                    remedy="Give k and no mask, or push a predictor of ours.",
                )
            self._k = question.k
        self._prompt = [*_prompt_of(state.opening), *state.output]
        self._gap = _gap(state, question.known)
        self._item: Item | None = None

    def ops(self) -> Mapping[int, Op]:
        found: dict[int, Op] = {}
        if not self._gap.is_whole:
            found[SCORES] = self._gap.op()
        if self._k and self._item is None:
            found[TOKENS] = generate(self._prompt, GREEDY, max_tokens=1, top_logprobs=self._k)
        return found

    def take(self, answer: Item) -> list[ServerMessage]:
        self.heard += 1
        try:
            if answer.part == SCORES:
                self._gap.take(answer)
            else:
                token_of(answer)
                self._item = answer
        except DcModelError as error:
            self.is_over = True
            return [errors.to_wire(self.id, error)]
        return self.answered()

    def answered(self) -> list[ServerMessage]:
        """The answer, once all of it is there."""
        if not self._gap.is_whole or (self._k and self._item is None):
            return []
        self.is_over = True
        columns = _columns(self._gap, None, GREEDY, None, 0)
        if self._item is None:
            return [Stepped(id=self.id, columns=columns)]
        tops = tops_of(self._item, self._k)
        distribution = Distribution(
            raw=np.array([logprob for _, logprob in tops], dtype="<f4").tobytes(),
            log_mass=0.0,
            token_ids=np.array([token_id for token_id, _ in tops], dtype="<i4").tobytes(),
        )
        return [Looked(id=self.id, distribution=distribution, columns=columns)]


class AskedScores(AskedOps):
    """`Score`. Ranks are not shown: those of a continuation say whether it is the greedy one, which a
    generation beside them tells; behind the first token that is not, they are lower bounds."""

    def __init__(self, message: Score) -> None:
        """Raises `CapabilityError` for what no command shows."""
        super().__init__(message.id)
        if message.top_logprobs or message.prompt_logprobs:
            raise CapabilityError(
                "LMQL's predictor shows no other tokens than those that it scores.",
                remedy="Leave top_logprobs out, or push a predictor of ours.",
            )
        self._message = message
        self._distinct = list(dict.fromkeys(tuple(item) for item in message.continuations))
        self._readings = [Reading(message.prompt, item) for item in self._distinct]
        if message.prompt_logprobs is not None:
            self._readings.append(Reading(message.prompt[:1], message.prompt[1:]))
        self._longest = max(map(len, self._distinct), default=0)
        self._greedy: list[int] = []
        self._knows_greedy = not self._longest

    def ops(self) -> Mapping[int, Op]:
        found = {part: item.op() for part, item in enumerate(self._readings) if not item.is_whole}
        if not self._knows_greedy:
            self._greedy.clear()
            prompt = self._message.prompt
            found[len(self._readings)] = generate(prompt, GREEDY, max_tokens=self._longest, top_logprobs=1)
        return found

    def take(self, answer: Item) -> list[ServerMessage]:
        self.heard += 1
        try:
            if answer.part < len(self._readings):
                self._readings[answer.part].take(answer)
            else:
                self._greedy.append(token_of(answer)[0])
                has_ended = answer.fields.get("finish_reason") is not None
                self._knows_greedy = has_ended or len(self._greedy) >= self._longest
        except DcModelError as error:
            self.is_over = True
            return [errors.to_wire(self.id, error)]
        if not self._knows_greedy or not all(item.is_whole for item in self._readings):
            return []
        self.is_over = True
        return [self._scored()]

    def cancelled(self) -> list[ServerMessage]:
        return [errors.to_wire(self.id, RequestCancelledError("the question was cancelled."))]

    def _scored(self) -> Scored:
        message = self._message
        by_tokens = dict(zip(self._distinct, self._readings, strict=False))
        asks_prompt = message.prompt_logprobs is not None
        return Scored(
            id=self.id,
            usage=Usage(
                prompt_tokens=len(message.prompt),
                cached_tokens=0,
                completion_tokens=sum(map(len, message.continuations)),
                forced_tokens=0,
            ),
            continuations=[self._scores(by_tokens[tuple(item)]) for item in message.continuations],
            prompt=_plain_scores(self._readings[-1]) if asks_prompt else None,
        )

    def _scores(self, reading: Reading) -> Scores:
        found = _plain_scores(reading)
        for place, token_id in enumerate(reading.scored):
            if place >= len(self._greedy) or self._greedy[place] != token_id:
                found.ranks[place] = 1
                break
        return found


def _plain_scores(reading: Reading) -> Scores:
    return Scores(logprobs=numbers.all_to_wire(reading.logprobs), ranks=[0] * len(reading.scored))


def _prompt_of(opening: Open) -> list[int]:
    prompt = opening.request.prompt
    assert not isinstance(prompt, str)  # clients of ours send ids
    return prompt


def _gap(state: SessionState, known: int) -> Reading:
    """What was appended and has no log-probabilities yet."""
    prompt = [*_prompt_of(state.opening), *state.output[:known]]
    return Reading(prompt, state.output[known:])


def _columns(
    gap: Reading | None, item: Item | None, sampling: SamplingParams, mask: TokenMask | None, tops: int
) -> Columns:
    """The appended tokens and the drawn one. NaN stands for what is not shown: before a mask, where there is
    one, and anything where the sampling changes what is reported."""
    token_ids = [] if gap is None else list(gap.scored)
    raw = [] if gap is None else list(gap.logprobs)
    masked, log_mass = list(raw), [0.0] * len(raw)
    top_rows = [Top(token_ids=[], logprobs=[]) for _ in raw]
    if item is not None:
        token_id, logprob = token_of(item)
        shown = logprob if shows_logprobs(sampling) else math.nan
        token_ids.append(token_id)
        raw.append(shown if mask is None else math.nan)
        masked.append(shown)
        log_mass.append(0.0 if mask is None else math.nan)
        found = tops_of(item, tops) if tops and shows_logprobs(sampling) else []
        top_rows.append(Top(token_ids=[top[0] for top in found], logprobs=[top[1] for top in found]))
    return Columns(
        token_ids=token_ids,
        raw=numbers.all_to_wire(raw),
        masked=numbers.all_to_wire(masked),
        log_mass=numbers.all_to_wire(log_mass),
        top_raw=top_rows if tops and mask is None else [],
        top_masked=top_rows if tops and mask is not None else [],
    )
