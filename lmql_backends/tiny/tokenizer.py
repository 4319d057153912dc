"""Byte-level BPE in which a capitalised word has the same pieces wherever it stands.

Copying a name from a sentence into JSON is then copying of pieces: ` Mira` and `"Mira` both end in the
tokens of `Mira`. The blank before a capital is a token of its own, the blank before a small letter
belongs to the word. Digits are single tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
_SPECIAL = (BOS, EOS, PAD)
# No merge joins a blank and a capital, since they never meet in one word while merges are learned.
_TRAINING_WORDS = Regex(r" ?\p{Ll}+|\p{Lu}+\p{Ll}*|\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn the merges of `texts`. Any text can be encoded: all 256 bytes are in the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_TRAINING_WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in _SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # For use, the words of GPT-2 with single digits, which llama.cpp knows as "smollm".
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def special_ids(tokenizer: Tokenizer) -> tuple[int, int, int]:
    """Ids of <|bos|>, <|eos|> and <|pad|>: the first three."""
    bos, eos, pad = (_SPECIAL.index(token) for token in (BOS, EOS, PAD))
    if tokenizer.token_to_id(PAD) != pad:
        raise ValueError(f"The tokenizer has {PAD} at {tokenizer.token_to_id(PAD)}, not at {pad}")
    return bos, eos, pad


def save_tokenizer(tokenizer: Tokenizer, directory: Path, max_length: int) -> None:
    """Write tokenizer.json and its configuration as `AutoTokenizer` reads them."""
    tokenizer.save(str(directory / "tokenizer.json"))
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    text = json.dumps(configuration, indent=2) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
