"""`Lifting`: bans that hold for a whole answer, and cost no exactness where a banned token is allowed.

Under a ban of the tokens B, a token x comes from p given that it is none of B. The model would have drawn b
of B with the probability p(b): a coin decides whether that is what happened here; else x stands. p(b) is
known where b is among the likeliest tokens that are shown; any other has at most the probability of the last
one of these. With that bound for p(b), the coin tells which b is in question: it was drawn with the
probability p(b) / bound, and the endpoint is asked for p(b). That is seldom, where the tokens shown are most
of the mass. Where the mask refuses b, it would have been thrown away, and another token drawn: the next coin
is tossed first, as nothing has to be known of b where x stands after it, too.

At a temperature T, p(b) becomes p(b) ** (1 / T) / Z, and of Z only the part of the shown tokens is known.
With that part in the place of Z, the coin favours b: what it says holds as often as a draw at this
temperature is one of the shown tokens. The endpoint is asked for such a draw.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dcmodel.types import TopLogprob

MOST_IN_QUESTION = 0.5
"""Where banned tokens that are allowed, and not shown, may have more of the mass than this, the answer is
read no further."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A banned token may have come instead of the one that was drawn."""

    instead: int
    unknown: tuple[int, ...]
    """It has come if each of these was drawn, one after the other: the mask refuses all but the last."""
    bound: float
    """The probability of each is at most this."""
    draws: int = 0
    """So many new draws have to be among the likeliest tokens, too."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """The likeliest tokens of a place have to be seen: they came with no token there."""


class UnknownShareError(Exception):
    """The tokens shown do not tell enough of the banned ones. It does not depend on which one was drawn: to
    throw only some of them away would change the distribution."""


class Lifting:
    """Of one answer."""

    def __init__(self, banned: Sequence[int], temperature: float, numbers: np.random.Generator) -> None:
        self._banned = tuple(banned)
        self._temperature = temperature
        self._numbers = numbers

    def instead(
        self, drawn: TopLogprob, tops: Sequence[TopLogprob], allowed: Collection[int]
    ) -> int | Doubt | None:
        """What the model would have drawn instead of `drawn`; None: that very token.

        `tops`: the likeliest tokens without the ban; `allowed`: those of the banned that the mask allows.
        Raises `UnknownShareError`.
        """
        if not self._temperature:
            return _likelier(drawn, tops, allowed)
        # The last one may be no more than what was drawn: OpenAI shows that in addition.
        likeliest = sorted((item.logprob for item in tops), reverse=True)[:-1]
        least = math.exp(likeliest[-1]) if likeliest else 1.0
        shown = {item.token_id: math.exp(item.logprob) for item in tops}
        scale = 1.0 if self._temperature == 1.0 else math.fsum(map(self._warm, shown.values()))
        bounds = [self._warm(shown.get(item, least)) / scale for item in self._banned]
        in_question = self._warm(least) / scale * len(set(allowed) - shown.keys())
        if math.fsum(bounds) > 1.0 or in_question > MOST_IN_QUESTION:
            raise UnknownShareError
        hits: list[int] = []
        while True:
            token_id = self._toss(bounds)
            if token_id is None:
                return None  # whether or not something was refused before
            hits.append(token_id)
            if token_id in allowed:
                unknown = tuple(item for item in hits if item not in shown)
                draws = 0 if self._temperature == 1.0 else len(hits)
                return Doubt(token_id, unknown, least, draws) if unknown or draws else token_id

    def came(self, doubt: Doubt, probabilities: Sequence[float]) -> bool:
        """Whether the tokens in question were drawn, now that their probabilities (at temperature 1) are
        known, and the new draws were among the likeliest tokens."""
        return all(self._numbers.random() < self._warm(value / doubt.bound) for value in probabilities)

    def _warm(self, probability: float) -> float:
        return float(probability ** (1.0 / self._temperature))

    def _toss(self, bounds: Sequence[float]) -> int | None:
        left = self._numbers.random()
        for token_id, bound in zip(self._banned, bounds, strict=True):
            left -= bound
            if left < 0.0:
                return token_id
        return None


def _likelier(drawn: TopLogprob, tops: Sequence[TopLogprob], allowed: Collection[int]) -> int | None:
    """At temperature 0, the likeliest; of equals the lowest id."""
    if all(item.token_id != drawn.token_id for item in tops):
        raise UnknownShareError
    best = min(
        (item for item in tops if item.token_id in allowed or item.token_id == drawn.token_id),
        key=lambda item: (-item.logprob, item.token_id),
    )
    return None if best.token_id == drawn.token_id else best.token_id
