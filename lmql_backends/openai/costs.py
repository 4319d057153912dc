"""What answers cost, from the endpoint's own account and the user's prices. No table of prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from dcmodel.checks import check_number
from dcmodel.errors import InvalidRequestError
from dcmodel.types import Cost, Usage
from lmql_backends.openai.transport.counters import Spent

PER = 1_000_000
NAMES = ("prompt", "cached", "completion")
NEEDED = {"prompt", "completion"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Of a million tokens, in any currency."""

    prompt: float = 0.0
    cached: float | None = None
    """Of prompt tokens that the endpoint had in its cache; None: the same."""
    completion: float = 0.0

    @classmethod
    def of(cls, given: Any) -> Self:
        """From a dict with `prompt`, `completion` and perhaps `cached`. Raises `InvalidRequestError`."""
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping) or not NEEDED <= set(given) <= set(NAMES):
            raise InvalidRequestError(
                f"prices is {given!r:.80}.",
                remedy='Give prices of a million tokens: {"prompt": 2.5, "cached": 1.25, "completion": 10}.',
            )
        for name, price in given.items():
            check_number(f"prices[{name!r}]", price, low=0.0)
        return cls(**{name: float(price) for name, price in given.items()})

    def price(self, prompt: int, cached: int, completion: int) -> float:
        """Of so many tokens, `cached` being a part of `prompt`."""
        of_cached = self.prompt if self.cached is None else self.cached
        return ((prompt - cached) * self.prompt + cached * of_cached + completion * self.completion) / PER


def cost_of(
    usage: Mapping[str, Any] | None,
    spent: Spent,
    prices: Prices | None,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    is_estimated: bool,
    is_free: bool = False,
) -> Cost:
    """From the endpoint's account where there is one, else from the counts. `is_free`: from a cache."""
    cached = 0
    if usage is not None and not is_free:
        prompt_tokens = _number(usage.get("prompt_tokens"), prompt_tokens)
        completion_tokens = _number(usage.get("completion_tokens"), completion_tokens)
        cached = _number((usage.get("prompt_tokens_details") or {}).get("cached_tokens"), 0)
    return Cost(
        requests=spent.requests,
        retries=spent.retries,
        hedges=spent.hedges,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached,
        completion_tokens=completion_tokens,
        price=None if prices is None else prices.price(prompt_tokens, cached, completion_tokens),
        is_estimated=is_estimated,
    )


def _number(value: Any, other: int) -> int:
    return value if isinstance(value, int) else other


def with_cached(usage: Usage, cost: Cost) -> Usage:
    """The usage of a text with what the endpoint had in its cache: a text of several requests sends its
    prompt, and what is there of it, several times."""
    return replace(usage, cached_tokens=min(cost.cached_tokens, usage.prompt_tokens))
