"""Requests that the suite's tests share."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence

from dcmodel.constraints import MaskFunction
from dcmodel.model import DcModel
from dcmodel.types import Completion, GenerateRequest, SamplingParams

PROMPTS = (
    "The quick brown fox",
    "yes",
    '{"name": "Mira", "age":',
    "1 2 3 4 5 6 7 8 9",
    "The lazy dog jumps over the quick brown fox and the city of Velden. question: answer",
    "no maybe",
    "émoji 🐢 and 漢字",
    "city",
)


def prompt_ids(model: DcModel, text: str) -> tuple[int, ...]:
    return tuple(model.tokenizer.encode_prompt(text))


def request(model: DcModel, text: str, **options) -> GenerateRequest:
    """A request from text; sampling parameters may be given flat."""
    names = SamplingParams.__dataclass_fields__
    sampling = SamplingParams(**{name: options.pop(name) for name in list(options) if name in names})
    options.setdefault("max_tokens", 12)
    return GenerateRequest(prompt_ids=prompt_ids(model, text), sampling=sampling, **options)


def mixed_requests(model: DcModel, count: int, **options) -> list[GenerateRequest]:
    """Different prompts and lengths, all different from one another."""
    return [
        request(model, f"{PROMPTS[i % len(PROMPTS)]} {i}" * (1 + i % 3), max_tokens=6 + i % 9, **options)
        for i in range(count)
    ]


async def run(model: DcModel, requests: Sequence[GenerateRequest]) -> list[Completion]:
    """All at once."""
    streams = [model.generate(item) for item in requests]
    return list(await asyncio.gather(*(stream.completion() for stream in streams)))


async def run_one(model: DcModel, item: GenerateRequest) -> Completion:
    return (await run(model, [item]))[0]


def assert_same(left: Completion, right: Completion, tolerance: float) -> None:
    """Equal tokens and reasons; log-probabilities within the tolerance."""
    assert left.token_ids == right.token_ids
    assert left.text == right.text
    assert (left.finish_reason, left.stop_reason) == (right.finish_reason, right.stop_reason)
    assert (left.logprobs is None) == (right.logprobs is None)
    for a, b in zip(left.logprobs or (), right.logprobs or (), strict=True):
        assert is_same(a.raw_logprob, b.raw_logprob, tolerance)
        assert is_same(a.log_mass, b.log_mass, tolerance)


def is_same(left: float, right: float, tolerance: float) -> bool:
    """Within the tolerance, or unknown on both sides (`limits.py` says where it may be unknown)."""
    return abs(left - right) <= tolerance or (math.isnan(left) and math.isnan(right))


class Gate:
    """A mask function that blocks at its step `after` until it is opened; counts its calls.

    It holds a request at a known point, however fast the backend is.
    """

    def __init__(self, after: int) -> None:
        self._after = after
        self._opened = threading.Event()
        self.reached = 0

    def open(self) -> None:
        self._opened.set()

    def constraint(self) -> MaskFunction:
        return MaskFunction(self._mask)

    def _mask(self, token_ids: Sequence[int]) -> range:
        self.reached = max(self.reached, len(token_ids))
        if len(token_ids) == self._after:
            assert self._opened.wait(60), "nobody opened the gate"
        return range(40, 90)
