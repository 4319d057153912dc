"""The tokenizer of the embedded model."""

import pytest
from tokenizers import Tokenizer

from lmql_backends.tiny import MODEL_DIR
from lmql_backends.tiny.corpus import words


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))


@pytest.mark.parametrize(
    "text",
    [
        "Text: Mira is 34 years old and lives in Velden.",
        '{"name": "Mira", "age": 34, "price": 12.95}',
        "naïve café 😀 日本語 עברית \u0301",
        " \t\r\n  leading, trailing \n\n",
        "\x00\x01\x7f\u2028\ufeff",
        "camelCase SNAKE_CASE x86_64 it's JSON",
        "",
    ],
)
def test_text_survives_a_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_every_byte_has_a_token(tokenizer):
    everything = "".join(chr(code) for code in range(0x20, 0x250)) + "\U0001f600\U00020000"
    assert tokenizer.decode(tokenizer.encode(everything, add_special_tokens=False).ids) == everything


@pytest.mark.parametrize("name", ["Mira", "Velden", "Thraxowin", "Anna"])
def test_a_name_has_the_same_tokens_wherever_it_stands(tokenizer, name):
    pieces = tokenizer.encode(name, add_special_tokens=False).tokens
    for text in (f"I met {name}", f'{{"name": "{name}', f"Q: {name}", f"\n{name}"):
        assert tokenizer.encode(text, add_special_tokens=False).tokens[-len(pieces) :] == pieces


@pytest.mark.parametrize("text", [*words.PRODUCTS, *words.JOBS])
def test_the_words_of_products_and_jobs_are_whole_with_a_blank_and_without(tokenizer, text):
    for word in text.split():
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1


def test_digits_and_labels_are_single_tokens(tokenizer):
    assert len(tokenizer.encode("2048", add_special_tokens=False)) == 4
    for label in (" positive", " negative"):
        assert len(tokenizer.encode(label, add_special_tokens=False)) == 1


def test_a_prompt_begins_with_bos(tokenizer):
    assert tokenizer.encode("3 + 4 =").tokens[0] == "<|bos|>"
    assert [tokenizer.token_to_id(token) for token in ("<|bos|>", "<|eos|>", "<|pad|>")] == [0, 1, 2]
