"""Adapters on the command line and under `LLM`, on the embedded model; the adapter is made here."""

from __future__ import annotations

import json

import pytest
import torch
from fakes.lora_adapters import make_adapter, merged
from transformers import AutoModelForCausalLM

from dcmodel import LLM
from dcmodel.cli import main
from lmql_backends.tiny import MODEL_DIR

PROMPT = "Q: What is red?\nA:"


@pytest.fixture(scope="module")
def embedded():
    with LLM(backend="transformers") as llm:
        yield llm


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An adapter for the embedded model, and the model that it makes."""
    plain = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    folder = make_adapter(
        tmp_path_factory.mktemp("lora"), plain, ["q_proj", "v_proj", "down_proj"], seed=1, strength=1.0
    )
    return folder, merged(plain, folder)


@pytest.fixture
def dcmodel(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*argv):
        code = main((*argv, "--backend", "transformers"))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_tokens_and_scores_are_those_of_the_merged_model(embedded, made):
    folder, model = made
    embedded.mount("mine", folder)
    try:
        prompt = list(embedded.tokenizer.encode(PROMPT))
        found = embedded.generate(prompt, max_tokens=20, adapter="mine")
        with torch.inference_mode():
            expected = model.generate(
                torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0
            )[0, len(prompt) :].tolist()
            logits = model(torch.tensor([[*prompt, *found.token_ids]])).logits[0].double().log_softmax(-1)
        assert list(found.token_ids) == expected
        assert found.token_ids != embedded.generate(prompt, max_tokens=20).token_ids
        rows = range(len(prompt) - 1, len(prompt) + len(found.token_ids) - 1)
        wanted = [float(logits[row, token]) for row, token in zip(rows, found.token_ids, strict=True)]
        assert [item.raw_logprob for item in found.logprobs] == pytest.approx(wanted, abs=2e-4)
        (scored,) = embedded.score(prompt, [found.token_ids], adapter="mine")
        assert scored.logprobs == pytest.approx(wanted, abs=2e-4)
    finally:
        embedded.unmount("mine")


def test_the_commands_ask_through_an_adapter(dcmodel, embedded, made):
    folder, _ = made
    embedded.mount("cli", folder)
    try:
        expected = embedded.generate(PROMPT, max_tokens=8, adapter="cli")
        score = embedded.score(PROMPT, [" blood"], adapter="cli")[0].logprob
        choice = embedded.choose(PROMPT, [" blood", " yes"], adapter="cli").probabilities
    finally:
        embedded.unmount("cli")
    option = ("--adapter", f"mine={folder}", "--json")
    code, out, err = dcmodel("generate", PROMPT, "--max-tokens", "8", *option)
    assert (code, err) == (0, "")
    assert json.loads(out)["token_ids"] == list(expected.token_ids)
    code, out, _ = dcmodel("score", PROMPT, " blood", *option)
    assert json.loads(out)["results"][0]["logprob"] == pytest.approx(score, abs=1e-4)
    code, out, _ = dcmodel("choose", PROMPT, " blood", " yes", *option)
    found = {item["text"]: item["probability"] for item in json.loads(out)["results"]}
    assert found == pytest.approx(choice, abs=1e-4)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("=./folder", "has no name. Write it as NAME=FOLDER"),
        ("mine=", "has no source. Write it as NAME=FOLDER"),
        ("a b=./folder", "cannot be an adapter's name"),
        ("mine=./nowhere", "does not exist. Give the folder that holds its adapter_config.json"),
        ("mine", "no adapter 'mine' is mounted (none is). Mount it first: "),
    ],
)
def test_a_bad_adapter_is_one_error_line_with_what_to_do(dcmodel, argument, message):
    code, out, err = dcmodel("generate", "a", "--adapter", argument)
    assert (code, out) == (1, "")
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
