"""What our code does in the middle of a step of vLLM: masks, draws, scores and commits."""

from __future__ import annotations

import torch
from torch import Tensor

from dcmodel.constraint import Matcher
from dcmodel.engine import GenerateBatch, Span
from dcmodel.errors import EngineError
from dcmodel.scheduling.prefix_cache import Entry
from dcmodel.scheduling.sequence import Sequence
from dcmodel.scheduling.step import Step
from lmql_backends.vllm.engine import Job, Part, StepEngine
from lmql_backends.vllm.masks import EarlyMasks


class Drawing:
    """One step after the other: `begin` before vLLM's forward, `draw` when its logits are there."""

    def __init__(self, engine: StepEngine, vocab_size: int) -> None:
        """`vocab_size`: the larger of the model's and the tokenizer's."""
        self._engine = engine
        self._masks = EarlyMasks(vocab_size)
        self._step = Step(engine, vocab_size, self._masks)
        self._parts: list[Part] = []
        self._batch = GenerateBatch()
        self._active: list[Sequence] = []

    @property
    def jobs(self) -> list[Job]:
        """Those of the last step."""
        return [part.job for part in self._parts]

    def begin(self, parts: list[Part]) -> None:
        """Plan a step, in the order of the logits' rows; masks are filled from now on."""
        self._parts, self._batch, self._active = parts, GenerateBatch(), []
        matchers: list[Matcher | None] = []
        for place, part in enumerate(parts):
            sequence = part.job.sequence
            span = _span(part, place)
            if span is None:
                continue
            self._batch.spans.append(span)
            self._active.append(sequence)
            if span.wanted and span.start + span.wanted[-1] == len(sequence.token_ids) - 1:
                matchers.append(sequence.matcher)
        self._masks.begin(matchers)

    def draw(self, logits: Tensor) -> None:
        """Do with the logits what the sequences want, and leave each row's next token as its likeliest."""
        if self._active:
            self._engine.parts, self._engine.logits = self._parts, logits
            self._step.run(self._batch, self._active)
        rows: list[int] = []
        tokens: list[int] = []
        for part in self._parts:
            following = part.start + part.count
            if following < len(part.job.sequence.token_ids):
                rows.append(part.row)
                tokens.append(part.job.sequence.token_ids[following])
        if rows:
            places = torch.tensor([rows, tokens], device=logits.device)
            logits[places[0], places[1]] = torch.finfo(logits.dtype).max

    def drop(self) -> None:
        """The step is over, perhaps before its logits were there."""
        self._masks.drop()
        self._engine.logits = None

    def close(self) -> None:
        self._masks.drop()
        self._step.close()


def _span(part: Part, place: int) -> Span | None:
    """What of the sequence the step computes; None where it has ended, or fails here."""
    job, sequence = part.job, part.job.sequence
    if job.is_new:
        job.is_new = False
        sequence.cached_tokens = max(sequence.cached_tokens, min(part.start, sequence.prompt_length))
    if sequence.is_complete:
        return None
    if part.start > max(sequence.ready - 1, 0):
        sequence.error = EngineError(
            f"vLLM took {part.start} tokens from its prefix cache, where {sequence.ready - 1} were allowed.",
            remedy="Use a version of vLLM that docs/vllm.md lists.",
        )
        return None
    sequence.entry = Entry(place, (), part.start)
    sequence.computed = part.start
    return sequence.span(part.count, part.count)
