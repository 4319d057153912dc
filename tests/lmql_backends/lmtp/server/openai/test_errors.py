"""What is wrong is named, in OpenAI's shape and with the status that fits; nothing that is sent is a 500."""

from __future__ import annotations

import json
import math
from contextlib import asynccontextmanager

import httpx
import openai
import pytest
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dcmodel import errors
from dcmodel.local import LocalDcModel
from dcmodel.loop import run
from lmql_backends.lmtp.server.contracts import HttpRequest, Models
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.openai import openai_routes
from lmql_backends.lmtp.server.openai.fields import ChatBody, CompletionBody

PROMPT = "The quick brown fox"


def test_an_unknown_model_is_a_404(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="other", prompt=PROMPT)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_p": 1.1}, "top_p", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"min_p": 2}, "min_p", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"presence_penalty": 2.5}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": -3}, "frequency_penalty", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1 << 63}, "max_tokens", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 10**6}, "n", "invalid_value"),
        ({"best_of": 1, "n": 2}, "best_of", "invalid_value"),
        ({"logprobs": 10**9}, "logprobs", "invalid_value"),
        ({"logprobs": True}, "logprobs", "invalid_value"),
        ({"seed": 1 << 70}, "seed", "invalid_value"),
        ({"stop": ["a"] * 65}, "stop", "invalid_value"),
        ({"stop": ["a", ""]}, "stop", "invalid_value"),
        ({"stop": 5}, "stop", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"-5": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias[...]", "invalid_value"),
        ({"logit_bias": {"100000": 1}}, "logit_bias", "token_range"),
        ({"allowed_token_ids": []}, "allowed_token_ids", "invalid_value"),
        ({"allowed_token_ids": [100000]}, "allowed_token_ids", "token_range"),
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt", "invalid_value"),
        ({"prompt": ["a", [5]]}, "prompt", "invalid_value"),
        ({"prompt": [5, "a"]}, "prompt", "invalid_value"),
        ({"prompt": [100000]}, "prompt", "token_range"),
        ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
        ({"prompt": ["a"] * 100, "n": 100}, "n", "invalid_value"),
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"heal": True, "echo": True}, "heal", "invalid_value"),
        ({"foo": 1}, "foo", "unknown_parameter"),
        ({"stream_options": {"foo": 1}}, "stream_options.foo", "unknown_parameter"),
        ({"regex": "("}, "regex", "invalid_constraint"),
        ({"regex": "a(?=b)"}, "regex", None),
        ({"choice": []}, "choice", "invalid_constraint"),
        ({"grammar": "start: undefined"}, "grammar", "invalid_constraint"),
        ({"guided_json": "{"}, "guided_json", "invalid_constraint"),
        ({"constraint": {"kind": "nothing"}}, "constraint", "invalid_constraint"),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "invalid_constraint"),
        ({"ignore_eos": True, "regex": "a"}, "ignore_eos", "invalid_value"),
    ],
    ids=str,
)
def test_a_field_that_is_wrong_is_named(client, fields, param, code):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "fake", "prompt": PROMPT, "extra_body": fields})
    assert caught.value.param == param
    assert code is None or caught.value.code == code
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "fields", "begins"),
    [
        ("/v1/completions", {"best_of": 1, "n": 2}, "best_of is 1"),
        ("/v1/completions", {"n": "x"}, "n: expected"),
        ("/v1/completions", {"logit_bias": {"5": 101}}, "logit_bias["),
        (
            "/v1/completions",
            {"stream_options": {"include_usage": 5}},
            "stream_options.include_usage: expected",
        ),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]: expected"),
        ("/v1/completions", {"foo": 1}, "There is no field 'foo'"),
        ("/v1/completions", {"model": "other"}, "The model 'other'"),
    ],
    ids=str,
)
def test_a_message_is_a_sentence_and_the_name_of_a_field_stays_as_it_is(server, path, fields, begins):
    given = {} if path == "/detokenize" else {"prompt": PROMPT}
    message = httpx.post(f"{server.url}{path}", json={**given, **fields}).json()["error"]["message"]
    assert message.startswith(begins), message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff", b'{"prompt": NaN}', b'{"a": ' + b"[" * 100_000, b'{"prompt": "\\ud800"}'],
)
def test_a_body_that_is_no_json_object_is_a_400(server, body):
    answer = httpx.post(f"{server.url}/v1/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


class Refusing(Models):
    """Models that cannot be used just now."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def names(self):
        return ["any"]

    @asynccontextmanager
    async def use(self, name):
        raise self.error
        yield


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (errors.OverloadedError("full", retry_after=2.2), 429, "overloaded", "3"),
        (errors.OverloadedError("full"), 429, "overloaded", "1"),
        (errors.ConnectionLostError("gone"), 503, "connection_lost", "1"),
        (errors.ModelClosedError("closed"), 503, "model_closed", None),
        (errors.DeadEndError("nothing fits"), 422, "dead_end", None),
        (errors.ModelLoadError("broken"), 500, "model_load", None),
        (errors.EngineError("broken"), 500, "engine", None),
        (errors.CapabilityError("cannot"), 400, "unsupported", None),
        (errors.ContextLengthError("prompt too long"), 400, "context_length_exceeded", None),
        (ZeroDivisionError("secret"), 500, "internal_error", None),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, Exception) else "",
)
async def test_every_error_has_its_status(error, status, code, retry_after, caplog):
    routes = openai_routes(Refusing(error))
    answer = await routes["POST", "/v1/completions"](HttpRequest("POST", "/", body=b'{"prompt": "a"}'))
    assert answer.status == status
    assert answer.headers.get("retry-after") == retry_after
    body = json.loads(answer.body)["error"]
    assert body["code"] == code
    assert "secret" not in body["message"]
    assert ("ZeroDivisionError" in caplog.text) == (code == "internal_error")


# -- anything at all -----------------------------------------------------------------------------------

NAMES = sorted({*CompletionBody.__struct_fields__, *ChatBody.__struct_fields__, "unknown"})
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["a|b", "(", 'start: "a"', "text", "json_object", "user", "regex", "raw", PROMPT]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5)
MESSAGES = [{"role": "user", "content": "yes"}]


@pytest.fixture(scope="module")
def routes():
    model = LocalDcModel(loaded_fake(small_tokenizer(), max_positions=48))
    model.info = model.info.__class__(
        **{
            **{name: getattr(model.info, name) for name in model.info.__slots__},
            "chat_template": "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}",
        }
    )
    yield openai_routes(StaticModels({"fake": model}))
    run(model.aclose())


async def answered(routes, path: str, body: bytes) -> tuple[int, bytes]:
    answer = await routes["POST", path](HttpRequest("POST", path, body=body))
    if isinstance(answer.body, bytes):
        return answer.status, answer.body
    return answer.status, b"".join([part async for part in answer.body])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES, path=st.sampled_from(["/v1/completions", "/v1/chat/completions", "/tokenize"]))
@example(body={"max_tokens": 0}, path="/v1/completions")
@example(body={"stream": True, "n": 3, "logprobs": 0, "echo": True}, path="/v1/completions")
def test_no_body_is_a_500(routes, body, path):
    given = {"messages": MESSAGES} if "chat" in path else {"prompt": PROMPT}
    status, answer = run(answered(routes, path, json.dumps({**given, "max_tokens": 3, **body}).encode()))
    assert status < 500, answer
    if answer.startswith(b"data: "):
        assert answer.endswith(b"data: [DONE]\n\n")
        return
    read = json.loads(answer)
    assert (status == 200) == ("error" not in read)
    if status != 200:
        assert set(read["error"]) == {"message", "type", "param", "code"}
        assert read["error"]["message"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_no_bytes_are_a_500(routes, body):
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        status, answer = run(answered(routes, path, body))
        assert status == 400
        assert json.loads(answer)["error"]["message"]


def test_log_probabilities_are_numbers_that_json_has(client):
    got = client.completions.create(
        model="fake",
        prompt=PROMPT,
        max_tokens=2,
        logprobs=20,
        extra_body={"choice": ["a", "b"], "logprobs_mode": "masked"},
    )
    tops = got.choices[0].logprobs.top_logprobs
    assert all(math.isfinite(value) for top in tops for value in top.values())
