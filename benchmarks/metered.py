"""An engine that says how often it was called, and how much CPU time went into it and around it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from dcmodel.engine import Engine, GenerateBatch
from dcmodel.logits import Floats, Ints, LogitRows, SampledRows, SamplePlan, ScoredRows


@dataclass(slots=True)
class Meter:
    """Sums since `reset`; seconds of CPU time of the scheduler's thread."""

    forwards: int = 0
    tokens: int = 0
    forward: float = 0.0
    rows: float = 0.0
    """In `sample` and `score`."""
    copies: float = 0.0
    """In `copy`: prefixes that sequences share."""
    begin: float = -1.0
    last: float = 0.0

    @property
    def steps(self) -> int:
        """Whole steps between the first forward and the last."""
        return self.forwards - 1

    @property
    def around(self) -> float:
        """The thread's time between the first and the last forward outside the engine and its rows."""
        return self.last - self.begin


class MeteredEngine(Engine):
    """Passes everything on. Read `meter` while no request runs."""

    def __init__(self, engine: Engine) -> None:
        self.capabilities = engine.capabilities
        self.meter = Meter()
        self.own_clock = 0.0
        self._engine = engine

    def reset(self) -> None:
        self.meter = Meter()
        self.own_clock = 0.0

    def forward(self, batch: GenerateBatch) -> LogitRows:
        meter = self.meter
        begin = time.thread_time()
        # A clock that stands still in the engine: what it shows is the scheduler's own time.
        outside = begin - self.own_clock
        if meter.begin < 0:
            meter.begin = outside
        meter.last = outside
        rows = self._engine.forward(batch)
        spent = time.thread_time() - begin
        meter.forwards += 1
        meter.tokens += batch.num_tokens
        meter.forward += spent
        self.own_clock += spent
        return _MeteredRows(rows, self)

    def close(self) -> None:
        self._engine.close()

    def allocate(self, length: int) -> int | None:
        return self._engine.allocate(length)

    def reserve(self, sequence: int, length: int) -> bool:
        return self._engine.reserve(sequence, length)

    def copy(self, source: int, target: int, length: int) -> None:
        begin = time.thread_time()
        self._engine.copy(source, target, length)
        spent = time.thread_time() - begin
        self.meter.copies += spent
        self.own_clock += spent

    def truncate(self, sequence: int, length: int) -> None:
        self._engine.truncate(sequence, length)

    def free(self, sequence: int) -> None:
        self._engine.free(sequence)


class _MeteredRows:
    def __init__(self, rows: LogitRows, engine: MeteredEngine) -> None:
        self._rows = rows
        self._engine = engine

    def sample(self, plan: SamplePlan) -> SampledRows:
        begin = time.thread_time()
        result = self._rows.sample(plan)
        self._count(begin)
        return result

    def score(self, rows: Ints, targets: Ints, top_logprobs: int) -> ScoredRows:
        begin = time.thread_time()
        result = self._rows.score(rows, targets, top_logprobs)
        self._count(begin)
        return result

    def log_softmax(self, rows: Ints) -> Floats:
        begin = time.thread_time()
        result = self._rows.log_softmax(rows)
        self._count(begin)
        return result

    def to_numpy(self) -> Floats:
        return self._rows.to_numpy()

    def _count(self, begin: float) -> None:
        spent = time.thread_time() - begin
        self._engine.meter.rows += spent
        self._engine.own_clock += spent
