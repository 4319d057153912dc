"""One step of the scheduler: forward and masks side by side, sample, commit."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dcmodel.engine import Engine, GenerateBatch
from dcmodel.errors import EngineError, NonFiniteLogitsError
from dcmodel.logits import Floats, Ints, LogitRows, SampledRows, SamplePlan, ScoredRows
from dcmodel.scheduling.adjustments import bias_triples, repetition_triples
from dcmodel.scheduling.candidates import CandidateSequence
from dcmodel.scheduling.commits import (
    MAX_DRAWS,
    commit,
    fail,
    given_record,
    leave_ways_out,
    no_choice,
    restrict,
    too_many_draws,
)
from dcmodel.scheduling.look import likeliest, whole_vocabulary
from dcmodel.scheduling.mask_filler import Failures, MaskFiller
from dcmodel.scheduling.randomness import SEED_MASK, uniforms
from dcmodel.scheduling.sequence import LogprobRecord, Sequence, TopRow
from dcmodel.scheduling.tree_scores import TreeScores, score_trees
from dcmodel.types import NextTokens

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Work:
    """What the logit rows of a batch are for."""

    drawing: list[Sequence] = field(default_factory=list)
    draw_rows: list[int] = field(default_factory=list)
    scoring: list[Sequence] = field(default_factory=list)
    score_rows: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    trees: list[tuple[CandidateSequence, int]] = field(default_factory=list)
    """Each with its first row."""


class Step:
    """Runs batches on one engine; keeps the buffers between steps."""

    def __init__(self, engine: Engine, vocab_size: int, masks: MaskFiller | None = None) -> None:
        """`vocab_size`: the larger of the engine's and the tokenizer's. `masks`: what fills them."""
        self._engine = engine
        self._masks = MaskFiller(vocab_size) if masks is None else masks

    def run(self, batch: GenerateBatch, active: list[Sequence]) -> None:
        """Compute, draw, commit. A sequence that fails gets its `error`; the others go on."""
        work = _collect(batch, active)
        self._masks.start([sequence.matcher for sequence in work.drawing])
        is_computed = False
        try:
            rows = self._engine.forward(batch)
            is_computed = True
            bitmask, failures = self._masks.finish(len(work.drawing))
            for row, sequence in enumerate(work.drawing):
                if sequence.mask is not None or sequence.banned:
                    restrict(sequence, bitmask[row])
            sampled = rows.sample(_sample_plan(work, bitmask)) if work.drawing else None
            seen = _look(rows, work, bitmask)
            scored = _score(rows, work) if work.scoring else None
            trees = score_trees(rows, work.trees)
        except Exception as error:
            self._masks.finish(0)
            if is_computed:
                for span in batch.spans:
                    self._engine.truncate(span.sequence, span.start)
            self._run_alone(batch, active, error)
            return
        for span, sequence in zip(batch.spans, active, strict=True):
            sequence.computed += len(span.token_ids)
            assert sequence.entry is not None
            sequence.entry.computed = sequence.computed
        if scored is not None:
            _commit_scored(work, scored)
        for (tree, _), tree_scores in zip(work.trees, trees, strict=True):
            _commit_tree(tree, tree_scores)
        if sampled is not None:
            refused = _commit_sampled(work, sampled, failures, seen)
            if refused:
                _draw_again(rows, work, bitmask, refused)

    def close(self) -> None:
        self._masks.close()

    def _run_alone(self, batch: GenerateBatch, active: list[Sequence], error: Exception) -> None:
        """The batch failed as a whole: run each span by itself, so that only the guilty one fails."""
        if len(active) == 1:
            logger.warning("a sequence failed in the engine", exc_info=error)
            active[0].error = EngineError(f"the engine failed: {error!r}.")
            return
        for span, sequence in zip(batch.spans, active, strict=True):
            self.run(GenerateBatch([span]), [sequence])


def _collect(batch: GenerateBatch, active: list[Sequence]) -> _Work:
    work = _Work()
    row = 0
    for span, sequence in zip(batch.spans, active, strict=True):
        if isinstance(sequence, CandidateSequence):
            work.trees.append((sequence, row))
            row += span.num_rows
            continue
        last = len(sequence.token_ids) - 1
        for offset in span.wanted:
            position = span.start + offset
            if position == last:
                work.drawing.append(sequence)
                work.draw_rows.append(row)
            else:
                work.scoring.append(sequence)
                work.score_rows.append(row)
                work.targets.append(sequence.token_ids[position + 1])
            row += 1
    return work


def _draw_again(rows: LogitRows, work: _Work, bitmask: NDArray[np.int32], refused: list[int]) -> None:
    """Draw other tokens where a constraint saw a dead end behind the one that was drawn.

    Each time with a new random number, so that what comes out is distributed as the mask without the
    dead ends would have it. After `MAX_DRAWS` only the way out that the matcher knows is left.
    """
    for attempt in range(1, MAX_DRAWS + 1):
        again = _Work(
            drawing=[work.drawing[row] for row in refused], draw_rows=[work.draw_rows[row] for row in refused]
        )
        bitmask = bitmask[refused]
        for row, sequence in enumerate(again.drawing):
            if sequence.is_cornered or attempt == MAX_DRAWS:
                leave_ways_out(sequence, bitmask[row])
            restrict(sequence, bitmask[row])
        sampled = rows.sample(_sample_plan(again, bitmask, attempt))
        refused = _commit_sampled(again, sampled, {}, {})
        work = again
        if not refused:
            return
    for row in refused:
        work.drawing[row].error = too_many_draws()


def _sample_plan(work: _Work, bitmask: NDArray[np.int32], attempt: int = 0) -> SamplePlan:
    sequences = work.drawing
    params = [sequence.sampling_now for sequence in sequences]
    adjustments = [sequence.adjustments for sequence in sequences]
    temperature = np.array([item.temperature for item in params], dtype=np.float32)
    return SamplePlan(
        rows=np.array(work.draw_rows, dtype=np.int64),
        bitmask=bitmask,
        is_masked=np.array([sequence.is_masked for sequence in sequences]),
        temperature=temperature,
        top_k=np.array([item.top_k for item in params], dtype=np.int64),
        top_p=np.array([item.top_p for item in params], dtype=np.float32),
        min_p=np.array([item.min_p for item in params], dtype=np.float32),
        uniform=_uniform(sequences, attempt) if temperature.any() else np.zeros(len(sequences)),
        repetition=repetition_triples(adjustments, params),
        bias=bias_triples(adjustments),
        want_logprobs=any(sequence.want_logprobs for sequence in sequences),
        top_logprobs=max(sequence.shown_logprobs for sequence in sequences),
    )


def _uniform(sequences: Seq[Sequence], attempt: int) -> NDArray[np.float64]:
    """Each row's random number follows from its seed, its place in the output, and how often it was drawn."""
    seeds = np.array([sequence.seed & SEED_MASK for sequence in sequences], dtype=np.uint64)
    places = np.array(
        [sequence.output_length + (attempt + sequence.attempt << 32) for sequence in sequences],
        dtype=np.uint64,
    )
    return uniforms(seeds, places)


def _look(rows: LogitRows, work: _Work, bitmask: NDArray[np.int32]) -> dict[int, NextTokens]:
    """The whole distributions that are wanted, by place in `work`."""
    places = [
        place
        for place, sequence in enumerate(work.drawing)
        if sequence.look is not None and sequence.look.k is None
    ]
    if not places:
        return {}
    logprobs = rows.log_softmax(np.array([work.draw_rows[place] for place in places], dtype=np.int64))
    return {
        place: whole_vocabulary(row, bitmask[place] if work.drawing[place].is_masked else None)
        for place, row in zip(places, logprobs, strict=True)
    }


def _commit_sampled(
    work: _Work, sampled: SampledRows, failures: Failures, seen: dict[int, NextTokens]
) -> list[int]:
    """Commit what was drawn or looked at; the places in `work` whose token the constraint refused."""
    refused: list[int] = []
    token_ids, is_finite, has_choice = (
        sampled.token_ids.tolist(),
        sampled.is_finite.tolist(),
        sampled.has_choice.tolist(),
    )
    raw, masked, mass = (
        sampled.raw_logprob.tolist(),
        sampled.masked_logprob.tolist(),
        sampled.log_mass.tolist(),
    )
    for row, sequence in enumerate(work.drawing):
        if sequence.error is not None:
            continue
        error = failures.get(row)
        if error is None and not is_finite[row]:
            error = _non_finite(sequence)
        if error is None and not has_choice[row]:
            if sequence.corner():
                refused.append(row)
                continue
            error = no_choice()
        if error is None and sequence.look is not None:
            if row in seen:
                sequence.look.found = seen[row]
            else:
                ids, logprobs = _top_row(sampled.top_masked, row, sequence.look.k or 0) or ([], [])
                sequence.look.found = likeliest(ids, logprobs, mass[row])
            continue
        if error is None:
            record: LogprobRecord | None = None
            if sequence.want_logprobs:
                top = sequence.top_logprobs
                record = (
                    raw[row],
                    masked[row],
                    mass[row],
                    _top_row(sampled.top_raw, row, top),
                    _top_row(sampled.top_masked, row, top),
                )
            is_taken, error = commit(sequence, token_ids[row], record)
            if not is_taken:
                refused.append(row)
        if error is not None:
            fail(sequence, error)
    return refused


def _commit_scored(work: _Work, scored: ScoredRows) -> None:
    logprobs, ranks, is_finite = scored.logprob.tolist(), scored.rank.tolist(), scored.is_finite.tolist()
    for row, sequence in enumerate(work.scoring):
        if sequence.error is not None:
            continue
        if not is_finite[row]:
            sequence.error = _non_finite(sequence)
            continue
        top = _top_row(scored.top, row, sequence.top_logprobs)
        record = given_record(work.targets[row], logprobs[row], top)
        sequence.score(record, ranks[row])


def _commit_tree(sequence: CandidateSequence, scores: TreeScores) -> None:
    if not scores.is_finite:
        sequence.error = _non_finite(sequence)
    elif sequence.error is None:
        sequence.take(scores.edges, scores.logprobs, scores.ranks)
        if sequence.top_logprobs:
            count = sequence.top_logprobs
            sequence.tree.take_tops(scores.top_edges, scores.top[0][:, :count], scores.top[1][:, :count])


def _score(rows: LogitRows, work: _Work) -> ScoredRows:
    return rows.score(
        np.array(work.score_rows, dtype=np.int64),
        np.array(work.targets, dtype=np.int64),
        max(sequence.top_logprobs for sequence in work.scoring),
    )


def _top_row(top: tuple[Ints, Floats], row: int, count: int) -> TopRow | None:
    if not count:
        return None
    return top[0][row, :count].tolist(), top[1][row, :count].tolist()


def _non_finite(sequence: Sequence) -> NonFiniteLogitsError:
    return NonFiniteLogitsError(
        f"the model gave NaN or infinite logits after {sequence.computed} tokens.",
        remedy='Load it with dtype="float32", or check its weights.',
    )
