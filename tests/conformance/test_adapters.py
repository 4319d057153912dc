"""Adapters: each request has the model that it names, whatever runs beside it and ran before it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import pytest_asyncio
from conformance.adapters import made_adapters
from conformance.backends import log_softmax
from conformance.requests import PROMPTS, assert_same, prompt_ids, request, run, run_one

from dcmodel.constraints import Regex
from dcmodel.errors import AdapterLoadError, AdapterNotFoundError, InvalidRequestError
from dcmodel.types import GenerateRequest, ScoreRequest

pytestmark = [pytest.mark.feature("lora"), pytest.mark.needs("adapters")]

NAMES = (None, "first", "second")


@pytest.fixture(scope="session")
def made(case, tmp_path_factory):
    """Two adapters of the case's model, made once."""
    if "adapters" in case.limits:
        return None
    model = case.open()
    found = made_adapters(case, model.info.name, tmp_path_factory.mktemp("adapters"))
    asyncio.run(model.aclose())
    return found


@pytest_asyncio.fixture
async def open_adapted(open_model, made):
    """Opens models on which both are mounted."""
    if made is None:
        pytest.skip("nobody says how an adapter for this model is made")

    async def open_one(**options):
        model = open_model(**options)
        for name, adapter in zip(NAMES[1:], made, strict=True):
            await model.mount_adapter(name, adapter.source)
        return model

    return open_one


@pytest_asyncio.fixture
async def adapted(open_adapted):
    return await open_adapted()


def mixed(model, count=9, **options):
    """Requests that name the adapters in turn; every prompt comes with each of them."""
    return [
        request(model, PROMPTS[place // 3 % len(PROMPTS)], adapter=NAMES[place % 3], max_tokens=8, **options)
        for place in range(count)
    ]


async def test_each_adapter_has_its_own_distribution(case, adapted, made):
    if case.logits is None or made[0].logits is None:
        pytest.skip("nothing but the backend itself can tell its logits")
    prompt = prompt_ids(adapted, PROMPTS[0])
    at_prompt = []
    for name, logits in zip(NAMES, (case.logits, *(adapter.logits for adapter in made)), strict=True):
        completion = await run_one(adapted, request(adapted, PROMPTS[0], adapter=name, ignore_eos=True))
        context = list(prompt)
        for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True):
            expected = log_softmax(logits(context))
            assert entry.raw_logprob == pytest.approx(expected[token_id], abs=4 * case.tolerance)
            assert expected[token_id] >= expected.max() - 4 * case.tolerance
            context.append(token_id)
        at_prompt.append(log_softmax(logits(prompt)))
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(at_prompt[left] - at_prompt[right]).max() > 100 * case.tolerance


async def test_a_batch_that_mixes_adapters_equals_each_request_alone(case, open_adapted):
    model = await open_adapted()
    together = await run(model, mixed(model))
    other = await open_adapted()
    for item, completion in zip(mixed(other), together, strict=True):
        assert_same(completion, await run_one(other, item), 4 * case.tolerance)


async def test_seeds_draw_the_same_whatever_adapters_run_beside_them(case, open_adapted):
    model = await open_adapted()
    items = mixed(model, temperature=1.0, seed=3)
    together = await run(model, items)
    assert_same(together[1], await run_one(await open_adapted(), items[1]), 4 * case.tolerance)


async def test_what_one_adapter_computed_is_never_reused_for_another(case, open_adapted):
    """One after the other on the same prompt, against models that computed nothing before."""
    model = await open_adapted()
    for name in (*NAMES, *NAMES):
        item = request(model, PROMPTS[4], adapter=name)
        fresh = await open_adapted()
        assert_same(await run_one(model, item), await run_one(fresh, item), 4 * case.tolerance)


async def test_scores_are_those_of_the_adapter(case, adapted):
    prompt = prompt_ids(adapted, PROMPTS[0])
    for name in NAMES:
        item = GenerateRequest(prompt_ids=prompt, max_tokens=6, adapter=name, ignore_eos=True)
        completion = await run_one(adapted, item)
        scored = await adapted.score(
            ScoreRequest(prompt_ids=prompt, continuations=(completion.token_ids, (5, 6)), adapter=name)
        )
        expected = [entry.raw_logprob for entry in completion.logprobs]
        np.testing.assert_allclose(
            scored.continuations[0].logprobs, expected, atol=4 * case.tolerance, rtol=0
        )


async def test_sessions_and_next_tokens_are_those_of_the_adapter(case, adapted):
    for name in NAMES:
        item = request(adapted, PROMPTS[5], adapter=name, max_tokens=6, ignore_eos=True)
        expected = await run_one(adapted, item)
        (looked,) = await adapted.next_tokens([item.prompt_ids], k=1, adapter=name)
        assert looked.token_ids[0] == expected.token_ids[0]
        session = await adapted.session(item)
        await session.step()
        fork = session.fork()
        while not fork.is_finished:
            await fork.step()
        assert tuple(fork.token_ids) == expected.token_ids


async def test_constraints_hold_with_an_adapter(adapted):
    for item in mixed(adapted, 3, constraint=Regex(r"[a-c]{3}-[0-9]{2}")):
        completion = await run_one(adapted, item)
        assert completion.certificate.valid or completion.finish_reason == "length"


async def test_a_name_that_is_not_mounted_is_refused_everywhere(adapted):
    prompt = prompt_ids(adapted, "yes")
    item = GenerateRequest(prompt_ids=prompt, max_tokens=2, adapter="third")
    with pytest.raises(AdapterNotFoundError, match="third"):
        await adapted.generate(item).completion()
    with pytest.raises(AdapterNotFoundError, match="third"):
        await adapted.score(ScoreRequest(prompt_ids=prompt, continuations=((5,),), adapter="third"))
    with pytest.raises(AdapterNotFoundError, match="third"):
        await (await adapted.session(item)).step()  # at the first step where the model is elsewhere
    with pytest.raises(AdapterNotFoundError, match="third"):
        await adapted.next_tokens([prompt], k=1, adapter="third")


async def test_what_is_mounted_is_listed_and_names_are_unique(adapted, made):
    assert [info.name for info in adapted.adapters] == ["first", "second"]
    assert all(info.rank >= 1 for info in adapted.adapters)
    with pytest.raises(InvalidRequestError, match="first"):
        await adapted.mount_adapter("first", made[1].source)
    with pytest.raises(InvalidRequestError):
        await adapted.mount_adapter("no name", made[1].source)


async def test_a_source_that_is_no_adapter_is_an_error_and_changes_nothing(adapted, tmp_path):
    with pytest.raises(AdapterLoadError):
        await adapted.mount_adapter("third", str(tmp_path / "nothing"))
    assert [info.name for info in adapted.adapters] == ["first", "second"]


async def test_a_name_that_is_mounted_anew_shares_nothing_with_what_it_was(case, adapted, made):
    item = request(adapted, PROMPTS[0], adapter="first")
    other = request(adapted, PROMPTS[0], adapter="second")
    await run_one(adapted, item)
    await adapted.unmount_adapter("first")
    with pytest.raises(AdapterNotFoundError):
        await adapted.generate(item).completion()
    await adapted.mount_adapter("first", made[1].source)
    assert_same(await run_one(adapted, item), await run_one(adapted, other), 4 * case.tolerance)
    with pytest.raises(AdapterNotFoundError):
        await adapted.unmount_adapter("third")


@pytest.mark.feature("streaming")
async def test_what_runs_goes_on_while_its_adapter_is_unmounted(case, adapted):
    item = request(adapted, PROMPTS[0], adapter="first", max_tokens=100, ignore_eos=True)
    expected = await run_one(adapted, item)
    stream = adapted.generate(item)
    await anext(stream)
    await adapted.unmount_adapter("first")
    assert_same(await stream.completion(), expected, 4 * case.tolerance)
    assert [info.name for info in adapted.adapters] == ["second"]


async def test_what_runs_goes_on_while_an_adapter_is_mounted(case, adapted, made):
    item = request(adapted, PROMPTS[0], adapter="first", max_tokens=30, ignore_eos=True)
    expected = await run_one(adapted, item)
    stream = adapted.generate(item)
    await asyncio.gather(anext(stream), adapted.mount_adapter("third", made[1].source))
    assert_same(await stream.completion(), expected, 2 * case.tolerance)
    third = await run_one(adapted, request(adapted, PROMPTS[0], adapter="third"))
    second = await run_one(adapted, request(adapted, PROMPTS[0], adapter="second"))
    assert_same(third, second, 4 * case.tolerance)
