"""Faults in the middle: a client that goes away frees its places; an error ends a stream with an event."""

from __future__ import annotations

import json
import socket
import threading

import httpx
import openai
import openai_server
import pytest
from fakes.fake_engine import FakeEngine, FakeModel
from fakes.small_tokenizer import small_tokenizer

from dcmodel.backend import LoadedEngine
from dcmodel.local import LocalDcModel
from dcmodel.loop import run
from dcmodel.types import ModelInfo

PROMPT_IDS = [40, 41, 42, 43]
HELD_AT = len(PROMPT_IDS) + 3
NAN = 100
NO_NAN = {str(NAN): -100}


class HeldEngine(FakeEngine):
    """Waits at a forward that goes beyond `held_at` tokens, until it is let go."""

    def hold(self, held_at: int) -> None:
        self.held_at = held_at
        self.reached = threading.Event()
        self.opened = threading.Event()

    def forward(self, batch):
        if any(span.start + len(span.token_ids) > self.held_at for span in batch.spans):
            self.reached.set()
            assert self.opened.wait(60)
        return super().forward(batch)


@pytest.fixture
def engine():
    made = HeldEngine(FakeModel(small_tokenizer().vocab_size), nan_token=NAN)
    made.hold(HELD_AT)
    return made


@pytest.fixture
def model(engine):
    info = ModelInfo(name="held", backend="fake", vocab_size=engine.model.vocab_size, max_positions=512)
    made = LocalDcModel(LoadedEngine(engine=engine, tokenizer=small_tokenizer(), info=info))
    yield made
    engine.opened.set()
    run(made.aclose())


@pytest.fixture
def server(model):
    with openai_server.running({"held": model}) as running:
        yield running


@pytest.mark.parametrize("fields", [{"stream": True}, {"stream": True, "n": 4}, {}, {"n": 4}, {"best_of": 3}])
def test_a_client_that_goes_away_frees_its_places_within_a_step(server, engine, fields):
    body = {"prompt": PROMPT_IDS, "max_tokens": 400, "ignore_eos": True, "logit_bias": NO_NAN, **fields}
    data = json.dumps(body).encode()
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port)) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        assert engine.reached.wait(60)
        assert server.models.users == 1
    assert server.models.left.wait(60)
    engine.opened.set()
    after = httpx.post(f"{server.url}/v1/completions", json={"prompt": [50], "max_tokens": 1})
    assert after.status_code == 200
    longest = max(span.start + len(span.token_ids) for batch in engine.batches for span in batch.spans)
    assert longest <= HELD_AT + 2


def test_an_error_in_the_middle_is_an_event_and_then_the_end(server, engine):
    ask = {"prompt": PROMPT_IDS, "max_tokens": 9, "temperature": 0, "logit_bias": {str(NAN): 100}}
    engine.hold(len(PROMPT_IDS))
    events = []
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**ask, "stream": True}) as answer:
        assert answer.status_code == 200
        for line in filter(None, answer.iter_lines()):
            events.append(json.loads(line.removeprefix("data: ")))
            engine.opened.set()
    assert events[0]["choices"][0]["text"] == small_tokenizer().decode([NAN])
    assert events[1]["error"]["code"] == "non_finite_logits"
    assert len(events) == 2
    assert server.models.left.wait(60)


def test_the_official_client_raises_errors_in_the_middle(server, engine):
    ask = {"model": "held", "prompt": PROMPT_IDS, "max_tokens": 9, "temperature": 0}
    ask |= {"logit_bias": {str(NAN): 100}}
    engine.hold(len(PROMPT_IDS))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        with client.completions.create(stream=True, **ask) as stream:
            assert next(stream).choices[0].text
            engine.opened.set()
            with pytest.raises(openai.APIError, match="NaN"):
                list(stream)
        with pytest.raises(openai.InternalServerError, match="NaN"):
            client.completions.create(**ask)


def test_a_model_that_is_closed_in_the_middle_ends_its_streams_with_an_error(server, engine, model):
    body = {"prompt": PROMPT_IDS, "max_tokens": 400, "stream": True, "ignore_eos": True, "logit_bias": NO_NAN}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer:
        assert engine.reached.wait(60)
        closing = threading.Thread(target=lambda: run(model.aclose()))
        closing.start()
        engine.opened.set()
        text = "".join(answer.iter_text())
        closing.join(60)
    assert json.loads(text.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "model_closed"
