"""`Scheduler`: continuous batching of sequences over one engine, on a thread of its own.

One step: take in arrivals and cancellations, plan, forward (masks are filled meanwhile), sample,
commit, notify. There is no timer: a lone request starts at once, an idle scheduler sleeps on its inbox.
"""

from __future__ import annotations

import logging
from collections import deque

from dcmodel.engine import Capabilities, Engine, GenerateBatch
from dcmodel.errors import DcModelError, EngineError, ModelClosedError
from dcmodel.scheduling.jobs import Job
from dcmodel.scheduling.kv import KVManager
from dcmodel.scheduling.notify import notify_loops
from dcmodel.scheduling.sequence import Sequence, Status
from dcmodel.scheduling.step import Step
from dcmodel.scheduling.threaded import MAX_WAITING, Item, ThreadRunner

logger = logging.getLogger(__name__)
# How many waiting sequences are considered for admission in one step.
ADMISSION_WINDOW = 128


class Scheduler(ThreadRunner):
    """Runs sequences to their end. `submit` and `cancel` may be called from any thread."""

    def __init__(self, engine: Engine, vocab_size: int, *, max_waiting: int = MAX_WAITING) -> None:
        """`vocab_size`: the tokenizer's, which may differ from the engine's."""
        super().__init__(max_waiting=max_waiting, name="dcmodel-scheduler")
        self._engine = engine
        self._kv = KVManager(engine)
        self._step = Step(engine, max(vocab_size, engine.capabilities.vocab_size))
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        # Thousands may wait: the line is searched only when somebody in it may have to go.
        self._must_search_waiting = False
        self._thread.start()

    # -- the scheduler's thread --------------------------------------------------------------------

    def _run(self) -> None:
        error: DcModelError = ModelClosedError("the model was closed.")
        try:
            while not self._closing:
                self._take_in()
                if self._running or self._waiting:
                    self.step()
        except Exception as failure:  # a defect of ours must not leave anybody waiting
            logger.exception("the scheduler failed")
            error = EngineError(f"the scheduler failed: {failure!r}.", remedy="Please report this.")
        with self._lock:
            self._closing = True
        for item in self._arrived():
            self._accept(item)
        unfinished = [*self._running, *self._waiting]
        for sequence in unfinished:
            sequence.error = error
            sequence.finish()
        notify_loops(unfinished)
        self._running.clear()
        self._waiting.clear()
        self._step.close()
        self._engine.close()

    def _take_in(self) -> None:
        """Move arrivals to the waiting line; sleep only if there is nothing else to do."""
        if not self._running and not self._waiting:
            self._accept(self._inbox.get())
        for item in self._arrived():
            self._accept(item)

    def _count_waiting(self) -> int:
        return len(self._waiting)

    def _accept(self, arrivals: Item) -> None:
        if isinstance(arrivals, Job):
            if self._closing:
                arrivals.fail(ModelClosedError("the model was closed."))
            else:
                arrivals.run()
            return
        if arrivals is None:
            self._must_search_waiting = True
            return
        self._waiting.extend(arrivals)
        # A sequence may be complete when it arrives.
        self._must_search_waiting |= any(sequence.is_complete for sequence in arrivals)

    def step(self) -> None:
        """One forward for everything that can go on."""
        finished = self._retire()
        batch, active = self._plan()
        if active:
            self._kv.count_computed(batch.num_tokens)
            self._step.run(batch, active)
            self._restart(active)
        finished += self._retire()
        notify_loops([*(sequence for sequence in active if sequence.is_armed), *finished])

    def _plan(self) -> tuple[GenerateBatch, list[Sequence]]:
        """Decoding sequences first, then prompts that were begun, then new ones, within the budget."""
        self._make_room_to_grow()
        self._running.sort(key=_is_prefilling)  # stable: oldest first among equals
        plan = _Plan(self._engine.capabilities)
        for sequence in self._running:
            plan.add(sequence)
        if self._waiting:
            self._admit(plan)
        return plan.batch, plan.active

    def _admit(self, plan: _Plan) -> None:
        """Give waiting sequences KV, first come first served; one that waits for a prefix is passed over."""
        passed: list[Sequence] = []
        while self._waiting and plan.has_room and len(passed) < ADMISSION_WINDOW:
            sequence = self._waiting.popleft()
            if self._kv.must_wait_for_prefix(sequence):
                passed.append(sequence)
                continue
            if not self._has_kv(sequence):
                passed.append(sequence)
                if sequence.error is None:
                    break
                self._must_search_waiting = True
                continue
            sequence.status = Status.RUNNING
            self._running.append(sequence)
            plan.add(sequence)
        self._waiting.extendleft(reversed(passed))

    def _has_kv(self, sequence: Sequence) -> bool:
        """Give it KV. If not, it has an error, or it can wait for what runs to end."""
        try:
            if self._kv.admit(sequence):
                return True
        except Exception as error:  # an engine that has no memory left, say
            logger.warning("the engine could not take in a sequence", exc_info=error)
            sequence.error = EngineError(f"the engine could not take the sequence in: {error!r}.")
            return False
        if not self._running:
            sequence.error = EngineError(
                f"{len(sequence.token_ids)} tokens do not fit the KV cache, though nothing else runs.",
                remedy="Load the model with a larger kv_tokens.",
            )
        return False

    def _make_room_to_grow(self) -> None:
        """Every running sequence gets room for its next step, at the cost of the youngest if need be."""
        place = 0
        while place < len(self._running):
            if self._kv.grow(self._running[place]):
                place += 1
                continue
            victim = self._running.pop()
            self._kv.release(victim)
            victim.preempted()
            self._waiting.appendleft(victim)

    def _restart(self, active: list[Sequence]) -> None:
        """Sequences that took back tokens are computed again, but for what the prefix cache has."""
        for sequence in active:
            if sequence.must_restart and not sequence.is_complete:
                self._running.remove(sequence)
                self._kv.release(sequence)
                sequence.preempted()
                self._waiting.appendleft(sequence)

    def _retire(self) -> list[Sequence]:
        """Take out what is complete, failed or cancelled; its KV goes to the prefix cache."""
        finished = [sequence for sequence in self._running if sequence.is_complete]
        if finished:
            self._running = [sequence for sequence in self._running if not sequence.is_complete]
            for sequence in finished:
                self._kv.retire(sequence)
        if self._must_search_waiting:
            self._must_search_waiting = False
            finished += [sequence for sequence in self._waiting if sequence.is_complete]
            self._waiting = deque(sequence for sequence in self._waiting if not sequence.is_complete)
        for sequence in finished:
            sequence.finish()
        return finished

    def _forget_adapter(self, adapter: int) -> None:
        self._kv.forget_adapter(adapter)
        try:
            self._engine.unmount_adapter(adapter)
        except Exception as error:  # nobody waits for an answer, and what runs does not need the adapter
            logger.warning("the engine could not unmount an adapter", exc_info=error)


class _Plan:
    """A batch in the making, and the tokens and rows of logits that it may still get."""

    def __init__(self, limits: Capabilities) -> None:
        self.batch = GenerateBatch()
        self.active: list[Sequence] = []
        self._tokens = limits.max_batch_tokens
        self._rows = limits.max_batch_rows

    @property
    def has_room(self) -> bool:
        return self._tokens > 0 and self._rows > 0

    def add(self, sequence: Sequence) -> None:
        """What fits of the sequence's next step."""
        span = sequence.span(self._tokens, self._rows)
        if span is not None:
            self.batch.spans.append(span)
            self.active.append(sequence)
            self._tokens -= span.num_tokens
            self._rows -= span.num_rows


def _is_prefilling(sequence: Sequence) -> bool:
    return sequence.is_prefilling
