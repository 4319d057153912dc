"""What applying one mask to one row of logits costs, in each way of drawing, beside what others ship.

Ours is the whole call of `sample`; the figure is what it takes more with the mask than without. The others'
functions only write -inf into the logits: an argmax or softmax comes on top of them.
CPU time of the calling thread, one thread, all in turns. `python -m benchmarks.mask_apply [--quick]`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.clock import Spread, use_one_thread

use_one_thread()

import numpy as np  # noqa: E402  # the number of threads is read at import
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.tables import Table, write_json  # noqa: E402
from dcmodel.logits import SamplePlan  # noqa: E402
from dcmodel.mask import TokenMask  # noqa: E402
from lmql_backends.torch_rows.rows import TorchLogitRows, Workspace  # noqa: E402

SIZES = {"32k": 32_000, "100k": 100_352, "200k": 200_064}
ALLOWED: dict[str, float] = {"1": 1, "5": 5, "100": 100, "2 %": 0.02, "5 %": 0.05, "50 %": 0.5, "98 %": 0.98}
WAYS = ("greedy", "greedy, log-probabilities", "sampling", "top-p 0.9")
SPARSE_LIMIT_US, DENSE_LIMIT_US = 40.0, 200.0
LOOPS = 10

Apply = Callable[[torch.Tensor, np.ndarray], object]


def others() -> dict[str, Apply]:
    """The functions that the mask engines ship for logits on the CPU."""
    from llguidance import numpy as ll_numpy

    def by_llguidance(logits: torch.Tensor, mask: np.ndarray) -> None:
        ll_numpy.apply_token_bitmask_inplace(logits.numpy(), mask)

    found: dict[str, Apply] = {"llguidance": by_llguidance}
    try:
        import xgrammar
    except ImportError:
        print("xgrammar is not installed and left out: pip install xgrammar")
        return found

    def by_xgrammar(logits: torch.Tensor, mask: np.ndarray) -> None:
        xgrammar.apply_token_bitmask_inplace(logits, torch.from_numpy(mask))

    return {**found, "xgrammar": by_xgrammar}


def plan_of(mask: np.ndarray, way: str, *, is_masked: bool) -> SamplePlan:
    count = len(mask)
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return SamplePlan(
        rows=np.arange(count, dtype=np.int64),
        bitmask=mask,
        is_masked=np.full(count, is_masked),
        temperature=np.full(count, 0.0 if way.startswith("greedy") else 1.0, np.float32),
        top_k=np.zeros(count, np.int64),
        top_p=np.full(count, 0.9 if way.startswith("top-p") else 1.0, np.float32),
        min_p=np.zeros(count, np.float32),
        uniform=np.full(count, 0.5),
        repetition=nothing,
        bias=nothing,
        want_logprobs=way.endswith("log-probabilities"),
        top_logprobs=0,
    )


def draw_masks(vocab_size: int, share: float, rows: int, rng: np.random.Generator) -> np.ndarray:
    count = int(share) if share >= 1 else round(share * vocab_size)
    ids = [rng.choice(vocab_size, count, replace=False) for _ in range(rows)]
    return np.stack([TokenMask.from_ids(part.tolist(), vocab_size).bits for part in ids])


def microseconds(run: Callable[[], object]) -> float:
    begin = time.thread_time_ns()
    for _ in range(LOOPS):
        run()
    return 1e-3 * (time.thread_time_ns() - begin) / LOOPS


def measure(vocab_size: int, share: float, rows: int, turns: int) -> dict[str, list[float]]:
    """Microseconds by way of drawing (with the mask less without it), and by the others' names."""
    rng = np.random.default_rng(vocab_size + rows)
    functions = others()
    workspace = Workspace(torch.device("cpu"))
    times: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        logits = torch.from_numpy(rng.normal(0, 3, (rows, vocab_size)).astype(np.float32))
        mask = draw_masks(vocab_size, share, rows, rng)
        ours = TorchLogitRows(logits, workspace)
        found: dict[str, float] = {}
        for way in WAYS:
            for label, is_masked in ((f"without, {way}", False), (way, True)):
                found[label] = microseconds(partial(ours.sample, plan_of(mask, way, is_masked=is_masked)))
        for name, apply in functions.items():
            found[name] = microseconds(partial(apply, logits.clone(), mask))
        if turn:
            for name, value in found.items():
                times.setdefault(name, []).append(value)
    return times


def table_of(name: str, rows: int, turns: int) -> Table:
    names = list(others())
    table = Table(
        f"{name}, {rows} row(s): us that a mask adds, median of {turns}; in brackets the whole call",
        ("allowed", *WAYS, *names, "met"),
        notes=[f"limits for one row of 200k: {SPARSE_LIMIT_US} us up to 2 % allowed, else {DENSE_LIMIT_US}"],
    )
    for label, share in tqdm(ALLOWED.items(), desc=f"apply {name} x {rows}", unit="mask"):
        times = measure(SIZES[name], share, rows, turns)
        added = {
            way: Spread.of(a - b for a, b in zip(times[way], times[f"without, {way}"], strict=True)).median
            for way in WAYS
        }
        whole = {way: Spread.of(times[way]).median for way in WAYS}
        limit = SPARSE_LIMIT_US if share >= 1 or share <= 0.02 else DENSE_LIMIT_US
        is_met = rows > 1 or all(value <= limit for value in added.values())
        table.add(
            [
                label,
                *(f"{added[way]:.0f} ({whole[way]:.0f})" for way in WAYS),
                *(f"{Spread.of(times[other]).median:.0f}" for other in names),
                "" if rows > 1 else "yes" if is_met else "NO",
            ],
            vocabulary=name,
            rows=rows,
            allowed=label,
            times=times,
            added=added,
            met=is_met,
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 turns instead of 15")
    parser.add_argument("--only", nargs="+", choices=[*SIZES], default=[*SIZES])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    options = parser.parse_args()
    tables = []
    for name in options.only:
        for rows in options.rows:
            tables.append(table_of(name, rows, 5 if options.quick else 15))
            print(tables[-1].text(), flush=True)
    if options.json:
        write_json(options.json, tables)
    return 0 if all(record["met"] for table in tables for record in table.records) else 1


if __name__ == "__main__":
    sys.exit(main())
