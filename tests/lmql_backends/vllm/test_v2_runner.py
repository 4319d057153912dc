"""Our draws on vLLM's V2 model runner.

vLLM uses it where Triton drives an accelerator. Its kernels also run in the interpreter of Triton: there the
whole runner does on a CPU what it does elsewhere, but for CUDA graphs; slowly, and in a process of its own,
since both are decided when vLLM is imported.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

TESTS = str(Path(__file__).parents[2])


async def results(model):
    """Of requests of different lengths side by side: drawn, constrained and greedy ones; and of scores."""
    from conformance.requests import prompt_ids, request, run

    from dcmodel.constraints import Regex
    from dcmodel.types import ScoreRequest

    done = await run(
        model,
        [
            request(model, "yes", max_tokens=6),
            request(
                model,
                "The quick brown fox",
                max_tokens=30,
                constraint=Regex(r"(a|b) and that is final [a-z]{3}"),
                temperature=1.0,
                seed=7,
            ),
            request(model, "no " * 40, max_tokens=5, temperature=0.8, top_p=0.9, min_p=0.02, seed=3),
        ],
    )
    asked = ScoreRequest(
        prompt_ids=prompt_ids(model, "yes no " * 6), continuations=((5, 6, 7), (8, 9)), prompt_logprobs=0
    )
    scores = await model.score(asked)
    logprobs = [entry.raw_logprob for item in done for entry in item.logprobs]
    logprobs += [value for item in scores.continuations for value in item.logprobs]
    return {
        "tokens": [list(item.token_ids) for item in done],
        "logprobs": logprobs + list(scores.prompt.logprobs),
    }


async def test_the_v2_runner_gives_what_the_v1_runner_gives(model):
    pytest.importorskip("triton", reason="there is no Triton, whose interpreter runs the kernels")
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": TESTS,
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, env=environment, stdout=subprocess.PIPE
    )
    output, _ = await child.communicate()
    assert child.returncode == 0
    found, expected = json.loads(output.decode().splitlines()[-1]), await results(model)
    assert found["processor"] == "StepProcessorV2"
    assert found["tokens"] == expected["tokens"]
    assert found["logprobs"] == pytest.approx(expected["logprobs"], abs=1e-4)


class Hooks:
    """Writes down what it is told."""

    def __init__(self, processor):
        self.processor = processor
        self.planned: list[list[str]] = []
        self.drawn: list[list[str]] = []

    def before_forward(self) -> None:
        self.planned.append(list(self.processor.order))

    def with_logits(self, logits) -> None:
        self.drawn.append(list(self.processor.order))


def context(slots):
    """What vLLM's `LogitsContext` says of a step without drafts."""
    import torch
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

    mapping = torch.tensor(slots)
    nothing = torch.zeros(len(slots), dtype=torch.int64)
    return LogitsContext(
        expanded_idx_mapping=mapping,
        idx_mapping=mapping,
        idx_mapping_np=np.array(slots),
        expanded_local_pos=nothing,
        input_ids=nothing,
        pos=nothing,
        seq_lens_upper_bound_np=np.ones(len(slots), dtype=np.int32),
    )


@pytest.fixture
def processor():
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm")
    from lmql_backends.vllm.processor_v2 import StepProcessorV2

    made = StepProcessorV2(None, None)
    made.names = {4: "first", 0: "second"}
    made.planned = lambda: ["first", "second"]
    return made


@pytest.mark.parametrize(
    ("slots", "planned"),
    [
        ([4, 0], [["first", "second"]]),
        ([0, 4], [["first", "second"], ["second", "first"]]),
    ],
)
def test_rows_are_those_of_the_slots_whatever_was_expected(processor, slots, planned):
    import torch

    processor.hooks = hooks = Hooks(processor)
    processor.apply_staged_writes()
    logits = torch.zeros(2, 3)
    assert processor.apply(logits, context(slots)) is logits
    assert hooks.planned == planned
    assert hooks.drawn == planned[-1:]


def test_drafted_rows_are_refused(processor):
    import torch

    from dcmodel.errors import EngineError

    processor.hooks = Hooks(processor)
    with pytest.raises(EngineError, match="3 rows"):
        processor.apply(torch.zeros(3, 3), context([4, 0]))


def test_without_hooks_it_leaves_logits_alone(processor):
    import torch

    logits = torch.rand(2, 3)
    before = logits.clone()
    processor.apply_staged_writes()
    assert torch.equal(processor.apply(logits, context([4, 0])), before)


def main() -> None:
    import triton.backends

    # vLLM's build for CPUs uses Triton where it finds a driver for them; the interpreter needs none.
    active = types.SimpleNamespace(is_active=lambda: True)
    triton.backends.backends["cpu"] = types.SimpleNamespace(driver=active)
    from conformance.vllm_backend import vllm_case

    async def run():
        async with case.open() as model:
            name = type(model._runner.engine.core._processor).__name__
            return {**await results(model), "processor": name}

    with vllm_case() as case:
        found = asyncio.run(run())
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
