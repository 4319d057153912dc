"""From a request's rules to the matcher of its sequence."""

from __future__ import annotations

from dcmodel.constraint import CompiledConstraint, Matcher
from dcmodel.constraints import Choice, ConstraintCache
from dcmodel.constraints.canonical import CanonicalCompiled, CanonicalPairs
from dcmodel.constraints.healing import HealingCompiled
from dcmodel.types import GenerateRequest
from dctokenizers import Tokenizer


class MatcherMaker:
    """Makes matchers for one vocabulary. Called from any thread."""

    def __init__(self, tokenizer: Tokenizer, cache: ConstraintCache) -> None:
        self._tokenizer = tokenizer
        self._cache = cache
        self._pairs = CanonicalPairs(tokenizer)

    def is_ready(self, request: GenerateRequest) -> bool:
        """Whether `matcher` has nothing to compile, so that it takes microseconds."""
        if request.constraint is None:
            return not request.healed and not request.canonical
        if request.healed:
            return False
        return self._cache.peek(request.constraint, self._tokenizer) is not None

    def matcher(self, request: GenerateRequest) -> Matcher | None:
        """A matcher for all that the request asks; None if it asks for nothing.

        Raises what `Constraint.compile` raises.
        """
        compiled = self._compiled(request)
        if request.canonical:
            compiled = compiled or HealingCompiled(b"", self._tokenizer)
            compiled = CanonicalCompiled(compiled, self._tokenizer, self._pairs)
        return compiled.matcher() if compiled is not None else None

    def _compiled(self, request: GenerateRequest) -> CompiledConstraint | None:
        if request.constraint is None:
            return HealingCompiled(request.healed.encode(), self._tokenizer) if request.healed else None
        rule = Choice([request.healed]) + request.constraint if request.healed else request.constraint
        return self._cache.get(rule, self._tokenizer)
