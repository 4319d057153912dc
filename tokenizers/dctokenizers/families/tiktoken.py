"""OpenAI's tiktoken, and ranks in its file format."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dctokenizers.bridge import mask_slices
from dctokenizers.codec import Codec, PortableCodec
from dctokenizers.errors import TokenizerError, require
from dctokenizers.families.files import read_json
from dctokenizers.probe import check
from dctokenizers.tokenizer import Tokenizer
from dctokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    import tiktoken

FORM = "tiktoken"
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>")
_GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
_CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
    r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
OPENAI: dict[str, tuple[str, dict[str, int]]] = {
    "r50k_base": (_GPT2, {"<|endoftext|>": 50256}),
    "p50k_base": (_GPT2, {"<|endoftext|>": 50256}),
    "cl100k_base": (
        _CL100K,
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": (_O200K, {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
}
"""Pattern and special tokens of OpenAI's encodings, which its .tiktoken files leave out."""


class TiktokenCodec(Codec):
    """Encodes with a `tiktoken.Encoding`, whose ranks are the ids."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding
        self.is_lossless = all(bytes([byte]) in encoding._mergeable_ranks for byte in range(256))
        if not self.is_lossless:
            raise TokenizerError(
                f"The ranks of {encoding.name!r} lack single bytes; no text could be encoded."
            )

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        if parse_special:
            return self._encoding.encode(text, allowed_special="all")
        return self._encoding.encode_ordinary(text)

    def native_ll_tokenizer(self, eos_token_ids: Sequence[int]) -> Any | None:
        from llguidance.tiktoken import lltokenizer_from_encoding

        return lltokenizer_from_encoding(self._encoding, eos_token=list(eos_token_ids), slices=mask_slices())

    def portable(self) -> PortableCodec:
        """The ranks are the ids, which travel with the vocabulary."""
        return PortableCodec(FORM, fields={"pattern": self._encoding._pat_str, "name": self._encoding.name})

    def vocabulary(self) -> Vocabulary:
        """Bytes of every id."""
        encoding = self._encoding
        tokens = [b""] * encoding.n_vocab
        for token, token_id in encoding._mergeable_ranks.items():
            tokens[token_id] = token
        for text, token_id in encoding._special_tokens.items():
            tokens[token_id] = text.encode()
        return Vocabulary(tokens, encoding._special_tokens.values())


def from_tiktoken(
    source: tiktoken.Encoding | str | Path,
    *,
    pat_str: str | None = None,
    special_tokens: Mapping[str, int] | None = None,
    name: str | None = None,
) -> Tokenizer:
    """A tiktoken encoding.

    `source` is a `tiktoken.Encoding`, the name of one of tiktoken's ("cl100k_base": downloaded by tiktoken
    unless cached), or a .tiktoken file (plain or gzip) with its `pat_str` and `special_tokens`. Both may be
    left out for a file with the name of one of OpenAI's encodings, or with a file NAME.meta.json beside it
    that has them. The id that ends a text is that of ``<|endoftext|>``.
    """
    if isinstance(source, Path) or (isinstance(source, str) and Path(source).exists()):
        path = Path(source)
        encoding = read_encoding(path, pat_str=pat_str, special_tokens=special_tokens)
    elif isinstance(source, str):
        encoding = known_encoding(source)
    else:
        encoding = source
    codec = TiktokenCodec(encoding)
    specials = encoding._special_tokens
    ends = [specials[text] for text in _ENDS if text in specials]
    return check(
        Tokenizer(
            name=name or encoding.name, vocabulary=codec.vocabulary(), codec=codec, eos_token_ids=ends[:1]
        )
    )


def unpacked(packed: PortableCodec, vocabulary: Vocabulary) -> TiktokenCodec:
    """The codec that `portable` made this of."""
    special = vocabulary.special_token_ids
    tokens = [(token, token_id) for token_id, token in enumerate(vocabulary.tokens) if token]
    try:
        encoding = make_encoding(
            str(packed.fields["name"]),
            ranks={token: token_id for token, token_id in tokens if token_id not in special},
            pat_str=str(packed.fields["pattern"]),
            special_tokens={token.decode(): token_id for token, token_id in tokens if token_id in special},
        )
    except (KeyError, ValueError) as error:
        raise TokenizerError(f"A tiktoken encoding that came from elsewhere is broken: {error}.") from error
    return TiktokenCodec(encoding)


def make_encoding(
    name: str, *, ranks: Mapping[bytes, int], pat_str: str, special_tokens: Mapping[str, int]
) -> tiktoken.Encoding:
    """A `tiktoken.Encoding` from its parts."""
    package = require("tiktoken", extra="tiktoken", purpose=f"The tokenizer {name!r}")
    clash = set(ranks.values()) & set(special_tokens.values())
    if clash:
        raise TokenizerError(
            f"Special tokens of {name!r} have the ids of ordinary ones: {sorted(clash)[:8]}."
        )
    encoding: tiktoken.Encoding = package.Encoding(
        name=name, pat_str=pat_str, mergeable_ranks=dict(ranks), special_tokens=dict(special_tokens)
    )
    return encoding


def reserved_names(count: int) -> dict[str, int]:
    """Names of special tokens that come first and are not named: Mistral's, then fillers."""
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"][:count]
    names += [f"<SPECIAL_{i}>" for i in range(len(names), count)]
    return {name: i for i, name in enumerate(names)}


def known_encoding(name: str) -> tiktoken.Encoding:
    """One of tiktoken's own encodings; tiktoken downloads it unless it is in its cache."""
    package = require("tiktoken", extra="tiktoken", purpose=f"The encoding {name!r}")
    if name not in package.list_encoding_names():
        raise TokenizerError(
            f"tiktoken has no encoding {name!r}; it has {', '.join(package.list_encoding_names())}."
        )
    try:
        encoding: tiktoken.Encoding = package.get_encoding(name)
    except OSError as error:
        raise TokenizerError(
            f"tiktoken could not download {name!r}: {error}. Pass a local .tiktoken file, "
            "or set TIKTOKEN_CACHE_DIR to a folder that has it."
        ) from error
    return encoding


def read_ranks(path: Path) -> dict[bytes, int]:
    """Ranks of a .tiktoken file (plain or gzip): a base64 token and a number per line."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    try:
        pairs = [line.split() for line in raw.splitlines() if line]
        return {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except ValueError as error:
        raise TokenizerError(f"{path} is not a .tiktoken file: {error}.") from error


def read_encoding(
    path: Path, *, pat_str: str | None, special_tokens: Mapping[str, int] | None
) -> tiktoken.Encoding:
    """A .tiktoken file as an encoding; what is not given comes from NAME.meta.json or OpenAI's list."""
    ranks = read_ranks(path)
    stem = path.name.removesuffix(".gz").removesuffix(".tiktoken")
    meta = path.with_name(f"{stem}.meta.json")
    if pat_str is None and meta.is_file():
        settings = read_json(meta)
        reserved = int(settings.get("n_special_first", 0))
        ranks = {token: rank + reserved for token, rank in ranks.items()}
        known_specials = settings.get("special_tokens") or reserved_names(reserved)
        pat_str = settings["pat_str"]
    else:
        known_pattern, known_specials = OPENAI.get(stem, (None, None))
        pat_str = pat_str or known_pattern
    specials = known_specials if special_tokens is None else special_tokens
    if pat_str is None or specials is None:
        raise TokenizerError(
            f"{path} has ranks only. Pass pat_str= and special_tokens= as well; they are known for "
            f"{', '.join(sorted(OPENAI))}."
        )
    return make_encoding(stem, ranks=ranks, pat_str=pat_str, special_tokens=specials)
