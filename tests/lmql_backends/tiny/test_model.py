"""The stored weights: small enough, loadable, and as good as metrics.json says."""

import warnings

import pytest

from lmql_backends.tiny import MODEL_DIR, load_metrics
from lmql_backends.tiny.corpus import heldout

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lmql_backends.tiny import evaluate

MEGABYTE = 1_000_000
ITEMS = 24
# Of so few items, a few more may be wrong than in the full measurement.
SLACK = 0.12


@pytest.fixture(scope="module")
def judge():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return evaluate.Judge.load()


def test_the_model_is_small():
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) <= 12 * MEGABYTE


@pytest.mark.parametrize(("figure", "bar"), sorted(evaluate.BARS.items()))
def test_stored_figures_reach_their_bars(figure, bar):
    assert load_metrics()["held_out"][figure] >= bar


def test_the_configuration_has_grouped_heads_and_tied_embeddings(judge):
    config = judge.model.config
    assert config.model_type == "llama"
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.tie_word_embeddings
    assert judge.model.generation_config.eos_token_id == config.eos_token_id == 1


def test_the_huggingface_tokenizer_prepends_bos(judge):
    assert judge.tokenizer.encode("3 + 4 =")[0] == judge.model.config.bos_token_id
    assert judge.tokenizer.decode(judge.tokenizer.encode("3 + 4 =", add_special_tokens=False)) == "3 + 4 ="


@pytest.mark.parametrize("keys_listed", [True, False], ids=["keys listed", "keys unlisted"])
def test_extraction_is_as_good_as_stated(judge, keys_listed):
    suffix = "" if keys_listed else "_keys_unlisted"
    items = heldout.extractions(ITEMS, keys_listed=keys_listed)
    figures = evaluate.extraction_figures(judge, items, suffix)
    assert_as_stated(figures)


def test_sentiment_is_as_good_as_stated(judge):
    assert_as_stated(evaluate.sentiment_figures(judge, heldout.reviews(ITEMS)))


def test_sums_are_as_good_as_stated(judge):
    assert_as_stated(evaluate.sum_figures(judge, "one_digit_sums", heldout.one_digit_sums()[::3]))


def test_a_held_out_record_is_copied_exactly(judge):
    sentence = "Text: Thraxowin is a 34 year old baker from Velmundar.\nFields: name, age, city\nJSON:"
    expected = {"name": "Thraxowin", "age": 34, "city": "Velmundar"}
    item = heldout.ExtractionItem(sentence, heldout.schema_of(expected), expected)
    assert judge.extract(item, constrained=True) == expected


def assert_as_stated(figures):
    stated = load_metrics()["held_out"]
    for name, figure in figures.items():
        assert figure >= stated[name] - SLACK, name
