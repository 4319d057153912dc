"""Answers that would be the same again are asked for once, also by the next program."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from fakes.openai_models import OURS
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Regex
from dcmodel.errors import InvalidRequestError
from dcmodel.types import GenerateRequest, SamplingParams, ScoreRequest
from lmql_backends.lmtp.server.openai.double import Double, limits_from
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.openai.answer_files import AnswerFiles
from lmql_backends.openai.opening import open_model
from lmql_backends.openai.transport.answers import Answer

PROMPT = tuple(small_tokenizer().encode("The quick brown fox"))


def request(**changes) -> GenerateRequest:
    sampling = SamplingParams(**changes.pop("sampling", {}))
    return GenerateRequest(
        prompt_ids=PROMPT, sampling=sampling, **{"max_tokens": 10, "top_logprobs": 2, **changes}
    )


REPEATABLE = {
    "greedy": request(),
    "seeded": request(sampling={"temperature": 1.0, "seed": 4}),
    "constrained": request(constraint=Regex("[a-z ]{4,9}"), sampling={"temperature": 1.0, "seed": 4}),
}


@pytest.fixture
async def double(local):
    made = Double(limits_from({"preset": "open"}))
    async with LMTPServer({"fake": local}, double=made) as server:
        made.url = f"{server.http_url}/v1"
        yield made


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dcmodel" / "answers"


@asynccontextmanager
async def opened(double, **options):
    given = {"base_url": double.url, "api_key": "key", "tokenizer": small_tokenizer(), "capabilities": OURS}
    model = await open_model("fake", {**given, **options})
    try:
        yield model
    finally:
        await model.aclose()


@pytest.mark.parametrize("kind", REPEATABLE)
@pytest.mark.parametrize("cache", [True, "disk"])
async def test_a_repeatable_text_is_asked_for_once(double, kind, cache) -> None:
    async with opened(double, cache=cache, prices={"prompt": 1.0, "completion": 1.0}) as model:
        first = await model.generate(REPEATABLE[kind]).completion()
        count = len(double.records)
        second = await model.generate(REPEATABLE[kind]).completion()
        assert len(double.records) == count
    assert (second.token_ids, second.text, second.logprobs) == (first.token_ids, first.text, first.logprobs)
    assert (second.finish_reason, second.stop_reason) == (first.finish_reason, first.stop_reason)
    assert first.cost.requests > 0
    assert (second.cost.requests, second.cost.price) == (0, 0.0)


async def test_the_next_program_knows_it_too(double, cache_home) -> None:
    async with opened(double, cache="disk") as model:
        first = await model.generate(request()).completion()
        await model.score(ScoreRequest(prompt_ids=PROMPT, continuations=((5, 6),)))
    assert list(cache_home.glob("*.json"))
    count = len(double.records)
    async with opened(double, cache="disk") as model:
        assert (await model.generate(request()).completion()).logprobs == first.logprobs
        assert len(double.records) == count


@pytest.mark.parametrize(
    ("cache", "item"),
    [
        (None, request()),
        ("disk", request(sampling={"temperature": 1.0})),
    ],
    ids=["off by default", "drawn anew"],
)
async def test_what_may_differ_is_asked_again(double, cache_home, cache, item) -> None:
    async with opened(double, cache=cache) as model:
        for _ in range(2):
            await model.generate(item).completion()
        assert len(double.records) == 2
    assert not cache_home.exists()


async def test_another_question_has_another_answer(double) -> None:
    async with opened(double, cache="disk") as model:
        await model.generate(request()).completion()
        for other in (request(max_tokens=9), request(top_logprobs=1), request(sampling={"top_p": 0.5})):
            count = len(double.records)
            await model.generate(other).completion()
            assert len(double.records) == count + 1


async def test_a_text_that_was_left_early_is_not_kept(double, cache_home) -> None:
    async with opened(double, cache="disk") as model:
        stream = model.generate(request(max_tokens=300))
        await anext(stream)
        stream.cancel()
        await stream.completion()
    assert not cache_home.exists()


async def test_a_broken_file_is_asked_for_again(double, cache_home) -> None:
    async with opened(double, cache="disk") as model:
        first = await model.generate(request()).completion()
    (file,) = cache_home.glob("*.json")
    file.write_bytes(file.read_bytes()[:40])
    async with opened(double, cache="disk") as model:
        assert (await model.generate(request()).completion()).text == first.text
    assert len(double.records) == 2


def test_what_was_used_longest_ago_goes_first(tmp_path) -> None:
    answer = Answer(choices=({"text": "x" * 1000},))
    size = 0
    for place in range(40):
        files = AnswerFiles(tmp_path, most_bytes=10_000)
        files.put(bytes([place]), answer)
        assert AnswerFiles(tmp_path).get(bytes([0])) is not None  # which uses it
        size = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert size <= 10_000
    assert size > 5_000
    assert AnswerFiles(tmp_path).get(bytes([1])) is None
    assert AnswerFiles(tmp_path).get(bytes([39])) == answer


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    files = AnswerFiles(blocked / "answers")
    files.put(b"k", Answer(choices=({"text": "x"},)))
    assert files.get(b"k") is not None
    assert AnswerFiles(blocked / "answers").get(b"k") is None


async def test_another_word_for_a_cache_is_refused(double) -> None:
    with pytest.raises(InvalidRequestError, match="cache"):
        async with opened(double, cache="tape"):
            pass
