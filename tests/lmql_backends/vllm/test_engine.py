"""vLLM's engine under our draws: what is special about it. All else is the conformance suite's."""

from __future__ import annotations

import asyncio

import pytest
from conformance.requests import Gate, prompt_ids, request, run, run_one

from dcmodel.backend import LoadOptions
from dcmodel.constraints import Regex
from dcmodel.errors import AdapterLoadError, CapabilityError, InvalidRequestError, ModelLoadError
from dcmodel.types import GenerateRequest, ScoreRequest
from lmql_backends.vllm import BACKEND

LONG = "The quick brown fox jumps over the lazy dog. " * 12


def core_of(model):
    return model._runner.engine.core


def unfinished(model):
    return core_of(model)._scheduler.get_num_unfinished_requests()


async def test_nothing_is_left_in_vllm_when_all_have_ended(model):
    await run(model, [request(model, "yes", max_tokens=5) for _ in range(4)])
    assert unfinished(model) == 0
    assert core_of(model)._scheduler.caps == {}


async def test_a_cancelled_request_is_gone_from_vllm(model):
    gate = Gate(after=2)
    stream = model.generate(request(model, "yes", max_tokens=300, constraint=gate.constraint()))
    await anext(stream)
    stream.cancel()
    gate.open()
    await stream.completion()
    # The next request is taken in after the cancellation.
    await run_one(model, request(model, "no", max_tokens=1))
    assert unfinished(model) == 0


async def test_cached_tokens_whose_scores_are_wanted_are_computed_again(model):
    """vLLM gives no logits of tokens that its prefix cache has."""
    ids = prompt_ids(model, LONG)
    prompt, rest = ids[:40], ids[40:]
    first, second = [
        (await model.score(ScoreRequest(prompt_ids=prompt, continuations=(rest,)))) for _ in range(2)
    ]
    assert second.usage.cached_tokens == 32
    assert first.continuations[0].logprobs == pytest.approx(second.continuations[0].logprobs, abs=1e-4)


async def test_a_prompt_in_several_chunks_is_scored_in_each(case):
    chunked, whole = case.open(max_batch_tokens=32), case.open()
    ids = prompt_ids(whole, LONG)
    asked = ScoreRequest(prompt_ids=ids, prompt_logprobs=2)
    left, right = (await chunked.score(asked)).prompt, (await whole.score(asked)).prompt
    assert left.logprobs == pytest.approx(right.logprobs, abs=case.tolerance)
    await chunked.aclose()
    await whole.aclose()


@pytest.mark.parametrize("length", [3, 40])
async def test_forced_runs_long_and_short_are_scored_as_given_ones(model, length):
    text = " ".join(["seven"] * length)
    item = request(model, "yes", constraint=Regex(rf"(a|b){text}(c|d)"), max_tokens=300)
    completion = await run_one(model, item)
    scored = await model.score(
        ScoreRequest(prompt_ids=item.prompt_ids, continuations=(completion.token_ids,))
    )
    raw = [entry.raw_logprob for entry in completion.logprobs]
    assert raw == pytest.approx(scored.continuations[0].logprobs, abs=1e-4)


async def test_without_hidden_states_given_tokens_are_followed_one_per_step(case, model, monkeypatch):
    """What a model runner without that hook would do."""
    asked = ScoreRequest(
        prompt_ids=prompt_ids(model, "yes"), continuations=((5, 6, 7, 8, 9, 10, 11, 12),), prompt_logprobs=0
    )
    item = request(model, "no", constraint=Regex(r"(a|b) and that is final(c|d)"), max_tokens=60)
    scores, text = await model.score(asked), await run_one(model, item)
    monkeypatch.setattr(core_of(model), "has_hidden_states", False)
    again, other = await model.score(asked), await run_one(model, item)
    assert again.continuations[0].logprobs == pytest.approx(scores.continuations[0].logprobs, abs=1e-4)
    assert again.prompt.logprobs == pytest.approx(scores.prompt.logprobs, abs=1e-4)
    assert other.token_ids == text.token_ids


@pytest.mark.parametrize("key", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_several_processes_are_refused_with_the_way_out(case, key):
    with pytest.raises(CapabilityError, match="openai:"):
        BACKEND.load("org/model", LoadOptions(extra={key: 2}))


def test_what_draws_rely_on_cannot_be_set(case):
    with pytest.raises(InvalidRequestError, match="async_scheduling"):
        BACKEND.load("org/model", LoadOptions(extra={"async_scheduling": True}))
    with pytest.raises(ModelLoadError, match="trust_remote_code"):
        BACKEND.load("org/model", LoadOptions(extra={"trust_remote_code": True}))


def test_a_folder_without_a_model_says_so(case, tmp_path):
    with pytest.raises(ModelLoadError, match="tokenizer"):
        BACKEND.load(str(tmp_path), LoadOptions())


async def test_an_adapter_that_is_none_is_refused_before_vllm_sees_it(model, tmp_path):
    with pytest.raises(AdapterLoadError, match="no folder"):
        await model.mount_adapter("first", str(tmp_path / "missing"))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(AdapterLoadError, match="IA3"):
        await model.mount_adapter("first", str(tmp_path))
    assert model.adapters == ()


async def test_an_engine_that_dies_fails_everybody_and_hangs_nobody(case, monkeypatch):
    """Last: this engine is of no use afterwards."""
    model = case.open(max_sequences=5)
    gate = Gate(after=2)
    running = model.generate(request(model, "yes", max_tokens=300, constraint=gate.constraint()))
    await anext(running)

    def die() -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(core_of(model), "step", die)
    gate.open()
    from dcmodel.errors import EngineError, ModelClosedError

    with pytest.raises(EngineError, match="device lost"):
        await asyncio.wait_for(running.completion(), 60)
    with pytest.raises(ModelClosedError):
        await model.generate(GenerateRequest(prompt_ids=(3, 4))).completion()
