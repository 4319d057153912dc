"""Drawing a token of the masked distribution from the likeliest tokens alone: exactly, or within a bound.

The likeliest tokens are known with their probabilities, and the mass of all others. A draw from the model's
distribution is then a draw among the known ones or, with the probability of the rest, one of the rest, which
only the endpoint can draw. Draws that the mask refuses are thrown away: what is left is the masked
distribution, and the endpoint is asked only when the rest was hit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dcmodel.types import TopLogprob

IMPOSSIBLE = -9000.0
"""OpenAI writes -9999 for tokens whose probability it does not tell."""


@dataclass(frozen=True, slots=True)
class KnownHead:
    """The likeliest tokens after some text, without those that are refused."""

    allowed: tuple[TopLogprob, ...]
    seen: frozenset[int]
    """All of the likeliest, and others whose probability is known."""
    rest: float
    """Probability of all that was not seen."""
    smallest: float
    """No token of the rest has a larger log-probability."""

    @property
    def mass(self) -> float:
        """Probability of the allowed ones."""
        return math.fsum(math.exp(item.logprob) for item in self.allowed)

    def local_tv(self, temperature: float) -> float:
        """Of a step that keeps an allowed draw of the model, and else draws from `allowed` alone: how far it
        is from the masked distribution, at most."""
        lost = self.part_tv(temperature)
        return (1.0 - self.mass) * lost if temperature == 1.0 else lost

    def part_tv(self, temperature: float) -> float:
        """Of a step that draws from `allowed`, and perhaps from some of the rest: how far it is from the
        masked distribution, at most."""
        own, rest = self.weights(temperature)
        return rest / (math.fsum(own) + rest) if rest else 0.0

    def weights(self, temperature: float) -> tuple[list[float], float]:
        """Of the allowed ones, and of the rest; temperatures from 0 to 1, 0 excluded.

        The rest's is too large below 1: a draw of it (at temperature 1) is kept with `keeps`.
        """
        power = 1.0 / temperature
        shift = max((item.logprob for item in self.allowed), default=self.smallest)
        shift = max(shift, self.smallest)
        own = [math.exp((item.logprob - shift) * power) for item in self.allowed]
        # rest * smallest ** (power - 1), on the same scale
        return own, self.rest * math.exp(self.smallest * (power - 1.0) - shift * power)

    def pick(self, temperature: float, uniform: float) -> TopLogprob | None:
        """A draw with one number of [0, 1); None: it is one of the rest."""
        own, rest = self.weights(temperature)
        left = uniform * (math.fsum(own) + rest)
        for item, weight in zip(self.allowed, own, strict=True):
            left -= weight
            if left < 0.0:
                return item
        return None if rest > 0.0 or not self.allowed else self.allowed[-1]

    def local(self, temperature: float, uniform: float) -> TopLogprob:
        """A draw from the allowed ones alone."""
        own, _ = self.weights(temperature)
        left = uniform * math.fsum(own)
        for item, weight in zip(self.allowed, own, strict=True):
            left -= weight
            if left < 0.0:
                return item
        return self.allowed[-1]

    def keeps(self, logprob: float, temperature: float, uniform: float) -> bool:
        """Whether a token of the rest, drawn at temperature 1, is kept at a lower one."""
        if temperature == 1.0:
            return True
        chance = math.exp(min(logprob - self.smallest, 0.0) * (1.0 / temperature - 1.0))
        return uniform < chance

    @property
    def best(self) -> TopLogprob | None:
        """The likeliest allowed one; of equals the lowest id."""
        return min(self.allowed, key=lambda item: (-item.logprob, item.token_id), default=None)


def known_head(
    tops: Sequence[TopLogprob], refused: Sequence[TopLogprob], allows: Sequence[bool]
) -> KnownHead:
    """`refused`: drawn already, and not allowed. `allows[i]`: whether ``tops[i]`` is."""
    known = [item for item in tops if item.logprob > IMPOSSIBLE]
    seen = {item.token_id for item in known}
    probabilities = [math.exp(item.logprob) for item in known]
    for item in refused:
        if item.token_id not in seen and item.logprob > IMPOSSIBLE:
            seen.add(item.token_id)
            probabilities.append(math.exp(item.logprob))
    allowed = [item for item, allow in zip(tops, allows, strict=True) if allow and item.logprob > IMPOSSIBLE]
    return KnownHead(
        allowed=tuple(allowed),
        seen=frozenset(seen),
        rest=max(1.0 - math.fsum(probabilities), 0.0),
        smallest=min((item.logprob for item in known), default=0.0),
    )
