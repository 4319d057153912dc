"""Many jobs at once at an endpoint with limits, outages and hanging requests, on a virtual clock."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fakes.simulated_endpoint import SimulatedHttp
from fakes.virtual_time import run_virtually

from benchmarks.tables import Table, write_json
from lmql_backends.openai.transport.client import CHAT_COMPLETIONS, Transport
from lmql_backends.openai.transport.configuration import Configuration, make_client
from lmql_backends.openai.transport.settings import TransportSettings

JOBS = 500
BURST = 20
IDEAL = (JOBS - BURST) / 10 + 1
"""Seconds at 600 requests a minute, with a latency of one second."""
RATES: Mapping[str, dict[str, Any]] = {
    "600 a minute; headers, Retry-After; refusals charged": {},
    "600 a minute; headers only; refusals charged": {"has_retry_after": False},
    "600 a minute; Retry-After only; refusals charged": {"has_headers": False},
    "600 a minute; tells nothing; refusals free": {
        "has_headers": False,
        "has_retry_after": False,
        "is_charged": False,
    },
}
FAULTS: Mapping[str, dict[str, Any]] = {
    "2 % hang": {"share_hanging": 0.02},
    "2 % hang, 5 % are 503": {"share_hanging": 0.02, "share_unavailable": 0.05},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of all jobs."""

    total: float
    p99: float
    requests_per_job: float


def run_jobs(seed: int, endpoint: Mapping[str, Any]) -> Outcome:
    """All jobs begin at once."""
    outcome: Outcome = run_virtually(_run(seed, endpoint))
    return outcome


async def _run(seed: int, endpoint: Mapping[str, Any]) -> Outcome:
    http = SimulatedHttp(seed=seed, burst=BURST, **endpoint)
    configuration = Configuration(
        make_client(base_url="http://simulated/v1", api_key="key"), owns_client=True
    )
    transport = Transport(configuration, TransportSettings(), make_http=lambda: http, rng=Random(seed))
    loop = asyncio.get_running_loop()
    began, seconds = loop.time(), list[float]()

    async def one(number: int) -> None:
        messages = [{"role": "user", "content": str(number)}]
        body = {"model": "m", "max_tokens": 10, "messages": messages}
        await transport.complete(CHAT_COMPLETIONS, body, seconds=600.0)
        seconds.append(loop.time() - began)

    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(JOBS):
                tasks.create_task(one(number))
    finally:
        await transport.aclose()
    seconds.sort()
    return Outcome(seconds[-1], seconds[int(0.99 * JOBS)], http.requests / JOBS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    options = parser.parse_args()
    table = Table(
        f"{JOBS} jobs at once, medians of {options.seeds} runs; seconds of a virtual clock",
        ("endpoint", "all done", "over ideal", "p99", "requests/job", "target"),
        notes=["targets: 1.1 times the ideal and 1.1 requests a job; with hanging requests, p99 of 12 s"],
    )
    is_met = True
    for name, endpoint in {**RATES, **FAULTS}.items():
        is_rate = name in RATES
        given = {"per_minute": 600, **endpoint} if is_rate else endpoint
        found = [run_jobs(seed, given) for seed in range(options.seeds)]
        total, p99 = median(item.total for item in found), median(item.p99 for item in found)
        requests = median(item.requests_per_job for item in found)
        ok = (total <= 1.1 * IDEAL and requests <= 1.1) if is_rate else p99 <= 12.0
        is_met &= ok
        ratio = f"{total / IDEAL:.2f}" if is_rate else "-"
        table.add(
            [name, f"{total:.1f}", ratio, f"{p99:.1f}", f"{requests:.2f}", "met" if ok else "MISSED"],
            endpoint=name,
            total=total,
            p99=p99,
            requests_per_job=requests,
        )
    print(table.text())
    if options.json:
        write_json(options.json, [table])
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
