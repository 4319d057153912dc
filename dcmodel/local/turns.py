"""Everything that one event loop asks in one turn goes to the scheduler together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as Seq
from weakref import WeakKeyDictionary

from dcmodel.errors import DcModelError
from dcmodel.scheduling.runner import SequenceRunner
from dcmodel.scheduling.sequence import Sequence, Status
from dcmodel.scheduling.session_sequence import SessionSequence


class Turns:
    """Runs sequences to their end, or to the end of their step. Tasks that were started together
    (``asyncio.gather``) share the first forward; nobody waits for a timer."""

    def __init__(self, runner: SequenceRunner) -> None:
        self._runner = runner
        self._waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Sequence]] = WeakKeyDictionary()

    async def run(self, sequences: Seq[Sequence]) -> None:
        """Wait until all are finished; if the caller goes away, they are cancelled.

        Errors are left in the sequences.
        """
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        for sequence in sequences:
            sequence.loop = loop
            sequence.notify = news.set
        waiting = self._waiting.setdefault(loop, [])
        if not waiting:
            loop.call_soon(self._submit, loop)
        waiting.extend(sequences)
        try:
            await _finished(sequences, news)
        except asyncio.CancelledError:
            for sequence in sequences:
                self._runner.cancel(sequence)
            raise

    async def step(self, sequence: SessionSequence) -> None:
        """Run a session's sequence for one step.

        Cancelled, it still waits until the scheduler has let go of the sequence (within one step), which
        is then as it was.
        """
        length = len(sequence.token_ids)
        try:
            await self.run([sequence])
        except asyncio.CancelledError:
            news = asyncio.Event()
            sequence.notify = news.set
            await _finished([sequence], news)
            sequence.take_back(len(sequence.token_ids) - length)
            raise

    def _submit(self, loop: asyncio.AbstractEventLoop) -> None:
        sequences = self._waiting.pop(loop)
        try:
            self._runner.submit(sequences)
        except DcModelError as error:
            for sequence in sequences:
                sequence.error = error
                sequence.finish()
                if sequence.notify is not None:
                    sequence.notify()


async def _finished(sequences: Seq[Sequence], news: asyncio.Event) -> None:
    while any(sequence.status is not Status.FINISHED for sequence in sequences):
        await news.wait()
        news.clear()
