"""What dcmodel costs beside the model: planning, masks, sampling."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from benchmarks.clock import Spread
from benchmarks.constrained import SCHEMA
from benchmarks.contenders import load_engine
from benchmarks.metered import MeteredEngine
from benchmarks.random_models import checkpoint
from benchmarks.tables import Table
from dcmodel.backend import LoadedEngine
from dcmodel.constraint import Matcher
from dcmodel.constraints import JsonSchema
from dcmodel.engine import Capabilities, Engine, GenerateBatch, Span
from dcmodel.local import LocalDcModel
from dcmodel.logits import Floats, Ints, SampledRows, SamplePlan, ScoredRows
from dcmodel.scheduling.mask_filler import MaskFiller
from dcmodel.types import GenerateRequest, ModelInfo, SamplingParams
from dctokenizers import Tokenizer, load

PLANNING_LIMIT_MS = 0.7
MASKS_LIMIT_MS = 1.0
NEW_TOKENS = 64
Variants = dict[str, dict[str, object]]
VARIANTS: Variants = {
    "plain": {"logprobs": False},
    "logprobs": {"logprobs": True},
    "temperature": {"logprobs": False, "sampling": SamplingParams(temperature=1.0, top_p=0.9, seed=1)},
}
RECORD = {
    "name": "Ada Lovelace",
    "age": 36,
    "city": "Lisbon",
    "active": True,
    "tags": ["red", "blue"],
    "address": {"street": "Rua Augusta", "number": 12},
}


class StubEngine(Engine):
    """Computes nothing: rows of which every token is the same."""

    def __init__(self, vocab_size: int) -> None:
        self.capabilities = Capabilities(
            vocab_size=vocab_size,
            max_positions=4096,
            max_sequences=4096,
            kv_tokens=10**9,
            max_batch_tokens=8192,
        )
        self._next = 0

    def allocate(self, length: int) -> int | None:
        self._next += 1
        return self._next

    def reserve(self, sequence: int, length: int) -> bool:
        return True

    def copy(self, source: int, target: int, length: int) -> None: ...

    def truncate(self, sequence: int, length: int) -> None: ...

    def free(self, sequence: int) -> None: ...

    def close(self) -> None: ...

    def forward(self, batch: GenerateBatch) -> StubRows:
        return StubRows()


class StubRows:
    """Draws token 1000 in every row."""

    def sample(self, plan: SamplePlan) -> SampledRows:
        size = len(plan.rows)
        floats = np.zeros(size, dtype=np.float32)
        truth = np.ones(size, dtype=np.bool_)
        top = (np.zeros((size, 0), dtype=np.int64), np.zeros((size, 0), dtype=np.float32))
        return SampledRows(
            token_ids=np.full(size, 1000),
            is_finite=truth,
            has_choice=truth,
            raw_logprob=floats,
            masked_logprob=floats,
            log_mass=floats,
            top_raw=top,
            top_masked=top,
        )

    def score(self, rows: Ints, targets: Ints, top_logprobs: int) -> ScoredRows:
        raise NotImplementedError

    def to_numpy(self) -> Floats:
        raise NotImplementedError


def planning_table(sizes: Sequence[int], *, repeats: int) -> Table:
    """CPU time per step of the scheduler's thread and of the process, over an engine that costs nothing."""
    tokenizer = load(checkpoint("49k"))
    table = Table(
        f"planning: CPU ms per step of {NEW_TOKENS}, engine excluded, median (min-max) of {repeats}",
        ["requests", "variant", "scheduler's thread", "with event loop, whole requests", "met"],
        notes=[f"to hold: at most {PLANNING_LIMIT_MS} ms per step at 64 requests (plain)"],
    )
    cells = [(size, name) for size in sizes for name in (*VARIANTS, "streaming")]
    values: dict[tuple[int, str], list[tuple[float, float]]] = {cell: [] for cell in cells}
    for repeat in tqdm(range(repeats + 1), desc="planning", unit="round"):
        for size, name in cells:
            measured = _plan_once(tokenizer, size, name, repeat)
            if repeat:
                values[size, name].append(measured)
    for size, name in cells:
        thread = Spread.of(value[0] for value in values[size, name])
        process = Spread.of(value[1] for value in values[size, name])
        is_met = thread.median <= PLANNING_LIMIT_MS
        table.add(
            [str(size), name, thread.text(3), process.text(3), "yes" if is_met else "NO"],
            requests=size,
            variant=name,
            scheduler_ms=[value[0] for value in values[size, name]],
            process_ms=[value[1] for value in values[size, name]],
            met=is_met,
        )
    return table


def _plan_once(tokenizer: Tokenizer, size: int, variant: str, repeat: int) -> tuple[float, float]:
    engine = MeteredEngine(StubEngine(tokenizer.vocab_size))
    info = ModelInfo(name="stub", backend="stub", vocab_size=tokenizer.vocab_size, max_positions=4096)
    model = LocalDcModel(LoadedEngine(engine=engine, tokenizer=tokenizer, info=info))
    options = VARIANTS.get(variant, {"logprobs": False})
    requests = [
        GenerateRequest(
            prompt_ids=(300 + place, 400 + repeat, *range(500, 564)),
            max_tokens=NEW_TOKENS,
            ignore_eos=True,
            **options,  # type: ignore[arg-type]
        )
        for place in range(size)
    ]

    async def run_all() -> None:
        async def read(request: GenerateRequest) -> None:
            stream = model.generate(request)
            if variant == "streaming":
                async for _ in stream:
                    pass
            else:
                await stream.completion()

        await asyncio.gather(*(read(request) for request in requests))
        await model.aclose()

    begin = time.process_time()
    asyncio.run(run_all())
    process = time.process_time() - begin - engine.meter.forward - engine.meter.rows
    return 1000 * engine.meter.around / engine.meter.steps, 1000 * process / engine.meter.forwards


def masks_table(names: Sequence[str], rows: int, *, repeats: int) -> Table:
    """Filling and applying the masks of one step, each row with a matcher of its own."""
    table = Table(
        f"masks of {rows} rows: CPU ms, median (min-max) of {repeats}",
        ["vocabulary", "states", "fill, all threads", "sample plainly", "sample masked", "difference", "met"],
        notes=[
            "one json schema; mixed: all along a record; string: all inside a string, nearly all is allowed",
            f"to hold: the difference at most {MASKS_LIMIT_MS} ms at 49k",
        ],
    )
    for name in names:
        loaded = load_engine(checkpoint(name), "float32")
        for states in ("mixed", "string"):
            matchers = _matchers(loaded.tokenizer, rows, states)
            fill, plain, masked = _masks_of(loaded, matchers, f"masks {name} {states}", repeats)
            difference = Spread.of(right - left for left, right in zip(plain, masked, strict=True))
            is_met = difference.median <= MASKS_LIMIT_MS
            table.add(
                [
                    name,
                    states,
                    *(Spread.of(values).text() for values in (fill, plain, masked)),
                    difference.text(),
                    "" if name != "49k" else "yes" if is_met else "NO",
                ],
                vocabulary=name,
                states=states,
                fill_ms=fill,
                sample_ms=plain,
                sample_masked_ms=masked,
                met=is_met or name != "49k",
            )
        loaded.engine.close()
    return table


def _masks_of(
    loaded: LoadedEngine, matchers: list[Matcher], title: str, repeats: int
) -> tuple[list[float], list[float], list[float]]:
    engine, count = loaded.engine, len(matchers)
    filler = MaskFiller(max(engine.capabilities.vocab_size, loaded.tokenizer.vocab_size))
    handles = [engine.allocate(2 * repeats + 8) for _ in range(count)]
    if None in handles:
        raise RuntimeError("the engine has no room")
    fill, plain, masked = [], [], []

    def sampled(position: int, is_masked: bool) -> float:
        spans = [
            Span(handle, position, [500 + row], [0])
            for row, handle in enumerate(handles)
            if handle is not None
        ]
        logits = engine.forward(GenerateBatch(spans))
        plan = _greedy_plan(bitmask, is_masked)
        return 1000 * _seconds(time.thread_time, lambda: logits.sample(plan))

    for repeat in tqdm(range(repeats + 2), desc=title, unit="round"):
        begin = time.process_time()
        filler.start(matchers)
        bitmask, failures = filler.finish(count)
        spent = 1000 * (time.process_time() - begin)
        if failures:
            raise RuntimeError(f"masks failed: {failures}")
        pair = [0.0, 0.0]
        for turn in (0, 1):
            is_masked = (repeat + turn) % 2
            pair[is_masked] = sampled(2 * repeat + turn, bool(is_masked))
        if repeat > 1:
            fill.append(spent)
            plain.append(pair[0])
            masked.append(pair[1])
    filler.close()
    for handle in handles:
        if handle is not None:
            engine.free(handle)
    return fill, plain, masked


def _seconds(clock: Callable[[], float], run: Callable[[], object]) -> float:
    begin = clock()
    run()
    return clock() - begin


def _matchers(tokenizer: Tokenizer, count: int, states: str) -> list[Matcher]:
    """One compiled schema; its matchers stand at different places of a text."""
    compiled = JsonSchema(SCHEMA).compile(tokenizer)
    record = json.dumps(RECORD)
    matchers = []
    for place in range(count):
        if states == "mixed":
            token_ids = tokenizer.encode(record)
            token_ids = token_ids[: place * len(token_ids) // count]
        else:
            token_ids = tokenizer.encode('{"name": "' + "Ada Lovelace"[: place % 12])
        matcher = compiled.matcher()
        if matcher.advance(token_ids) != len(token_ids):
            raise RuntimeError("the schema refuses its own example")
        matchers.append(matcher)
    return matchers


def _greedy_plan(bitmask: np.ndarray, is_masked: bool) -> SamplePlan:
    count = len(bitmask)
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return SamplePlan(
        rows=np.arange(count, dtype=np.int64),
        bitmask=bitmask,
        is_masked=np.full(count, is_masked),
        temperature=np.zeros(count, np.float32),
        top_k=np.zeros(count, np.int64),
        top_p=np.ones(count, np.float32),
        min_p=np.zeros(count, np.float32),
        uniform=np.zeros(count),
        repetition=nothing,
        bias=nothing,
        want_logprobs=False,
        top_logprobs=0,
    )
