"""vLLM under our draws against vLLM alone, in vLLM's own environment (`make test-vllm` makes it):

    .venv-vllm/bin/python -m benchmarks.vllm

A random Llama of 58 million parameters, float32, on a CPU. `AsyncLLM` is what vLLM's server runs on (its
engine is another process); all get prompts of 48 tokens and give 32. Each side runs in a process of its own,
one after the other. `QUICK=1`: 8 streams, once, to see that it works.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

PROMPT, NEW = 48, 32
QUICK = bool(os.environ.get("QUICK"))
STREAMS = (8,) if QUICK else (1, 8, 32)
CANDIDATES, SCORED_PROMPT = 50, 256
KV_BYTES = 512 << 20
REPEATS = 1 if QUICK else 3


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
        num_hidden_layers=1 if QUICK else 8,
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


async def ours(folder: str) -> dict[str, float]:
    """Tokens per second, and seconds for scores."""
    from dcmodel.backend import LoadOptions
    from dcmodel.constraints import Regex
    from dcmodel.types import GenerateRequest, ScoreRequest
    from lmql_backends.vllm import BACKEND

    extra = {"kv_cache_memory_bytes": KV_BYTES}
    found: dict[str, float] = {}
    async with BACKEND.load(folder, LoadOptions(max_context=1000, extra=extra)) as model:
        rules = {"plain": None, "regex": Regex(r"[a-zA-Z ,.]{600}")}
        for kind, rule in rules.items():
            for count in STREAMS:
                times = []
                for salt in range(REPEATS + 1):
                    requests = [
                        GenerateRequest(
                            prompt_ids=tuple(ids),
                            max_tokens=NEW,
                            ignore_eos=rule is None,
                            constraint=rule,
                            logprobs=False,
                        )
                        for ids in prompts(count, salt)
                    ]
                    began = time.perf_counter()
                    done = await asyncio.gather(*(model.generate(item).completion() for item in requests))
                    times.append((time.perf_counter() - began) / sum(len(item.token_ids) for item in done))
                found[f"{kind} {count}"] = 1 / min(times[1:])
        for salt in range(REPEATS):
            ids = prompts(1, 100 + salt, SCORED_PROMPT)[0]
            candidates = tuple(tuple(item[:4]) for item in prompts(CANDIDATES, 200 + salt))
            began = time.perf_counter()
            await model.score(ScoreRequest(prompt_ids=tuple(ids), continuations=candidates))
            found["scores"] = min(found.get("scores", 1e9), time.perf_counter() - began)
    return found


async def theirs(folder: str) -> dict[str, float]:
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

    async def run(ids: list[int], params: Any) -> int:
        last = None
        async for output in engine.generate({"prompt_token_ids": ids}, params, str(next(numbers))):
            last = output
        assert last is not None
        return len(last.outputs[0].token_ids)

    regex = StructuredOutputsParams(regex=r"[a-zA-Z ,.]{600}")
    kinds = {
        "plain": SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True),
        "regex": SamplingParams(temperature=0, max_tokens=NEW, structured_outputs=regex),
    }
    found: dict[str, float] = {}
    for kind, params in kinds.items():
        for count in STREAMS:
            times = []
            for salt in range(REPEATS + 1):
                began = time.perf_counter()
                lengths = await asyncio.gather(*(run(ids, params) for ids in prompts(count, salt)))
                times.append((time.perf_counter() - began) / sum(lengths))
            found[f"{kind} {count}"] = 1 / min(times[1:])
    scoring = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    for salt in range(REPEATS):
        ids = prompts(1, 100 + salt, SCORED_PROMPT)[0]
        candidates = [item[:4] for item in prompts(CANDIDATES, 200 + salt)]
        began = time.perf_counter()
        await asyncio.gather(*(run(ids + item, scoring) for item in candidates))
        found["scores"] = min(found.get("scores", 1e9), time.perf_counter() - began)
    engine.shutdown()
    return found


def main() -> None:
    if len(sys.argv) == 3:
        side, folder = sys.argv[1:]
        warnings.simplefilter("ignore")
        found = asyncio.run({"ours": ours, "theirs": theirs}[side](folder))
        sys.stdout.write(f"\n{json.dumps(found)}\n")
        return
    with tempfile.TemporaryDirectory() as name:
        save_model(Path(name))
        sides = {side: child(side, name) for side in ("ours", "theirs")}
    for key, value in sides["ours"].items():
        other = sides["theirs"][key]
        ratio = other / value if key == "scores" else value / other
        sys.stdout.write(f"{key:10} ours {value:9.2f}  AsyncLLM {other:9.2f}  ratio {ratio:5.2f}\n")


def child(side: str, folder: str) -> dict[str, float]:
    environment = {
        **os.environ,
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "benchmarks.vllm", side, folder]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


if __name__ == "__main__":
    main()
