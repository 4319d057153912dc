"""`RemoteScheduler`: runs sequences whose forwards are computed by a server.

Constraints, masks, stop strings and the ends of texts are this side's affair, with the same code as for a
model in this process; for each token the server gets a mask and gives back what it drew. Its random numbers
are those of (seed, place, attempt), so the tokens are those of a local run.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from dcmodel.errors import DcModelError, EngineError, ModelClosedError
from dcmodel.mask import TokenMask, mask_words
from dcmodel.scheduling.commits import MAX_DRAWS, fail, leave_ways_out, no_choice, restrict
from dcmodel.scheduling.mask_filler import MaskFiller
from dcmodel.scheduling.notify import notify_loops
from dcmodel.scheduling.runner import SequenceRunner
from dcmodel.scheduling.sequence import Sequence, Status
from dcmodel.scheduling.session_sequence import SessionSequence
from dcmodel.types import SamplingParams
from lmql_backends.lmtp.client import LMTPClient
from lmql_backends.lmtp.protocol import masks
from lmql_backends.lmtp.protocol.messages import Look, Mask, Settle, Step
from lmql_backends.lmtp.protocol.requests import sampling_to_wire
from lmql_backends.lmtp.remote_answers import draws, refused, take
from lmql_backends.lmtp.remote_session import Answer, Ask, RemoteSession
from lmql_backends.lmtp.remote_sessions import RemoteSessions, ServedName

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Run:
    """A sequence on its way."""

    sequence: Sequence
    session: RemoteSession
    attempt: int = 0
    """How many tokens were refused at this place."""


Event = list[Sequence] | tuple[RemoteSession, Answer] | None


class RemoteScheduler(SequenceRunner):
    """One thread, which sleeps until something arrives: sequences, answers, cancellations.

    What arrives together goes on together: its masks are filled side by side, and one frame carries the
    questions. Sequences of which the server keeps no session wait in line.
    """

    def __init__(self, client: LMTPClient, served: ServedName, vocab_size: int, row_width: int) -> None:
        """`vocab_size`: the tokenizer's; `row_width`: of the model's logits."""
        self._client = client
        self._vocab_size = vocab_size
        self._words = mask_words(vocab_size)
        self._inbox: SimpleQueue[Event] = SimpleQueue()
        self._sessions = RemoteSessions(client, served, self._answered, partial(self._inbox.put, None))
        self._masks = MaskFiller(max(vocab_size, row_width))
        self._waiting: deque[Sequence] = deque()
        self._running: dict[RemoteSession, _Run] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._thread: threading.Thread | None = None

    def submit(self, sequences: Iterable[Sequence]) -> None:
        with self._lock:
            if self._closing:
                raise ModelClosedError("the model is closed.", remedy="Make a new one.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="dcmodel-remote", daemon=True)
                self._thread.start()
            self._inbox.put(list(sequences))

    def cancel(self, sequence: Sequence) -> None:
        sequence.cancelled = True
        self._inbox.put(None)

    def close(self) -> None:
        with self._lock:
            self._closing = True
            self._inbox.put(None)
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def _answered(self, session: RemoteSession, answer: Answer) -> None:
        self._inbox.put((session, answer))

    # -- the thread --------------------------------------------------------------------------------

    def _serve(self) -> None:
        error: DcModelError = ModelClosedError("the model was closed.")
        try:
            while not self._closing:
                self._turn(self._events())
        except Exception as failure:  # a defect of ours must not leave anybody waiting
            logger.exception("the remote scheduler failed")
            error = EngineError(f"the remote scheduler failed: {failure!r}.", remedy="Please report this.")
        with self._lock:
            self._closing = True
        arrived = [event for event in self._drain() if isinstance(event, list)]
        late = [sequence for sequences in arrived for sequence in sequences]
        unfinished = [*(run.sequence for run in self._running.values()), *self._waiting, *late]
        for sequence in unfinished:
            sequence.error = error
            sequence.status = Status.FINISHED
        self._running.clear()
        self._waiting.clear()
        notify_loops(unfinished)
        self._sessions.close()
        self._masks.close()

    def _events(self) -> list[Event]:
        """Everything that is there; waits until there is something."""
        return [self._inbox.get(), *self._drain()]

    def _drain(self) -> list[Event]:
        events: list[Event] = []
        while True:
            try:
                events.append(self._inbox.get_nowait())
            except Empty:
                return events

    def _turn(self, events: list[Event]) -> None:
        ready: list[_Run] = []
        for event in events:
            if isinstance(event, list):
                self._waiting.extend(event)
            elif event is not None and (run := self._running.get(event[0])) is not None:
                self._take(run, event[1])
                ready.append(run)
        finished: list[Sequence] = []
        if None in events:
            self._sessions.close_dropped()
            finished = self._end_cancelled(ready)
        ready += self._admit(finished)
        armed = [run.sequence for run in ready if run.sequence.is_armed]
        while ready:
            going = [run for run in ready if not run.sequence.is_complete]
            finished += [self._finish(run) for run in ready if run.sequence.is_complete]
            ready = [*self._ask(going), *self._admit(finished)]  # who finished made room
        notify_loops([*armed, *finished])

    def _take(self, run: _Run, answer: Answer) -> None:
        try:
            if take(run.sequence, answer):
                run.attempt = 0
                return
        except DcModelError as error:
            run.sequence.error = error
        run.attempt += 1
        refused(run.sequence, run.attempt)

    def _admit(self, finished: list[Sequence]) -> list[_Run]:
        """Begin with what waits, as far as the server keeps sessions for it."""
        begun: list[_Run] = []
        while self._waiting:
            sequence = self._waiting[0]
            if sequence.is_complete:
                self._waiting.popleft()
                sequence.status = Status.FINISHED
                finished.append(sequence)
                continue
            session = self._sessions.of(sequence)
            if session is None:
                break
            self._waiting.popleft()
            sequence.status = Status.RUNNING
            run = self._running[session] = _Run(sequence, session)
            begun.append(run)
        return begun

    def _end_cancelled(self, ready: list[_Run]) -> list[Sequence]:
        """Let go at once of what was cancelled; what the server still draws for it is forgotten."""
        done = set(ready)
        cancelled = [run for run in self._running.values() if run.sequence.cancelled and run not in done]
        for run in cancelled:
            self._sessions.forget(run.sequence)
        gone = [sequence for sequence in self._waiting if sequence.cancelled]
        if gone:
            self._waiting = deque(sequence for sequence in self._waiting if not sequence.cancelled)
        for sequence in gone:
            sequence.status = Status.FINISHED
        return [*(self._finish(run) for run in cancelled), *gone]

    def _finish(self, run: _Run) -> Sequence:
        sequence = run.sequence
        del self._running[run.session]
        if isinstance(sequence, SessionSequence) and not sequence.cancelled:
            self._sessions.rest(sequence)
        else:
            self._sessions.forget(sequence)
        sequence.status = Status.FINISHED
        return sequence

    # -- asking ------------------------------------------------------------------------------------

    def _ask(self, runs: list[_Run]) -> list[_Run]:
        """Send the next question of each; those that met a dead end come again."""
        drawing = [run for run in runs if draws(run.sequence)]
        self._masks.start([run.sequence.matcher for run in drawing])
        bitmask, failures = self._masks.finish(len(drawing))
        again: list[_Run] = []
        asked: list[tuple[RemoteSession, list[int], Ask]] = []
        for row, run in enumerate(drawing):
            error = failures.get(row)
            mask: Mask | None = None
            if error is None and run.sequence.is_masked:
                mask = self._mask(run, bitmask[row])
                if mask is None:
                    if run.sequence.corner():
                        run.attempt += 1
                        again.append(run)
                        continue
                    error = no_choice()
            if error is not None:
                fail(run.sequence, error)
                run.attempt = 0
                again.append(run)
                continue
            asked.append((run.session, _output(run.sequence), _question(run, mask)))
        asked += [
            (run.session, _output(run.sequence), Settle(id=0, known=_known(run.sequence)))
            for run in runs
            if not draws(run.sequence)
        ]
        if asked:
            self._client.post(lambda: self._send(asked))
        return again

    def _mask(self, run: _Run, row: NDArray[np.int32]) -> Mask | None:
        """What the next token may be; None: nothing."""
        sequence = run.sequence
        if run.attempt and (sequence.is_cornered or run.attempt == MAX_DRAWS):
            leave_ways_out(sequence, row)
        restrict(sequence, row)
        bits = row[: self._words]
        return masks.to_wire(TokenMask(bits.copy(), self._vocab_size)) if bits.any() else None

    def _send(self, asked: list[tuple[RemoteSession, list[int], Ask]]) -> None:
        """In the client's loop."""
        for session, output, ask in asked:
            session.ask(self._client, output, ask)


def _question(run: _Run, mask: Mask | None) -> Ask:
    sequence = run.sequence
    if sequence.look is not None:
        return Look(id=0, mask=mask, k=sequence.look.k, known=_known(sequence))
    return Step(
        id=0,
        mask=mask,
        sampling=_sampling(sequence.sampling_now, run.session.sampling),
        attempt=run.attempt + sequence.attempt,
        known=_known(sequence),
    )


def _sampling(now: SamplingParams, opened: SamplingParams) -> SamplingParams | None:
    """How to draw, where it is not what the session was opened with. The seed stays the session's."""
    wanted = sampling_to_wire(replace(now, seed=opened.seed))
    return None if wanted == opened else wanted


def _output(sequence: Sequence) -> list[int]:
    return sequence.token_ids[sequence.prompt_length :]


def _known(sequence: Sequence) -> int:
    return sequence.ready - sequence.prompt_length
