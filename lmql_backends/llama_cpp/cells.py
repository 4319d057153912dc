"""How many cells of a shared KV cache are taken, where sequences share what they have in common.

llama.cpp counts in cells: a copy of a sequence takes none, until it goes on for itself; what is shared is
free again when the last sequence that holds it lets it go. Here is the same count, so that the engine can
promise room: a tree of runs of tokens, as a radix tree is, in which a sequence is the way from the root to
its run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Run:
    """Cells that the same sequences hold."""

    start: int
    """Position of its first cell."""
    length: int
    parent: Run | None
    holders: int = 1
    """Runs behind it, and sequences that end with it."""

    @property
    def end(self) -> int:
        return self.start + self.length


class CellCount:
    """The cells of all sequences. A sequence is its last `Run`, or None while it holds nothing."""

    def __init__(self) -> None:
        self.used = 0

    def append(self, run: Run | None, count: int) -> Run | None:
        """The sequence after `count` more tokens."""
        if count == 0:
            return run
        self.used += count
        if run is not None and run.holders == 1:
            run.length += count
            return run
        # The sequence's hold on its last run becomes the new run's.
        return Run(run.end if run is not None else 0, count, run)

    def share(self, run: Run | None, length: int) -> Run | None:
        """A sequence that holds the first `length` tokens of one that ends with `run`."""
        if length == 0:
            return None
        while run is not None and run.start >= length:
            run = run.parent
        assert run is not None
        assert run.end >= length, "longer than what is shared"
        if run.end > length:
            run = _split(run, length - run.start)
        run.holders += 1
        return run

    def truncate(self, run: Run | None, length: int) -> Run | None:
        """The sequence after all but its first `length` tokens were let go."""
        if run is not None and run.holders == 1 and run.start < length:
            self.used -= run.end - length
            run.length = length - run.start
            return run
        kept = self.share(run, length)
        self.release(run)
        return kept

    def release(self, run: Run | None) -> None:
        """The sequence is gone."""
        while run is not None:
            run.holders -= 1
            if run.holders:
                return
            self.used -= run.length
            run = run.parent


def _split(run: Run, at: int) -> Run:
    """Cut `run` after `at` cells; the first part, which the second stands behind."""
    first = Run(run.start, at, run.parent)
    run.start += at
    run.length -= at
    run.parent = first
    return first
