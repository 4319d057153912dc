"""Tokenizers of Hugging Face's library, against the library itself."""

from __future__ import annotations

import json
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

import dctokenizers
from dctokenizers import TokenizerError

from .conftest import CORPUS, SPACE, TEXTS, byte_level_backend, spm_backend, unigram_backend

ORDINARY = [text for text in [*TEXTS, *CORPUS[:4]] if "<" not in text]


@pytest.mark.parametrize("text", ORDINARY)
def test_prompts_are_encoded_as_by_the_library(small_backend, small, text):
    assert small.encode_prompt(text) == small_backend.encode(text).ids
    assert small.encode(text, prefix_space=True) == small_backend.encode(text, add_special_tokens=False).ids


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40).filter(lambda text: SPACE not in text and "<" not in text))
def test_any_text_is_encoded_and_decoded_as_by_the_library(small_backend, small, text):
    token_ids = small_backend.encode(text, add_special_tokens=False).ids
    assert small.encode(text, prefix_space=True) == token_ids
    decoded = small.decode(token_ids)
    assert small_backend.decode(token_ids) in (decoded, decoded.removeprefix(" "))


def test_special_tokens_are_parsed_as_by_the_library(small_backend, small):
    special = small_backend.id_to_token(min(small.special_token_ids))
    text = f"the cat{special}sat {special} on"
    expected = small_backend.encode(text, add_special_tokens=False).ids
    assert small.encode(text, parse_special=True, prefix_space=True) == expected


def test_without_the_prefix_the_first_word_is_as_in_the_middle():
    tokenizer = dctokenizers.from_huggingface(spm_backend())
    assert tokenizer.has_prefix_space
    assert tokenizer.decode(tokenizer.encode("the")) == "the"
    assert tokenizer.decode(tokenizer.encode("the", prefix_space=True)) == " the"
    assert tokenizer.encode(" the") == tokenizer.encode("the", prefix_space=True)


def test_bos_is_added_once():
    tokenizer = dctokenizers.from_huggingface(spm_backend())
    assert tokenizer.adds_bos
    assert tokenizer.encode_prompt("the cat")[:2] != [1, 1]
    assert tokenizer.encode_prompt("<s>the cat", parse_special=True).count(1) == 1
    assert tokenizer.encode_prompt("<s>the cat").count(1) == 1
    assert tokenizer.encode_prompt("") == [1]


def test_the_callers_object_is_never_changed():
    backend = spm_backend()
    backend.enable_truncation(3)
    backend.enable_padding(length=9)
    backend.encode_special_tokens = False
    before = backend.to_str()
    tokenizer = dctokenizers.from_huggingface(backend)
    assert len(tokenizer.encode("the cat sat on the mat")) > 3
    tokenizer.encode_prompt("<s>", parse_special=True)
    tokenizer.ll_tokenizer()
    assert backend.to_str() == before
    assert not backend.encode_special_tokens
    assert backend.encode("<s>", add_special_tokens=False).ids[0] == 1


def test_changes_of_the_callers_object_do_not_reach_the_tokenizer():
    backend = byte_level_backend()
    tokenizer = dctokenizers.from_huggingface(backend)
    before = tokenizer.encode("the cat")
    backend.model.dropout = 1.0
    assert tokenizer.encode("the cat") == before != backend.encode("the cat").ids


def test_dropout_is_switched_off():
    backend = byte_level_backend()
    expected = backend.encode("Hello there, the cat sat").ids
    backend.model.dropout = 0.9
    tokenizer = dctokenizers.from_huggingface(backend)
    assert all(tokenizer.encode("Hello there, the cat sat") == expected for _ in range(5))


def test_equal_pieces_and_byte_pieces_both_keep_their_bytes():
    tokenizer = dctokenizers.from_huggingface(spm_backend())
    ids = [i for i, token in enumerate(tokenizer.all_token_bytes()) if token == b"a"]
    assert len(ids) == 2
    assert tokenizer.decode(ids) == "aa"
    assert len(tokenizer.encode("🐢")) == 4


@pytest.mark.parametrize(
    "build", [byte_level_backend, spm_backend, lambda: unigram_backend(byte_fallback=True)]
)
def test_added_tokens_are_their_text_whatever_their_flags(build):
    backend = build()
    first = backend.get_vocab_size()
    backend.add_tokens([AddedToken("[[x]]", lstrip=True, rstrip=True), AddedToken("日本", normalized=False)])
    backend.add_tokens([AddedToken("\n\n\n"), AddedToken("whole", single_word=True)])
    backend.add_special_tokens([AddedToken("<|user|>", lstrip=True, rstrip=True)])
    tokenizer = dctokenizers.from_huggingface(backend)
    texts = ["[[x]]", "日本", "\n\n\n", "whole", "<|user|>"]
    assert [tokenizer.token_bytes(first + i).decode() for i in range(5)] == texts
    assert tokenizer.special_token_ids & set(range(first, first + 5)) == {first + 4}
    text = "a [[x]] b 日本語 whole wholes\n\n\n <|user|> c"
    token_ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(token_ids, skip_special=False) == text.encode()
    assert {first, first + 1, first + 2, first + 3} <= set(token_ids)
    assert first + 4 not in token_ids
    assert token_ids.count(first + 3) == 1


def test_parsed_special_tokens_swallow_spaces_as_by_the_library():
    backend = byte_level_backend()
    backend.add_special_tokens([AddedToken("<|user|>", lstrip=True, rstrip=True)])
    tokenizer = dctokenizers.from_huggingface(backend)
    text = "a <|user|> b"
    assert tokenizer.encode(text, parse_special=True) == backend.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text, parse_special=True)) == "ab"


def test_holes_have_no_bytes():
    vocab = {piece: i for i, piece in enumerate(byte_level_backend().get_vocab())}
    spread = {piece: 3 * i for piece, i in vocab.items()}
    backend = Backend(models.BPE(vocab=spread, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = dctokenizers.from_huggingface(backend)
    assert tokenizer.vocab_size == 3 * (len(vocab) - 1) + 1
    assert tokenizer.token_bytes(1) == tokenizer.token_bytes(2) == b""
    assert tokenizer.decode([1, 2, *tokenizer.encode("cat")]) == "cat"


def test_spaces_as_added_tokens_keep_spaces():
    backend = spm_backend()
    backend.add_tokens([AddedToken(SPACE * 2, normalized=False), AddedToken("    ", normalized=False)])
    tokenizer = dctokenizers.from_huggingface(backend)
    for text in ("a    b", "a  b", f"a{SPACE * 2}b", f"{SPACE}"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_pieces_in_the_lattice_of_a_unigram_are_spelled_out():
    backend = unigram_backend(byte_fallback=True)
    tokenizer = dctokenizers.from_huggingface(backend)
    assert 2 in backend.encode("a</s>b").ids
    assert 2 not in tokenizer.encode("a</s>b")
    assert tokenizer.decode(tokenizer.encode("a</s>b <0x41>")) == "a</s>b <0x41>"


def test_nfc_applies_to_prompts_only():
    backend = byte_level_backend()
    backend.normalizer = normalizers.NFC()
    tokenizer = dctokenizers.from_huggingface(backend)
    assert tokenizer.is_lossless
    assert not tokenizer.has_prefix_space
    assert tokenizer.decode(tokenizer.encode("e\u0301", prefix_space=True)) == "e\u0301"
    assert tokenizer.decode(tokenizer.encode_prompt("e\u0301")) == "\u00e9"


@pytest.mark.parametrize("normalizer", [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])
def test_normalisers_that_rewrite_text_are_admitted(normalizer):
    tokenizer = dctokenizers.from_huggingface(unigram_backend(byte_fallback=True, normalizer=normalizer))
    assert not tokenizer.is_lossless


def test_a_unigram_without_bytes_has_an_unknown_token():
    backend = unigram_backend()
    tokenizer = dctokenizers.from_huggingface(backend)
    assert not tokenizer.is_lossless
    assert tokenizer.unknown_token_id == 0
    assert 0 in tokenizer.encode("the 🐢")
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    with pytest.raises(TokenizerError, match="0xff"):
        tokenizer.encode_bytes(b"\xff")


def test_characters_without_tokens_are_an_error_and_never_dropped():
    backend = Backend(models.BPE(vocab={"a": 0, "b": 1, "Ġ": 2}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = dctokenizers.from_huggingface(backend)
    assert tokenizer.decode(tokenizer.encode("a b")) == "a b"
    with pytest.raises(TokenizerError, match="no tokens for"):
        tokenizer.encode("abc")


@pytest.mark.parametrize("decoder", [decoders.WordPiece(), decoders.BPEDecoder(), decoders.CTC()])
def test_decoders_without_bytes_are_refused(decoder):
    backend = byte_level_backend()
    backend.decoder = decoder
    with pytest.raises(TokenizerError, match="does not define the bytes"):
        dctokenizers.from_huggingface(backend)


def test_a_word_list_is_refused():
    backend = Backend(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.Metaspace()
    with pytest.raises(TokenizerError, match="WordLevel"):
        dctokenizers.from_huggingface(backend)


def test_a_pipeline_that_does_not_tell_is_refused():
    backend = Backend(models.BPE(vocab={"a": 0}, merges=[]))
    with pytest.raises(TokenizerError, match="how tokens spell bytes"):
        dctokenizers.from_huggingface(backend)


def test_a_decoder_that_does_not_fit_the_model_is_noticed():
    backend = byte_level_backend()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    with pytest.raises(TokenizerError, match=r"no tokens for|does not fit"):
        dctokenizers.from_huggingface(backend)


def test_the_config_names_bos_eos_and_more_tokens():
    backend = byte_level_backend()
    size = backend.get_vocab_size()
    config = {
        "eos_token": {"content": "<|sep|>", "special": True},
        "bos_token": "<|endoftext|>",
        "add_bos_token": True,
        "added_tokens_decoder": {
            "0": {"content": "<|endoftext|>", "special": True},
            str(size): {"content": "<|new|>", "special": True},
            str(size + 1): {"content": "plain", "special": False},
        },
    }
    tokenizer = dctokenizers.from_huggingface(
        backend.to_str(), config=config, generation_config={"eos_token_id": [1, 0]}
    )
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (0, (1, 0))
    assert tokenizer.encode_prompt("a") == [0, *tokenizer.encode("a")]
    assert tokenizer.token_bytes(size) == b"<|new|>"
    assert size in tokenizer.special_token_ids
    assert size + 1 in tokenizer.encode("a plain word")
    quiet = dctokenizers.from_huggingface(backend, config={**config, "add_bos_token": False})
    assert quiet.encode_prompt("a") == quiet.encode("a")


def test_a_config_that_contradicts_the_tokenizer_is_an_error():
    config = {"added_tokens_decoder": {"9999": {"content": "<|new|>"}}}
    with pytest.raises(TokenizerError, match="9999"):
        dctokenizers.from_huggingface(byte_level_backend(), config=config)


def test_without_a_config_the_end_has_a_usual_name():
    assert dctokenizers.from_huggingface(byte_level_backend()).eos_token_ids == (0,)
    assert dctokenizers.from_huggingface(spm_backend()).eos_token_ids == (2,)


def test_a_transformers_tokenizer_is_read_with_its_special_tokens():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=byte_level_backend(), eos_token="<|sep|>", bos_token="<|endoftext|>"
        )
    tokenizer = dctokenizers.from_huggingface(fast)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (0, (1,))
    assert tokenizer.encode("the cat") == fast.encode("the cat", add_special_tokens=False)


@pytest.mark.parametrize("source", [3, object()])
def test_other_objects_are_refused(source):
    with pytest.raises(TokenizerError, match="is no fast tokenizer"):
        dctokenizers.from_huggingface(source)


def test_text_that_is_no_tokenizer_json_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"not a tokenizer\.json"):
        dctokenizers.from_huggingface("{}")
    with pytest.raises(TokenizerError, match="can be read"):
        dctokenizers.from_huggingface(tmp_path / "none.json")


def test_legacy_metaspace_settings_are_understood():
    spec = json.loads(spm_backend(style="metaspace").to_str())
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True}
    tokenizer = dctokenizers.from_huggingface(json.dumps(spec))
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    assert tokenizer.has_prefix_space
