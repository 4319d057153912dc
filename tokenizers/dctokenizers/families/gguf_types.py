"""What tokens of a GGUF file are for, by their types and, as llama.cpp has it, by their names.

Files say little of it: which tokens end a turn, and that those are no text, is read off their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class TokenType(IntEnum):
    """What `tokenizer.ggml.token_type` says of a token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ENDS = _names(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> "
    "<|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> "
    "<\uff5cend\u2581of\u2581sentence\uff5c> [e~["
)
# Those between files and around gaps that a model fills in end a text, too.
_PADS = ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")
_REPOSITORIES = ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")
_FILES = ("<|file_sep|>",)
_GAPS = _names(
    "<|fim_prefix|> <fim-prefix> <fim_prefix> <\uff5cfim\u2581begin\uff5c> <PRE> \u2581<PRE> <|code_prefix|> "
    "<|prefix|> <|fim_suffix|> <fim-suffix> <fim_suffix> <\uff5cfim\u2581hole\uff5c> <SUF> \u2581<SUF> "
    "<|code_suffix|> <|suffix|> <|fim_middle|> <fim-middle> <fim_middle> <\uff5cfim\u2581end\uff5c> <MID> "
    "\u2581<MID> <|code_middle|> <|middle|>"
)
# Models where <|end|> ends a message and not the turn, and where </s> is text.
_LONG_TURNS = ({"<|return|>", "<|call|>"}, {"<|flush|>", "<|call|>"}, {"<|flush|>", "<|calls|>"})
_TEXT_MARKERS = ("<|tool_response>", "<|plamo:eos|>")
# The names that a phi-3 keeps the blanks behind.
_KEEPS_BLANKS = ("<unk>", "<s>", "<|endoftext|>")


def types_by_name(pieces: Sequence[str], types: Sequence[int]) -> list[int]:
    """The types, with those whose names say that they are no text as CONTROL."""
    control = _ENDS | _GAPS | set(_PADS) | set(_REPOSITORIES) | set(_FILES)
    if any(name in pieces for name in _TEXT_MARKERS):
        control -= {"</s>"}
    plain = (TokenType.NORMAL, TokenType.USER_DEFINED)
    return [
        TokenType.CONTROL if kind in plain and piece in control else kind
        for piece, kind in zip(pieces, types, strict=True)
    ]


def end_ids(ids: dict[str, int], known: dict[str, int | None]) -> list[int]:
    """What ends a text: the file's own end first, the others ascending.

    `ids`: by name, without unused tokens; `known`: what the file itself says, by ``eos``, ``eot``, ``eom``,
    ``fim_pad``, ``fim_rep`` and ``fim_sep``.
    """
    found = {ids[name] for name in _ENDS & ids.keys()}
    for key, names in (("fim_pad", _PADS), ("fim_rep", _REPOSITORIES), ("fim_sep", _FILES)):
        given = known.get(key)
        found |= {given} if given is not None else {ids[name] for name in names if name in ids}
    found |= {given for key in ("eot", "eom") if (given := known.get(key)) is not None}
    if any(names <= ids.keys() for names in _LONG_TURNS):
        found.discard(ids.get("<|end|>", -1))
    eos = known.get("eos")
    if any(name in ids and (name in _ENDS or ids[name] == eos) for name in _TEXT_MARKERS):
        found.discard(ids.get("</s>", -1))
    return [*([] if eos is None else [eos]), *sorted(found - {eos})]


def swallows_blanks(model_name: str, piece: str) -> bool:
    """Whether a token takes the blanks behind it away; the file does not tell, the model's name does."""
    return any(name in model_name.lower() for name in ("phi-3", "phi3")) and piece not in _KEEPS_BLANKS
