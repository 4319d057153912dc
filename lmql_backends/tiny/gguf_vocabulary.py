"""A tokenizer.json with byte-level BPE as the vocabulary of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dcmodel.errors import ModelLoadError
from dctokenizers.families.gguf_pre import PRE_TOKENIZERS

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def add_vocabulary(
    writer: Any, tokenizer: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Add the tokenizer.ggml.* fields. `settings`: tokenizer_config.json. Raises `ModelLoadError`."""
    model = tokenizer["model"]
    if model["type"] != "BPE" or model.get("byte_fallback") or tokenizer.get("normalizer"):
        raise ModelLoadError(
            "only byte-level BPE without a normalizer is converted here.",
            remedy="Use llama.cpp's own convert_hf_to_gguf.py.",
        )
    pieces = [f"[UNUSED{token_id}]" for token_id in range(config["vocab_size"])]
    types = [UNUSED] * len(pieces)
    for piece, token_id in model["vocab"].items():
        pieces[token_id], types[token_id] = piece, NORMAL
    for added in tokenizer["added_tokens"]:
        pieces[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer["pre_tokenizer"]))
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    )
    by_text = {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
    bos = by_text.get(str(settings.get("bos_token")))
    eos = by_text.get(str(settings.get("eos_token")), config.get("eos_token_id"))
    if bos is not None:
        writer.add_bos_token_id(bos)
    if eos is not None:
        writer.add_eos_token_id(eos)
    if settings.get("pad_token") in by_text:
        writer.add_pad_token_id(by_text[settings["pad_token"]])
    writer.add_add_bos_token(bos is not None and _puts_first(tokenizer, bos))
    if settings.get("chat_template"):
        writer.add_chat_template(settings["chat_template"])


def _puts_first(tokenizer: Mapping[str, Any], token_id: int) -> bool:
    """Whether the post-processor begins each text with this token."""
    processor = tokenizer.get("post_processor") or {}
    for part in processor.get("single", [])[:1]:
        name = part.get("SpecialToken", {}).get("id")
        ids: list[int] = processor.get("special_tokens", {}).get(name, {}).get("ids", [])
        return ids[:1] == [token_id]
    return False


def _pre_tokenizer(rule: Mapping[str, Any]) -> str:
    """llama.cpp's name for how the text is cut into words."""
    rules = rule["pretokenizers"] if rule["type"] == "Sequence" else [rule]
    match [each["type"] for each in rules]:
        case ["ByteLevel"] if _cuts_as_gpt2(rules[0]):
            return "gpt-2"
        case ["Digits", "ByteLevel"] if rules[0]["individual_digits"] and _cuts_as_gpt2(rules[1]):
            return "smollm"
        case ["Split", "ByteLevel"] if not rules[1].get("use_regex", True):
            pattern = rules[0]["pattern"].get("Regex")
            known = (name for name, kind in PRE_TOKENIZERS.items() if kind.patterns == (pattern,))
            if name := next(known, None):
                return name
    raise ModelLoadError(
        f"it is not known how llama.cpp calls the pre-tokenizer {rule}.",
        remedy="Use llama.cpp's own convert_hf_to_gguf.py.",
    )


def _cuts_as_gpt2(rule: Mapping[str, Any]) -> bool:
    return bool(rule.get("use_regex", True)) and not rule.get("add_prefix_space", True)
