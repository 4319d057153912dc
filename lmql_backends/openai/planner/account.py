"""`Account`: what a text cost, and what is known of how it was drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dcmodel.types import Certificate, Completion, Cost
from lmql_backends.openai.costs import with_cached


@dataclass(slots=True)
class Account:
    """Filled while a text grows."""

    cost: Cost = field(default_factory=Cost)
    is_exact: bool = True
    """Every token so far came from the masked distribution."""
    bound: float | None = 0.0
    """The largest total variation of a step that was not exact; None: not known."""
    semantics: str = "local"
    details: list[str] = field(default_factory=list)

    def charge(self, cost: Cost) -> None:
        self.cost = self.cost + cost

    def inexact(self, detail: str, bound: float | None = None) -> None:
        """A step was not drawn from the masked distribution; by how much, if that is known."""
        self.is_exact = False
        self.bound = None if bound is None or self.bound is None else max(self.bound, bound)
        self.remark(detail)

    def is_global(self, detail: str) -> None:
        """Whole answers were drawn: the distribution is the model's own, given the constraint."""
        self.semantics = "global"
        self.remark(detail)

    def remark(self, text: str) -> None:
        """Each is noted once."""
        if text not in self.details:
            self.details.append(text)

    def certify(self, known: Certificate) -> Certificate:
        """`known`: what the constraint says of itself."""
        details = [*([known.detail] if known.detail else []), *self.details]
        return replace(
            known,
            exact=known.exact and self.is_exact,
            bound=self.bound if known.exact and not self.is_exact else None,
            semantics=self.semantics,
            detail="; ".join(details),
        )

    def finish(self, result: Completion) -> Completion:
        """The completion with what is known here."""
        usage = with_cached(result.usage, self.cost)
        return replace(result, usage=usage, certificate=self.certify(result.certificate), cost=self.cost)
