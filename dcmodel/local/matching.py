"""From a request's rules to the matcher of its sequence."""

from __future__ import annotations

import threading

from dcmodel.constraint import CompiledConstraint, Matcher
from dcmodel.constraints import ConstraintCache, FixedMask
from dcmodel.constraints.canonical import CanonicalCompiled, CanonicalPairs
from dcmodel.constraints.healing import AnyTokens, HealingCompiled
from dcmodel.types import GenerateRequest
from dctokenizers import Tokenizer

MAX_HEALED_KEPT = 256


class MatcherMaker:
    """Makes matchers for one vocabulary. Called from any thread."""

    def __init__(self, tokenizer: Tokenizer, cache: ConstraintCache) -> None:
        self._tokenizer = tokenizer
        self._cache = cache
        self._pairs = CanonicalPairs(tokenizer)
        self._anything = AnyTokens(tokenizer)
        self._lock = threading.Lock()
        # By the healed text and the rule's compiled form, which the value keeps alive.
        self._healed: dict[tuple[str, int], HealingCompiled] = {}

    def is_ready(self, request: GenerateRequest) -> bool:
        """Whether `matcher` has nothing to compile, so that it takes microseconds."""
        if request.constraint is None:
            return not request.healed
        if isinstance(request.constraint, FixedMask):
            return True
        if request.constraint.is_about_tokens:  # a caller's function is never called on an event loop
            return False
        return self._cache.peek(request.constraint, self._tokenizer) is not None

    def matcher(self, request: GenerateRequest) -> Matcher | None:
        """A matcher for all that the request asks; None if it asks for nothing.

        Raises what `Constraint.compile` raises.
        """
        if request.constraint is None and not request.healed and not request.canonical:
            return None
        compiled: CompiledConstraint = self._anything
        if isinstance(request.constraint, FixedMask):
            # Made at once, and each is another one: kept, they would drive out what is dear.
            compiled = request.constraint.compile(self._tokenizer)
        elif request.constraint is not None:
            compiled = self._cache.get(request.constraint, self._tokenizer)
        if request.healed:
            compiled = self._healing(request.healed, compiled)
        if request.canonical:
            canonical = CanonicalCompiled(compiled, self._tokenizer, self._pairs)
            # Where the prompt was not healed, its end is where the caller put it.
            return canonical.matcher_after(request.prompt_ids[-1]) if request.healed else canonical.matcher()
        return compiled.matcher()

    def _healing(self, healed: str, inner: CompiledConstraint) -> CompiledConstraint:
        """Kept for the next prompt with this end and this rule: its masks are made once."""
        key = (healed, id(inner))
        with self._lock:
            made = self._healed.pop(key, None)
            if made is None:
                made = HealingCompiled(healed.encode(), self._tokenizer, inner, self._pairs)
            self._healed[key] = made  # last, as the newest
            if len(self._healed) > MAX_HEALED_KEPT:
                del self._healed[next(iter(self._healed))]
        return made
