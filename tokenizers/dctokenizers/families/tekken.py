"""Mistral's tekken.json: byte ranks in tiktoken's sense, after the special tokens."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from dctokenizers.errors import TokenizerError
from dctokenizers.families.files import read_json
from dctokenizers.families.tiktoken import TiktokenCodec, make_encoding
from dctokenizers.probe import check
from dctokenizers.tokenizer import Tokenizer

_OLD_SPECIALS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip


def from_tekken(path: str | Path, *, name: str | None = None) -> Tokenizer:
    """A tokenizer from a tekken.json. An id is a special token's number, or rank + number of specials."""
    path = Path(path)
    spec = read_json(path)
    try:
        config = spec["config"]
        reserved, size = int(config["default_num_special_tokens"]), int(config["default_vocab_size"])
        ranks = {
            base64.b64decode(entry["token_bytes"]): entry["rank"] + reserved
            for entry in spec["vocab"]
            if entry["rank"] < size - reserved
        }
        encoding = make_encoding(
            name or str(path),
            ranks=ranks,
            pat_str=config["pattern"],
            special_tokens=_special_tokens(spec.get("special_tokens"), reserved),
        )
    except (KeyError, TypeError) as error:
        raise TokenizerError(f"{path} is not a tekken.json: {error!r}.") from error
    codec = TiktokenCodec(encoding)
    specials = encoding._special_tokens
    bos, eos = specials.get("<s>"), specials.get("</s>")
    return check(
        Tokenizer(
            name=encoding.name,
            vocabulary=codec.vocabulary(),
            codec=codec,
            bos_token_id=bos,
            eos_token_ids=() if eos is None else (eos,),
            prompt_token_ids=() if bos is None else (bos,),
        )
    )


def _special_tokens(entries: list[dict[str, Any]] | None, reserved: int) -> dict[str, int]:
    """Numbers of the special tokens: the file's, or those of its early versions; fillers for the rest."""
    if entries is None:
        names = dict(enumerate(_OLD_SPECIALS[:reserved]))
    else:
        names = {int(entry["rank"]): str(entry["token_str"]) for entry in entries}
    return {names.get(i, f"<SPECIAL_{i}>"): i for i in range(reserved)}
