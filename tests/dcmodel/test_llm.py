"""`LLM` over a scripted model (what the interface does) and a fake engine (both faces agree)."""

from __future__ import annotations

import asyncio
import gc
import inspect
import io
import math
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes.scripted_model import ScriptedModel

import dcmodel
from dcmodel import LLM, Choice, ChoiceResult, Completion, Regex, Scored
from dcmodel.backend import Backend
from dcmodel.errors import EngineError, InvalidRequestError, ModelClosedError, SettingError, TokenRangeError
from dcmodel.llm.options import GenerateOptions
from dcmodel.registry import Decision, Registry


@pytest.fixture
def model():
    return ScriptedModel()


@pytest.fixture
def llm(model):
    with LLM.from_model(model) as llm:
        yield llm


class SlowRegistry(Registry):
    """Loads a scripted model, slowly, and counts."""

    def __init__(self, *, failures=0):
        super().__init__()
        self.loads = []
        self.failures = failures

    def load(self, model, options, *, explicit=None, settings=None):
        time.sleep(0.05)
        self.loads.append((model, options, explicit, settings))
        if len(self.loads) <= self.failures:
            raise EngineError("not yet.")
        return ScriptedModel()


# -- One prompt, many prompts --------------------------------------------------------------------------


def test_one_prompt_gives_one_completion(llm):
    completion = llm.generate("abc")
    assert isinstance(completion, Completion)
    assert completion.text == "ABC"


def test_a_list_gives_a_list_in_the_same_order(llm):
    prompts = [f"prompt {number}" for number in range(50)]
    assert [item.text for item in llm.generate(prompts)] == [prompt.upper() for prompt in prompts]


def test_prompts_may_be_token_ids(llm, model):
    ids = model.tokenizer.encode("abc")
    assert llm.generate(ids).text == "ABC"
    assert [item.text for item in llm.generate([ids, model.tokenizer.encode("de")])] == ["ABC", "DE"]
    assert [item.text for item in llm.generate([tuple(ids), "de"])] == ["ABC", "DE"]


def test_an_empty_list_is_an_empty_batch(llm):
    assert llm.generate([]) == []


def test_all_requests_of_a_batch_are_with_the_model_at_once():
    with LLM.from_model(ScriptedModel(delay=0.05)) as llm:
        began = time.monotonic()
        llm.generate(["abc"] * 40, max_tokens=3)
        assert time.monotonic() - began < 40 * 3 * 0.05  # one after the other would take longer


def test_where_one_request_fails_the_others_finish_and_the_first_error_is_raised(llm, model):
    with pytest.raises(EngineError, match="it failed"):
        llm.generate(["one", "fail", "three"])
    assert [stream.sent == len(stream.token_ids) for stream in model.streams] == [True, False, True]


def test_return_exceptions_puts_errors_in_their_place(llm):
    first, second, third = llm.generate(["one", "fail", ""], return_exceptions=True)
    assert first.text == "ONE"
    assert isinstance(second, EngineError)
    assert isinstance(third, InvalidRequestError)


def test_options_reach_the_model(llm, model):
    llm.generate(
        "abc",
        max_tokens=7,
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        logit_bias={5: -1.0},
        seed=3,
        stop="x",
        include_stop=True,
        logprobs=False,
        top_logprobs=2,
    )
    request = model.requests[0]
    sampling = request.sampling
    assert (request.max_tokens, request.stop, request.include_stop) == (7, ("x",), True)
    assert (request.logprobs, request.top_logprobs) == (False, 2)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 3, 0.9, 0.1)
    assert (sampling.repetition_penalty, sampling.presence_penalty) == (1.1, 0.2)
    assert (sampling.frequency_penalty, sampling.logit_bias, sampling.seed) == (0.3, {5: -1.0}, 3)


def test_prompt_i_of_a_batch_is_sampled_with_seed_plus_i(llm, model):
    llm.generate(["a", "b", "c"], temperature=1.0, seed=10)
    assert sorted(request.sampling.seed for request in model.requests) == [10, 11, 12]
    llm.generate(["a", "b"], temperature=1.0)
    assert model.requests[-1].sampling.seed is None


def test_an_unknown_option_is_a_type_error_that_says_what_was_meant(llm):
    with pytest.raises(TypeError, match=r"'temprature'.*'temperature'"):
        llm.generate("abc", temprature=1.0)


def test_of_two_constraints_at_once_both_must_hold(llm, model):
    llm.generate("abc", regex="[ab]+", choices=["a", "c"])
    assert model.requests[-1].constraint == Regex("[ab]+") & Choice(["a", "c"])


def test_a_constraint_of_another_type_is_refused(llm):
    with pytest.raises(InvalidRequestError, match="constraint is a str"):
        llm.generate("abc", constraint="[0-9]+")


@pytest.mark.parametrize("progress", [True, False, None])
def test_a_progress_bar_is_shown_where_it_is_asked_for(llm, monkeypatch, progress):
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    llm.generate(["a", "b"], progress=progress)
    assert bool(stderr.getvalue()) is (progress is True)
    if progress:
        assert "/2 [" in stderr.getvalue()


# -- Two faces -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["generate", "stream", "choose", "score"])
def test_both_forms_take_the_same_arguments(name):
    face = inspect.signature(getattr(LLM, name))
    other = inspect.signature(getattr(LLM, f"a{name}"))
    assert face.parameters == other.parameters


def test_help_shows_the_options_one_by_one():
    parameters = inspect.signature(LLM.generate).parameters
    assert set(GenerateOptions.__annotations__) < set(parameters)
    assert parameters["max_tokens"].default == 256
    assert parameters["temperature"].default == 0.0
    assert not any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values())


def test_every_option_is_used_and_documented():
    with LLM.from_model(ScriptedModel()) as llm:
        for name, parameter in inspect.signature(LLM.stream).parameters.items():
            if name in GenerateOptions.__annotations__:
                llm.generate("abc", **{name: parameter.default})


async def test_the_asynchronous_form_gives_the_same(llm):
    assert await llm.agenerate("abc") == llm.generate("abc")
    assert await llm.agenerate(["a", "b"]) == llm.generate(["a", "b"])
    assert await llm.ascore("abc", ["d", "e"]) == llm.score("abc", ["d", "e"])
    assert await llm.achoose("abc", ["d", "ee"]) == llm.choose("abc", ["d", "ee"])
    steps = [step async for step in llm.astream("abc")]
    assert steps == list(llm.stream("abc"))


async def test_synchronous_calls_work_inside_a_running_loop(llm):
    assert llm.generate("abc").text == "ABC"
    assert "".join(step.text for step in llm.stream("abc")) == "ABC"


def test_calls_from_many_threads_at_once(llm):
    with ThreadPoolExecutor(8) as pool:
        texts = pool.map(lambda number: llm.generate(f"p{number}").text, range(64))
    assert list(texts) == [f"P{number}" for number in range(64)]


def test_several_event_loops_share_one_model(llm):
    def in_a_loop_of_its_own(number):
        return asyncio.run(llm.agenerate(f"p{number}")).text

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(in_a_loop_of_its_own, range(8))) == [f"P{number}" for number in range(8)]


# -- Streams -------------------------------------------------------------------------------------------


def test_a_stream_gives_the_steps_and_then_the_completion(llm):
    stream = llm.stream("abc def")
    assert "".join(step.text for step in stream) == "ABC DEF" == stream.text
    assert stream.completion() == llm.generate("abc def")
    assert list(stream) == []


def test_the_completion_of_a_stream_can_be_had_without_reading_it(llm):
    assert llm.stream("abc").completion().text == "ABC"


def test_an_error_comes_after_the_steps_before_it_and_stays(llm):
    stream = llm.stream("fail")
    assert next(stream).text
    with pytest.raises(EngineError):
        next(stream)
    with pytest.raises(EngineError):
        stream.completion()


def test_a_prompt_that_can_never_work_fails_at_the_call(llm):
    with pytest.raises(InvalidRequestError):
        llm.stream("")


def wait_until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_closing_a_stream_cancels_it(model, llm):
    model.delay = 0.01
    with llm.stream("a long prompt that is answered slowly") as stream:
        next(stream)
    assert list(stream) == []
    assert stream.completion().finish_reason == "cancelled"
    wait_until(lambda: model.streams[0].cancelled)


def test_dropping_a_stream_cancels_it(model, llm):
    model.delay = 0.01
    for _ in llm.stream("a long prompt that is answered slowly"):
        break
    gc.collect()
    wait_until(lambda: model.streams[0].cancelled)


async def test_leaving_an_asynchronous_stream_cancels_it(model, llm):
    model.delay = 0.01
    async with llm.astream("a long prompt that is answered slowly") as stream:
        async for _ in stream:
            break
        assert len(stream.text) > 0
    assert (await stream.completion()).finish_reason == "cancelled"
    assert [step async for step in stream] == []


async def test_cancelling_the_task_cancels_the_request(model, llm):
    model.delay = 0.01
    task = asyncio.create_task(llm.agenerate(["a long prompt"] * 3))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.05)
    assert len(model.streams) == 3
    assert all(stream.cancelled for stream in model.streams)


def interrupt_soon():
    main = threading.main_thread().ident
    threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT)).start()


def test_an_interrupt_cancels_the_requests(model, llm):
    model.delay = 0.2
    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a long prompt that is answered slowly"] * 2)
    wait_until(lambda: all(stream.cancelled for stream in model.streams))


def test_an_interrupt_cancels_a_stream(model, llm):
    model.delay = 0.2
    interrupt_soon()
    stream = llm.stream("a long prompt that is answered slowly")
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    wait_until(lambda: model.streams[0].cancelled)


# -- Scores and choices --------------------------------------------------------------------------------


def test_scores_come_in_the_order_given_and_are_probabilities(llm):
    results = llm.score("abc", ["xx", "y"])
    assert [item.text for item in results] == ["xx", "y"]
    assert all(isinstance(item, Scored) for item in results)
    assert results[0].logprob == math.fsum(results[0].logprobs) == -2.0
    assert results[0].probability == pytest.approx(math.exp(-2.0))
    assert results[0].is_greedy


def test_a_choice_is_a_distribution_over_its_options(llm):
    choice = llm.choose("abc", ["xxx", "y", "zz"])
    assert isinstance(choice, ChoiceResult)
    assert (choice.text, choice.index) == ("y", 1)
    weights = [math.exp(-3), math.exp(-1), math.exp(-2)]
    expected = [weight / math.fsum(weights) for weight in weights]
    assert [item.probability for item in choice.results] == pytest.approx(expected)
    assert [item.text for item in choice.ranked] == ["y", "zz", "xxx"]
    assert choice.probabilities["y"] == choice.best.probability


def test_the_mean_does_not_favour_short_options(llm):
    choice = llm.choose("abc", ["qqq", "q"], normalizer="mean")
    assert [item.probability for item in choice.results] == pytest.approx([0.5, 0.5])


def test_an_unknown_normalizer_is_refused(llm):
    with pytest.raises(InvalidRequestError, match="sum, mean"):
        llm.choose("abc", ["a"], normalizer="max")


def test_very_unlikely_options_do_not_overflow(llm):
    choice = llm.choose("abc", ["q" * 2000, "q" * 2001])
    assert sum(item.probability for item in choice.results) == pytest.approx(1.0)


def test_batches_of_scores_take_one_list_or_one_for_each_prompt(llm):
    assert [len(results) for results in llm.score(["a", "b"], ["x", "y", "z"])] == [3, 3]
    each = llm.score(["a", "b"], [["x"], ["y", "z"]])
    assert [[item.text for item in results] for results in each] == [["x"], ["y", "z"]]
    assert [choice.text for choice in llm.choose(["a", "b"], [["x", "yy"], ["yy", "z"]])] == ["x", "z"]
    with pytest.raises(InvalidRequestError, match="2 prompts and 1 lists"):
        llm.score(["a", "b"], [["x"]])


@pytest.mark.parametrize("continuations", [[], "text", [""], ["a", ""], [1], [["a"]]])
def test_continuations_that_cannot_be_scored_are_refused(llm, continuations):
    with pytest.raises(InvalidRequestError):
        llm.score("abc", continuations)
    with pytest.raises(InvalidRequestError):
        llm.choose("abc", continuations)


def test_an_option_given_twice_is_refused(llm):
    with pytest.raises(InvalidRequestError, match="'a' was given 2 times"):
        llm.choose("abc", ["a", "b", "a"])


# -- Where a prompt ends and a continuation begins -------------------------------------------------------


def test_a_continuation_is_tokenized_in_the_context_of_its_prompt(llm, model):
    llm.score("yes", [" no"])
    request = model.scored[0]
    whole = model.tokenizer.encode_prompt("yes no")
    assert request.prompt_ids + request.continuations[0] == tuple(whole)


def test_whitespace_at_the_end_of_a_prompt_moves_to_the_continuation(llm, model):
    llm.score("yes ", ["no"])
    llm.score("yes", [" no"])
    assert model.scored[0] == model.scored[1]
    assert llm.score("yes ", ["no"])[0].text == "no"


def test_a_token_across_the_border_is_avoided(llm, model):
    """Encoded together, "an" + "swer" is one token; the prompt's own tokens must stay what they are."""
    assert len(model.tokenizer.encode("answer")) < len(model.tokenizer.encode("an")) + len("swer")
    llm.score("an", ["swer"])
    request = model.scored[0]
    assert request.prompt_ids == tuple(model.tokenizer.encode_prompt("an"))
    assert model.tokenizer.decode(request.continuations[0]) == "swer"


def test_after_token_ids_a_continuation_stands_by_itself(llm, model):
    ids = model.tokenizer.encode("yes")
    llm.score(ids, [" no"])
    assert model.scored[0].prompt_ids == tuple(ids)
    assert model.scored[0].continuations[0] == tuple(model.tokenizer.encode(" no"))


# -- Prompts that cannot work ----------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", ()])
def test_an_empty_prompt_is_refused(llm, prompt):
    with pytest.raises(InvalidRequestError, match="prompt is empty"):
        llm.generate([prompt])


@pytest.mark.parametrize("token_id", [-1, 100_000, 2**80])
def test_a_token_id_out_of_range_is_refused(llm, token_id):
    with pytest.raises(TokenRangeError, match=str(token_id)):
        llm.generate([1, token_id])


@pytest.mark.parametrize("prompt", [[1.5, 2], [["a"], ["b"]], "\ud800"])
def test_a_prompt_that_is_neither_text_nor_token_ids_is_refused(llm, prompt):
    with pytest.raises(InvalidRequestError):
        llm.generate(prompt)


# -- Loading and closing ---------------------------------------------------------------------------------


def test_nothing_is_loaded_before_the_first_call():
    registry = SlowRegistry()
    with LLM("name", registry=registry) as llm:
        assert not registry.loads
        assert not llm.is_loaded
        assert "not loaded yet" in repr(llm)
        llm.generate("abc")
        assert len(registry.loads) == 1
        assert llm.is_loaded
        assert "'name', loaded" in repr(llm)


def test_many_threads_load_once():
    registry = SlowRegistry()
    with LLM("name", registry=registry) as llm, ThreadPoolExecutor(8) as pool:
        list(pool.map(llm.generate, ["abc"] * 8))
    assert len(registry.loads) == 1


def test_a_load_that_failed_is_tried_again():
    with LLM("name", registry=SlowRegistry(failures=1)) as llm:
        with pytest.raises(EngineError):
            llm.generate("abc")
        assert llm.generate("abc").text == "ABC"


def test_closing_what_was_never_loaded_loads_nothing():
    registry = SlowRegistry()
    LLM("name", registry=registry).close()
    assert not registry.loads


def test_after_close_every_call_says_so(model):
    llm = LLM.from_model(model)
    llm.generate("abc")
    llm.close()
    llm.close()
    assert model.closed
    for call in (
        lambda: llm.generate("abc"),
        lambda: llm.stream("abc"),
        lambda: llm.score("abc", ["d"]),
        lambda: llm.choose("abc", ["d"]),
        lambda: llm.tokenizer,
    ):
        with pytest.raises(ModelClosedError):
            call()
    assert "closed" in repr(llm)


async def test_it_closes_at_the_end_of_a_with_block(model):
    async with LLM.from_model(model) as llm:
        assert (await llm.agenerate("abc")).text == "ABC"
    assert model.closed


def test_an_argument_goes_before_the_environment_and_that_before_the_default(monkeypatch):
    monkeypatch.setenv("DCMODEL_DEVICE", "cuda:1")
    monkeypatch.setenv("DCMODEL_DTYPE", "bfloat16")
    monkeypatch.setenv("DCMODEL_MODEL", "from/environment")
    registry = SlowRegistry()
    with LLM(registry=registry, dtype="float32", backend="b") as llm:
        llm.generate("abc")
    model, options, explicit, _ = registry.loads[0]
    assert (model, options.device, options.dtype, explicit) == (
        "from/environment",
        "cuda:1",
        "float32",
        "b",
    )
    assert LLM("argument").name == "argument"
    assert LLM(Path("some") / "path").name.endswith("path")
    monkeypatch.delenv("DCMODEL_MODEL")
    assert LLM().name == "embedded"


def test_a_bad_setting_is_reported_when_the_llm_is_made(monkeypatch):
    monkeypatch.setenv("DCMODEL_DTYPE", "float7")
    with pytest.raises(SettingError, match="DCMODEL_DTYPE"):
        LLM()


@pytest.mark.parametrize("options", [{"max_context": 0}, {"kv_tokens": -1}, {"max_sequences": 1.5}])
def test_a_size_that_cannot_be_is_refused(options):
    with pytest.raises(InvalidRequestError, match=next(iter(options))):
        LLM("name", **options)


def test_the_public_names_are_there():
    assert Backend is dcmodel.Backend
    assert Decision("a", ()).backend == "a"
