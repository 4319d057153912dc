"""The corpus: the same for the same seed, and apart from what is held out."""

import itertools
import json
import re
import subprocess
import sys

import pytest

from lmql_backends.tiny.corpus import documents, heldout, split_of
from lmql_backends.tiny.corpus.names import CITY_PREFIXES, Split
from lmql_backends.tiny.corpus.reviews import LABELS

DOCUMENTS = 6_000


@pytest.fixture(scope="module")
def training_texts():
    return [document.text for document in itertools.islice(documents(1), DOCUMENTS)]


def test_the_same_seed_gives_the_same_documents():
    first = list(itertools.islice(documents(5), 300))
    assert first == list(itertools.islice(documents(5), 300))
    assert first != list(itertools.islice(documents(6), 300))


def test_the_same_seed_gives_the_same_held_out_items():
    assert heldout.extractions(20) == heldout.extractions(20)
    assert heldout.reviews(20) == heldout.reviews(20)
    assert heldout.two_digit_sums(20) == heldout.two_digit_sums(20)


def test_held_out_names_never_occur_in_training(training_texts):
    trained = set(itertools.chain.from_iterable(re.findall(r"[^\W\d_]+", text) for text in training_texts))
    names = {
        word
        for item in heldout.extractions(400)
        for key in ("name", "city", "hotel", "team", "rival")
        for word in str(item.expected.get(key, "")).split()
        if word not in ("Hotel", *CITY_PREFIXES)
    }
    assert len(names) > 300
    assert names.isdisjoint(trained)


def test_every_held_out_person_is_of_the_held_out_split():
    people = [str(item.expected["name"]) for item in heldout.extractions(200) if "name" in item.expected]
    assert people
    assert all(split_of(word) is Split.HELD_OUT for person in people for word in person.split())


def test_held_out_sentences_and_reviews_never_occur_in_training(training_texts):
    trained = "\n".join(training_texts)
    items = [*heldout.extractions(300), *heldout.reviews(300)]
    assert not [item for item in items if item.prompt.split("\n")[0] + "\n" in trained]


def test_held_out_pairs_of_numbers_never_occur_in_training(training_texts):
    trained = "\n".join(training_texts)
    for item in heldout.two_digit_sums(100):
        first, second = re.findall(r"\d+", item.prompt)
        assert f"{first} + {second} =" not in trained
        assert f"{second} + {first} =" not in trained


def test_expected_records_fit_their_schemas():
    for item in heldout.extractions(200):
        assert 2 <= len(item.expected) <= 4
        assert list(item.schema["properties"]) == list(item.expected) == item.schema["required"]
        assert item.prompt.endswith(f"Fields: {', '.join(item.expected)}\nJSON:")


def test_reviews_have_both_labels_equally_often():
    labels = [item.label for item in heldout.reviews(100)]
    assert [labels.count(f" {label}") for label in LABELS] == [50, 50]


def test_json_answers_are_valid_json(training_texts):
    answers = [
        text.rpartition("JSON:")[2] for text in training_texts if "JSON:" in text and "\n\n" not in text
    ]
    assert len(answers) > 1_000
    for answer in answers:
        json.loads(answer)


def test_the_corpus_needs_no_torch():
    code = "import sys, lmql_backends.tiny.corpus.heldout; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
