"""A text that a search extends: what may follow it, and what it is worth."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from dcmodel.decoding.runs import append_forced, known_logprobs
from dcmodel.errors import ConstraintViolationError
from dcmodel.session import Session
from dcmodel.types import MAX_TOP_LOGPROBS


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that may follow, best first."""

    token_ids: Sequence[int]
    gains: Sequence[float]
    """What each adds to the total."""
    is_cut: bool
    """There may be more, none of them better than the last one here."""


class Hypothesis(ABC):
    """A text, and the total of what its tokens are worth.

    Tokens that the constraint forced are behind the text already, while what they are worth is known only
    after the next `look`: until then `total` leaves them out.
    """

    session: Session
    total: float

    @abstractmethod
    async def look(self, count: int) -> Candidates:
        """At least the best `count` tokens that the masks allow, if there are so many; scores the text.

        Of a finished text: none. Raises `DeadEndError`.
        """

    @abstractmethod
    def extended(self, token_id: int, gain: float) -> Self | None:
        """A copy with the token and all that is forced after it; None where the constraint refuses it."""

    @property
    def length(self) -> int:
        return len(self.session.token_ids)

    @property
    def is_ended(self) -> bool:
        """The text is finished, and all of it is scored."""
        return self.session.is_finished and len(self.session.token_logprobs) == self.length


class Beam(Hypothesis):
    """Worth the sum of its raw log-probabilities."""

    def __init__(self, session: Session) -> None:
        """The session is the beam's own from now on."""
        self.session = session
        append_forced(session)
        self.total = math.fsum(session.token_logprobs)

    async def look(self, count: int) -> Candidates:
        if self.session.is_finished:
            await self.session.settle()
            self.total = math.fsum(self.session.token_logprobs)
            return Candidates((), (), is_cut=False)
        k = count if count <= MAX_TOP_LOGPROBS else None
        found = await self.session.logprobs(k=k)
        self.total = math.fsum(self.session.token_logprobs)
        self._log_mass = found.log_mass
        ids, raw = found.token_ids, found.raw_logprobs
        if k is None:
            ids, raw = ids[found.masked_logprobs > -np.inf], raw[found.masked_logprobs > -np.inf]
            order = np.argsort(-raw, kind="stable")
            ids, raw = ids[order], raw[order]
        possible = raw > -np.inf
        return Candidates(
            ids[possible].tolist(), raw[possible].tolist(), is_cut=k is not None and len(ids) == k
        )

    def extended(self, token_id: int, gain: float) -> Self | None:
        own = self.session.fork()
        try:
            own.append([token_id], logprobs=[known_logprobs(gain, self._log_mass)])
        except ConstraintViolationError:
            return None
        return type(self)(own)


class ContrastiveBeam(Hypothesis):
    """Worth the sum of log p(expert) - log p(amateur).

    Only tokens with at least `alpha` times the probability of the likeliest allowed one may follow, and
    none to which the amateur gives the probability 0.
    """

    def __init__(self, expert: Session, amateur: Session, alpha: float) -> None:
        """Both sessions are the beam's own from now on. The expert's rules count."""
        self.session = expert
        self._amateur = amateur
        self._alpha = alpha
        before = len(expert.token_ids)
        append_forced(expert)
        amateur.append(expert.token_ids[before:])
        self.total = self._sum()

    async def look(self, count: int) -> Candidates:
        if self.session.is_finished:
            await asyncio.gather(self.session.settle(), self._amateur.settle())
            self.total = self._sum()
            return Candidates((), (), is_cut=False)
        expert, amateur = await asyncio.gather(self.session.logprobs(), self._amateur.logprobs())
        self.total = self._sum()
        self._seen = expert, amateur
        allowed = np.where(expert.masked_logprobs > -np.inf, expert.raw_logprobs, -np.inf)
        least = allowed.max() + math.log(self._alpha)
        plausible = np.flatnonzero((allowed >= least) & np.isfinite(allowed + amateur.raw_logprobs))
        gains = allowed[plausible].astype(np.float64) - amateur.raw_logprobs[plausible]
        order = np.argsort(-gains, kind="stable")
        return Candidates(plausible[order].tolist(), gains[order].tolist(), is_cut=False)

    def extended(self, token_id: int, gain: float) -> Self | None:
        expert = self.session.fork()
        seen, amateur_seen = self._seen
        try:
            expert.append([token_id], logprobs=[seen.of(token_id)])
        except ConstraintViolationError:
            return None
        amateur = self._amateur.fork()
        amateur.append([token_id], logprobs=[amateur_seen.of(token_id)])
        return type(self)(expert, amateur, self._alpha)

    @property
    def is_ended(self) -> bool:
        return super().is_ended and len(self._amateur.token_logprobs) == len(self._amateur.token_ids)

    def _sum(self) -> float:
        # Of as many tokens as both have scored.
        pairs = zip(self.session.token_logprobs, self._amateur.token_logprobs, strict=False)
        return math.fsum(expert - amateur for expert, amateur in pairs)
