"""The program of the helper process: it compiles what it is told, within limits, and says how it went.

Run by path, so that it imports nothing but llguidance. A line of JSON in, a line of JSON out, until the
pipe closes. What exceeds a limit ends the process (by a signal), or comes back as the answer's ``failure``.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sys
from collections.abc import Iterator

import llguidance

FUEL = 10**8
WALK_BYTES = 96
WALKS = 2
BYTES = 256
# After a job that left more than this behind, another process takes the next one.
MAX_GROWTH_MEGABYTES = 64


def run(grammar: str, tokenizer: llguidance.LLTokenizer) -> None:
    """Compile, follow what is forced, and walk a few random texts with a mask before each byte."""
    limits = llguidance.LLParserLimits(initial_lexer_fuel=FUEL, step_lexer_fuel=FUEL)
    engine = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if engine.is_error():
        return
    engine.deep_copy().compute_bitmask()
    engine.deep_copy().compute_ff_tokens()
    for seed in range(WALKS):
        walk(engine.deep_copy(), random.Random(seed))


def walk(engine: llguidance.LLMatcher, choices: random.Random) -> None:
    for _ in range(WALK_BYTES):
        mask = int.from_bytes(engine.compute_bitmask()[: BYTES // 8], "little")
        allowed = [byte for byte in range(BYTES) if mask >> byte & 1]
        if engine.is_error() or not allowed or not engine.consume_token(choices.choice(allowed)):
            return


@contextlib.contextmanager
def limited(seconds: float, megabytes: int) -> Iterator[None]:
    """Limits on CPU time and address space, where the system has them; the parent watches the clock."""
    try:
        import resource
    except ImportError:
        yield
        return
    ceiling = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = (address_space() + megabytes) << 20
    if ceiling not in (resource.RLIM_INFINITY, -1):
        limit = min(limit, ceiling)
    with contextlib.suppress(ValueError, OSError):  # macOS does not take it
        resource.setrlimit(resource.RLIMIT_AS, (limit, ceiling))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))


def address_space() -> int:
    """Megabytes of address space in use; 0 where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            sizes = [line.split()[1] for line in status if line.startswith("VmSize")]
    except OSError:
        return 0
    return int(sizes[0]) >> 10 if sizes else 0


def serve() -> None:
    # The terminal's interrupt is for the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tokenizer = llguidance.LLTokenizer("byte")
    before = address_space()
    for line in sys.stdin:
        job = json.loads(line)
        failure = ""
        try:
            with limited(job["seconds"], job["megabytes"]):
                run(job["grammar"], tokenizer)
        except MemoryError:
            failure = "memory"
        except BaseException as error:  # a panic of the engine is no Exception
            failure = f"{type(error).__name__}: {error}"[:200]
        is_last = bool(failure) or address_space() - before > MAX_GROWTH_MEGABYTES
        sys.stdout.write(json.dumps({"failure": failure, "last": is_last}) + "\n")
        sys.stdout.flush()
        if is_last:
            return


if __name__ == "__main__":
    sys.path += sys.argv[1:]
    serve()
