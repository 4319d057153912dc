"""`VLLMRunner`: runs sequences as requests of a vLLM engine, on a thread that owns it.

One turn: take in arrivals and cancellations, one step of vLLM (in whose middle our code draws), then see to
each sequence of the step. There is no timer: an idle runner sleeps on its inbox.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from torch import Tensor

from dcmodel.errors import DcModelError, EngineError, ModelClosedError
from dcmodel.scheduling.jobs import Job as Errand
from dcmodel.scheduling.notify import notify_loops
from dcmodel.scheduling.sequence import Sequence, Status
from dcmodel.scheduling.threaded import MAX_WAITING, Item, ThreadRunner
from lmql_backends.vllm.drawing import Drawing
from lmql_backends.vllm.engine import Job, Part, StepEngine

logger = logging.getLogger(__name__)

# Given tokens are followed one per step up to this many; more are worth a new request, whose beginning the
# prefix cache has but for a part of a block.
FOLLOWED = 4


class VLLMRunner(ThreadRunner):
    """Its thread makes the engine, steps it and closes it."""

    def __init__(
        self, make_engine: Callable[[], StepEngine], *, tokens: int, max_waiting: int = MAX_WAITING
    ) -> None:
        """Blocks until the engine is there; raises what making it raises. `tokens`: of the tokenizer."""
        super().__init__(max_waiting=max_waiting, name="dcmodel-vllm")
        self._held: deque[Sequence] = deque()
        self._jobs: dict[str, Job] = {}
        self._must_search = False
        self._tokens = tokens
        self._make_engine = make_engine
        self._made: Future[StepEngine] = Future()
        self._thread.start()
        self.engine = self._made.result()

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            engine = self._make_engine()
            self._core = engine.core
            vocab_size = max(engine.capabilities.vocab_size, self._tokens)
            self._drawing = Drawing(engine, vocab_size)
            self._core.attach(self)
        except BaseException as failure:
            self._made.set_exception(failure)
            return
        self._made.set_result(engine)
        error: DcModelError = ModelClosedError("the model was closed.")
        try:
            while not self._closing:
                self._take_in()
                if self._jobs:
                    self._step()
        except Exception as failure:  # nobody may be left waiting for an engine that died
            logger.exception("vLLM's engine failed")
            error = EngineError(f"vLLM's engine failed: {failure!r}.", remedy="Load the model again.")
        self._end(error)

    def _end(self, error: DcModelError) -> None:
        with self._lock:
            self._closing = True
        unfinished = [job.sequence for job in self._jobs.values()] + list(self._held)
        for item in self._arrived():
            if isinstance(item, Errand):
                item.fail(ModelClosedError("the model was closed."))
            else:
                unfinished += item or ()
        for sequence in unfinished:
            sequence.error = sequence.error or error
            sequence.finish()
        notify_loops(unfinished)
        self._jobs.clear()
        self._held.clear()
        self._drawing.close()
        self._core.shutdown()

    def _count_waiting(self) -> int:
        return len(self._jobs) + len(self._held)

    def _take_in(self) -> None:
        if not self._jobs and not self._held:
            self._accept(self._inbox.get())
        for item in self._arrived():
            self._accept(item)
        if self._must_search:
            self._must_search = False
            gone = [sequence for sequence in self._held if sequence.is_complete]
            self._held = deque(sequence for sequence in self._held if not sequence.is_complete)
            self._finish(gone)
            self._settle([job for job in self._jobs.values() if job.sequence.is_complete])
        self._admit()

    def _accept(self, item: Item) -> None:
        if item is None:
            self._must_search = True
        elif isinstance(item, Errand):
            item.run()
        else:
            self._held.extend(item)
            self._must_search |= any(sequence.is_complete for sequence in item)

    def _admit(self) -> None:
        """Make requests of those that wait, in their order; vLLM has a waiting line of its own."""
        while self._held:
            if not self._core.mixes_adapters and self._jobs:
                running = next(iter(self._jobs.values())).sequence
                if bool(running.adapter) != bool(self._held[0].adapter):
                    return
            self._add(self._held.popleft())

    def _add(self, sequence: Sequence) -> None:
        """Make a request of the sequence as it is now."""
        # Where hidden states are not to be had, given tokens are followed one per step.
        length = sequence.end if self._core.has_hidden_states else min(sequence.end, sequence.ready)
        request = self._core.add(
            sequence.token_ids[:length], cap=max(sequence.ready - 1, 0), adapter=sequence.adapter
        )
        sequence.status = Status.RUNNING
        self._jobs[request.request_id] = Job(sequence, request)

    def _step(self) -> None:
        try:
            self._core.step()
        finally:
            self._drawing.drop()
        self._settle(self._drawing.jobs)

    def _settle(self, jobs: list[Job]) -> None:
        """See to each: it has ended, goes on as it is, or needs another request."""
        finished: list[Sequence] = []
        over: list[Job] = []
        again: list[Sequence] = []
        for job in jobs:
            sequence = job.sequence
            if sequence.is_complete:
                finished.append(sequence)
            elif sequence.must_restart or sequence.end - job.request.num_tokens > FOLLOWED:
                again.append(sequence)
            else:
                continue
            over.append(job)
        self._core.abort([job.request for job in over])
        for job in over:
            del self._jobs[job.request.request_id]
        for sequence in again:
            sequence.preempted()
            self._add(sequence)
        going = [job.sequence for job in jobs if job.sequence.is_armed and not job.sequence.is_complete]
        self._finish(finished, also=going)

    def _finish(self, finished: list[Sequence], also: Iterable[Sequence] = ()) -> None:
        for sequence in finished:
            sequence.entry = None
            sequence.finish()
        notify_loops([*also, *finished])

    def _forget_adapter(self, adapter: int) -> None:
        try:
            self._core.remove_lora(adapter)
        except Exception as error:  # nobody waits for an answer, and what runs does not need the adapter
            logger.warning("vLLM could not unmount an adapter", exc_info=error)

    # -- StepHooks -------------------------------------------------------------------------------------

    def before_forward(self) -> None:
        parts: list[Part] = []
        offset = 0
        for row, (request_id, start, count) in enumerate(self._core.rows()):
            parts.append(Part(self._jobs[request_id], row, start, count, offset))
            offset += count
        self._drawing.begin(parts)

    def with_logits(self, logits: Tensor) -> None:
        self._drawing.draw(logits)
