"""The stored weights: small enough, loadable, and as good as metrics.json says."""

import json
import warnings

import pytest

from lmql_backends.tiny import MODEL_DIR, load_metrics
from lmql_backends.tiny.corpus import heldout

pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, AutoTokenizer

from dcmodel.llm import LLM
from lmql_backends.tiny import evaluate

MEGABYTE = 1_000_000
ITEMS = 32
# Of so few items, a few more may be wrong than in the full measurement.
SLACK = 0.15


@pytest.fixture(scope="module")
def llm():
    with LLM(MODEL_DIR, device="cpu") as model:
        yield model


def test_the_model_is_small():
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) <= 12 * MEGABYTE


@pytest.mark.parametrize(("figure", "bar"), sorted(evaluate.BARS.items()))
def test_stored_figures_reach_their_bars(figure, bar):
    assert load_metrics()["held_out"][figure] >= bar


def test_a_schema_buys_more_than_no_schema():
    figures = load_metrics()["held_out"]
    assert figures["extraction_schema"] >= figures["extraction_free"]
    assert figures["extraction_keys_unlisted_schema"] > figures["extraction_keys_unlisted_free"]


def test_the_configuration_has_grouped_heads_and_tied_embeddings():
    config = json.loads((MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "llama"
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["tie_word_embeddings"]


def test_huggingface_loads_it_in_single_precision_and_prepends_bos():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
        tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    assert str(model.dtype) == "torch.float32"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 1
    assert tokenizer.encode("3 + 4 =")[0] == tokenizer.bos_token_id == model.config.bos_token_id
    assert tokenizer.decode(tokenizer.encode("3 + 4 =", add_special_tokens=False)) == "3 + 4 ="


@pytest.mark.parametrize("keys_listed", [True, False], ids=["keys listed", "keys unlisted"])
def test_extraction_is_as_good_as_stated(llm, keys_listed):
    name = "extraction" if keys_listed else "extraction_keys_unlisted"
    items = heldout.extractions(ITEMS, keys_listed=keys_listed)
    assert_as_stated(evaluate.extraction_figures(llm, items, name))


def test_sentiment_is_as_good_as_stated(llm):
    assert_as_stated(evaluate.sentiment_figures(llm, heldout.reviews(ITEMS)))


def test_sums_are_as_good_as_stated(llm):
    assert_as_stated(evaluate.sum_figures(llm, "one_digit_sums", heldout.one_digit_sums()[::3]))


def test_an_invented_name_and_city_are_copied(llm):
    prompt = "Text: Tharo is a 34 year old baker from Velmund.\nFields: name, age, city\nJSON:"
    expected = {"name": "Tharo", "age": 34, "city": "Velmund"}
    answer = llm.generate(prompt, json_schema=heldout.schema_of(expected), max_tokens=80)
    assert answer.parsed == expected


def assert_as_stated(figures):
    stated = load_metrics()["held_out"]
    for name, figure in figures.items():
        assert figure >= stated[name] - SLACK, name
