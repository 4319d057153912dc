"""vLLM under our draws against vLLM alone, in vLLM's own environment (`make test-vllm` makes it):

    .venv-vllm/bin/python -m benchmarks.vllm

A random Llama of 45 million parameters, float32, on a CPU. `AsyncLLM` is what vLLM's server runs on (its
engine is another process); all get prompts of 48 tokens and give 32. Both sides are up all the time and take
turns, so that other load meets both; the one whose turn it is not is stopped. vLLM gives its worker all cores
but one, and so do we here: `THREADS=n` gives ours as many threads as one likes. `QUICK=1`: 8 streams, twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

PROMPT, NEW = 48, 32
QUICK = bool(os.environ.get("QUICK"))
STREAMS = (8,) if QUICK else (1, 8, 32)
ROUNDS = 2 if QUICK else 5
CANDIDATES, SCORED_PROMPT = 50, 256
KV_BYTES = 512 << 20
REGEX = r"[a-zA-Z ,.]{200}"
RUNS = [(kind, count) for kind in ("plain", "regex") for count in STREAMS] + [("scores", CANDIDATES)]

Runner = Callable[[str, int, int], Awaitable[int]]
"""Does a kind of work so many times, with a salt; the number of tokens."""


def save_model(folder: Path) -> None:
    """A random model, and the embedded one's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from dcmodel.registry import Registry

    torch.manual_seed(0)
    embedded = Registry().embedded_path()
    for file in embedded.glob("token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def prompts(count: int, salt: int, length: int = PROMPT) -> list[list[int]]:
    """Different ones each time: nothing is cached."""
    return [
        [5 + (salt * 7919 + item * 131 + place * 17) % 3000 for place in range(length)]
        for item in range(count)
    ]


# -- the two sides, each a process that is told what to do line by line ----------------------------------


async def ours(folder: str) -> None:
    import torch

    from dcmodel.backend import LoadOptions
    from dcmodel.constraints import Regex
    from dcmodel.types import GenerateRequest, ScoreRequest
    from lmql_backends.vllm import BACKEND

    extra = {"kv_cache_memory_bytes": KV_BYTES}
    rule = Regex(REGEX)
    async with BACKEND.load(folder, LoadOptions(max_context=1000, extra=extra)) as model:

        async def run(kind: str, count: int, salt: int) -> int:
            if kind == "scores":
                ids = prompts(1, 100 + salt, SCORED_PROMPT)[0]
                candidates = tuple(tuple(item[:4]) for item in prompts(count, 200 + salt))
                await model.score(ScoreRequest(prompt_ids=tuple(ids), continuations=candidates))
                return count
            requests = [
                GenerateRequest(
                    prompt_ids=tuple(ids),
                    max_tokens=NEW,
                    ignore_eos=kind == "plain",
                    constraint=rule if kind == "regex" else None,
                    logprobs=False,
                )
                for ids in prompts(count, salt)
            ]
            done = await asyncio.gather(*(model.generate(item).completion() for item in requests))
            return sum(len(item.token_ids) for item in done)

        await serve(run, f"{torch.get_num_threads()} threads")


async def theirs(folder: str) -> None:
    """The same by `AsyncLLM`."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=folder,
        dtype="float32",
        enforce_eager=True,
        max_model_len=1001,
        kv_cache_memory_bytes=KV_BYTES,
        block_size=32,
        disable_log_stats=True,
        generation_config="vllm",
    )
    engine = AsyncLLM.from_engine_args(arguments)
    numbers = iter(range(1 << 30))
    regex = StructuredOutputsParams(regex=REGEX)
    kinds = {
        "plain": SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True),
        "regex": SamplingParams(temperature=0, max_tokens=NEW, structured_outputs=regex),
        "scores": SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0),
    }

    async def one(ids: list[int], params: Any) -> int:
        last = None
        async for output in engine.generate({"prompt_token_ids": ids}, params, str(next(numbers))):
            last = output
        assert last is not None
        return len(last.outputs[0].token_ids)

    async def run(kind: str, count: int, salt: int) -> int:
        texts = prompts(count, salt)
        if kind == "scores":
            ids = prompts(1, 100 + salt, SCORED_PROMPT)[0]
            texts = [ids + item[:4] for item in prompts(count, 200 + salt)]
        return sum(await asyncio.gather(*(one(ids, kinds[kind]) for ids in texts)))

    await serve(run, "engine and worker in processes of their own")
    engine.shutdown()


async def serve(run: Runner, about: str) -> None:
    answer({"about": about})
    while line := await asyncio.to_thread(sys.stdin.readline):
        kind, count, salt = json.loads(line)
        began = time.perf_counter()
        tokens = await run(kind, count, salt)
        answer({"seconds": time.perf_counter() - began, "tokens": tokens})


def answer(value: object) -> None:
    sys.stdout.write(f"\n>{json.dumps(value)}\n")
    sys.stdout.flush()


# -- the parent -----------------------------------------------------------------------------------------


class Side:
    """A process group that only runs while it is asked."""

    def __init__(self, name: str, folder: str) -> None:
        environment = {
            **os.environ,
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        if name == "ours":
            environment["OMP_NUM_THREADS"] = os.environ.get("THREADS") or str(
                max((os.cpu_count() or 2) - 1, 1)
            )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.vllm", name, folder],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def about(self) -> str:
        """Wait until it is up; its settings. It is stopped then."""
        found = str(self._answer()["about"])
        self.pause()
        return found

    def ask(self, kind: str, count: int, salt: int) -> tuple[float, float]:
        """Seconds, and seconds of all its processes' CPU time, for each token (or candidate)."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        before = self._cpu()
        self._process.stdin.write(f"{json.dumps([kind, count, salt])}\n")
        self._process.stdin.flush()
        found = self._answer()
        spent = self._cpu() - before
        self.pause()
        return float(found["seconds"]) / int(found["tokens"]), spent / int(found["tokens"])

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def end(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(">"):
                return dict(json.loads(line[1:]))
        raise SystemExit(f"a side of the benchmark ended: {self._process.wait()}")

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _cpu(self) -> float:
        ticks = 0
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = file.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if int(fields[3]) == self._process.pid:  # its session
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def cores() -> int:
    return os.cpu_count() or 2


def main() -> None:
    if len(sys.argv) == 3:
        side, folder = sys.argv[1:]
        warnings.simplefilter("ignore")
        asyncio.run({"ours": ours, "theirs": theirs}[side](folder))
        return
    sides: list[Side] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder))
            for name in ("ours", "theirs"):
                sides.append(Side(name, folder))
                sys.stdout.write(f"{name}: {sides[-1].about()}\n")
                sys.stdout.flush()
            compare(*sides)
    finally:
        for side in sides:
            side.end()


def compare(left: Side, right: Side) -> None:
    sys.stdout.write("tokens (candidates) per second and, of all processes, CPU milliseconds for each\n")
    for kind, count in RUNS:
        rounds = 1 if kind == "scores" else ROUNDS
        # The first one warms up.
        pairs = [(left.ask(kind, count, salt), right.ask(kind, count, salt)) for salt in range(rounds + 1)][
            1:
        ]
        wall = [[pair[side][0] for pair in pairs] for side in (0, 1)]
        cpu = [1e3 * statistics.median(pair[side][1] for pair in pairs) for side in (0, 1)]
        ratios = sorted(other / own for own, other in zip(*wall, strict=True))
        sys.stdout.write(
            f"{kind:6} {count:3}  ours {1 / statistics.median(wall[0]):7.1f} {cpu[0]:7.2f}"
            f"   AsyncLLM {1 / statistics.median(wall[1]):7.1f} {cpu[1]:7.2f}"
            f"   ratio {statistics.median(ratios):5.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
