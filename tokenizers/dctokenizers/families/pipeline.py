"""What the pipeline of a tokenizer.json (normaliser, pre-tokenizer, decoder) does to text and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dctokenizers.byte_level import piece_bytes
from dctokenizers.errors import TokenizerError

Component = dict[str, Any]

_CHILDREN = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
_KEEPS_TEXT = {
    "ByteLevel", "Metaspace", "Split", "Punctuation", "Digits", "UnicodeScripts", "FixedLength",
    "Prepend", "NFC",
}  # fmt: skip
_UNREADABLE = {"WordPiece", "BPEDecoder", "CTC"}


class Spelling(Enum):
    """How pieces of the vocabulary spell bytes."""

    BYTE_LEVEL = "each character is a byte"
    METASPACE = "text with a mark for the space"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The parts of a tokenizer.json around its model, and what follows from them."""

    spelling: Spelling
    space: str
    """The mark that stands for a space in pieces (METASPACE only)."""
    byte_fallback: bool
    """Whether the decoder reads pieces like <0x0A> as bytes."""
    keeps_text: bool
    """Whether all text survives the normaliser and the pre-tokenizer of `plain`."""
    has_prefix: bool
    """Whether the pipeline puts a space before the text."""
    normalizer: Component | None
    pre_tokenizer: Component | None
    decoder: Component | None

    @classmethod
    def read(cls, spec: Component) -> Pipeline:
        """Understand the pipeline of a tokenizer.json. Raises `TokenizerError` where bytes are undefined."""
        normalizer, pre_tokenizer, decoder = (spec.get(name) for name in _CHILDREN)
        before = [*_walk("normalizer", normalizer), *_walk("pre_tokenizer", pre_tokenizer)]
        after = list(_walk("decoder", decoder))
        unreadable = [part["type"] for part in after if part["type"] in _UNREADABLE]
        if unreadable:
            raise TokenizerError(
                f"The decoder {unreadable[0]} does not define the bytes of a token. Use a tokenizer whose "
                "decoder is ByteLevel, Metaspace, or Replace with ByteFallback."
            )
        spaces = [mark for part in after if (mark := _space_mark(part))]
        if any(part["type"] == "ByteLevel" for part in after or before):
            spelling = Spelling.BYTE_LEVEL
        elif spaces:
            spelling = Spelling.METASPACE
        else:
            kinds = [part["type"] for part in after] or "none"
            raise TokenizerError(
                f"The decoder ({kinds}) does not say how tokens spell bytes. Set tokenizer.decoder to "
                "ByteLevel or Metaspace, whichever the vocabulary was trained with."
            )
        return cls(
            spelling=spelling,
            space=spaces[0] if spaces else "",
            byte_fallback=any(part["type"] == "ByteFallback" for part in after),
            keeps_text=all(_keeps_text(part) for part in before),
            has_prefix=any(_adds_space(part) for part in before),
            normalizer=normalizer,
            pre_tokenizer=pre_tokenizer,
            decoder=decoder,
        )

    def plain(self) -> tuple[Component | None, Component | None]:
        """Normaliser and pre-tokenizer that neither add a space nor rewrite characters as NFC."""
        return _plain("normalizer", self.normalizer), _plain("pre_tokenizer", self.pre_tokenizer)

    def spell(self, piece: str) -> bytes:
        """Bytes of a piece of the model's vocabulary."""
        if self.spelling is Spelling.BYTE_LEVEL:
            return piece_bytes(piece)
        if self.byte_fallback and is_byte_piece(piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(self.space, " ").encode()


def is_byte_piece(piece: str) -> bool:
    """Whether a piece is the byte-fallback form of a byte, such as <0x0A>."""
    if len(piece) != 6 or piece[:3] != "<0x" or piece[5] != ">":
        return False
    return all(digit in "0123456789ABCDEFabcdef" for digit in piece[3:5])


def _walk(role: str, part: Component | None) -> Iterator[Component]:
    if part is None:
        return
    if part["type"] == "Sequence":
        for child in part[_CHILDREN[role]]:
            yield from _walk(role, child)
    else:
        yield part


def _space_mark(part: Component) -> str:
    if part["type"] == "Metaspace":
        return str(part["replacement"])
    if part["type"] == "Replace" and part["content"] == " ":
        return str(part["pattern"].get("String", ""))
    return ""


def _keeps_text(part: Component) -> bool:
    if part["type"] == "Replace":
        return bool(part["pattern"] == {"String": " "} and len(part["content"]) == 1)
    return bool(part["type"] in _KEEPS_TEXT and part.get("behavior") != "Removed")


def _adds_space(part: Component) -> bool:
    if part["type"] == "Metaspace":
        return bool(part.get("prepend_scheme", "always") != "never")
    return part["type"] == "Prepend" or bool(part["type"] == "ByteLevel" and part.get("add_prefix_space"))


def _plain(role: str, part: Component | None) -> Component | None:
    if part is None or part["type"] in ("Prepend", "NFC"):
        return None
    if part["type"] == "Sequence":
        key = _CHILDREN[role]
        children = [_plain(role, child) for child in part[key]]
        return {**part, key: [child for child in children if child is not None]}
    if part["type"] == "Metaspace":
        return {**part, "prepend_scheme": "never"}
    if part["type"] == "ByteLevel" and "add_prefix_space" in part:
        return {**part, "add_prefix_space": False}
    return part
