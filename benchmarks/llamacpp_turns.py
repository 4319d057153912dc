"""Wall time of variants that take turns. llama.cpp's threads are its own: CPU time says little of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from benchmarks.clock import Spread

T = TypeVar("T")
Run = Callable[[], object]


def wall_seconds(run: Callable[[], T]) -> tuple[float, T]:
    """How long `run` takes; and its result."""
    gc.collect()
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def in_turns(turn: int, variants: Sequence[tuple[str, Run]], into: dict[str, list[float]]) -> None:
    """Run each once, and add its seconds to those under its name; who begins changes with the turn."""
    first = turn % len(variants)
    for name, run in (*variants[first:], *variants[:first]):
        seconds, _ = wall_seconds(run)
        into.setdefault(name, []).append(seconds)


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Of neighbours in the same turn."""
    return Spread.of(left / right for left, right in zip(over, under, strict=True))
