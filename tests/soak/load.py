"""Clients that ask for what is known beforehand, and do everything that clients do wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from soak.expectations import Expected, poison

from dcmodel.constraints import Regex
from dcmodel.errors import EngineError, InvalidConstraintError, NonFiniteLogitsError
from dcmodel.model import DcModel
from dcmodel.types import FinishReason, GenerateRequest

Action = Callable[[DcModel, Random], Coroutine[Any, Any, str]]


@dataclass
class Load:
    """`total` requests over several models (connections), so many at a time."""

    models: Sequence[DcModel]
    expected: Sequence[Expected]
    total: int
    concurrent: int
    seed: int = 0
    fault_rate: float = 0.01
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """All of them. What went otherwise than it should is in `wrong`."""
        numbers = iter(range(self.total))
        async with asyncio.TaskGroup() as group:
            for _ in range(self.concurrent):
                group.create_task(self._worker(numbers))

    async def _worker(self, numbers: Any) -> None:
        for number in numbers:
            rng = Random(self.seed * 1_000_003 + number)
            model = self.models[number % len(self.models)]
            action = self._action(rng)
            try:
                self.outcomes[await action(model, rng)] += 1
            except Exception as error:  # every failure is a finding, and the load goes on
                self.outcomes["wrong"] += 1
                self.wrong.append(f"{number} {action.__name__}: {error!r}")

    def _action(self, rng: Random) -> Action:
        faults: tuple[Action, ...] = (
            *(self.cancel, self.drop, self.poison, self.bad_constraint, self.slow_reader),
            *(self.bad_ids, self.resume, self.session),
        )
        place = rng.random() / self.fault_rate if self.fault_rate else len(faults)
        return faults[int(place)] if place < len(faults) else self.stream

    # -- what a client may do ----------------------------------------------------------------------

    async def stream(self, model: DcModel, rng: Random) -> str:
        """Read a whole stream, and compare."""
        expected = rng.choice(self.expected)
        stream = model.generate(expected.request)
        steps = [step async for step in stream]
        self._compare(expected, [step.token_id for step in steps], "".join(step.text for step in steps))
        completion = await stream.completion()
        self._compare(expected, completion.token_ids, completion.text)
        return "streams"

    async def cancel(self, model: DcModel, rng: Random) -> str:
        """Stop in the middle; what came before must be right."""
        expected = rng.choice(self.expected)
        stream = model.generate(expected.request)
        for _ in range(rng.randrange(len(expected.token_ids))):
            await anext(stream)
        stream.cancel()
        completion = await stream.completion()
        got = completion.token_ids
        assert got == expected.token_ids[: len(got)], f"{got} is no beginning of {expected.token_ids}"
        assert completion.finish_reason is FinishReason.CANCELLED or got == expected.token_ids
        return "cancelled"

    async def drop(self, model: DcModel, rng: Random) -> str:
        """Forget the stream."""
        stream = model.generate(rng.choice(self.expected).request)
        for _ in range(rng.randrange(3)):
            await anext(stream)
        del stream
        return "dropped"

    async def poison(self, model: DcModel, rng: Random) -> str:
        """A request that the engine fails on."""
        try:
            await model.generate(poison(rng.randrange(1000))).completion()
        except (NonFiniteLogitsError, EngineError):
            return "poison"
        raise AssertionError("a poisoned request gave a result")

    async def bad_constraint(self, model: DcModel, rng: Random) -> str:
        request = replace(rng.choice(self.expected).request, ignore_eos=False, constraint=_Broken("x"))
        try:
            await model.generate(request).completion()
        except InvalidConstraintError:
            return "bad constraints"
        raise AssertionError("a broken constraint gave a result")

    async def bad_ids(self, model: DcModel, rng: Random) -> str:
        try:
            model.generate(GenerateRequest(prompt_ids=(3, model.info.vocab_size + rng.randrange(9))))
        except ValueError:
            return "bad ids"
        raise AssertionError("ids outside the vocabulary were taken")

    async def slow_reader(self, model: DcModel, rng: Random) -> str:
        """One that does something else between two tokens."""
        expected = rng.choice(self.expected)
        stream = model.generate(expected.request)
        got = []
        async for step in stream:
            got.append(step.token_id)
            await asyncio.sleep(0.01)
        self._compare(expected, got, expected.text)
        return "slow readers"

    async def resume(self, model: DcModel, rng: Random) -> str:
        """Go on behind tokens that are there already."""
        expected = rng.choice(self.expected)
        cut = rng.randrange(1, len(expected.token_ids) + 1)
        resumed = replace(expected.request, resumed=expected.token_ids[:cut])
        completion = await model.generate(resumed).completion()
        self._compare(expected, completion.token_ids, completion.text)
        return "resumed"

    async def session(self, model: DcModel, rng: Random) -> str:
        """The same text step by step, with a detour."""
        expected = rng.choice(self.expected)
        session = await model.session(expected.request)
        while not session.is_finished:
            await session.step()
            if rng.random() < 0.1:
                fork = session.fork()
                session.rollback(1)
                del fork
        if expected.request.constraint is None:  # the session decides whether it appends what is forced
            self._compare(expected, session.token_ids, session.text)
        return "sessions"

    def _compare(self, expected: Expected, token_ids: Sequence[int], text: str) -> None:
        assert tuple(token_ids) == expected.token_ids, f"{token_ids} instead of {expected.token_ids}"
        assert text == expected.text, f"{text!r} instead of {expected.text!r}"


class _Broken(Regex):
    """Compiles nowhere: its text is no regex."""

    def __init__(self, pattern: str) -> None:
        super().__init__(pattern)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "regex", "pattern": "(["}
