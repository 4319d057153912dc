"""Wall time of variants that take turns, which counts where threads wait for each other; and CPU time, which
says what is to be expected on a machine that has nothing else to do."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.clock import Spread

T = TypeVar("T")
Run = Callable[[], object]


@dataclass(slots=True)
class Times:
    """Seconds, a value per repeat."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of this process, all threads."""

    def scaled(self, factor: float) -> Times:
        return Times([factor * value for value in self.wall], [factor * value for value in self.cpu])


def measure(run: Callable[[], T], into: Times) -> T:
    """Run it, and add its times."""
    gc.collect()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    result = run()
    into.wall.append(time.perf_counter() - begin)
    into.cpu.append(time.process_time() - begin_cpu)
    return result


def in_turns(turn: int, variants: Sequence[tuple[str, Run]], into: dict[str, Times]) -> None:
    """Run each once, and add its times to those under its name; who begins changes with the turn."""
    first = turn % len(variants)
    for name, run in (*variants[first:], *variants[:first]):
        measure(run, into.setdefault(name, Times()))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Of neighbours in the same turn."""
    return Spread.of(left / right for left, right in zip(over, under, strict=True))
