"""A cheap check that a tokenizer's bytes and its encoder agree."""

from __future__ import annotations

from dctokenizers.errors import TokenizerError
from dctokenizers.tokenizer import Tokenizer

_EXACT = 'Hello, world!  It\'s 1234\n\tdef f(x): return {"é": [x]}  # 你好 🐢 <s>\r\n'
_SIMPLE = "the cat sat"


def check(tokenizer: Tokenizer) -> Tokenizer:
    """Return `tokenizer`, or raise `TokenizerError` where it does not spell what it encodes."""
    text = _EXACT if tokenizer.is_lossless else _SIMPLE
    try:
        token_ids = tokenizer.encode(text)
    except TokenizerError:
        if tokenizer.is_lossless:
            raise
        return tokenizer
    unknown = tokenizer.unknown_token_id
    if unknown is not None and unknown in token_ids:
        return tokenizer
    found, expected = tokenizer.decode_bytes(token_ids, skip_special=False), text.encode()
    if not tokenizer.is_lossless:
        found, expected = found.strip().lower(), expected.strip().lower()
    if found != expected:
        raise TokenizerError(
            f"The tokenizer {tokenizer.name!r} encodes {text!r} as tokens that spell "
            f"{found.decode('utf-8', 'backslashreplace')!r}; its decoder does not fit its model."
        )
    return tokenizer
