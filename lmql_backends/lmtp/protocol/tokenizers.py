"""A model's tokenizer on the wire, so that a client elsewhere has the same one."""

from __future__ import annotations

from dcmodel.errors import ModelLoadError
from dctokenizers import PortableTokenizer, Tokenizer, TokenizerError, pack, unpack
from lmql_backends.lmtp.protocol.messages import TokenizerFile


def to_wire(id_: int, tokenizer: Tokenizer) -> TokenizerFile:
    """Takes seconds for a large vocabulary: to be called on a thread, and kept by the model."""
    packed = pack(tokenizer)
    return TokenizerFile(id=id_, form=packed.form, data=packed.data, fields=dict(packed.fields))


def from_wire(file: TokenizerFile) -> Tokenizer:
    """The same ids, bytes and ends; the same encoding where its package is here, else `encode` says why not.

    Takes up to a second. Raises `ModelLoadError` for data that is broken.
    """
    try:
        return unpack(PortableTokenizer(file.form, file.data, file.fields))
    except TokenizerError as error:
        raise ModelLoadError(
            f"the tokenizer that the server sent cannot be used: {error}",
            remedy="Use the same version on both sides.",
        ) from error
