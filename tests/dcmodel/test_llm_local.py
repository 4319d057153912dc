"""`LLM` over a real scheduler and a fake engine: what both faces promise about results."""

from __future__ import annotations

import asyncio
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conformance.requests import Gate
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM
from dcmodel.errors import ModelClosedError
from dcmodel.local import LocalDcModel


def new_llm(**options):
    return LLM.from_model(LocalDcModel(loaded_fake(small_tokenizer(), **options)))


@pytest.fixture(scope="module")
def llm():
    with new_llm() as llm:
        yield llm


PROMPTS = ["yes", "no maybe", "the quick brown fox", "answer", "0 1 2"]
OPTIONS = {"max_tokens": 12, "temperature": 1.0, "seed": 5}


def same(first, second):
    """Equal but for what the prefix cache had, and rounding."""
    assert (first.text, first.token_ids, first.finish_reason) == (
        second.text,
        second.token_ids,
        second.finish_reason,
    )
    assert first.raw_logprob == pytest.approx(second.raw_logprob, abs=1e-4)


def test_batched_is_alone_and_prompt_i_has_seed_plus_i(llm):
    batch = llm.generate(PROMPTS, **OPTIONS)
    for index, prompt in enumerate(PROMPTS):
        same(batch[index], llm.generate(prompt, **{**OPTIONS, "seed": 5 + index}))


async def test_sync_is_async(llm):
    for prompt in PROMPTS:
        same(llm.generate(prompt, **OPTIONS), await llm.agenerate(prompt, **OPTIONS))
    for first, second in zip(
        llm.score("yes", [" no", " maybe"]), await llm.ascore("yes", [" no", " maybe"]), strict=True
    ):
        assert first.logprob == pytest.approx(second.logprob, abs=1e-4)


def test_a_stream_is_the_completion_in_pieces(llm):
    stream = llm.stream("yes", **OPTIONS)
    steps = list(stream)
    completion = stream.completion()
    assert "".join(step.text for step in steps) == completion.text == stream.text
    assert tuple(step.token_id for step in steps) == completion.token_ids
    assert steps[-1].finish_reason == completion.finish_reason


def test_a_score_is_the_sum_of_the_steps(llm):
    completion = llm.generate("yes", regex="[a-z]{6}", temperature=1.0, seed=1)
    (scored,) = llm.score("yes", [completion.text])
    drawn = [item for item in completion.token_ids if item not in llm.tokenizer.eos_token_ids]
    if list(scored.token_ids) == drawn:
        total = math.fsum(item.raw_logprob for item in completion.logprobs[: len(drawn)])
        assert scored.logprob == pytest.approx(total, abs=1e-3)


def test_every_short_form_constrains(llm):
    assert re.fullmatch("[0-9]{3}", llm.generate("yes", regex="[0-9]{3}").text)
    assert llm.generate("yes", choices=["red", "green"]).text in ("red", "green")
    assert llm.generate("yes", json_schema={"type": "boolean"}).parsed in (True, False)
    tree = llm.generate("yes", grammar='start: word ";"\nword: "ab" | "cd"').parsed
    assert [child.data for child in tree.children] == ["word"]
    (letter,) = llm.tokenizer.encode("a")
    end = llm.tokenizer.eos_token_ids[0]
    assert llm.generate("yes", mask=lambda ids: [letter] if len(ids) < 4 else [end]).text == "aaaa"


def test_stop_strings_end_the_text(llm):
    whole = llm.generate("yes", **{**OPTIONS, "max_tokens": 40}).text
    stop = whole[5:7]
    cut = llm.generate("yes", stop=stop, **{**OPTIONS, "max_tokens": 40})
    assert cut.text == whole[: whole.index(stop)]
    assert cut.stop_reason == f"stop:{stop}"


@pytest.mark.timeout(20)
def test_cancelling_a_running_request_ends_it_with_what_it_has(llm):
    for seed in range(20):
        stream = llm.stream("yes", max_tokens=400, temperature=1.0, seed=seed)
        next(stream)
        stream.close()
        completion = stream.completion()
        assert completion.finish_reason in ("cancelled", "stop")


@pytest.mark.timeout(60)
async def test_cancelling_a_task_leaves_the_others_alone(llm):
    gate = Gate(after=2)
    task = asyncio.create_task(llm.agenerate(["yes", "no"], max_tokens=300, constraint=gate.constraint()))
    other = asyncio.create_task(llm.agenerate("yes", **OPTIONS))
    while gate.reached < 2:  # noqa: ASYNC110 - it is reached in another thread
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    same(await other, llm.generate("yes", **OPTIONS))
    assert gate.reached <= 3


def test_many_threads_give_what_one_gives(llm):
    expected = [llm.generate(prompt, **OPTIONS) for prompt in PROMPTS]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            results = pool.map(lambda prompt: llm.generate(prompt, **OPTIONS), PROMPTS)
            for first, second in zip(expected, results, strict=True):
                same(first, second)


@pytest.mark.timeout(20)
def test_closing_fails_what_still_runs():
    llm = new_llm()
    errors = []

    def work():
        try:
            llm.generate(["yes"] * 8, max_tokens=500, temperature=1.0)
        except ModelClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    stream = llm.stream("yes", max_tokens=500, temperature=1.0)
    next(stream)
    llm.close()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(ModelClosedError):
        llm.generate("yes")


def test_the_engine_is_closed_with_the_llm():
    loaded = loaded_fake(small_tokenizer())
    with LLM.from_model(LocalDcModel(loaded)) as llm:
        llm.generate("yes", max_tokens=1)
    assert loaded.engine.closed
