"""`Account`: what a text cost, and what is known of how it was drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dcmodel.types import Certificate, Completion, Cost, Usage


@dataclass(slots=True)
class Account:
    """Filled while a text grows."""

    cost: Cost = field(default_factory=Cost)
    bound: float = 0.0
    """The largest total variation of a step that was not exact."""
    is_bounded: bool = True
    is_global: bool = False
    details: list[str] = field(default_factory=list)
    """Why it is not exact, each reason once."""
    remarks: list[str] = field(default_factory=list)

    def charge(self, cost: Cost) -> None:
        self.cost = self.cost + cost

    def inexact(self, detail: str, bound: float | None = None) -> None:
        """A step was not drawn from the masked distribution; by how much, if that is known."""
        if detail not in self.details:
            self.details.append(detail)
        if bound is None:
            self.is_bounded = False
        else:
            self.bound = max(self.bound, bound)

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def certify(self, known: Certificate) -> Certificate:
        """`known`: what the constraint says of itself."""
        is_exact = known.exact and not self.details
        has_bound = bool(self.details) and self.is_bounded and known.exact
        details = [*([known.detail] if known.detail else []), *self.details, *self.remarks]
        return replace(
            known,
            exact=is_exact,
            bound=self.bound if has_bound else None,
            semantics="global" if self.is_global else known.semantics,
            detail="; ".join(details),
        )

    def finish(self, result: Completion) -> Completion:
        """The completion with what is known here."""
        usage: Usage = replace(result.usage, cached_tokens=self.cost.cached_tokens)
        return replace(
            result, usage=usage, certificate=self.certify(result.certificate), cost=self.cost
        )
