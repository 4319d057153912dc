"""A byte-level BPE tokenizer trained on a few lines: 256 bytes, some merges, bos and eos."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from dctokenizers import Tokenizer, from_huggingface

TEXT = """The quick brown fox jumps over the lazy dog. yes no maybe true false null
{"name": "Mira", "age": 34, "city": "Velden", "tags": ["a", "b"], "ok": true}
0 1 2 3 4 5 6 7 8 9 10 20 30 name age city positive negative neutral answer question
""".splitlines()


@cache
def small_tokenizer(vocab_size: int = 384) -> Tokenizer:
    """Ids 0 and 1 are ``<|bos|>`` and ``<|eos|>``."""
    return from_huggingface(trained(vocab_size)).with_eos([1])


def save_small_tokenizer(folder: Path, vocab_size: int = 384) -> int:
    """Write tokenizer.json for `load`; return the number of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    hf = trained(vocab_size)
    hf.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return hf.get_vocab_size()


def trained(vocab_size: int) -> HFTokenizer:
    hf = HFTokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|bos|>", "<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    hf.train_from_iterator(TEXT * 4, trainer)
    return hf
