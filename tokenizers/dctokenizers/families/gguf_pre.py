"""How the BPE vocabularies of GGUF files cut text before merging: `tokenizer.ggml.pre`.

The patterns are those of the models' own tokenizer.json files; they are applied one after the other, each
to the pieces that the ones before it left.
"""

from __future__ import annotations

from dataclasses import dataclass

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BREAKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_EDGE = r"[^\r\n\p{L}\p{N}]?"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"  # noqa: RUF001
_CASED = (
    rf"{_EDGE}{_UPPER}*{_LOWER}+%s|{_EDGE}{_UPPER}+{_LOWER}*%s|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BREAKS}"
)


def _words(letters: str, digits: str, *, other: str = r" ?[^\s\p{L}\p{N}]+[\r\n]*") -> str:
    return rf"{_CONTRACTION}|{_EDGE}{letters}+|{digits}|{other}|{_BREAKS}"


def _cased_words(digits: str, *, suffix: str = "") -> str:
    words = f"{_EDGE}{_UPPER}*{_LOWER}+{suffix}|{_EDGE}{_UPPER}+{_LOWER}*{suffix}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BREAKS}"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How to cut text, and two defaults that come with it."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    """Whether a piece that is a token as a whole is taken without merging."""
    adds_bos: bool = False


_KINDS: dict[str, PreTokenizer] = {
    "gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum modern-bert mpt olmo jais "
    "trillion granite-docling exaone4": PreTokenizer((_GPT2,)),
    "starcoder refact command-r smollm codeshell exaone minerva-7b": PreTokenizer((r"\p{N}", _GPT2)),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": PreTokenizer(
        (_words(r"\p{L}", r"\p{N}{1,3}"),), ignore_merges=True, adds_bos=True
    ),
    "dbrx smaug-bpe glm4 chatglm-bpe": PreTokenizer((_words(r"\p{L}", r"\p{N}{1,3}"),)),
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan grok-2": PreTokenizer(
        (_words(r"\p{L}", r"\p{N}"),)
    ),
    "qwen35": PreTokenizer((_words(r"[\p{L}\p{M}]", r"\p{N}", other=r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"),)),
    "seed-coder": PreTokenizer((_words(r"\p{L}", r"\p{N}", other=r" ?[^\s\p{L}\p{N}\r\n]+"),)),
    "gpt-4o llama4 kanana2 talkie minimax-m2": PreTokenizer(
        (_cased_words(r"\p{N}{1,3}", suffix=f"{_CONTRACTION}?"),)
    ),
    "tekken": PreTokenizer((_cased_words(r"\p{N}"),), ignore_merges=True, adds_bos=True),
    "deepseek-v3 hunyuan-dense joyai-llm": PreTokenizer(
        (
            r"\p{N}{1,3}",
            "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_BREAKS}",
        )
    ),
    "deepseek-coder": PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}")
    ),
    "bloom poro-chat gpt3-finnish": PreTokenizer((_BLOOM,)),
    "viking": PreTokenizer((_BLOOM, r"\p{N}")),
}

PRE_TOKENIZERS = {name: kind for names, kind in _KINDS.items() for name in names.split()}
"""By the value of `tokenizer.ggml.pre`."""
