"""The embedded model, with a chat template, behind the official client; and an evaluator's own reading."""

from __future__ import annotations

import json
import shutil

import openai
import openai_server
import pytest

from dcmodel.llm import LLM
from lmql_backends.tiny import MODEL_DIR

pytest.importorskip("torch")
pytest.importorskip("transformers")

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
MESSAGES = [{"role": "user", "content": "3 + 4 ="}]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(MODEL_DIR, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    with LLM(folder, device="cpu") as made:
        yield made


@pytest.fixture(scope="module")
def client(llm):
    with (
        openai_server.running({"tiny": llm.model}) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def test_texts_are_those_of_the_model_in_process(client, llm):
    for prompt in ("3 + 4 =", "The capital of"):
        expected = llm.generate(prompt, max_tokens=16, heal=False)
        ask = {"model": "tiny", "prompt": prompt, "max_tokens": 16, "temperature": 0}
        assert client.completions.create(**ask).choices[0].text == expected.text
        chunks = client.completions.create(**ask, stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == expected.text


def test_answers_are_those_of_the_model_in_process(client, llm):
    expected = llm.generate(llm.chat_prompt(MESSAGES), max_tokens=16, regex=" [0-9]+")
    ask = {"model": "tiny", "messages": MESSAGES, "max_tokens": 16, "temperature": 0}
    ask |= {"extra_body": {"regex": " [0-9]+"}}
    assert client.chat.completions.create(**ask).choices[0].message.content == expected.text
    chunks = client.chat.completions.create(**ask, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text


def test_json_is_valid_under_its_schema(client):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, response_format=form, max_tokens=120, temperature=0
    ).choices[0]
    if answer.finish_reason == "stop":
        assert set(json.loads(answer.message.content)) == {"name", "age"}
    assert answer.certificate["valid"] is (answer.finish_reason == "stop")


def test_an_evaluator_reads_the_scores_of_the_model(client, llm):
    """lm-evaluation-harness reads an echoed prompt with one token more."""
    evaluator = pytest.importorskip("lm_eval.models.openai_completions").LocalCompletionsAPI
    contexts, continuations = ["3 + 4 =", "The capital of", "yes"], [" 7", " the world is", " no"]
    ids = [llm.tokenizer.encode_prompt(text) for text in contexts]
    tails = [llm.tokenizer.encode(text) for text in continuations]
    answer = client.completions.create(
        model="tiny",
        prompt=[[*head, *tail] for head, tail in zip(ids, tails, strict=True)],
        temperature=0,
        max_tokens=1,
        logprobs=1,
        seed=1234,
        echo=True,
    )
    read = evaluator.parse_logprobs(answer.model_dump(), ids, [len(item) for item in ids])
    for (logprob, is_greedy), head, tail in zip(read, ids, tails, strict=True):
        expected = llm.score(head, [tail])[0]
        assert logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert is_greedy == expected.is_greedy
