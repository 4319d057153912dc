"""Does an engine give what the model itself gives? Asked of every model when it is loaded.

Two prompts that share their beginning and their end go through the model in the plain way. The engine then
computes them in pieces: packed together, in long and short chunks, token by token, from a copied prefix,
as branches.
The deviation is measured against what the model itself shows: `effect`, how much the different context
changes the last logits, and `noise`, how much rounding changes them on another way of computing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dcmodel.engine import Branches, Engine, GenerateBatch, Span
from dcmodel.errors import DcModelError

# Share of `effect` that may be lost to rounding.
TOLERANCE = {torch.float32: 0.01, torch.float16: 0.05, torch.bfloat16: 0.1}
NOISE_FACTOR = 4.0
# In units of the dtype's precision: what is rounding in any case.
SMALLEST_STEP = 8
SHARED_START, SHARED_END = 6, 5


@dataclass(frozen=True, slots=True)
class Reference:
    """Two prompts and their log-probabilities ``[tokens, vocab_size]``, from plain forwards."""

    prompts: tuple[list[int], list[int]]
    logprobs: tuple[Tensor, Tensor]
    allowed: float
    """Largest deviation (median over rows of the root mean square) that is rounding."""
    is_causal: bool
    """Whether tokens change nothing before them."""


def make_reference(model: PreTrainedModel, vocab_size: int, *, longest: int) -> Reference:
    """Compute the reference with the model as it was loaded."""
    rng = np.random.default_rng(0)
    start, first, second, end = (
        rng.integers(0, vocab_size, count).tolist() for count in (SHARED_START, 30, 17, SHARED_END)
    )
    room = longest - SHARED_START - SHARED_END
    prompts = (start + first[:room] + end, start + second[:room] + end)
    logprobs = (plain_logprobs(model, prompts[0]), plain_logprobs(model, prompts[1]))
    effect = deviation(logprobs[0][-1:], logprobs[1][-1:])
    # Computed together, the rows take other ways through the kernels.
    together = plain_logprobs(model, prompts[0], copies=2)
    noise = deviation(together, logprobs[0])
    tolerance = TOLERANCE.get(model.dtype, max(TOLERANCE.values()))
    allowed = max(tolerance * effect, NOISE_FACTOR * noise, SMALLEST_STEP * torch.finfo(model.dtype).eps)
    shared = deviation(logprobs[0][:SHARED_START], logprobs[1][:SHARED_START])
    return Reference(prompts, logprobs, allowed, is_causal=shared <= allowed)


def agrees(engine: Engine, reference: Reference) -> bool:
    """Whether the engine, which holds nothing and is left so, gives the reference's log-probabilities."""
    return _is_rounding(_worst_deviation, engine, reference)


def branches_agree(engine: Engine, reference: Reference) -> bool:
    """The same of an engine that computes branches: both prompts as branches behind what they share."""
    return _is_rounding(_worst_of_branches, engine, reference)


def _is_rounding(measure: Callable[[Engine, Reference], float], engine: Engine, reference: Reference) -> bool:
    try:
        worst = measure(engine, reference)
    except torch.OutOfMemoryError:
        raise
    except (
        DcModelError,
        RuntimeError,
        TypeError,
        ValueError,
        NotImplementedError,
        IndexError,
        AttributeError,
        KeyError,
    ):
        return False
    return worst <= reference.allowed


def _worst_deviation(engine: Engine, reference: Reference) -> float:
    prompts, expected = reference.prompts, reference.logprobs
    handles: list[int] = []
    worst = 0.0

    def begin(length: int) -> int:
        handle = engine.allocate(length)
        if handle is None:
            raise ValueError(f"no room for {length} tokens of KV")
        handles.append(handle)
        return handle

    def step(*parts: tuple[int, int, int, int]) -> None:
        """Forward ``prompts[which][start:end]`` for each (handle, which, start, end)."""
        nonlocal worst
        spans = [
            Span(h, start, prompts[which][start:end], range(end - start)) for h, which, start, end in parts
        ]
        rows = _logprobs(engine, *spans)
        for _, which, start, end in parts:
            found, rows = rows[: end - start], rows[end - start :]
            worst = max(worst, deviation(found, expected[which][start:end]))

    try:
        first, second = begin(len(prompts[0])), begin(len(prompts[1]))
        half, end, last = SHARED_START + 2, len(prompts[0]), len(prompts[1])
        step((first, 0, 0, half), (second, 1, 0, last - 3))
        fork = begin(len(prompts[0]))
        engine.copy(second, fork, SHARED_START)
        engine.truncate(second, last - 4)
        step((second, 1, last - 4, last - 3), (first, 0, half, end - 1))
        step((fork, 0, SHARED_START, half), (second, 1, last - 3, last - 1))
        step(
            (first, 0, end - 1, end),
            (second, 1, last - 1, last),
            (fork, 0, half, half + 1),
        )
    finally:
        for handle in handles:
            engine.free(handle)
    return worst


def _worst_of_branches(engine: Engine, reference: Reference) -> float:
    """A branch splits in two before the prompts do so; afterwards the sequence goes on without it."""
    (first, second), expected = reference.prompts, reference.logprobs
    chain = SHARED_START // 2
    handle = engine.allocate(len(first))
    if handle is None:
        raise ValueError(f"no room for {len(first)} tokens of KV")
    # From the split on, the shorter one grows on the last shared token.
    rest = len(first) - chain
    token_ids = first[chain:] + second[SHARED_START:]
    parents = list(range(-1, len(token_ids) - 1))
    if len(second) > SHARED_START:
        parents[rest] = SHARED_START - chain - 1
    branches = Branches(token_ids, parents, range(len(token_ids)))
    try:
        both = _logprobs(engine, Span(handle, 0, first[:chain], range(chain), branches))
        after = _logprobs(engine, Span(handle, chain, first[chain:], range(rest)))
    finally:
        engine.free(handle)
    return max(
        deviation(both[: len(first)], expected[0]),
        deviation(both[len(first) :], expected[1][SHARED_START:]),
        deviation(after, expected[0][chain:]),
    )


def _logprobs(engine: Engine, *spans: Span) -> Tensor:
    """``[rows, vocab_size]`` of one forward."""
    logits = torch.from_numpy(engine.forward(GenerateBatch(list(spans))).to_numpy())
    return logits.log_softmax(-1)


def plain_logprobs(model: PreTrainedModel, prompt: list[int], *, copies: int = 1) -> Tensor:
    """Log-probabilities ``[tokens, vocab_size]`` from one forward of so many copies, without a cache."""
    rows = torch.tensor([prompt] * copies, device=model.device)
    with torch.inference_mode():
        logits: Tensor = model(input_ids=rows, use_cache=False).logits[0]
        return logits.float().log_softmax(-1).cpu()


def deviation(found: Tensor, expected: Tensor) -> float:
    """Median over rows of the root mean square over the vocabulary; NaN counts as infinite."""
    rows = (found - expected).square().mean(-1).sqrt()
    if not bool(torch.isfinite(rows).all()):
        return float("inf")
    return float(rows.median())
