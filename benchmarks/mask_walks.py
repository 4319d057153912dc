"""Engines over the same schemas and texts; those that may not come back in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.mask_engines import Compile, MaskEngine, Refused
from dctokenizers import Tokenizer

COMPILE_LIMIT = 20.0
"""Seconds of CPU time; of each engine alike."""
WALK_LIMIT = 30.0
MEMORY_LIMIT = 2 << 30
PASSES = ("cold", "warm")
clock = time.thread_time_ns


@dataclass(slots=True)
class Walk:
    """One text, nanoseconds of CPU time of the calling thread; `start`, `fill` and `advance` by pass."""

    text: int
    is_accepted: bool = True
    start: dict[str, int] = field(default_factory=dict)
    fill: dict[str, list[int]] = field(default_factory=dict)
    advance: dict[str, list[int]] = field(default_factory=dict)
    both: dict[str, list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """One schema in one engine."""

    status: str
    """ok, refused, killed (time, memory or a crash while compiling) or stuck (the same in a walk)."""
    compile: int = 0
    walks: list[Walk] = field(default_factory=list)


def run_case(compile_schema: Compile, schema: Any, texts: list[list[int]]) -> Outcome:
    """Compile, then go over each text twice."""
    *_, outcome = _phases(compile_schema, schema, texts)
    return outcome


def _phases(compile_schema: Compile, schema: Any, texts: list[list[int]]) -> Iterator[Outcome]:
    """What is known after compiling, then after all walks."""
    begin = clock()
    try:
        start = compile_schema(schema)
    except Refused:
        yield Outcome("refused", clock() - begin)
        return
    outcome = Outcome("ok", clock() - begin)
    yield outcome
    for number, token_ids in enumerate(texts):
        walk = Walk(number)
        outcome.walks.append(walk)
        for name in PASSES:
            begin = clock()
            run = start()
            walk.start[name] = clock() - begin
            fill, allows, advance = run.fill, run.allows, run.advance
            fills, advances, boths = [], [], []
            for token_id in token_ids:
                begin = clock()
                fill()
                middle = clock()
                if not allows(token_id):
                    walk.is_accepted = False
                    break
                resumed = clock()
                advance(token_id)
                end = clock()
                fills.append(middle - begin)
                advances.append(end - resumed)
                boths.append(middle - begin + end - resumed)
            walk.fill[name], walk.advance[name], walk.both[name] = fills, advances, boths
    yield outcome


class Direct:
    """An engine in this process."""

    def __init__(self, engine: MaskEngine, tokenizer: Tokenizer) -> None:
        self._compile = engine.open(tokenizer)

    def run(self, schema: Any, texts: list[list[int]]) -> Outcome:
        return run_case(self._compile, schema, texts)

    def close(self) -> None:
        """Nothing is held."""


class Guarded:
    """An engine in a forked process, which is replaced when it dies."""

    def __init__(self, engine: MaskEngine, tokenizer: Tokenizer) -> None:
        self._compile = engine.open(tokenizer)
        self._fork()

    def run(self, schema: Any, texts: list[list[int]]) -> Outcome:
        self._connection.send((schema, texts))
        outcome = Outcome("killed", round(1e9 * COMPILE_LIMIT))
        try:
            while (answer := self._connection.recv()) is not None:
                outcome = answer
                # Until the walks arrive, they are taken not to.
                outcome.status = "stuck" if outcome.status == "ok" and not outcome.walks else outcome.status
        except EOFError:
            self.close()
            self._fork()
        return outcome

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _fork(self) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._compile, theirs), daemon=True)
        self._process.start()
        theirs.close()


def _serve(compile_schema: Compile, connection: Connection) -> None:
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT, used + MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Warnings and panics of native code.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    parent = os.getppid()
    while True:
        while not connection.poll(1.0):
            # Its end of the pipe is held by other workers too: a parent that was killed gives no end of file.
            if os.getppid() != parent:
                return
        schema, texts = connection.recv()
        # The default action of SIGPROF ends the process, also inside native code.
        signal.setitimer(signal.ITIMER_PROF, COMPILE_LIMIT)
        for outcome in _phases(compile_schema, schema, texts):
            signal.setitimer(signal.ITIMER_PROF, WALK_LIMIT)
            connection.send(outcome)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(None)
