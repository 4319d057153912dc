"""A tokenizer travels with its model's server."""

from __future__ import annotations

import msgspec
import pytest
from fakes.small_tokenizer import small_tokenizer

import dctokenizers
from dcmodel.errors import ModelLoadError
from lmql_backends.lmtp.protocol import tokenizers
from lmql_backends.lmtp.protocol.codec import JSON, MSGPACK
from lmql_backends.tiny import MODEL_DIR

BOTH = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)


def sent(codec, message):
    return codec.decode_server(codec.encode([message])).messages[0]


@BOTH
@pytest.mark.parametrize(
    "make", [small_tokenizer, lambda: dctokenizers.load(MODEL_DIR)], ids=["small", "tiny"]
)
def test_a_tokenizer_arrives_as_it_was(codec, make):
    tokenizer = make()
    found = tokenizers.from_wire(sent(codec, tokenizers.to_wire(1, tokenizer)))
    assert found.fingerprint == tokenizer.fingerprint
    assert found.eos_token_ids == tokenizer.eos_token_ids
    for text in ("", "The quick brown fox", "é 🐢 <|eos|>\n"):
        assert found.encode(text) == tokenizer.encode(text)
        assert found.encode_prompt(text) == tokenizer.encode_prompt(text)


def test_broken_data_is_an_error_of_loading():
    file = msgspec.structs.replace(tokenizers.to_wire(1, small_tokenizer()), data=b"nonsense")
    with pytest.raises(ModelLoadError, match="cannot be used"):
        tokenizers.from_wire(file)
