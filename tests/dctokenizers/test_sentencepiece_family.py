"""SentencePiece models, against the library and against the same vocabulary in other forms."""

from __future__ import annotations

import io

import pytest

import dctokenizers
from dctokenizers import TokenizerError
from dctokenizers.families.protobuf import fields

from .conftest import CORPUS, DATA, SPACE, TEXTS

sentencepiece = pytest.importorskip("sentencepiece")
MODELS = ["mistral_v1_32k.model", "mistral_v3_32k.model"]


def train(path, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 400, "model_type": "bpe", "byte_fallback": True, **options},
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def exact(tmp_path_factory):
    """A model that rewrites nothing."""
    path = tmp_path_factory.mktemp("spm") / "exact.model"
    return train(
        path,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<user>", "\n\n"],
        control_symbols=["[INST]"],
    )


@pytest.mark.parametrize("file", MODELS)
def test_prompts_are_encoded_as_by_the_library(real, file):
    tokenizer = real(file)
    library = sentencepiece.SentencePieceProcessor(model_file=str(DATA / file))
    for text in TEXTS:
        assert tokenizer.encode_prompt(text) == [1, *library.encode(text)], text
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_trained_model_keeps_any_text(exact):
    tokenizer = dctokenizers.load(exact)
    assert tokenizer.is_lossless
    assert tokenizer.has_prefix_space
    for text in [*TEXTS, f"{SPACE}a{SPACE * 2} b", SPACE]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode("a", prefix_space=True)) == " a"
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(b"a\xff\xe4")) == b"a\xff\xe4"


def test_control_symbols_are_special_and_user_defined_ones_are_text(exact):
    tokenizer = dctokenizers.load(exact)
    library = sentencepiece.SentencePieceProcessor(model_file=str(exact))
    control, user = library.piece_to_id("[INST]"), library.piece_to_id("<user>")
    assert {0, 1, 2, control} == tokenizer.special_token_ids
    assert user in tokenizer.encode("a<user>b")
    assert control not in tokenizer.encode("[INST]")
    assert tokenizer.encode("[INST]a", parse_special=True) == [control, *tokenizer.encode("a")]
    assert tokenizer.token_bytes(control) == b"[INST]"


@pytest.mark.parametrize(
    "options",
    [{"normalization_rule_name": "nfkc"}, {"normalization_rule_name": "identity"}, {"byte_fallback": False}],
)
def test_models_that_rewrite_text_or_lack_characters_say_so(tmp_path, options):
    tokenizer = dctokenizers.load(train(tmp_path / "m.model", **options))
    assert not tokenizer.is_lossless
    assert tokenizer.decode(tokenizer.encode("the cat sat")) == "the cat sat"


def test_unigram_models_are_read_too(tmp_path):
    path = train(
        tmp_path / "m.model",
        model_type="unigram",
        vocab_size=330,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    tokenizer = dctokenizers.load(path)
    assert tokenizer.is_lossless
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == TEXTS


def test_a_model_without_bos_adds_none(tmp_path):
    tokenizer = dctokenizers.load(train(tmp_path / "m.model", bos_id=-1))
    assert (tokenizer.bos_token_id, tokenizer.adds_bos) == (None, False)
    assert tokenizer.encode_prompt("a") == tokenizer.encode("a", prefix_space=True)


@pytest.mark.parametrize("content", [b"", b"IQ== 0\nIg== 1\n", b"\x0a\xff\xff"])
def test_files_that_are_no_models_are_refused(tmp_path, content):
    path = tmp_path / "bad.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"bad\.model"):
        dctokenizers.load(path)


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05ab", b"\x0f", b"\x80" * 12, b"\x00\x01"])
def test_malformed_messages_are_refused(data):
    with pytest.raises(ValueError, match=r"malformed|wire type"):
        list(fields(data))


def test_messages_are_read_field_by_field():
    data = b"\x08\x96\x01\x12\x02hi\x19" + b"\0" * 8 + b"\x25" + b"\0" * 4
    assert list(fields(data)) == [(1, 150), (2, b"hi"), (3, b"\0" * 8), (4, b"\0" * 4)]
