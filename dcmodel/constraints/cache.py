"""Compiled constraints, kept for the next request with the same rule."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from concurrent.futures import Future

from dcmodel.constraint import CompiledConstraint, Constraint
from dcmodel.errors import InvalidConstraintError
from dctokenizers import Tokenizer


class ConstraintCache:
    """Compiles each rule once for each vocabulary; the least recently used forms are dropped.

    Called from any thread: who asks for a rule that another thread is compiling waits for it. A rule
    that does not compile is remembered as well, since it never will; other errors are not.
    """

    def __init__(self, capacity: int = 128) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; it must be at least 1")
        self._capacity = capacity
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, Future[CompiledConstraint]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, constraint: Constraint, tokenizer: Tokenizer) -> CompiledConstraint:
        """The compiled form, from the cache or made now. Raises what `Constraint.compile` raises."""
        key = (constraint.key, tokenizer.fingerprint, tokenizer.eos_token_ids)
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            else:
                mine: Future[CompiledConstraint] = Future()
                self._entries[key] = mine
                if len(self._entries) > self._capacity:
                    self._entries.popitem(last=False)
        if entry is None:
            self._run(key, mine, constraint, tokenizer)
            return mine.result()
        if error := entry.exception():
            # The frames of who met it first would pile up on an error that is raised again and again.
            raise error.with_traceback(None)
        return entry.result()

    def peek(self, constraint: Constraint, tokenizer: Tokenizer) -> CompiledConstraint | None:
        """The compiled form if it is there already; never waits and never compiles."""
        key = (constraint.key, tokenizer.fingerprint, tokenizer.eos_token_ids)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or not entry.done() or entry.exception() is not None:
                return None
            self._entries.move_to_end(key)
        return entry.result()

    def clear(self) -> None:
        """Forget everything; matchers that exist go on."""
        with self._lock:
            self._entries.clear()

    def _run(
        self, key: Hashable, entry: Future[CompiledConstraint], constraint: Constraint, tokenizer: Tokenizer
    ) -> None:
        try:
            entry.set_result(constraint.compile(tokenizer))
        except BaseException as error:
            if not isinstance(error, InvalidConstraintError):
                with self._lock:
                    if self._entries.get(key) is entry:
                        del self._entries[key]
            entry.set_exception(error)
