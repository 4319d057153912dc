"""Tokenizers of Hugging Face's `tokenizers` library: byte-level BPE, SentencePiece-like BPE, Unigram."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dctokenizers.byte_level import byte_to_char
from dctokenizers.codec import Codec, PortableCodec
from dctokenizers.errors import TokenizerError
from dctokenizers.families.pipeline import Pipeline, Spelling, is_byte_piece
from dctokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    import tokenizers

_UTF8_BYTES = (*range(0xC0), *range(0xC2, 0xF5))
FORM = "huggingface"
_EMPTY_MODEL = {"type": "BPE", "vocab": {}, "merges": []}


class HuggingFaceCodec(Codec):
    """Encodes with private `tokenizers.Tokenizer`s that share one model.

    There are up to four of them, made when first needed: for text as it stands or at the start of a
    prompt, with special tokens parsed or not. None is changed once it is made.
    """

    def __init__(self, own: tokenizers.Tokenizer) -> None:
        """Take over `own`, which nobody else may use from now on."""
        own.no_padding()
        own.no_truncation()
        if getattr(own.model, "dropout", None):
            own.model.dropout = None
        self._own = own
        self.pipeline = Pipeline.read(_components(own))
        self._pieces: dict[str, int] = own.get_vocab(with_added_tokens=False)
        self._added: dict[int, tokenizers.AddedToken] = dict(sorted(own.get_added_tokens_decoder().items()))
        self._variants: dict[tuple[bool, bool], tokenizers.Tokenizer] = {}
        self._lock = threading.Lock()
        self.unknown_token_id, falls_back = _unknown_token(own)
        complete = self._spells_all_text(falls_back)
        self.is_lossless = self.pipeline.keeps_text and complete
        self.drops_unknown = self.pipeline.keeps_text and not complete and self.unknown_token_id is None
        self._plain = self._variant(parse_special=False, prompt=False)
        self._awkward = self._awkward_text() if complete else None

    @property
    def has_prefix(self) -> bool:
        return self.pipeline.has_prefix

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        if parse_special:
            return _ids(self._variant(parse_special=True, prompt=False), text)
        if self._awkward is not None and self._awkward.search(text):
            return self._encode_around(self._plain, text)
        return _ids(self._plain, text)

    def encode_start(self, text: str, *, parse_special: bool) -> list[int]:
        first = self._variant(parse_special=parse_special, prompt=True)
        if not parse_special and self._awkward is not None and self._awkward.search(text):
            return self._encode_around(first, text)
        return _ids(first, text)

    def portable(self) -> PortableCodec:
        return PortableCodec(FORM, self._own.to_str().encode())

    def vocabulary(self) -> Vocabulary:
        """Bytes of every id: pieces as the decoder reads them, added tokens as their text."""
        size = 1 + max((*self._pieces.values(), *self._added), default=-1)
        tokens = [b""] * size
        spell = self.pipeline.spell
        for piece, token_id in self._pieces.items():
            tokens[token_id] = spell(piece)
        special = []
        for token_id, added in self._added.items():
            if added.special:
                special.append(token_id)
            if added.special or self.pipeline.spelling is Spelling.BYTE_LEVEL:
                tokens[token_id] = added.content.encode()
            else:
                tokens[token_id] = spell(added.content)
        return Vocabulary(tokens, special)

    def token_id(self, content: str) -> int | None:
        """The id of a token by its text."""
        found: int | None = self._own.token_to_id(content)
        return found

    def prompt_token_ids(self) -> tuple[int, ...]:
        """The special tokens that the post-processor puts before a text."""
        encoding = self._own.encode("a", add_special_tokens=True)
        plain = encoding.special_tokens_mask.index(0) if 0 in encoding.special_tokens_mask else 0
        return tuple(encoding.ids[:plain])

    def _variant(self, *, parse_special: bool, prompt: bool) -> tokenizers.Tokenizer:
        key = (parse_special, prompt)
        with self._lock:
            if key not in self._variants:
                self._variants[key] = self._make_variant(parse_special=parse_special, prompt=prompt)
            return self._variants[key]

    def _make_variant(self, *, parse_special: bool, prompt: bool) -> tokenizers.Tokenizer:
        from tokenizers import AddedToken, Tokenizer

        variant = Tokenizer(self._own.model)
        parts = (self.pipeline.normalizer, self.pipeline.pre_tokenizer) if prompt else self.pipeline.plain()
        shell = _shell(normalizer=parts[0], pre_tokenizer=parts[1], decoder=self.pipeline.decoder)
        for role in ("normalizer", "pre_tokenizer", "decoder"):
            component = getattr(shell, role)
            if component is not None:
                setattr(variant, role, component)
        added = list(self._added.values())
        if not parse_special and not prompt:
            added = [token if token.special else _without_strips(AddedToken, token) for token in added]
        variant.add_tokens(added)
        if variant.get_added_tokens_decoder().keys() != self._added.keys():
            raise TokenizerError("The added tokens do not keep their ids; this tokenizer contradicts itself.")
        variant.encode_special_tokens = not parse_special
        return variant

    def _spells_all_text(self, falls_back: bool) -> bool:
        if self.pipeline.spelling is Spelling.BYTE_LEVEL:
            chars = byte_to_char()
            return all(chars[byte] in self._pieces for byte in _UTF8_BYTES)
        found = sum(1 for piece in self._pieces if is_byte_piece(piece))
        return falls_back and self.pipeline.byte_fallback and found == 256

    def _awkward_text(self) -> re.Pattern[str] | None:
        """Where pieces would be found in text that they do not spell: ▁ is a space, <0x0A> a byte."""
        if self.pipeline.spelling is Spelling.BYTE_LEVEL:
            return None
        marks = f"({re.escape(self.pipeline.space)}+)"
        if _is_bpe(self._own.model) and not self._own.model.ignore_merges:
            return re.compile(marks)
        return re.compile(marks + "|(?<=<)(?=0x[0-9A-Fa-f]{2}>)")

    def _encode_around(self, first: tokenizers.Tokenizer, text: str) -> list[int]:
        assert self._awkward is not None
        token_ids: list[int] = []
        variant = first
        for part in self._awkward.split(text):
            if not part:
                continue
            if part.startswith(self.pipeline.space):
                token_ids += [self._pieces[f"<0x{byte:02X}>"] for byte in part.encode()]
            else:
                token_ids += _ids(variant, part)
            variant = self._plain
        return token_ids


def _is_bpe(model: Any) -> bool:
    """Whether a model of `tokenizers` is BPE (its classes tell by their names)."""
    return type(model).__name__ == "BPE"


def add_missing(own: tokenizers.Tokenizer, entries: Mapping[int, Mapping[str, Any]]) -> None:
    """Add tokens that a tokenizer_config.json has and the tokenizer.json lacks."""
    from tokenizers import AddedToken

    for token_id, entry in sorted(entries.items()):
        if own.token_to_id(entry["content"]) is not None:
            continue
        flags = {
            flag: bool(entry.get(flag, False))
            for flag in ("special", "lstrip", "rstrip", "normalized", "single_word")
        }
        own.add_tokens([AddedToken(entry["content"], **flags)])
        if own.token_to_id(entry["content"]) != token_id:
            raise TokenizerError(
                f"tokenizer_config.json gives {entry['content']!r} the id {token_id}, "
                f"tokenizer.json leads to {own.token_to_id(entry['content'])}."
            )


def unpacked(packed: PortableCodec) -> HuggingFaceCodec:
    """The codec that `portable` made this of."""
    from tokenizers import Tokenizer

    try:
        return HuggingFaceCodec(Tokenizer.from_str(packed.data.decode()))
    except Exception as error:  # the library raises bare Exceptions
        raise TokenizerError(f"A tokenizer.json that came from elsewhere cannot be read: {error}.") from error


def private_copy(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that shares nothing with the original."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer.to_str())


def _ids(variant: tokenizers.Tokenizer, text: str) -> list[int]:
    ids: list[int] = variant.encode(text, add_special_tokens=False).ids
    return ids


def _shell(**components: Any) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps({"version": "1.0", "model": _EMPTY_MODEL, **components}))


def _components(own: tokenizers.Tokenizer) -> dict[str, Any]:
    """The pipeline as the library writes it, without the (large) model."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    shell = Tokenizer(BPE())
    for role in ("normalizer", "pre_tokenizer", "decoder"):
        component = getattr(own, role)
        if component is not None:
            setattr(shell, role, component)
    components: dict[str, Any] = json.loads(shell.to_str())
    return components


def _unknown_token(own: tokenizers.Tokenizer) -> tuple[int | None, bool]:
    """The id for unknown characters, and whether the model falls back to bytes."""
    model = own.model
    if _is_bpe(model):
        unknown = own.token_to_id(model.unk_token) if model.unk_token else None
        return unknown, bool(model.byte_fallback)
    if type(model).__name__ == "Unigram":
        spec = json.loads(own.to_str())["model"]
        return spec.get("unk_id"), bool(spec.get("byte_fallback", False))
    raise TokenizerError(
        f"The model {type(model).__name__} of tokenizers does not define the bytes of its tokens. "
        "BPE and Unigram tokenizers can be read."
    )


def _without_strips(added_token: Any, token: Any) -> Any:
    return added_token(
        token.content,
        single_word=token.single_word,
        normalized=token.normalized,
        special=False,
        lstrip=False,
        rstrip=False,
    )
