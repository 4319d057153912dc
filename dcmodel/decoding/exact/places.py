"""A text that particles stand at: what the model says there, and the texts one token further."""

from __future__ import annotations

import math

import numpy as np

from dcmodel.decoding.exact.judging import Judgements
from dcmodel.decoding.runs import append_forced, known_logprobs
from dcmodel.errors import ConstraintViolationError
from dcmodel.session import Session


class Place:
    """One sequence of tokens; all particles that have the same one share its session and its question.

    The law is the model's at `temperature`: ``softmax(logits / temperature)`` at each step. Forced tokens
    are appended at once where the temperature is 1, and their probabilities come with the next question; at
    others they go step by step, since that takes each whole distribution.
    """

    def __init__(self, session: Session, temperature: float) -> None:
        """The session is the place's own from now on."""
        self.session = session
        self.log_forced = 0.0
        """After `ask`: the log-probability of what was forced on the way here."""
        self.next = Judgements(np.zeros(0, np.int64), np.zeros(0), None)
        """After `ask`, of an unfinished text: what may follow."""
        self._temperature = temperature
        self._raw = np.zeros(0, np.float32)
        self._log_mass = 0.0
        self._after: dict[int, Session] = {}
        """Accepted tokens that were judged: by index, the session behind each."""
        self._before = len(session.token_ids)
        if temperature == 1.0:
            append_forced(session)

    @property
    def is_finished(self) -> bool:
        return self.session.is_finished

    @property
    def is_valid(self) -> bool:
        """Whether the text is finished and satisfies the constraint."""
        return self.session.is_finished and self.session.is_accepting

    async def ask(self) -> None:
        """Ask the model, once. Raises `DeadEndError`."""
        session = self.session
        if session.is_finished:
            await session.settle()
        else:
            found = await session.logprobs()
            scaled = found.raw_logprobs.astype(np.float64) / self._temperature
            probs = np.exp(scaled - scaled.max())
            probs /= probs.sum()
            allowed = (found.masked_logprobs > -np.inf) & (probs > 0.0)
            judge = None if session.is_exact else self._accepts
            if self._temperature != 1.0 and (run := session.forced()):
                allowed &= found.token_ids == run[0]
                judge = None
            self.next = Judgements(found.token_ids[allowed], probs[allowed], judge)
            self._raw = found.raw_logprobs[allowed]
            self._log_mass = found.log_mass
        self.log_forced = math.fsum(session.token_logprobs[self._before :])

    def forget(self) -> None:
        """Drop what `ask` brought; the text stays."""
        self.next = Judgements(np.zeros(0, np.int64), np.zeros(0), None)
        self._raw = np.zeros(0, np.float32)
        self._after = {}

    def after(self, index: int) -> Place:
        """The place one token further, by the index of the token in `next`.

        Raises `ConstraintViolationError` where the constraint refuses the token.
        """
        session = self._after.pop(index, None) or self._extended(index)
        return Place(session, self._temperature)

    def _extended(self, index: int) -> Session:
        session = self.session.fork()
        known = known_logprobs(float(self._raw[index]), self._log_mass)
        session.append([int(self.next.token_ids[index])], logprobs=[known])
        return session

    def _accepts(self, index: int) -> bool:
        try:
            # To accept a token may take a search for a way on: it is not done twice.
            self._after[index] = self._extended(index)
        except ConstraintViolationError:
            return False
        return True
